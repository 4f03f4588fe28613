"""Unit: what ``from gt_helpers import ...`` gives, and what importing the package takes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gt_helpers

ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    """What a fresh Python says."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_importing_takes_next_to_nothing() -> None:
    timed = "from time import process_time as t; a = t(); import gt_helpers; print(t() - a)"
    assert min(float(run(timed)) for _ in range(3)) < 0.1
    # names of what is installed later, in Colab by the setup cell
    later = {"torch", "numpy", "pandas", "transformers", "transformer_lens", "plotly", "ipywidgets"}
    loaded = "import sys, gt_helpers, gt_helpers.environment; print(*sys.modules)"
    assert later.isdisjoint(run(loaded).split())


@pytest.mark.parametrize("name", gt_helpers.__all__)
def test_every_name_resolves(name: str) -> None:
    value = getattr(gt_helpers, name)
    assert name in dir(gt_helpers) and value is getattr(gt_helpers, name)
    # a module of the same name would take the name's place once it is imported
    assert not (ROOT / "gt_helpers" / name).exists()
    assert not (ROOT / "gt_helpers" / f"{name}.py").exists()


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Scorecards'"):
        gt_helpers.Scorecards  # noqa: B018


def test_type_checkers_read_the_same_names() -> None:
    stub = ast.parse((ROOT / "gt_helpers" / "__init__.pyi").read_text())
    exports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = [alias for node in exports for alias in node.names]
    assert ["__version__", *(alias.name for alias in names)] == gt_helpers.__all__
    assert all(alias.name == alias.asname for alias in names)  # else a stub keeps it to itself
    assert len(set(gt_helpers.__all__)) == len(gt_helpers.__all__)
    assert (ROOT / "gt_helpers" / "py.typed").is_file()
