"""Everything about one model in one folder: python tools/run_all.py [arguments].

Runs reproduce, the scorecard and the notebooks, and writes index.html over their pages. What is
finished is kept: the same command continues. The exit code is 1 if the scorecard contradicts the
paper or a notebook fails, once all the rest is done, and 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from publish import title_and_question

from notebooks import NOTEBOOKS, ROOT, prepare, read_notebook, run_cells, source

PAGES = ROOT / "tools" / "pages"
FILES = {
    "report.html": "the discovery of the circuit, step by step",
    "scorecard.html": "every claim of the paper and of later work, with its verdict",
    "scorecard.txt": "the same as text",
    "scorecard.csv": "the same as a table",
    "results.json": "settings, versions and times",
}
PLOTLY, WIDGET = "application/vnd.plotly.v1+json", "application/vnd.jupyter.widget-view+json"


def run(model: str | None, prompts: int, seed: int, out: Path, only: Sequence[str]) -> int:
    """Run what the folder does not hold yet; returns the exit code."""
    paths = [p for p in sorted(NOTEBOOKS.glob("*.ipynb")) if p.name.startswith(tuple(only or [""]))]
    if not paths:
        print(f"No notebook begins with {only[0]!r}; give numbers, e.g. --only 01 04.")
        return 2
    if model and os.sep in model and Path(model).is_dir():
        model = str(Path(model).resolve())  # the notebooks run elsewhere
    given = ["--model", model] if model else []
    given += ["--prompts", str(prompts), "--seed", str(seed), "--out", str(out)]
    if status := command("reproduce", *given):
        return status
    write_index(out)
    model = settings_of(out)["model"]  # if none was named, reproduce has decided
    if model == "mini":  # as in notebook 10: no experiment takes more prompts than the discovery
        given += ["--at-most", str(prompts)]
    fine = not command("scorecard", *given)
    write_index(out)
    for path in paths:
        fine &= run_notebook(path, out, parameters(path, model, prompts, seed))
        write_index(out)
    print(f"Machine: {machine(out)}\nResults: {(out / 'index.html').resolve()}")
    return int(not fine)


def command(*arguments: str) -> int:
    """Run python -m gt_helpers; returns its exit code."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    line = [sys.executable, "-m", "gt_helpers", *arguments]
    return subprocess.run(line, env={**os.environ, "PYTHONPATH": path}).returncode


def settings_of(out: Path) -> dict[str, Any]:
    """The settings of a results folder."""
    return json.loads((out / "results.json").read_text(encoding="utf-8"))["settings"]


# ---- the notebooks ----------------------------------------------------------------------------


def parameters(path: Path, model: str, prompts: int, seed: int) -> dict[str, object]:
    """The parameters of a notebook; one that takes less than 490 prompts gets no more."""
    text = path.read_text(encoding="utf-8")
    own = int(re.search(r'"N_PROMPTS = (\d+)', text)[1])  # type: ignore[index]
    values = {"MODEL": model, "N_PROMPTS": prompts if own == 490 else min(own, prompts)}
    values |= {"SEED": seed}
    return values | ({"FOLDER": "results"} if '"FOLDER = ' in text else {})


def run_notebook(path: Path, out: Path, values: dict[str, object]) -> bool:
    """Run a notebook into the folder unless that was done; returns whether all its cells ran."""
    import nbformat
    from nbclient.exceptions import CellControlSignal

    kept, notebook = out / "notebooks" / path.name, prepare(path, **values)
    if kept.exists() and is_finished(nbformat.read(kept, as_version=4), notebook):
        print(f"{path.name}: already finished")
        return True
    print(f"{path.name} ...", flush=True)
    started, error = time.perf_counter(), None
    try:
        # Colab's own way to draw needs a browser beside it
        run_cells(notebook, {"PLOTLY_RENDERER": "plotly_mimetype"}, {"results": out.resolve()})
    except (CellControlSignal, RuntimeError) as failure:  # a cell failed, or the kernel died
        error = str(failure).strip().splitlines()[-1]
    seconds = round(time.perf_counter() - started)
    notebook.metadata["results"] = {"seconds": seconds, "finished": error is None}
    kept.parent.mkdir(exist_ok=True)
    write(kept.with_suffix(".html"), notebook_page(notebook, path.stem))
    write(kept.parent / "plotly.min.js", plotly_script())
    write(kept, nbformat.writes(notebook))  # last: it says that all is done
    print(f"{path.name}: {seconds} s" + (f"; stopped at an error: {error}" if error else ""))
    return error is None


def is_finished(kept: Any, wanted: Any) -> bool:
    """Whether a notebook was run to its end, with the cells and parameters that are wanted now."""
    same = [cell.source for cell in kept.cells] == [cell.source for cell in wanted.cells]
    return same and kept.metadata.get("results", {}).get("finished", False)


