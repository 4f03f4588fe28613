"""Unit: the lens and depth figures: orientation, colour scales, hover, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gt_helpers import views as plots


def table(seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(97, 100, generator=torch.Generator().manual_seed(seed))


def test_lens_heatmap_is_symmetric_and_blue_is_positive() -> None:
    lens = table(size=10.0)
    figure = plots.lens_heatmap(lens, "m10")
    trace = figure.data[0]
    assert trace.zmin == -trace.zmax
    assert trace.zmax == pytest.approx(float(lens.abs().max()))
    assert trace.colorscale[0][1] == "rgb(103,0,31)" and trace.colorscale[-1][1] == "rgb(5,48,97)"
    np.testing.assert_allclose(trace.z, lens.numpy(), atol=1e-4)
    assert plots.lens_heatmap(lens, zmax=15).data[0].zmax == 15
    assert plots.lens_heatmap(lens, label="part of the logit").data[0].colorbar.title.text == (
        "part of the logit"
    )


def test_lens_heatmap_axes_are_those_of_the_year_heatmap() -> None:
    lens, years = plots.lens_heatmap(table()), plots.year_heatmap(table().abs())
    for axis in ("xaxis", "yaxis"):
        assert lens.layout[axis].range == years.layout[axis].range
        assert lens.layout[axis].ticktext == years.layout[axis].ticktext
    assert list(lens.data[0].y) == list(range(2, 99))
    assert lens.layout.yaxis.title.text == "start year YY"
    assert (lens.layout.width, lens.layout.height) == (years.layout.width, years.layout.height)


def test_a_YY_without_a_prompt_is_a_grey_gap() -> None:
    lens = table()
    lens[3] = torch.nan
    figure = plots.lens_heatmap(lens)
    assert np.isnan(figure.data[0].z[3]).all() and not np.isnan(figure.data[0].zmax)
    assert figure.layout.plot_bgcolor not in (None, "white")


def test_lens_heatmaps_have_their_own_scales_or_one() -> None:
    tables = {f"m{i}": table(i, 10.0**i) for i in range(5)}
    own = plots.lens_heatmaps(tables)
    assert [trace.zmax for trace in own.data] == pytest.approx(
        [float(t.abs().max()) for t in tables.values()]
    )
    places = {(trace.colorbar.x, trace.colorbar.y) for trace in own.data}
    assert len(places) == 5  # a bar beside every panel
    assert [note.text for note in own.layout.annotations] == list(tables)
    shared = plots.lens_heatmaps(tables, zmax=5)
    assert {trace.coloraxis for trace in shared.data} == {"coloraxis"}
    assert (shared.layout.coloraxis.cmin, shared.layout.coloraxis.cmax) == (-5, 5)


def test_every_column_of_lens_heatmaps_names_its_years_once() -> None:
    figure = plots.lens_heatmaps({f"m{i}": table(i) for i in range(5)}, columns=3)
    titles = [figure.layout[f"xaxis{i or ''}"].title.text for i in ("", 2, 3, 4, 5)]
    assert titles == [None, None, "end year", "end year", "end year"]
    assert figure.layout.yaxis2.title.text is None
    assert figure.layout.yaxis4.title.text == "start year YY"
    assert all(figure.layout[f"yaxis{i or ''}"].range[0] == 98.5 for i in ("", 2, 3, 4, 5))


@pytest.mark.parametrize("n", [1, 4, 11])
def test_lens_heatmaps_fit_a_notebook(n: int) -> None:
    figure = plots.lens_heatmaps({f"m{i}": table(i) for i in range(n)})
    assert figure.layout.width <= 1160 and figure.layout.height <= 1000


def test_other_tables_are_refused() -> None:
    for draw in (plots.lens_heatmaps, lambda tables: plots.lens_heatmap(tables["m10"])):
        with pytest.raises(ValueError, match=r"\[97, 100\]"):
            draw({"m10": table().T})
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.lens_heatmaps({})


def test_depth_plot_has_intervals_and_tells_heads_from_mlps() -> None:
    stages = ["embed", "a0", "m0", "a1", "m1"]
    mean = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.8])
    curves = {
        "clean prompts": (mean, mean - 0.1, mean + 0.2),
        "corrupted prompts": (-mean, -mean - 0.1, -mean + 0.1),
    }
    figure = plots.depth_plot(stages, curves)
    clean = figure.data[0]
    assert list(clean.x) == stages
    np.testing.assert_allclose(clean.error_y.array, 0.2, rtol=1e-5)
    np.testing.assert_allclose(clean.error_y.arrayminus, 0.1, rtol=1e-5)
    symbols = dict(zip(stages, clean.marker.symbol, strict=True))
    assert symbols["a0"] == symbols["a1"] != symbols["m0"] == symbols["m1"]
    assert clean.line.color == plots.COLOURS["clean"]
    assert figure.data[1].line.color == plots.COLOURS["corrupted"]
    assert figure.layout.yaxis.title.text == "probability difference"
    assert "END" in figure.layout.xaxis.title.text
