"""Unit: the figures of circuits: what is needed, and how random circuits do."""

from __future__ import annotations

import pandas as pd
import pytest

from gt_helpers import views as plots

CHANGES = pd.DataFrame(
    [
        ("a9.h1@END", 0.4, -0.3, -0.35, -0.25),
        ("m8@END", 0.72, 0.02, 0.01, 0.03),
        ("m11@END", 0.69, -0.01, -0.03, 0.01),
    ],
    columns=["name", "prob_diff", "change", "low", "high"],
)


def test_changes_are_points_with_their_intervals_in_the_order_of_the_table() -> None:
    figure = plots.changes_plot(CHANGES, title="Without it")
    traces = {trace.name: trace for trace in figure.data}
    worse = traces["worse without it"]
    assert (list(worse.y), list(worse.x)) == (["a9.h1@END"], [-30])
    assert worse.error_x.array[0] == pytest.approx(5)
    assert worse.error_x.arrayminus[0] == pytest.approx(5)
    assert list(traces["better without it"].y) == ["m8@END"]
    assert list(traces["interval includes 0"].y) == ["m11@END"]
    assert list(figure.layout.yaxis.categoryarray) == list(CHANGES["name"])
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first on top


def test_an_empty_table_of_changes_is_an_empty_figure() -> None:
    assert all(len(trace.x) == 0 for trace in plots.changes_plot(CHANGES.head(0)).data)


def test_a_distribution_counts_all_values_and_marks_others() -> None:
    values = [-0.4, -0.41, -0.39, 0.1]
    figure = plots.distribution_plot(values, {"partial circuit": 0.72}, "4 random circuits")
    bars, line = figure.data
    assert sum(bars.y) == 4 and bars.name == "4 random circuits"
    assert set(line.x) == {0.72} and line.name == "partial circuit (0.720)"
    assert line.line.color == plots.COLOURS["partial"]
    low, high = figure.layout.xaxis.range
    assert low < -0.41 and high > 0.72


def test_equal_values_are_drawn_too() -> None:
    figure = plots.distribution_plot([0.5, 0.5], {}, "2 random circuits")
    assert sum(figure.data[0].y) == 2
