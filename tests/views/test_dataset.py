"""Unit: end years by YY, prompts token by token, the pool of years, and the prompt tracer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from explorers import drawn, rows, state

from gt_helpers import YearDataset, views
from gt_helpers.model.transformer import Transformer
from gt_helpers.views.kit.style import COLOURS


def test_token_table_marks_what_changes(tokenizer) -> None:
    dataset = YearDataset(tokenizer, 1, years=[1032], nouns=["plague"])
    table = views.token_table(dataset, 0, tokenizer)
    assert [row[1] for row in rows(table)] == list(dataset.positions)
    assert table.count("background:#c0392b") == 2  # XX1 and YY of century 10
    assert rows(table)[0][2] == "'<|endoftext|>'"


def test_year_heatmap_axes_scale_and_hover() -> None:
    probs = torch.rand(97, 100) / 100
    figure = views.year_heatmap(probs, "Clean prompts")
    low, high = figure.layout.yaxis.range
    assert low > high  # YY 02 on top, as in the paper
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 0.25)
    (cells,) = figure.data
    assert list(cells.y) == list(range(2, 99)) and list(cells.x) == list(range(100))
    assert "probability" in cells.hovertemplate
    assert figure.layout.xaxis.ticktext[0] == "00" and figure.layout.yaxis.ticktext[0] == "02"
    np.testing.assert_allclose(cells.z, probs.numpy(), atol=1e-5)


def test_year_heatmaps_share_one_scale() -> None:
    figure = views.year_heatmaps({"clean": torch.rand(97, 100), "full": torch.rand(97, 100)}, 0.1)
    assert [note.text for note in figure.layout.annotations] == ["clean", "full"]
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert figure.layout.coloraxis.cmax == 0.1
    assert figure.layout.yaxis2.range[0] > figure.layout.yaxis2.range[1]
    table = torch.full((97, 100), 0.01, dtype=torch.float64)
    table[0] = torch.nan
    table[50, :5] = 0.9  # fewer than 0.5 % of the cells
    assert views.year_heatmaps({"": table}, zmax=None).layout.coloraxis.cmax == 0.01


@pytest.mark.parametrize("draw", [views.year_heatmaps, views.lens_heatmaps])
def test_other_tables_are_refused(draw) -> None:
    with pytest.raises(ValueError, match=r"'m10'.*\[100, 97\].*\[97, 100\].*e.g."):
        draw({"m10": torch.rand(100, 97)})
    with pytest.raises(ValueError, match="nothing to draw.*e.g."):
        draw({})


def test_year_curve_marks_YY() -> None:
    curves = {"clean prompts": torch.rand(100), "corrupted prompts": torch.rand(100)}
    figure = views.year_curve(curves, 41)
    assert [trace.name for trace in figure.data] == list(curves)
    assert figure.data[0].line.color == COLOURS["clean"]
    assert figure.layout.shapes[0].x0 == 41
    assert figure.layout.annotations[0].text == "YY = 41"
    assert figure.layout.yaxis.range[1] > float(torch.stack([*curves.values()]).max())


def test_metric_by_YY_has_a_line_and_a_colour_per_name() -> None:
    curves = {"clean": torch.rand(97), "partial": torch.rand(97)}
    curves |= {f"a{layer}.h1": torch.rand(97) for layer in range(7)}
    figure = views.metric_by_YY(curves, "cutoff sharpness")
    assert [trace.name for trace in figure.data] == list(curves)
    assert len({trace.line.color for trace in figure.data}) == len(curves)
    assert list(figure.data[0].x) == list(range(2, 99))
    assert figure.layout.yaxis.title.text == "cutoff sharpness"


def test_year_pool_map_shows_every_year_once() -> None:
    statuses = ["kept", "first or last", "one token", "other split"]
    pool = pd.DataFrame(
        [(1700 + y, 17, y, f"' 17' + '{y:02d}'", statuses[y % 4]) for y in range(100)],
        columns=["year", "century", "YY", "tokens", "status"],
    )
    figure = views.year_pool_map(pool)
    cells = np.stack([np.asarray(trace.z, float) for trace in figure.data])
    assert ((~np.isnan(cells)).sum(0) == 1).all()
    assert [trace.name for trace in figure.data] == [f"{status} (25)" for status in statuses]
    assert all(trace.showlegend for trace in figure.data)


def test_every_figure_has_the_same_template_and_no_upload_button() -> None:
    figures = (
        views.year_heatmap(torch.rand(97, 100)),
        views.lens_heatmap(torch.rand(97, 100)),
        views.head_map(torch.rand(12, 12)),
    )
    for figure in figures:
        template = figure.layout.template.layout
        assert template.font.size >= 12 and "sans-serif" in template.font.family
        assert "sendChartToCloud" in template.modebar.remove
        assert figure.layout.width and figure.layout.height
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text


def test_prompt_tracer(mini: Transformer) -> None:
    explorer = views.prompt_tracer(mini)
    before = drawn(explorer)
    explorer.controls["start_year"].value = 1766
    assert "1766" in explorer.text.value and state(explorer) == "done"
    assert drawn(explorer).data[0].y != before.data[0].y
    for corruption in explorer.controls["corruption"].options:
        explorer.controls["corruption"].value = corruption
        assert state(explorer) == "done", corruption
        assert "The plague lasted from the year 1766" in explorer.text.value
    explorer.controls["start_year"].value = 1800  # one token
    assert state(explorer) == "error" and "1800" in explorer.state.value
