"""The notebooks: in canonical form, and run top to bottom on the embedded model."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
import pytest
from needs import missing

import notebooks

ROOT = Path(__file__).parents[2]
COLAB = Path(__file__).parents[1] / "colab.txt"
REFERENCE = Path(__file__).parents[3] / "shared"
PATHS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]
PLOTLY = "application/vnd.plotly.v1+json"
WIDGETS = "application/vnd.jupyter.widget-state+json"


def toy() -> dict[str, Any]:
    """A notebook as editors leave it."""
    code = {"cell_type": "code", "execution_count": 7, "metadata": {"id": "x", "tags": ["keep"]}}
    output = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"widgets": {WIDGETS: {}}, "kernelspec": {"name": "other"}},
        "cells": [
            {
                "cell_type": "markdown",
                "id": "1a2b3c4d",
                "metadata": {},
                "source": "# 1. A toy\n\nWhy?",
            },
            {**code, "id": "my-own-id", "source": "print(1)  \n", "outputs": [output]},
            {**code, "metadata": {}, "source": ["x = 1\n", "y = 2"], "outputs": []},
            {"cell_type": "markdown", "id": "my-own-id", "metadata": {}, "source": "Done."},
        ],
    }


# --- the canonical form --------------------------------------------------------------------------


def test_the_notebooks_are_there() -> None:
    numbers = [name[:2] for name in NAMES]
    assert numbers[:7] == ["01", "02", "03", "04", "05", "06", "07"]
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_form(path: Path) -> None:
    assert notebooks.problems(path) == []
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = notebooks.read_notebook(path)["cells"]
    assert notebooks.source(cells[0]).startswith(f"# {int(path.name[:2])}. ")
    assert [notebooks.tags(cell) for cell in cells[1:3]] == [["setup"], ["parameters"]]
    parameters = re.findall(r"^([A-Z_]+) = .*# @param ", notebooks.source(cells[2]), re.MULTILINE)
    assert parameters[:4] == ["MODEL", "N_PROMPTS", "YEARS", "SEED"]
    assert not re.search(r"[\"'=\s]/(content|home|root|tmp|work|opt|Users)/", path.read_text())


def test_clean_removes_what_a_session_leaves() -> None:
    cells = notebooks.cleaned(toy(), "01_toy.ipynb")["cells"]
    assert [cell["id"] for cell in cells] == [
        "a-toy", "setup", "parameters", "my-own-id", "x-1", "my-own-id-2"
    ]  # fmt: skip
    print_cell = cells[3]
    assert print_cell["outputs"] == [] and print_cell["execution_count"] is None
    assert print_cell["metadata"] == {"tags": ["keep"]} and print_cell["source"] == ["print(1)"]
    clean = notebooks.cleaned(toy(), "01_toy.ipynb")
    assert clean["metadata"] == notebooks.METADATA
    assert notebooks.cleaned(clean, "01_toy.ipynb") == clean
    nbformat.validate(nbformat.from_dict(clean))


def test_problems_names_what_is_not_clean(tmp_path: Path) -> None:
    clean = notebooks.cleaned(toy(), "01_toy.ipynb")
    path = tmp_path / "01_toy.ipynb"

    def found(change: str, cell: int | None = None, **values: Any) -> list[str]:
        dirty = copy.deepcopy(clean)
        (dirty if cell is None else dirty["cells"][cell]).update(values)
        path.write_text(notebooks.notebook_text(dirty))
        return notebooks.problems(path)

    assert found("nothing") == []
    assert found("outputs", 4, outputs=[{}]) == ["01_toy.ipynb, cell x-1: outputs"]
    assert found("count", 4, execution_count=3) == ["01_toy.ipynb, cell x-1: execution_count"]
    assert found("id", 4, id="0123abcd") == ["01_toy.ipynb, cell x-1: id"]
    assert found("timing", 4, metadata={"execution": {}}) == ["01_toy.ipynb, cell x-1: metadata"]
    assert found("setup", 1, source=["other"]) == ["01_toy.ipynb, cell setup: source"]
    assert found("widgets", metadata={"widgets": {}}) == ["01_toy.ipynb: metadata"]
    path.write_text(json.dumps(clean))
    assert notebooks.problems(path) == ["01_toy.ipynb: the layout of the file"]


def test_parameters_are_replaced_in_a_copy() -> None:
    clean = notebooks.cleaned(toy(), "01_toy.ipynb")
    changed = notebooks.with_parameters(clean, MODEL="mini", N_PROMPTS=3)
    assert changed["cells"][2]["source"][1:3] == [
        'MODEL = \'mini\'  # @param ["gpt2-small", "mini"] {allow-input: true}\n',
        'N_PROMPTS = 3  # @param {type: "integer"}\n',
    ]
    assert clean == notebooks.cleaned(toy(), "01_toy.ipynb")
    with pytest.raises(ValueError, match="has 0 lines 'NO = ...', not one"):
        notebooks.with_parameters(clean, NO=1)


# --- running them --------------------------------------------------------------------------------


def trouble(notebook: dict[str, Any]) -> list[str]:
    """What a reader of an executed notebook would miss, or would rather not see."""
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
    texts = ["".join(o.get("text", "")) for o in outputs]
    states = notebook["metadata"]["widgets"][WIDGETS]["state"].values()
    html = [state["state"].get("value") for state in states]
    shown = re.findall(r'data-state="(\w+)"', " ".join(v for v in html if isinstance(v, str)))
    found = [
        f"stderr: {t}" for o, t in zip(outputs, texts, strict=True) if o.get("name") == "stderr"
    ]
    found += [f"a traceback: {t}" for t in texts if "Traceback" in t]
    found += [f"an explorer says {state!r}" for state in shown if state != "done"]
    found += [] if shown else ["no explorer"]
    found += [] if any(PLOTLY in o.get("data", {}) for o in outputs) else ["no plotly figure"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_runs(path: Path) -> None:
    assert trouble(notebooks.execute(path, **notebooks.quick(path))) == []


@pytest.fixture(scope="session")
def colab_versions(request: pytest.FixtureRequest) -> Path:
    """A folder with Colab's versions, to be laid over the installed ones; kept between runs."""
    key = sha256(f"{sys.version_info[:2]} {COLAB.read_text()}".encode()).hexdigest()[:12]
    folder = request.config.cache.mkdir("colab") / key
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
        command += ["--only-binary=:all:", "--target", str(part), "--requirement", str(COLAB)]
        if subprocess.run(command).returncode:
            missing("pip cannot fetch the versions of tests/colab.txt")
        part.rename(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_runs_with_the_versions_of_colab(path: Path, colab_versions: Path) -> None:
    variables = {"PYTHONPATH": str(colab_versions)}
    notebook = notebooks.execute(path, variables, **notebooks.quick(path))
    printed = "".join(o["text"] for o in notebook["cells"][1]["outputs"])
    assert "[OK] ipywidgets: 7.7.1\n" in printed and "[OK] plotly: 5.24.1," in printed
    # Plotly 5 warns of a newer kaleido, which Colab does not have.
    assert [text for text in trouble(notebook) if "stderr" not in text] == []


def test_colab_versions_are_those_of_colab() -> None:
    freeze = REFERENCE / "colab" / "pip-freeze-py313.txt"
    if not freeze.is_file():
        pytest.skip("needs the list of what Colab ships")
    pins = {line for line in COLAB.read_text().splitlines() if "==" in line}
    shipped = set(freeze.read_text().splitlines())
    assert pins <= shipped


def executed(*outputs: dict[str, Any], state: str = "done") -> dict[str, Any]:
    """An executed notebook with an explorer in some state and a figure."""
    figure = {"data": {PLOTLY: {}}}
    value = f'<div data-state="{state}">x</div>'
    return {
        "cells": [{"outputs": [figure, *outputs]}],
        "metadata": {"widgets": {WIDGETS: {"state": {"1": {"state": {"value": value}}}}}},
    }


def test_trouble_is_seen() -> None:
    assert trouble(executed()) == []
    assert trouble(executed(state="error")) == ["an explorer says 'error'"]
    assert trouble(executed({"name": "stderr", "text": "oh"})) == ["stderr: oh"]
    assert trouble(executed({"name": "stdout", "text": "Traceback"})) == ["a traceback: Traceback"]
    empty = {"cells": [], "metadata": {"widgets": {WIDGETS: {"state": {}}}}}
    assert trouble(empty) == ["no explorer", "no plotly figure"]