def write(path: Path, text: str) -> None:
    """Write a file that is there only when it is whole."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


# ---- pages ------------------------------------------------------------------------------------


def notebook_page(notebook: Any, name: str) -> str:
    """An executed notebook as HTML that loads nothing but the plotly.min.js beside it."""
    import nbformat
    from jinja2 import FileSystemLoader
    from nbconvert import HTMLExporter

    notebook = nbformat.from_dict(notebook)  # a copy
    widgets = notebook.metadata.pop("widgets", {})
    states = next(iter(widgets.values()), {}).get("state", {})
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", ()):
            cell.metadata["transient"] = {"remove_source": True}
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if PLOTLY in data:
                data["text/html"] = figure_html(data[PLOTLY])
            if WIDGET in data:
                data["text/html"] = widget_html(states, data[WIDGET]["model_id"])
                del data[WIDGET]
    exporter = HTMLExporter(template_file="notebook.html", extra_loaders=[FileSystemLoader(PAGES)])
    return exporter.from_notebook_node(notebook, {"metadata": {"name": name}})[0]


def figure_html(figure: dict[str, Any]) -> str:
    """A plotly figure for a page that has plotly's script."""
    import plotly.io

    return plotly.io.to_html(
        figure, full_html=False, include_plotlyjs=False, config={"displaylogo": False}
    )


@cache
def plotly_script() -> str:
    """Plotly's script."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def widget_html(states: dict[str, Any], reference: str) -> str:
    """How an explorer stood at the end; progress bars are left out."""
    values = states[reference.removeprefix("IPY_MODEL_")]["state"]
    kind = values["_model_name"]
    if kind == "HTMLModel":  # with a figure comes a copy of the script that the page has already
        inlined = escape(f"<script>{plotly_script()}</script>")
        return values["value"].replace(inlined, escape('<script src="plotly.min.js"></script>'))
    if "children" in values and kind != "HBoxModel":
        return "".join(widget_html(states, child) for child in values["children"])
    if "description" not in values:
        return ""
    value = values.get("value", values.get("index"))
    if (labels := values.get("_options_labels")) and value is not None:
        chosen = value if isinstance(value, (list, tuple)) else [value]
        value = ", ".join(labels[i] for i in chosen)
    return f"{escape(values['description'])}: <b>{escape(str(value))}</b> &nbsp; "


def write_index(out: Path) -> None:
    """Write the folder's first page, on what there is so far."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    places = [PAGES, ROOT / "gt_helpers" / "data" / "templates"]
    pages = Environment(
        loader=FileSystemLoader(places),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with (out / "scorecard.csv").open(encoding="utf-8", newline="") as file:
        verdicts = Counter(row["verdict"] for row in csv.DictReader(file))
    settings = settings_of(out)
    page = pages.get_template("index.html").render(
        model=settings["model"],
        settings=settings,
        verdicts=verdicts,
        machine=machine(out),
        files=[(name, about) for name, about in FILES.items() if (out / name).exists()],
        notebooks=list(rows(out)),
    )
    write(out / "index.html", page)


def rows(out: Path) -> Iterator[dict[str, str]]:
    """What the index says of each notebook."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        title, question = title_and_question(source(read_notebook(path)["cells"][0]))
        kept, state = out / "notebooks" / path.name, ""
        if kept.exists():
            ended = read_notebook(kept)["metadata"]["results"]
            minutes = f"{ended['seconds'] / 60:.1f} min"
            state = minutes if ended["finished"] else f"stopped at an error after {minutes}"
        yield {"name": path.stem, "title": title, "question": question, "state": state}


def machine(out: Path) -> str:
    """Where it ran, in one line."""
    from gt_helpers import __version__

    settings = settings_of(out)
    versions = ", ".join(f"{name} {number}" for name, number in settings["versions"].items())
    device = settings["device"]
    if device.startswith("cuda"):
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else device
    where = f"{platform.platform()}, {os.cpu_count()} CPUs, {device}"
    return f"{where}; gpt2-greater-than {__version__}, {versions}"


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    about = (__doc__ or "").partition("\n\n")[2]
    found = argparse.ArgumentParser(prog="bash setup_colab.sh results", description=about)
    add = found.add_argument
    add("--model", help="as for reproduce (default: gpt2-small when it can be had, else mini)")
    add("--prompts", type=int, default=490, help="default: 490")
    add("--seed", type=int, default=0, help="of the prompts (default: 0)")
    add("--out", type=Path, default=Path("results"), help="the folder (default: results)")
    add("--only", nargs="*", default=[], metavar="NN", help="notebooks, e.g. 01 04 (default: all)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        return run(**vars(parser().parse_args(arguments)))
    except KeyboardInterrupt:
        print("\nInterrupted. What was finished is kept: the same command continues.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
