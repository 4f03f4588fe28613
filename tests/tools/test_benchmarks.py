"""Unit: the benchmarks run on a tiny model, and what they time is right."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TINY = ["--tiny", "--prompts", "6", "--device", "cpu"]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Import a benchmark; the others import what they share from sweep.py beside them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def loaded(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return loaded


def number(printed: str, label: str) -> float:
    (line,) = (row for row in printed.splitlines() if label in row)
    return float(line.split("|")[2])


def test_sweeps_agree_with_hooked_passes(load, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("sweep")
    module.main([*TINY, "--quick"])
    module.main([*TINY, "--memory"])
    printed = capsys.readouterr().out
    assert "(c) sweep / bare product" in printed and "runs kept in the cache, GiB" in printed
    assert number(printed, "largest difference to the hooked") < 1e-6


def test_neurons_agree_with_full_products(load, capsys: pytest.CaptureFixture[str]) -> None:
    load("neurons").main(TINY)
    assert number(capsys.readouterr().out, "largest difference to patching a neuron") < 1e-6


def test_previews_are_timed_on_a_model_for_which_they_hold(
    load, capsys: pytest.CaptureFixture[str]
) -> None:
    # without a GPU, explorers take some of more than 32 prompts
    load("interactive").main(["--tiny", "--prompts", "40", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert number(printed, "probability on the year tokens") > 0.99
    assert "path explorer, a whole redraw" in printed and "(exact)" not in printed
    assert "discovery explorer, a new circuit of 200 edges" in printed
