"""Unit: the figures: orientation, scales, axis titles and hover, on made-up sweeps."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from gt_helpers import views as plots
from gt_helpers.model.components import Shape, component, inputs
from gt_helpers.patching.engine import Sweep

POSITIONS = ("eos", "The", "NOUN", "lasted", "XX1", "YY", "to", "END")


def a_sweep(receivers: list[str], at: str = "END", layers: int = 12, heads: int = 12) -> Sweep:
    shape = Shape(layers, heads, POSITIONS)
    senders = shape.senders(at)
    values = torch.randn(len(senders), 40, generator=torch.Generator().manual_seed(0)) / 100
    targets = inputs(receivers)
    for i, sender in enumerate(senders):
        if not any(shape.reaches(sender, target) for target in targets):
            values[i] = 0
    return Sweep(tuple(receivers), (), tuple(s.name for s in senders), values, shape)


def text_of(figure: go.Figure) -> str:
    return json.dumps(json.loads(figure.to_json()), ensure_ascii=False)


def test_sweep_heatmap_shows_layers_from_the_top_with_the_mlp_last() -> None:
    sweep = a_sweep(["logits"])
    figure = plots.sweep_heatmap(sweep, "To the logits")
    low, high = figure.layout.yaxis.range
    assert low > high  # layer 0 is on top
    assert figure.layout.yaxis.title.text == "layer"
    assert figure.layout.xaxis.title.text.startswith("head at END")
    assert figure.layout.xaxis.ticktext == (*map(str, range(12)), "MLP")
    assert figure.layout.yaxis.ticktext == tuple(map(str, range(12)))
    assert figure.layout.title.text == "To the logits"
    cells = np.array(figure.data[0].z)
    assert cells.shape == (12, 13)
    np.testing.assert_allclose(cells, sweep.effect.numpy(), rtol=1e-5)


def test_sweep_heatmap_is_symmetric_with_red_for_negative() -> None:
    sweep = a_sweep(["logits"])
    drawn = plots.sweep_heatmap(sweep).data[0]
    assert drawn.zmin == -drawn.zmax
    assert drawn.zmax == pytest.approx(float(sweep.effect.abs().max()))
    red, blue = drawn.colorscale[0][1], drawn.colorscale[-1][1]
    assert red == "rgb(103,0,31)" and blue == "rgb(5,48,97)"
    assert drawn.colorbar.title.text == "change in probability difference"
    given = plots.sweep_heatmap(sweep, zmax=0.5).data[0]
    assert (given.zmin, given.zmax) == (-0.5, 0.5)


def test_sweep_heatmap_hover_names_component_and_points() -> None:
    sweep = a_sweep(["logits"])
    sweep.values[9 * 13 + 1] = -0.1234
    drawn = plots.sweep_heatmap(sweep).data[0]
    assert "customdata[0]" in drawn.hovertemplate and "percentage points" in drawn.hovertemplate
    assert tuple(drawn.customdata[9][1]) == ("a9.h1@END", "−12.340")


def test_sweep_heatmap_tells_unreachable_from_zero() -> None:
    sweep = a_sweep(["m2"])
    sweep.values[0] = 0  # a0.h0 reaches m2 but changes nothing
    cells, grey = plots.sweep_heatmap(sweep).data
    assert np.isnan(np.array(cells.z, dtype=float)[3:]).all()
    assert np.array(grey.z)[2, 12] == 1 and np.isnan(np.array(grey.z, dtype=float)[1, 12])
    assert grey.customdata[11][0][1] == "cannot reach"
    assert grey.customdata[0][0][1] == "no effect (exactly 0)"
    assert not grey.showscale


def test_a_sweep_without_any_effect_is_all_grey() -> None:
    figure = plots.sweep_heatmap(a_sweep(["a9.h1.q"], "YY"))
    cells, grey = figure.data
    assert np.isnan(np.array(cells.z, dtype=float)).all() and (np.array(grey.z) == 1).all()
    assert not cells.showscale
    assert "nan" not in text_of(figure).lower()


def test_sweep_heatmap_outlines_a_circuit() -> None:
    figure = plots.sweep_heatmap(a_sweep(["logits"]), marked=["a9.h1", "m10@END", "m0@YY"])
    corners = {(shape.x0, shape.y0) for shape in figure.layout.shapes}
    assert corners == {(0.5, 8.5), (11.5, 9.5)}  # a9.h1 and m10; m0@YY is not in this figure


def test_sweep_heatmap_names_the_embedding_outside_the_grid() -> None:
    sweep = a_sweep(["a9.h1.v"], "YY")
    sweep.values[-1] = -0.25
    assert "−25.00" in plots.sweep_heatmap(sweep).layout.xaxis.title.text
    sweep.values[-1] = 0
    assert "embedding" not in plots.sweep_heatmap(sweep).layout.xaxis.title.text


@pytest.mark.parametrize(("layers", "heads"), [(2, 4), (48, 25)])
def test_sweep_heatmap_of_other_shapes(layers: int, heads: int) -> None:
    figure = plots.sweep_heatmap(a_sweep(["logits"], layers=layers, heads=heads))
    assert np.array(figure.data[0].z).shape == (layers, heads + 1)
    assert figure.layout.xaxis.ticktext[-1] == "MLP"
    assert len(figure.layout.yaxis.ticktext) <= 24
    assert figure.layout.width <= 1100 and figure.layout.height <= 1200


def test_year_heatmap_axes_scale_and_hover() -> None:
    probs = torch.rand(97, 100) / 100
    figure = plots.year_heatmap(probs, "Clean prompts")
    low, high = figure.layout.yaxis.range
    assert low > high  # YY 02 on top, as in the paper
    assert figure.layout.xaxis.title.text == "predicted end year"
    assert figure.layout.yaxis.title.text == "start year YY"
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 0.25)
    assert list(figure.data[0].y) == list(range(2, 99))
    assert list(figure.data[0].x) == list(range(100))
    assert "probability" in figure.data[0].hovertemplate
    assert figure.layout.xaxis.ticktext[0] == "00" and figure.layout.yaxis.ticktext[0] == "02"
    np.testing.assert_allclose(figure.data[0].z, probs.numpy(), atol=1e-5)


def test_year_heatmaps_share_one_scale() -> None:
    figure = plots.year_heatmaps({"clean": torch.rand(97, 100), "full": torch.rand(97, 100)}, 0.1)
    assert [note.text for note in figure.layout.annotations] == ["clean", "full"]
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert figure.layout.coloraxis.cmax == 0.1
    assert figure.layout.yaxis2.range[0] > figure.layout.yaxis2.range[1]


def test_year_heatmap_refuses_other_tables() -> None:
    with pytest.raises(ValueError, match=r"\[97, 100\]"):
        plots.year_heatmap(torch.rand(100, 97))
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.year_heatmaps({})


def test_year_curve_marks_YY_and_names_its_axes() -> None:
    curves = {"clean prompts": torch.rand(100), "corrupted prompts": torch.rand(100)}
    figure = plots.year_curve(curves, 41)
    assert [trace.name for trace in figure.data] == list(curves)
    assert figure.data[0].line.color == plots.COLOURS["clean"]
    assert figure.layout.shapes[0].x0 == 41
    assert figure.layout.annotations[0].text == "YY = 41"
    assert figure.layout.xaxis.title.text == "predicted end year"
    assert figure.layout.yaxis.title.text == "probability"
    assert figure.layout.yaxis.range[1] > float(torch.stack([*curves.values()]).max())


def test_metric_by_YY_has_a_line_per_name() -> None:
    lines = {"clean": torch.rand(97), "partial": torch.rand(97), "another": torch.rand(97)}
    figure = plots.metric_by_YY(lines, "cutoff sharpness")
    assert [trace.name for trace in figure.data] == list(lines)
    assert len({trace.line.color for trace in figure.data}) == 3
    assert list(figure.data[0].x) == list(range(2, 99))
    assert figure.layout.yaxis.title.text == "cutoff sharpness"
    assert figure.layout.xaxis.title.text == "start year YY"


def test_interval_plot_puts_measured_beside_reported() -> None:
    table = pd.DataFrame(
        {
            "label": ["clean", "partial"],
            "measured": [0.8, 0.7],
            "low": [0.78, 0.66],
            "high": [0.83, 0.72],
            "reported": [0.817, float("nan")],
        }
    )
    figure = plots.interval_plot(table, "probability difference")
    reported, measured = figure.data
    assert list(measured.x) == [0.8, 0.7] and reported.x[0] == 0.817
    np.testing.assert_allclose(measured.error_x.array, [0.03, 0.02])
    np.testing.assert_allclose(measured.error_x.arrayminus, [0.02, 0.04])
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first row is on top
    assert figure.layout.xaxis.title.text == "probability difference"


def test_every_figure_has_the_same_template_and_no_upload_button() -> None:
    figures = [
        plots.sweep_heatmap(a_sweep(["logits"])),
        plots.year_heatmap(torch.rand(97, 100)),
        plots.year_curve({"clean": torch.rand(100)}, 41),
        plots.metric_by_YY({"clean": torch.rand(97)}),
    ]
    for figure in figures:
        template = figure.layout.template.layout
        assert template.font.size >= 12 and "sans-serif" in template.font.family
        assert "sendChartToCloud" in template.modebar.remove
        assert figure.layout.width and figure.layout.height


def test_positions_of_senders_are_the_axis_title() -> None:
    sweep = a_sweep(["m3@YY"], "YY")
    assert component(sweep.senders[0]).position == "YY"
    assert plots.sweep_heatmap(sweep).layout.xaxis.title.text.startswith("head at YY")


def test_year_heatmaps_choose_a_range_for_other_models() -> None:
    table = torch.full((97, 100), 0.01, dtype=torch.float64)
    table[0] = torch.nan
    table[50, :5] = 0.9  # fewer than 0.5 % of the cells
    assert plots.year_heatmaps({"": table}, zmax=None).layout.coloraxis.cmax == 0.01


def test_year_pool_map_shows_every_year_once() -> None:
    statuses = ["kept", "first or last", "one token", "other split"]
    pool = pd.DataFrame(
        [(1700 + y, 17, y, f"' 17' + '{y:02d}'", statuses[y % 4]) for y in range(100)],
        columns=["year", "century", "YY", "tokens", "status"],
    )
    figure = plots.year_pool_map(pool)
    cells = np.stack([np.asarray(t.z, float) for t in figure.data if t.type == "heatmap"])
    assert ((~np.isnan(cells)).sum(0) == 1).all()
    assert next(t.name for t in figure.data if t.type == "scatter") == "kept (25)"
    with pytest.raises(ValueError, match="'lost' is unknown"):
        plots.year_pool_map(pool.assign(status="lost"))
