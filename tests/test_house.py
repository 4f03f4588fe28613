"""Unit: who imports whom (the contracts in pyproject.toml), and what tests say of themselves."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def test_imports_point_downwards() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_core_is_small_at_import() -> None:
    """import-linter counts imports inside functions too, where the core may use pandas."""
    core = [ROOT / "gt_helpers" / "metrics.py"]
    for wing in ("dataset", "model", "patching"):
        core += (ROOT / "gt_helpers" / wing).glob("*.py")
    rooms = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in core]
    code = f"import importlib, sys\nfor room in {rooms}: importlib.import_module(room)\n"
    command = [sys.executable, "-c", code + "print(*sys.modules)"]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert {"pandas", "plotly", "ipywidgets"}.isdisjoint(found.stdout.split())


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_test_file_begins_with_its_tier(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert re.match(r"(Unit|Oracle|Notebook|Browser): ", docstring)
