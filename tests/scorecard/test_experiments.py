"""Unit: the scorecard's command and its experiments on the embedded model, with few prompts."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from gt_helpers import reproduce
from gt_helpers.__main__ import main
from gt_helpers.dataset.published import YEARS, eap_ig_prompts
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.edges.attribution import eap
from gt_helpers.edges.discovery import discover_circuit, greedy_edges
from gt_helpers.edges.graph import EdgeGraph, evaluate_edges
from gt_helpers.metrics import prob_diff
from gt_helpers.model import cache
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, full_circuit, partial_circuit
from gt_helpers.reproduce import run_scorecard
from gt_helpers.scorecard import activation, found_circuits, neurons, registry
from gt_helpers.scorecard.claims import EXPERIMENTS, claims
from gt_helpers.scorecard.registry import circuit_log_probs
from gt_helpers.scorecard.results import load_results

PROMPTS, FEW, THRESHOLD = 12, 8, 0.02
SIZES = ["--prompts", str(PROMPTS), "--at-most", str(FEW), "--device", "cpu"]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model("mini", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scorecard")
    with pytest.MonkeyPatch.context() as patch:
        # Of few prompts the default keeps what is next to nothing, and takes hundreds of sweeps.
        patch.setattr(
            found_circuits, "discover_circuit", partial(discover_circuit, threshold=THRESHOLD)
        )
        assert main(["scorecard", "--model", "mini", *SIZES, "--out", str(out)]) == 0
    return out


def test_every_experiment_is_measured_and_kept(folder: Path) -> None:
    results = load_results(folder)
    assert {"discovery", *results.experiments} == set(EXPERIMENTS)
    assert {o.settings["prompts"] for o in results.experiments.values()} == {FEW}
    table = pd.read_csv(folder / "scorecard.csv")
    assert list(table["id"]) == [claim["id"] for claim in claims()]
    assert set(table["verdict"]) == {"not comparable", "passes"}
    assert table["measured"].notna().sum() > 95
    assert "are about mini, not GPT-2 small" in (folder / "scorecard.txt").read_text()
    assert "<h1>mini</h1>" in (folder / "scorecard.html").read_text()


def test_what_is_there_is_not_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    for room, name in (
        (registry, "PathPatching"),
        (activation, "activation_patching"),
        (neurons, "cache_activations"),
        (found_circuits, "PathPatching"),
    ):
        monkeypatch.setattr(room, name, refuse)
    monkeypatch.setattr(PathPatching, "sweep", refuse)
    again = partial(run_scorecard, "mini", PROMPTS, out=folder, device="cpu", say=lambda line: None)
    table, _ = again(at_most=5, only=["leace_prob_diff"])
    assert list(table["id"]) == ["leace_prob_diff"]
    again(at_most=5)
    with pytest.raises(AssertionError, match="measured again"):  # more prompts are
        again(at_most=9)


def test_an_interrupted_scorecard_continues(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(bench: object) -> None:
        raise KeyboardInterrupt

    shutil.copytree(folder, tmp_path / "run")
    for name in ("large", "acdc"):
        (tmp_path / "run" / f"experiment_{name}.safetensors").unlink()
    command = ["scorecard", "--model", "mini", *SIZES, "--out", str(tmp_path / "run")]
    acdc = dataclasses.replace(EXPERIMENTS["acdc"], run=interrupt)
    with monkeypatch.context() as patch:
        patch.setitem(EXPERIMENTS, "acdc", acdc)
        assert main(command) == 130
    kept = load_results(tmp_path / "run").experiments
    assert "large" in kept and "acdc" not in kept
    assert main(command) == 0
    again, once = (load_results(path).experiments for path in (tmp_path / "run", folder))
    assert again.keys() == once.keys()
    torch.testing.assert_close(again["large"].tensors, once["large"].tensors)


def test_a_failing_claim_of_gpt2_small_is_an_exit_code(
    tmp_path: Path, mini_as_gpt2_small: None
) -> None:
    """mini stands in for GPT-2 small in a local hub cache, so verdicts are given."""
    out = tmp_path / "out"
    command = ["scorecard", *SIZES, "--out", str(out)]
    assert main([*command, "--only", "acdc_circuit"]) == 1  # mini's circuit is another
    results = load_results(out)
    assert results.parts == PAPER and not results.sweeps  # it needs no discovery
    assert list(results.experiments) == ["acdc"]
    assert main([*command, "--only", "last_mlp_alike"]) == 0
    verdicts = pd.read_csv(out / "scorecard.csv").set_index("id")["verdict"]
    assert verdicts["last_mlp_alike"] == "passes" and verdicts["eap_100"] == "not measured"


def test_what_an_experiment_cannot_measure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(bench: object) -> None:
        raise ValueError("no heads")

    monkeypatch.setitem(
        EXPERIMENTS, "families", dataclasses.replace(EXPERIMENTS["families"], run=refuse)
    )
    said: list[str] = []
    run_scorecard("mini", 4, out=tmp_path, device="cpu", only=["smaller_repeats"], say=said.append)
    assert any("families: not measured: no heads" in line for line in said)
    assert any(line.endswith("discovery (10 min), families (1 min)") for line in said)


def test_what_nothing_measures_runs_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    table, _ = run_scorecard(
        "mini", 4, out=tmp_path, device="cpu", only=["leace_prob_diff"], say=said.append
    )
    assert list(table["verdict"]) == ["not comparable"]
    assert not any("To measure" in line for line in said)


def test_needed_experiments() -> None:
    def names(ids: list[str], skip_long: bool = False) -> list[str]:
        return [one.name for one in reproduce._needed(ids, skip_long)]

    assert names(["leace_prob_diff"]) == []
    assert names(["m9_top_head", "acdc_kl"]) == ["discovery", "acdc"]
    assert names(["clean_prob_diff"]) == ["large"]
    assert names(["clean_prob_diff"], skip_long=True) == ["discovery"]
    long = {one.name for one in EXPERIMENTS.values() if one.minutes > 10} - {"discovery"}
    every = names([claim["id"] for claim in claims()], skip_long=True)
    assert set(every) == set(EXPERIMENTS) - long


def test_an_unknown_claim_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert main(["scorecard", "--model", "mini", "--only", "nonsense"]) == 2
    assert "no claim 'nonsense'; known are clean_prob_diff" in capsys.readouterr().err


def test_streamed_answers_are_the_engines(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = YearDataset(model.tokenizer, 10, balanced=False)
    circuit = partial_circuit()
    patching = PathPatching(model, dataset)
    monkeypatch.setattr(cache, "PROMPTS_AT_ONCE", 4)
    found = circuit_log_probs(model, dataset, {"in": circuit}, {"out": circuit})
    expected = {
        "clean": patching.base_log_probs,
        "corrupted": patching.reversed().base_log_probs,
        "in": patching.reversed().evaluate(circuit).log_probs,
        "out": patching.evaluate(circuit).log_probs,
        "YY": dataset.YY,
    }
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_attributions_circuits_grow_by_the_scores(model: Transformer, folder: Path) -> None:
    found = load_results(folder).experiments["attribution"].tensors
    patching = PathPatching(model, eap_ig_prompts(model.tokenizer, FEW, 0, YEARS))
    graph, denoising = EdgeGraph.of(patching), patching.reversed()
    clean = prob_diff(patching.base_probs, patching.dataset.YY)
    torch.testing.assert_close(found["clean"], clean)
    for method in ("eap", "eap_ig"):
        held: set[int] = set()
        for n in (100, 200, 300, 500, 1000):
            edges = found[f"{method}_{n}_edges"]
            assert held < set(edges.tolist()) and len(held) < len(edges) <= n
            held = set(edges.tolist())
            score = evaluate_edges(denoising, graph, edges).prob_diff
            torch.testing.assert_close(found[f"{method}_{n}"], score)
        assert found[f"{method}_top"].unique().tolist() == [0, 1]
    # those of the first 100 that are on a path are the greedy circuit of as many
    live = found["eap_100_edges"]
    same = greedy_edges(eap(patching, graph), len(live))
    assert same.nonzero().flatten().tolist() == live.tolist()


def test_the_circuit_that_was_found_is_kept(model: Transformer, folder: Path) -> None:
    results = load_results(folder)
    found = results.experiments["edges"].tensors
    dataset = YearDataset(model.tokenizer, FEW, years=YEARS)
    patching = PathPatching(model, dataset)
    circuit = discover_circuit(patching, THRESHOLD)
    graph, denoising = EdgeGraph.of(patching, summed=False), patching.reversed()
    torch.testing.assert_close(found["found"], denoising.evaluate(circuit).prob_diff)
    assert results.parts is not None
    full = denoising.evaluate(full_circuit(results.parts)).prob_diff
    torch.testing.assert_close(found["full"], full)
    assert found["edges"].tolist() == graph.edges_of(circuit).nonzero().flatten().tolist()
    strengths: dict[str, list[float]] = {}
    for edge, effect in zip(circuit.edges, circuit.effects.mean(-1).tolist(), strict=True):
        strengths.setdefault(edge.sender.name, []).append(-effect)
    for place in graph.positions:
        for layer in range(model.n_layers):
            names = [f"a{layer}.h{head}@{place}" for head in range(model.n_heads)]
            expected = [max(strengths.get(name, [0])) for name in (*names, f"m{layer}@{place}")]
            assert found[f"found@{place}"][layer].tolist() == pytest.approx(expected)
    assert len(circuit) > 5 and "embed@YY" in circuit.components
