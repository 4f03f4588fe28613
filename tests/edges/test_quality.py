"""Unit: quality of circuits: what is known beforehand of all edges, none, toy curves and scores."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pandas as pd
import pytest
import torch
from literal import random_prompts
from torch import Tensor

from gt_helpers.edges.attribution import eap
from gt_helpers.edges.discovery import greedy_edges, greedy_order
from gt_helpers.edges.graph import EdgeGraph, evaluate_edges
from gt_helpers.edges.quality import (
    SHARES,
    completeness,
    curve_areas,
    dealt_out,
    edge_overlap,
    faithfulness,
    faithfulness_curves,
    leave_one_out,
    necessity,
    paired_differences,
    stability,
)
from gt_helpers.edges.scores import EdgeScores
from gt_helpers.metrics import bootstrap_ci, prob_diff
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching


@pytest.fixture(scope="module")
def patching(random_model: Transformer) -> PathPatching:
    """The nine of forty prompts at which a random model has most to recover."""
    drawn = random_prompts(40)
    clean, corrupted = diffs(PathPatching(random_model, drawn))
    best = torch.where(clean > 0, clean - corrupted, -1).topk(9).indices
    parts = {name: getattr(drawn, name)[best] for name in ("clean", "corrupted", "YY")}
    return PathPatching(random_model, replace(drawn, **parts))


@pytest.fixture(scope="module")
def graph(patching: PathPatching) -> EdgeGraph:
    return EdgeGraph.of(patching)


@pytest.fixture(scope="module")
def scores(patching: PathPatching, graph: EdgeGraph) -> EdgeScores:
    return eap(patching, graph)


@pytest.fixture(scope="module")
def some(scores: EdgeScores) -> Tensor:
    """The edges of a circuit that is neither nothing nor everything."""
    return greedy_edges(scores, 60)


def diffs(patching: PathPatching) -> tuple[Tensor, Tensor]:
    YY = patching.dataset.YY
    return prob_diff(patching.base_probs, YY), prob_diff(patching.patch_probs, YY)


# ---- faithful ---------------------------------------------------------------------------------


def test_all_edges_have_1_and_none_have_0(patching: PathPatching, graph: EdgeGraph) -> None:
    table = faithfulness(
        patching, graph, {"all": range(len(graph)), "none": [], "nothing": Circuit()}
    ).set_index("name")
    clean, corrupted = diffs(patching)
    ends = ["above_corrupted", "above_corrupted_low", "above_corrupted_high"]
    assert list(table.loc["all", ends]) == pytest.approx([1, 1, 1])
    assert list(table.loc["none", ends]) == pytest.approx([0, 0, 0])
    assert table.loc["all", "recovered"] == pytest.approx(1)
    assert table.loc["none", "recovered"] == pytest.approx(float(corrupted.mean() / clean.mean()))
    assert list(table["edges"]) == [172, 0, 0] and list(table["components"]) == [12, 0, 0]
    pd.testing.assert_series_equal(table.loc["none"], table.loc["nothing"], check_names=False)


def test_both_conventions_by_hand(patching: PathPatching, graph: EdgeGraph, some: Tensor) -> None:
    (row,) = faithfulness(patching.reversed(), graph, {"some": some}).itertuples()
    clean, corrupted = diffs(patching)
    diff = evaluate_edges(patching.reversed(), graph, some).prob_diff
    mean, low, high = (float(value) for value in bootstrap_ci(diff))
    assert (row.prob_diff, row.prob_diff_low, row.prob_diff_high) == pytest.approx(
        (mean, low, high)
    )
    gap = float((clean - corrupted).mean())
    share = float((diff - corrupted).mean()) / gap
    assert row.recovered == pytest.approx(mean / float(clean.mean()))
    assert row.above_corrupted == pytest.approx(share)
    assert row.above_corrupted_low < share < row.above_corrupted_high
    assert row.edges == int(some.sum()) and 3 < row.components <= 12


def test_a_circuit_counts_on_the_graph_and_is_evaluated_as_it_is(patching, graph) -> None:
    # at END only, where the edges of the graph are at all positions
    circuit = Circuit(
        ["embed@YY -> a0.h1.v@END", "a0.h1@END -> m1@END", "m1@END -> logits"], sources="embed@YY"
    )
    table = faithfulness(patching, graph, {"one": circuit, "graph": graph.edges_of(circuit)})
    assert list(table["edges"]) == [3, 3] and list(table["components"]) == [2, 2]
    alone = patching.reversed().evaluate(circuit).prob_diff.mean()
    assert table["prob_diff"][0] == pytest.approx(float(alone))
    assert table["prob_diff"][0] != pytest.approx(table["prob_diff"][1])


def test_edges_that_change_nothing_are_not_counted(patching, graph, some) -> None:
    dangling = next(
        n for n in (~some).nonzero() if (graph.pruned(some | graph.mask(n)) == some).all()
    )
    table = faithfulness(patching, graph, {"some": some, "more": some | graph.mask(dangling)})
    assert list(table["edges"]) == [int(some.sum())] * 2
    assert table["prob_diff"][0] == table["prob_diff"][1]


def test_differences_are_taken_prompt_by_prompt(patching, graph, some) -> None:
    others = {"same": graph.circuit(some), "all": range(len(graph))}
    table = paired_differences(patching, graph, some, others).set_index("name")
    clean, _ = diffs(patching)
    less = clean - evaluate_edges(patching.reversed(), graph, some).prob_diff
    mean, low, high = (float(value) for value in bootstrap_ci(less))
    assert list(table.loc["all"]) == pytest.approx([float(clean.mean()), mean, low, high])
    assert list(table.loc["same", ["change", "low", "high"]]) == pytest.approx([0, 0, 0])
    assert abs(mean) > 1e-3


# ---- curves and areas -------------------------------------------------------------------------


def test_curves_follow_the_greedy_order(patching, graph, scores, some) -> None:
    n = len(SHARES)
    assert SHARES == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)  # the benchmark's
    with pytest.raises(ValueError, match=r"e\.g\. \[eap\(patching, graph\)\]"):
        faithfulness_curves(patching, [])
    table = faithfulness_curves(patching, [scores], {"some": some}, n_random=2)
    assert list(table["kind"]) == ["ranking"] * n + ["random"] * 2 * n + ["circuit"]
    assert list(table["name"].unique()) == ["EAP", "random, seed 0", "random, seed 1", "some"]
    assert math.isnan(table["share"].iloc[-1])
    assert list(table[table["share"] == 1]["above_corrupted"]) == pytest.approx([1, 1, 1])
    signed = faithfulness_curves(patching, [scores], n_random=0, signed=True)
    assert list(signed["share"]) == list(SHARES)
    for by_sign, rows in ((False, table[table["kind"] == "ranking"]), (True, signed)):
        for row in rows.itertuples():
            chosen = greedy_order(scores, by_sign)[: int(row.share * len(graph))]
            diff = evaluate_edges(patching.reversed(), graph, chosen).prob_diff.mean()
            assert row.prob_diff == pytest.approx(float(diff))
            assert row.edges == int(graph.pruned(chosen).sum())
    assert not (signed["prob_diff"] - table["prob_diff"][:n]).abs().lt(1e-3).all()


def test_areas_of_toy_curves_by_hand() -> None:
    rows = [
        # f rises from 0 to 1, then overshoots and comes back
        *[("ranking", "over", share, f) for share, f in ((1.0, 1.0), (0.0, 0.0), (0.5, 2.0))],
        *[("ranking", "half", share, 0.5) for share in (0.2, 0.7, 1.0)],
        ("circuit", "point", math.nan, 0.9),
    ]
    curves = pd.DataFrame(rows, columns=["kind", "name", "share", "above_corrupted"])
    table = curve_areas(curves).set_index("name")
    assert list(table.index) == ["over", "half"]
    # under f: 0.5 * (0 + 2) / 2 + 0.5 * (2 + 1) / 2; from 1: 0.5 * (1 + 1) / 2 + 0.5 * (1 + 0) / 2
    assert list(table.loc["over", ["CPR", "CMD"]]) == pytest.approx([1.25, 0.75])
    assert list(table.loc["half", ["CPR", "CMD"]]) == pytest.approx([0.8 * 0.5, 0.8 * 0.5])


def test_scores_are_dealt_out_at_random(scores: EdgeScores) -> None:
    values = scores.values.clone()
    values[:40] = torch.nan
    part = replace(scores, values=values)
    one, two, again = (dealt_out(part, seed) for seed in (1, 2, 1))
    assert torch.equal(one.measured, part.measured)
    assert torch.equal(one.mean[40:].sort().values, part.mean[40:].sort().values)
    assert torch.equal(one.mean[40:], again.mean[40:])
    for other in (part, two):
        assert (one.mean[40:] != other.mean[40:]).double().mean() > 0.9


# ---- necessary and complete -------------------------------------------------------------------


def test_reverse_and_knockout_by_hand(patching, graph, some) -> None:
    circuit = graph.circuit(some)
    table = necessity(
        patching, graph, {"some": some, "circuit": circuit, "all": range(len(graph)), "none": []}
    ).set_index("name")
    clean, corrupted = (float(diff.mean()) for diff in diffs(patching))
    reverse = evaluate_edges(patching, graph, some).prob_diff
    without = evaluate_edges(patching.reversed(), graph, ~some).prob_diff
    row = table.loc["some"]
    assert row["reverse"] == pytest.approx(float(reverse.mean()))
    assert row["without"] == pytest.approx(float(without.mean()))
    assert abs(row["reverse"] - row["without"]) > 1e-3  # what the rest reads differs
    assert row["reverse_low"] < row["reverse"] < row["reverse_high"]
    assert list(table.loc["circuit"]) == pytest.approx(list(row))
    assert list(table.loc["all", ["reverse", "without"]]) == pytest.approx([corrupted] * 2)
    assert list(table.loc["none", ["reverse", "without"]]) == pytest.approx([clean] * 2)


def test_completeness_by_hand(patching: PathPatching, graph: EdgeGraph, some: Tensor) -> None:
    table = completeness(patching, graph, some, n=3, seed=1)
    assert len(table) == 4
    corrupted = float(diffs(patching)[1].mean())
    assert table["removed"][0] == ", ".join(graph.components(some))
    assert table["circuit"][0] == pytest.approx(corrupted)
    assert table["removed"].nunique() == 4
    for row in table.itertuples():
        gone = row.removed.split(", ")
        touched = [{*re.split(r" -> |\.[qkv]$", edge)} & {*gone} for edge in graph.names]
        left = ~torch.tensor(list(map(bool, touched)))
        of_circuit, of_model = (
            evaluate_edges(patching.reversed(), graph, chosen).prob_diff
            for chosen in (left & some, left)
        )
        assert row.circuit == pytest.approx(float(of_circuit.mean()))
        assert row.model == pytest.approx(float(of_model.mean()))
        assert row.difference == pytest.approx(row.model - row.circuit)
        assert row.low <= row.difference <= row.high
    pd.testing.assert_frame_equal(table, completeness(patching, graph, some, n=3, seed=1))
    whole = completeness(patching, graph, range(len(graph)), n=3)
    assert (whole["difference"].abs() < 1e-12).all()  # the model itself is complete
    with pytest.raises(ValueError, match=r"n is -1.*e\.g\. n=20"):
        completeness(patching, graph, some, n=-1)


def test_leave_one_out_is_leaving_out(
    patching: PathPatching, graph: EdgeGraph, some: Tensor
) -> None:
    table = leave_one_out(patching, graph, some)
    assert sorted(table["name"]) == sorted(graph.components(some))
    assert table["change"].abs().is_monotonic_decreasing
    circuit = graph.circuit(some)
    everywhere = [name for name in circuit.components if name.startswith("m1@")]
    smaller = patching.reversed().evaluate(circuit.without(*everywhere)).prob_diff.mean()
    row = table.set_index("name").loc["m1"]
    assert row["prob_diff"] == pytest.approx(float(smaller))


# ---- stable -----------------------------------------------------------------------------------


def made(graph: EdgeGraph, mean: Tensor, noise: float, n_prompts: int = 40) -> EdgeScores:
    generator = torch.Generator().manual_seed(0)
    extra = torch.randn(len(graph), n_prompts, generator=generator).double()
    return EdgeScores("made up", graph, mean[:, None] + noise * extra)


def test_noise_free_scores_are_stable_and_noise_is_not(graph: EdgeGraph) -> None:
    mean = torch.linspace(-1, 1.3, len(graph), dtype=torch.float64)
    k = (10, 50, 10_000)
    certain = stability(made(graph, mean, 0), k)
    assert list(certain["k"]) == list(k)
    assert (certain[["overlap", "low", "high", "jaccard"]] == 1).all(axis=None)
    noisy = stability(made(graph, mean, 1), k).set_index("k")
    assert noisy.loc[10, "overlap"] < 0.9
    assert noisy.loc[10, "low"] <= noisy.loc[10, "overlap"] <= noisy.loc[10, "high"]
    assert noisy.loc[10, "jaccard"] < noisy.loc[10, "overlap"]
    assert noisy.loc[10_000, "overlap"] == 1  # all edges are all edges


def test_overlap_by_hand(graph: EdgeGraph) -> None:
    names = graph.names
    one, two = torch.zeros(2, len(graph), dtype=torch.float64)
    one[:4], two[2:6] = torch.tensor([4.0, -3.0, 2.0, 1.0]), torch.tensor([9.0, 8.0, -7.0, 6.0])
    table = edge_overlap({"a": made(graph, one, 0), "b": made(graph, two, 0)}, k=(2, 4))
    assert table[["first", "second", "k"]].values.tolist() == [["a", "b", 2], ["a", "b", 4]]
    assert list(table["overlap"]) == [0, 0.5] and list(table["jaccard"]) == [0, 1 / 3]
    assert len(edge_overlap({n: made(graph, one, 0) for n in names[:3]}, k=(5,))) == 3
