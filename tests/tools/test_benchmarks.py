"""Unit: the benchmarks run on a tiny model, and what they time is right."""

from __future__ import annotations

import json

import interactive
import judge
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


def test_the_judge_knows_correct_runs_from_faulty_ones(capsys: pytest.CaptureFixture[str]) -> None:
    judge.main(["--correct", "2", "--faulty", "1", "--json"])
    assert json.loads(capsys.readouterr().out) == {"correct_failed": 0.0, "faulty_caught": 1.0}


def test_coverage_is_measured_on_every_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge.coverage(draws=40, n=97 * 2, nouns=1)
    assert found["clean"][0] > 0.8 and found["recovered"][0] > 0.8
    assert found["corrupted"][1] > 5  # the plain bootstrap takes YY for chance
