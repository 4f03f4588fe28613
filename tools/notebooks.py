"""Keep the notebooks reviewable, and run them: python tools/notebooks.py COMMAND [NAME ...].

clean                 write every notebook in its canonical form: badge and setup cell, no outputs,
                      readable cell ids, no metadata of editors
check                 say what is not in that form
run [NAME ...]        run copies of the notebooks whose names begin so, on the embedded model
pictures [NAME ...]   the same, and draw the cell tagged "picture" of each into docs/
"""

from __future__ import annotations

import copy
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from publish import (  # noqa: E402
    notebook_text,
    read_notebook,
    set_source,
    source,
    stamp,
    stamp_all,
)

NOTEBOOKS = ROOT / "notebooks"
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": [], "toc_visible": True},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PARAMETERS = """\
# @title Parameters
MODEL = "gpt2-small"  # @param ["gpt2-small", "mini"] {allow-input: true}
N_PROMPTS = 490  # @param {type: "integer"}
YEARS = "1100-1800"  # @param ["1100-1800", "1000-1900"] {allow-input: true}
SEED = 0  # @param {type: "integer"}"""
# How the notebooks are run here; those that measure much on the embedded model do it on less.
QUICK: dict[str, dict[str, object]] = {
    "08_why_results_differ": {"N_PROMPTS": 24, "N_SEEDS": 1},
    "09_beyond_the_paper": {"N_PROMPTS": 24, "EDGE_BUDGET": 200, "THRESHOLD": 0.01},
}
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
RANDOM_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){0,3}(-[0-9a-f]{12})?")  # Jupyter's


def cleaned(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The canonical form of a notebook."""
    notebook = copy.deepcopy(notebook)
    stamp(notebook, name, ROOT)
    if not any("parameters" in tags(cell) for cell in notebook["cells"]):
        cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}}
        set_source(cell, PARAMETERS)
        notebook["cells"].insert(2, cell)
    ids: list[str] = []
    for cell in notebook["cells"]:
        ids.append(cell_id(cell, ids))
    return {
        "cells": [
            clean_cell(cell, name) for cell, name in zip(notebook["cells"], ids, strict=True)
        ],
        "metadata": METADATA,
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def clean_cell(cell: dict[str, Any], name: str) -> dict[str, Any]:
    """A cell without outputs, counts, attachments and the metadata of editors."""
    kept = {k: v for k, v in cell["metadata"].items() if k in ("tags", "cellView")}
    if "setup" in tags(cell):
        kept |= {"cellView": "form", "jupyter": {"source_hidden": True}}  # Colab's fold, Jupyter's
    plain = {"cell_type": cell["cell_type"], "id": name, "metadata": kept}
    lines = [line.rstrip() for line in source(cell).strip("\n").split("\n")]
    set_source(plain, "\n".join(lines))
    return plain | ({"execution_count": None, "outputs": []} if is_code(cell) else {})


def cell_id(cell: dict[str, Any], taken: list[str]) -> str:
    """The id of a cell: its own if it is readable and free, else made of its first words."""
    own = cell.get("id", "")
    if SLUG.fullmatch(own) and not RANDOM_ID.fullmatch(own):
        slug = own
    elif tags(cell):
        slug = tags(cell)[0]
    else:
        first_line = source(cell).strip().split("\n")[0]
        slug = "-".join(re.findall(r"[a-z0-9]+", first_line.lower())[:6])
        slug = re.sub(r"^[0-9-]+", "", slug)[:40].rstrip("-") or "cell"
    free = (name for n in count(1) if (name := f"{slug}-{n}" if n > 1 else slug) not in taken)
    return next(free)


def tags(cell: dict[str, Any]) -> list[str]:
    """The tags of a cell."""
    return cell["metadata"].get("tags", [])


def is_code(cell: dict[str, Any]) -> bool:
    """Whether a cell holds code."""
    return cell["cell_type"] == "code"


def problems(path: Path) -> list[str]:
    """What is not canonical in a notebook file, e.g. ["01_x.ipynb, cell setup: outputs"]."""
    text = path.read_text(encoding="utf-8")
    notebook = read_notebook(path)
    clean = cleaned(notebook, path.name)
    if text == notebook_text(clean):
        return []
    if len(clean["cells"]) != len(notebook["cells"]):
        return [f"{path.name}: a cell tagged setup or parameters is missing"]
    places = [(path.name, notebook, clean)]
    for old, new in zip(notebook["cells"], clean["cells"], strict=True):
        places.append((f"{path.name}, cell {new['id']}", old, new))
    found = [
        f"{place}: {key}"
        for place, old, new in places
        for key in sorted((old.keys() | new.keys()) - {"cells"})
        if old.get(key) != new.get(key)
    ]
    return found or [f"{path.name}: the layout of the file"]


def with_parameters(notebook: dict[str, Any], **values: object) -> dict[str, Any]:
    """A copy of a notebook with other values in its cell tagged "parameters"."""
    notebook = copy.deepcopy(notebook)
    (cell,) = (cell for cell in notebook["cells"] if "parameters" in tags(cell))
    text = source(cell)
    for name, value in values.items():
        text, n = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value!r}  ", text, flags=re.MULTILINE)
        if n != 1:
            raise ValueError(f"The parameters cell has {n} lines '{name} = ...', not one.")
    set_source(cell, text)
    return notebook


def quick(path: Path) -> dict[str, object]:
    """The parameters of a quick run of a notebook on the embedded model."""
    return {"MODEL": "mini", "N_PROMPTS": 194, **QUICK.get(path.stem, {})}


def clean() -> None:
    """Write every notebook, and the README's list of them, in canonical form."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text = notebook_text(cleaned(read_notebook(path), path.name))
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"cleaned {path.name}")
    stamp_all(ROOT)


