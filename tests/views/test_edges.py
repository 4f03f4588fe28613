"""Unit: figures, tables and the explorer of discovered circuits, on made-up measurements."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pandas as pd
import pytest
import torch
from explorers import rows, state

from gt_helpers import (
    Circuit,
    EdgeGraph,
    PathPatching,
    YearDataset,
    agreement,
    eap,
    faithfulness,
    full_circuit,
    greedy_edges,
    views,
)
from gt_helpers.edges.discovery import FoundCircuit
from gt_helpers.edges.scores import EdgeScores
from gt_helpers.model.components import Shape, edges
from gt_helpers.model.transformer import Transformer
from gt_helpers.views.kit.drawing import circuit_svg, edges_svg

GRAPH = EdgeGraph(Shape(12, 12, ("YY", "to", "END")), "YY")


def point(kind: str, name: str, edges: int, share: float, above: float) -> dict[str, object]:
    row: dict[str, object] = {"kind": kind, "name": name, "edges": edges, "components": edges // 2}
    scores = {"above_corrupted": above, "recovered": above / 2, "prob_diff": 0.3}
    for column, value in scores.items():
        row |= {column: value, f"{column}_low": value - 0.1, f"{column}_high": value + 0.2}
    return {**row, "share": share}


CURVES = pd.DataFrame(
    [
        *[point("ranking", "EAP", n, n / 1000, n / 1000) for n in (0, 20, 500, 1000)],
        *[point("ranking", "EAP-IG", n, n / 1000, n / 900) for n in (10, 900)],
        *[point("random", f"random, seed {s}", n, n / 1000, 0.0) for s in (0, 1) for n in (3, 700)],
        point("circuit", "ACDC's", 235, math.nan, 0.7),
    ]
)


# ---- figures ----------------------------------------------------------------------------------


def test_rankings_are_lines_with_bands_and_circuits_points() -> None:
    figure = views.quality_curves(CURVES)
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert list(lines) == ["EAP", "EAP-IG"]
    # no edges have no place on a log axis
    assert list(lines["EAP"].x) == [20, 500, 1000]
    assert list(lines["EAP"].y) == pytest.approx([2, 50, 100])
    (band,) = [t for t in figure.data if t.fill == "toself" and t.legendgroup == "EAP"]
    assert list(band.y) == pytest.approx([-8, 40, 90, 120, 70, 22])
    random = [trace for trace in figure.data if trace.name == "random rankings"]
    assert len(random) == 2 and [trace.showlegend for trace in random] == [True, False]
    given = figure.data[-1]
    assert (given.name, given.mode, list(given.x)) == ("ACDC's", "markers", [235])
    assert given.error_y.array[0] == pytest.approx(20)
    assert given.error_y.arrayminus[0] == pytest.approx(10)
    low, high = figure.layout.xaxis.range
    assert low < math.log10(10) and high > 3


def test_curves_of_the_other_measures() -> None:
    figure = views.quality_curves(CURVES, "recovered", "Circuits")
    assert list(figure.data[-1].y) == pytest.approx([35])
    assert "circuit / clean" in figure.layout.yaxis.title.text
    figure = views.quality_curves(CURVES, "prob_diff")
    assert list(figure.data[-1].y) == [0.3] and not figure.layout.yaxis.ticksuffix
    with pytest.raises(ValueError, match="No circuit of these curves has an edge"):
        views.quality_curves(CURVES.head(1))


def scores_of(method: str, mean: dict[str, float]) -> EdgeScores:
    values = torch.zeros(len(GRAPH), 2)
    for name, value in mean.items():
        values[GRAPH.mask(name)] = value
    return EdgeScores(method, GRAPH, values)


def test_the_worst_edges_are_named() -> None:
    exact = scores_of("exact", {"embed -> m0": -0.3, "m0 -> m1": -0.2, "m9 -> logits": 0.1})
    other = scores_of("EAP", {"embed -> m0": -0.29, "m0 -> m1": 0.1, "m1 -> m2": 1e-5})
    figure = views.score_scatter(exact, other, n_named=2)
    quiet, named = figure.data
    assert list(named.text) == ["m0 -> m1", "m9 -> logits"]
    assert list(named.x) == pytest.approx([-20, 10]) and list(named.y) == pytest.approx([10, 0])
    assert list(quiet.customdata) == ["embed -> m0"] and quiet.mode == "markers"
    assert "EAP (" in figure.layout.yaxis.title.text
    low, high = figure.layout.xaxis.range
    assert low < -30 and high > 10
    # a name that would lie on another is left to the pointer
    near = scores_of("near", {"embed -> m0": 0.3, "m0 -> m1": 0.31, "m9 -> logits": -0.1})
    named = views.score_scatter(scores_of("zero", {}), near).data[-1]
    assert list(named.customdata) == ["m0 -> m1", "embed -> m0", "m9 -> logits"]
    assert list(named.text) == ["m0 -> m1", "", "m9 -> logits"]


# ---- drawings and tables ----------------------------------------------------------------------


def test_edges_of_all_positions_are_drawn_in_one_column() -> None:
    names = ["embed -> m0", "m0 -> a5.h1.k", "m0 -> a5.h1.v", "a5.h1 -> m9", "m9 -> logits"]
    svg = edges_svg(GRAPH, names, {"m0 -> a5.h1.k": -0.02, "m9": 0.01}, "Five edges")
    titles = re.findall("<title>(.*?)</title>", svg)
    assert "m0 -&gt; a5.h1 (k, v): −2.00 pp without it" in titles
    assert "m9: +1.00 pp without it" in titles
    assert "@" not in svg and ">all positions<" in svg and ">END<" not in svg
    assert len(ET.fromstring(svg).findall(".//*[@class]")) > 10
    apart = EdgeGraph(GRAPH.shape, "YY", summed=False)
    svg = edges_svg(apart, ["embed@YY -> m0", "m0@YY -> a5.h1.v", "a5.h1@END -> logits"])
    # a5.h1's output at YY leads nowhere
    assert "a5.h1@END" in svg and "a5.h1@YY" not in svg and ">YY<" in svg
    assert svg == circuit_svg(
        Circuit(["embed@YY -> m0@YY", "m0@YY -> a5.h1.v", "a5.h1 -> logits"]),
        positions=GRAPH.positions,
    )


def test_the_tables_show_both_conventions_and_what_is_shared() -> None:
    frame = CURVES[CURVES["kind"] == "circuit"]
    assert rows(views.quality_table(frame, "a note")) == [
        ["ACDC's", "235", "117"]
        + ["30.0 % 20.0 to 50.0", "35.0 % 25.0 to 55.0", "70.0 % 60.0 to 90.0"]
    ]
    shared = agreement(GRAPH, ["embed -> m0", "m0 -> logits"], ["embed -> m0", "embed -> m1"])
    table = rows(views.agreement_table(shared, "ours", "theirs"))
    assert table[0] == ["components", "1", "2", "1", "100 %", "50 %", "50 %"]
    assert table[2] == ["edges", "2", "2", "1", "50 %", "50 %", "33 %"]


# ---- the explorer -----------------------------------------------------------------------------


def test_discovery_explorer(mini: Transformer, dataset: YearDataset) -> None:
    patching = PathPatching(mini, dataset[:52])
    graph = EdgeGraph.of(patching)
    scores = eap(patching, graph)
    chain = {"m11 -> logits": -0.3, "m0 -> m11": -0.2, "embed -> m0": -0.1, "embed -> m11": -0.05}
    found = FoundCircuit({edges(name)[0]: torch.tensor([effect]) for name, effect in chain.items()})
    circuits = {"found": found, "the paper's": full_circuit()}
    explorer = views.discovery_explorer(patching, [scores], circuits)
    controls = explorer.controls

    def shown() -> list[list[str]]:
        assert state(explorer) == "done"
        tables = explorer.text.value.split("<table")[1:]
        return [row for table in tables for row in rows(f"<table{table}")]

    ours, theirs = shown()[:2]
    assert controls["method"].value == "EAP" and controls["edges"].value == 100
    few = patching.dataset.take(torch.linspace(0, 51, 32).round().long())
    measured = faithfulness(
        PathPatching(patching.model, few), graph, {"EAP": greedy_edges(scores, 100)}
    )
    assert "Measured on 32 prompts" in explorer.text.value
    assert ours[:3] == ["EAP", str(measured["edges"][0]), str(measured["components"][0])]
    assert ours[5].startswith(f"{100 * measured['above_corrupted'][0]:.1f} %")
    assert theirs[:3] == ["found", "4", "2"] and "all positions" in explorer.text.value
    controls["method"].value = "found"
    assert shown()[0][:2] == ["found", "4"] and "−30.00 pp without it" in explorer.text.value
    controls["against"].value = "the paper's"
    assert shown()[1][:3] == ["the paper's", "241", "18"]
    assert shown()[2] == ["components", "2", "18", "2", "100 %", "11 %", "11 %"]
    before = explorer.text.value
    controls["method"].value = "the paper's"
    controls["edges"].value = 20
    assert shown()[0][:2] == ["the paper's", "241"] and explorer.text.value != before
    controls["method"].value = "EAP"
    controls["edges"].value = 500
    assert "it stops at 300 edges" in explorer.text.value
    assert 300 > int(explorer.text.value.count('class="line"')) > 150
