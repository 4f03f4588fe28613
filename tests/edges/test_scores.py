"""Unit: scores of edges in tables, and how scores are compared."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from made_edges import made_scores

from gt_helpers.edges.attribution import eap
from gt_helpers.edges.effects import edge_effects
from gt_helpers.edges.graph import EdgeGraph
from gt_helpers.edges.quality import edge_overlap, faithfulness_curves
from gt_helpers.edges.scores import EdgeScores, compare_scores, worst_edges
from gt_helpers.metrics import bootstrap_ci
from gt_helpers.patching.engine import PathPatching


def test_the_table_has_the_strongest_measured_edges(graph: EdgeGraph) -> None:
    scores = made_scores(graph, [1.0, -4.0, 3.0])
    table = scores.to_frame()
    assert list(table["edge"]) == [graph.names[n] for n in (1, 2, 0)]
    assert list(table["effect"]) == pytest.approx([-4.0, 3.0, 1.0])
    top = scores.to_frame(top=1, level=0.9)
    ends = [float(end[1]) for end in bootstrap_ci(scores.values[:2], 0.9)]
    assert list(top.loc[0, ["effect", "low", "high"]]) == pytest.approx(ends)


def test_comparison_of_made_up_scores(exact: EdgeScores) -> None:
    reference = made_scores(exact.graph, [5.0, -4.0, 3.0, -2.0, 1.0])
    same = made_scores(exact.graph, [50.0, -40.0, 30.0, -20.0, 10.0], "same")
    other = made_scores(exact.graph, [5.0, 4.0, 1.0, -2.0], "other")
    table = compare_scores(reference, [same, other], k=(1, 3, 99)).set_index("method")
    # with five edges or fewer, all are among the strongest 99
    assert list(table.loc["same"]) == pytest.approx([5, 1, 1, 1, 1, math.nan], nan_ok=True)
    # on four edges: sizes 5 4 3 2 against 5 4 1 2, one sign wrong
    assert list(table.loc["other"]) == pytest.approx(
        [4, 0.8, 0.75, 1, 2 / 3, math.nan], nan_ok=True
    )
    assert list(table.columns) == ["edges", "spearman", "sign", "top_1", "top_3", "top_99"]


def test_worst_edges_of_made_up_scores(exact: EdgeScores) -> None:
    names = exact.graph.names
    reference = made_scores(exact.graph, [5.0, -4.0, 3.0, -2.0, 1.0])
    table = worst_edges(reference, made_scores(exact.graph, [5.5, 4.0, 1.0, -2.0]), n=3)
    assert list(table["edge"]) == [names[1], names[2], names[0]]
    assert list(table["error"]) == pytest.approx([8.0, -2.0, 0.5])
    assert list(table["reference"]) == pytest.approx([-4.0, 3.0, 5.0])
    assert list(table["other"]) == pytest.approx([4.0, 1.0, 5.5])
    assert list(table["reference_rank"]) == [2, 3, 1]
    assert list(table["other_rank"]) == [2, 4, 1]


def test_the_slope_is_near_the_exact_effect_but_not_equal_to_it(exact, estimate) -> None:
    table = compare_scores(exact, [estimate, exact], k=(10,))
    assert list(table["method"]) == ["EAP", "exact"]
    assert list(table.iloc[1])[1:] == pytest.approx([len(exact.graph), 1, 1, 1])
    assert 0.2 < table["spearman"][0] < 0.99
    worst = worst_edges(exact, estimate)
    assert len(worst) == 20
    difference = (estimate.mean - exact.mean).abs().max()
    assert abs(worst["error"][0]) == pytest.approx(float(difference))


def test_only_what_both_measured_is_compared(patching: PathPatching, exact: EdgeScores) -> None:
    part = edge_effects(patching, exact.graph, budget=30)
    (row,) = compare_scores(exact, [part]).itertuples()
    assert (row.edges, row.spearman, row.sign) == (30, pytest.approx(1.0), 1.0)
    assert worst_edges(exact, part, n=99)["error"].abs().max() < 1e-12


@pytest.mark.parametrize(
    "compare",
    [
        lambda patching, one, other: compare_scores(one, [other]),
        lambda patching, one, other: worst_edges(one, other),
        lambda patching, one, other: faithfulness_curves(patching, [one, other]),
        lambda patching, one, other: edge_overlap({"summed": one, "apart": other}),
    ],
    ids=["compare_scores", "worst_edges", "faithfulness_curves", "edge_overlap"],
)
def test_scores_of_another_graph_are_not_compared(patching, estimate, compare: Callable) -> None:
    apart = eap(patching, EdgeGraph.of(patching, summed=False))
    with pytest.raises(ValueError, match=r"e\.g\. all with EdgeGraph\.of\(patching\)"):
        compare(patching, estimate, apart)
