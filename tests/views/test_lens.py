"""Unit: the lens and depth figures, the lens's table, and its explorer on the embedded model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explorers import drawn, numbers, rows, state

from gt_helpers import ActivationCache, YearDataset, mean_by_YY, views
from gt_helpers.analysis.logit_lens import (
    beyond_mean_row,
    direct_effect,
    logit_lens,
    relative_to_00,
)
from gt_helpers.views.kit.style import COLOURS


def table(seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(97, 100, generator=torch.Generator().manual_seed(seed))


def test_lens_heatmap_is_symmetric_blue_is_positive_and_a_YY_without_a_prompt_grey() -> None:
    lens = table(size=10.0)
    lens[3] = torch.nan
    figure = views.lens_heatmap(lens, "m10", "part of the logit")
    (trace,) = figure.data
    assert np.isnan(trace.z[3]).all() and figure.layout.plot_bgcolor not in (None, "white")
    assert trace.zmin == -trace.zmax
    assert trace.zmax == pytest.approx(float(lens.nan_to_num(0).abs().max()))
    assert trace.colorscale[0][1] == "rgb(103,0,31)" and trace.colorscale[-1][1] == "rgb(5,48,97)"
    np.testing.assert_allclose(trace.z, lens.numpy(), atol=1e-4)
    assert trace.colorbar.title.text == "part of the logit"


def test_lens_heatmap_axes_are_those_of_the_year_heatmap() -> None:
    lens, years = views.lens_heatmap(table()), views.year_heatmap(table().abs())
    for axis in ("xaxis", "yaxis"):
        assert lens.layout[axis].range == years.layout[axis].range
        assert lens.layout[axis].ticktext == years.layout[axis].ticktext
    assert list(lens.data[0].y) == list(range(2, 99))
    assert (lens.layout.width, lens.layout.height) == (years.layout.width, years.layout.height)


def test_lens_heatmaps_have_their_own_scales_or_one() -> None:
    tables = {f"m{i}": table(i, 10.0**i) for i in range(5)}
    own = views.lens_heatmaps(tables)
    assert [trace.zmax for trace in own.data] == pytest.approx(
        [float(t.abs().max()) for t in tables.values()]
    )
    places = {(trace.colorbar.x, trace.colorbar.y) for trace in own.data}
    assert len(places) == 5  # a bar beside every panel
    assert [note.text for note in own.layout.annotations] == list(tables)
    shared = views.lens_heatmaps(tables, zmax=5)
    assert {(trace.zmin, trace.zmax) for trace in shared.data} == {(-5, 5)}
    assert [trace.showscale for trace in shared.data] == [False] * 3 + [True] * 2


def test_every_column_of_lens_heatmaps_names_its_years_once() -> None:
    figure = views.lens_heatmaps({f"m{i}": table(i) for i in range(5)}, columns=3)
    titles = [figure.layout[f"xaxis{i or ''}"].title.text for i in ("", 2, 3, 4, 5)]
    assert titles == [None, None, "end year", "end year", "end year"]
    assert all(figure.layout[f"yaxis{i or ''}"].range[0] == 98.5 for i in ("", 2, 3, 4, 5))
    for n in (1, 4, 11):  # fits a notebook
        figure = views.lens_heatmaps({f"m{i}": table(i) for i in range(n)})
        assert figure.layout.width <= 1160 and figure.layout.height <= 1000


def test_depth_plot_has_intervals_and_tells_heads_from_mlps() -> None:
    stages = ["embed", "a0", "m0", "a1", "m1"]
    mean = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.8])
    curves = {
        "clean prompts": (mean, mean - 0.1, mean + 0.2),
        "corrupted prompts": (-mean, -mean - 0.1, -mean + 0.1),
    }
    figure = views.depth_plot(stages, curves)
    clean, corrupted = figure.data
    assert list(clean.x) == stages
    np.testing.assert_allclose(clean.error_y.array, 0.2, rtol=1e-5)
    np.testing.assert_allclose(clean.error_y.arrayminus, 0.1, rtol=1e-5)
    symbols = dict(zip(stages, clean.marker.symbol, strict=True))
    assert symbols["a0"] == symbols["a1"] != symbols["m0"] == symbols["m1"]
    assert [clean.line.color, corrupted.line.color] == [COLOURS["clean"], COLOURS["corrupted"]]


def test_lens_table_puts_chance_last() -> None:
    step = (torch.arange(100) > torch.arange(2, 99)[:, None]).double()
    found = rows(views.lens_table({"m10": step, "<m9>": -step}))
    assert [row[0] for row in found] == ["m10", "<m9>", "chance"]
    assert found[0][3:5] == ["100 %", "100 %"] and found[1][3:5] == ["0 %", "0 %"]
    assert found[0][5] == "0.68" and found[1][5] == "−0.68"
    assert found[2][3] == "50 %"


def test_lens_explorer_draws_what_is_chosen(clean: ActivationCache, dataset: YearDataset) -> None:
    explorer = views.lens_explorer(clean, dataset, ["m10", "a7.h10"])
    controls = explorer.controls
    assert controls["component"].options[0] == ("m10 (circuit)", "m10")
    assert len(controls["component"].options) == 157

    def cells(read, name: str) -> torch.Tensor:
        return mean_by_YY(read(clean, name, dataset.year_tokens), dataset.YY)

    def expect(table: torch.Tensor) -> None:
        assert state(explorer) == "done"
        np.testing.assert_allclose(numbers(drawn(explorer).data[0].z), table, atol=1e-4)

    expect(cells(logit_lens, "m10"))
    controls["shown"].value = "relative to 00"
    expect(relative_to_00(cells(logit_lens, "m10")))
    before = explorer.text.value
    controls["component"].value = "a7.h10"
    expect(relative_to_00(cells(logit_lens, "a7.h10")))
    assert explorer.text.value != before
    controls["lens"].value = "direct effect"
    controls["shown"].value = "without its mean row"
    expect(beyond_mean_row(cells(direct_effect, "a7.h10")))
    assert drawn(explorer).layout.title.text == "a7.h10: direct effect, without its mean row"
    controls["component"].value = "embed"
    assert state(explorer) == "done"
