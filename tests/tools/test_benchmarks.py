"""Unit: the benchmarks run on a tiny model, and what they time is right."""

from __future__ import annotations

import interactive
import neurons
import pytest
import sweep

TINY = ["--tiny", "--prompts", "6", "--device", "cpu"]


def number(printed: str, label: str) -> float:
    (line,) = (row for row in printed.splitlines() if label in row)
    return float(line.split("|")[2])


def test_sweeps_agree_with_hooked_passes(capsys: pytest.CaptureFixture[str]) -> None:
    sweep.main([*TINY, "--quick"])
    sweep.main([*TINY, "--memory"])
    printed = capsys.readouterr().out
    assert "(c) sweep / bare product" in printed and "runs kept in the cache, GiB" in printed
    assert number(printed, "largest difference to the hooked") < 1e-6


def test_neurons_agree_with_full_products(capsys: pytest.CaptureFixture[str]) -> None:
    neurons.main(TINY)
    assert number(capsys.readouterr().out, "largest difference to patching a neuron") < 1e-6


def test_previews_are_timed_on_a_model_for_which_they_hold(capsys) -> None:
    # without a GPU, explorers take some of more than 32 prompts
    interactive.main(["--tiny", "--prompts", "40", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert number(printed, "probability on the year tokens") > 0.99
    assert "path explorer, a whole redraw" in printed and "(exact)" not in printed
    assert "discovery explorer, a new circuit of 200 edges" in printed
