"""Unit: the canonical form of the notebooks, and what the tests of their runs would see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from executed import PLOTLY, WIDGETS, explorer_trouble, trouble

import notebooks

ROOT = Path(__file__).parents[2]
COLAB = Path(__file__).parents[1] / "colab.txt"
PATHS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def toy() -> dict[str, Any]:
    """A notebook as editors leave it."""
    code = {"cell_type": "code", "execution_count": 7, "metadata": {"id": "x", "tags": ["keep"]}}
    text = {"cell_type": "markdown", "metadata": {}}
    output = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"widgets": {WIDGETS: {}}, "kernelspec": {"name": "other"}},
        "cells": [
            {**text, "id": "1a2b3c4d", "source": "# 1. A toy\n\nWhy?"},
            {**code, "id": "my-own-id", "source": "print(1)  \n", "outputs": [output]},
            {**code, "metadata": {}, "source": ["x = 1\n", "y = 2"], "outputs": []},
            {**text, "id": "my-own-id", "source": "Done."},
        ],
    }


@pytest.fixture
def clean(toy: dict[str, Any]) -> dict[str, Any]:
    return notebooks.cleaned(toy, "01_toy.ipynb")


def test_the_notebooks_are_numbered() -> None:
    assert [int(path.name[:2]) for path in PATHS] == list(range(1, len(PATHS) + 1))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_form(path: Path) -> None:
    assert notebooks.problems(path) == []
    nbformat.validate(nbformat.read(path, as_version=4))
    cells = notebooks.read_notebook(path)["cells"]
    assert notebooks.source(cells[0]).startswith(f"# {int(path.name[:2])}. ")
    assert [notebooks.tags(cell) for cell in cells[1:3]] == [["setup"], ["parameters"]]
    # no path of somebody's machine
    assert not re.search(r"[\s\"'(]/(home|root|tmp|work|opt|Users)/", path.read_text())


def test_clean_removes_what_a_session_leaves(clean: dict[str, Any]) -> None:
    cells = clean["cells"]
    assert [cell["id"] for cell in cells] == [
        "a-toy", "setup", "parameters", "my-own-id", "x-1", "my-own-id-2"
    ]  # fmt: skip
    print_cell = cells[3]
    assert print_cell["outputs"] == [] and print_cell["execution_count"] is None
    assert print_cell["metadata"] == {"tags": ["keep"]} and print_cell["source"] == ["print(1)"]
    assert clean["metadata"] == notebooks.METADATA
    assert notebooks.cleaned(clean, "01_toy.ipynb") == clean
    nbformat.validate(nbformat.from_dict(clean))


@pytest.mark.parametrize(
    ("cell", "change", "problem"),
    [
        (4, {"outputs": [{}]}, ", cell x-1: outputs"),
        (4, {"execution_count": 3}, ", cell x-1: execution_count"),
        (4, {"id": "0123abcd"}, ", cell x-1: id"),
        (4, {"metadata": {"execution": {}}}, ", cell x-1: metadata"),
        (1, {"source": ["other"]}, ", cell setup: source"),
        (None, {"metadata": {"widgets": {}}}, ": metadata"),
    ],
)
def test_problems_names_what_is_not_clean(cell, change, problem, clean, tmp_path) -> None:
    path = tmp_path / "01_toy.ipynb"
    path.write_text(notebooks.notebook_text(clean))
    assert notebooks.problems(path) == []
    path.write_text(json.dumps(clean))
    assert notebooks.problems(path) == ["01_toy.ipynb: the layout of the file"]
    (clean if cell is None else clean["cells"][cell]).update(change)
    path.write_text(notebooks.notebook_text(clean))
    assert notebooks.problems(path) == [f"01_toy.ipynb{problem}"]


def test_parameters_are_replaced_in_a_copy(clean: dict[str, Any]) -> None:
    changed = notebooks.with_parameters(clean, MODEL="mini", N_PROMPTS=3)
    assert changed["cells"][2]["source"][1:3] == [
        'MODEL = \'mini\'  # @param ["gpt2-small", "mini"] {allow-input: true}\n',
        'N_PROMPTS = 3  # @param {type: "integer"}\n',
    ]
    assert notebooks.source(clean["cells"][2]) == notebooks.PARAMETERS
    with pytest.raises(ValueError, match="0 lines 'NO = "):
        notebooks.with_parameters(clean, NO=1)


def test_colab_versions_are_those_of_colab(reference: Path) -> None:
    shipped = (reference / "colab" / "pip-freeze-py313.txt").read_text().splitlines()
    assert {line for line in COLAB.read_text().splitlines() if "==" in line} <= set(shipped)


@pytest.mark.parametrize(
    ("output", "seen"),
    [
        ({"name": "stdout", "text": "fine"}, []),
        ({"name": "stderr", "text": "oh"}, ["stderr: oh"]),
        ({"name": "stdout", "text": "Traceback"}, ["a traceback: Traceback"]),
        ({"output_type": "error", "ename": "KeyError"}, ["a traceback: KeyError"]),
    ],
)
def test_trouble_is_seen(output: dict[str, Any], seen: list[str]) -> None:
    figure = {"data": {PLOTLY: {}}}
    assert trouble({"cells": [{"outputs": [figure, output]}, {}]}) == seen
    assert trouble({"cells": [{"outputs": [output]}]}) == [*seen, "no figure"]


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (["done"], []),
        (["done", "error"], ["an explorer is error"]),
        ([], ["an explorer is missing"]),
    ],
)
def test_trouble_of_explorers_is_seen(values: list[str], seen: list[str]) -> None:
    states = {value: {"state": {"value": f'<p data-state="{value}">'}} for value in values}
    states |= {"a slider": {"state": {"value": 3}}}
    assert explorer_trouble({"metadata": {"widgets": {WIDGETS: {"state": states}}}}) == seen