def execute(path: Path, variables: Mapping[str, str] | None = None, **parameters: object) -> Any:
    """Run a copy of a notebook with these parameters top to bottom; see `prepare`, `run_cells`."""
    notebook = prepare(path, **parameters)
    run_cells(notebook, {"HF_HUB_OFFLINE": "1", **(variables or {})}, timeout=300)
    return notebook


def prepare(path: Path, **parameters: object) -> Any:
    """A copy of a notebook with other parameters, as nbformat's object."""
    import nbformat

    text = notebook_text(with_parameters(read_notebook(path), **parameters))
    return nbformat.reads(text, as_version=4)


def run_cells(
    notebook: Any,
    variables: Mapping[str, str] | None = None,
    links: Mapping[str, Path] | None = None,
    timeout: float | None = None,
) -> None:
    """Run a notebook's cells, whose outputs it then holds; raises if one fails or the kernel dies.

    ``variables`` are added to the kernel's environment, ``links`` to its folder, which is a new one
    and holds the project; ``timeout`` is in seconds for each cell.
    """
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:  # for the files that it writes
        for name, target in {"project": ROOT, **(links or {})}.items():
            (Path(folder) / name).symlink_to(target)
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources=resources
        )
        with ThreadPoolExecutor(1) as thread:  # not the main one: there nbclient swallows Ctrl-C
            running = thread.submit(client.execute, env={**os.environ, **(variables or {})})
            try:
                running.result()
            except KeyboardInterrupt:
                os.kill(client.km.provisioner.pid, signal.SIGKILL)  # which ends the thread
                raise


def keep_picture(notebook: Any, path: Path) -> None:
    """Write what the cell tagged "picture", if any, of an executed notebook draws, PNG or SVG."""
    import plotly.graph_objects as go

    tagged = [cell for cell in notebook.cells if "picture" in tags(cell)]
    for data in (output.get("data", {}) for cell in tagged for output in cell.outputs):
        if figure := data.get("application/vnd.plotly.v1+json"):
            go.Figure(figure["data"], figure["layout"]).write_image(
                path.with_suffix(".png"), scale=1.5
            )
            return
        if "<svg" in data.get("text/html", ""):
            path.with_suffix(".svg").write_text(data["text/html"], encoding="utf-8")
            return


def main(arguments: list[str]) -> int:
    """The command line; returns the exit code."""
    command, *names = arguments or ["help"]
    if command == "clean":
        clean()
        return 0
    if command == "check":
        found = [text for path in sorted(NOTEBOOKS.glob("*.ipynb")) for text in problems(path)]
        print("\n".join(found) or "All notebooks are clean.")
        return 1 if found else 0
    if command not in ("run", "pictures"):
        print(__doc__)
        return 2
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if path.name.startswith(tuple(names or [""])):
            start = time.perf_counter()
            run(path, picture=command == "pictures")
            print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0


def run(path: Path, picture: bool) -> None:
    """Run a notebook quickly, and draw its picture if that is wanted."""
    parameters: dict[str, Any] = quick(path)
    if picture:  # with all YYs
        parameters["N_PROMPTS"] = max(97, parameters["N_PROMPTS"])
    notebook = execute(path, **parameters)
    if picture:
        keep_picture(notebook, ROOT / "docs" / path.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
