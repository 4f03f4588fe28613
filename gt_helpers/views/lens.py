"""Notebook 4, the logit lens: years by YY for components, and the residual stream's depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from ..analysis.logit_lens import (
    beyond_mean_row,
    direct_effect,
    lens_numbers,
    logit_lens,
    relative_to_00,
)
from ..dataset.year_dataset import YearDataset
from ..formatting import in_words
from ..metrics import mean_by_YY
from ..model.cache import ActivationCache
from .kit import style
from .kit.explorer import Explorer, View, circuit_first
from .kit.html import Html, bold, html_table


def lens_heatmap(
    table: Float[Tensor, "YY year"], title: str | None = None, label: str = "logit"
) -> go.Figure:
    """Year logits that a component writes, YY 02 to 98 from the top; blue is positive.

    The colours reach to the largest size among the cells; a YY without a prompt is grey. Raises
    ValueError for another shape than [97, 100].
    """
    style.check_year_tables({"": table})
    figure, (place,) = style.panels([""], 1)
    bar = {"title": {"text": label}}
    figure.add_trace(_lens_cells(table, "", None, label, colorbar=bar), **place)
    style.lay_out(figure, title, 620, 520, "end year", plot_bgcolor=style.UNREACHED)
    style.year_axes(figure)
    return figure


def lens_heatmaps(
    tables: Mapping[str, Float[Tensor, "YY year"]],
    zmax: float | None = None,
    label: str = "logit",
    columns: int = 4,
) -> go.Figure:
    """Lens heatmaps of several components, a small one each, ``columns`` in a row.

    Without ``zmax`` each has its own colour scale, as in the paper; with it all share -zmax to
    zmax. Raises ValueError for no tables, or another shape than [97, 100].
    """
    style.check_year_tables(tables)
    columns = min(columns, len(tables))
    rows = math.ceil(len(tables) / columns)
    # In pixels: the room beside a panel for its colour bar, and below it for ticks and titles.
    panel, beside, below = 190, 76 if zmax is None else 36, 68
    width, height = columns * (panel + beside) - beside, rows * (panel + below) - below
    spacing = {"horizontal_spacing": beside / width, "vertical_spacing": below / height}
    figure, places = style.panels(tables, columns, **spacing)
    for i, (place, (name, table)) in enumerate(zip(places, tables.items(), strict=True)):
        trace = _lens_cells(table, name, zmax, label)
        if zmax is None:
            ends_row = place["col"] == columns or i == len(tables) - 1
            x, y = (axis.domain for axis in figure.get_subplot(*place.values()))
            middle = {"x": x[1], "y": sum(y) / 2, "len": panel, "lenmode": "pixels"}
            small = {"thickness": 9, "xpad": 5, "nticks": 5}
            trace.colorbar = {"title": {"text": label if ends_row else ""}, **middle, **small}
        else:
            trace.coloraxis = "coloraxis"
        figure.add_trace(trace, **place)
        if i + columns >= len(tables):  # the lowest panel of its column
            figure.update_xaxes(title={"text": "end year"}, **place)
    style.lay_out(figure, None, width + 64 + 90, height + 40 + 56, top=40)
    figure.update_layout(
        margin={"l": 64, "r": 90, "b": 56},
        plot_bgcolor=style.UNREACHED,
        coloraxis={"colorscale": "RdBu", "cmin": -(zmax or 1), "cmax": zmax or 1},
        coloraxis_colorbar={"title": {"text": label}, "nticks": 5},
    )
    style.year_axes(figure, step=20)
    return figure


def _lens_cells(
    table: Tensor, name: str, zmax: float | None, label: str, **more: Any
) -> go.Heatmap:
    limit = style.largest_size(style.array(table)) if zmax is None else zmax
    colours = {"colorscale": "RdBu", "zmin": -limit, "zmax": limit}
    return style.year_cells(table, name, label, "+.3f", **colours, **more)


def depth_plot(
    stages: Sequence[str], curves: Mapping[str, tuple[Tensor, Tensor, Tensor]]
) -> go.Figure:
    """The probability difference after every stage of the stream, with intervals, a line per name.

    ``curves`` hold mean, low and high [stage], as `bootstrap_ci` gives them; ``stages`` are those
    of `depth_view`. Circles stand for what all heads of a layer have left, squares for its MLP.
    """
    symbols = {"a": "circle-open", "m": "square"}
    means = {name: mean for name, (mean, _, _) in curves.items()}
    figure = style.lines(
        means, stages, "after %{x}<br>probability difference %{y:.3f}", "lines+markers"
    )
    shapes = [symbols.get(stage[0], "diamond") for stage in stages]
    figure.update_traces(marker={"size": 8, "symbol": shapes})
    for trace, ends in zip(figure.data, curves.values(), strict=True):
        trace.error_y = style.error_bars(*map(style.array, ends))
    style.zero_line(figure)
    x_title = "residual stream at END after … (○ a layer’s heads, ■ its MLP)"
    y_title = "probability difference"
    style.lay_out(figure, None, 860, 380, x_title, y_title, legend=True, showlegend=True)
    figure.update_xaxes(tickangle=-45, dtick=1, range=[-0.6, len(stages) - 0.4])
    return figure


def lens_table(lenses: Mapping[str, Float[Tensor, "YY year"]]) -> Html:
    """What named lenses show, in shares of YYs and a correlation; chance comes last."""
    titles = {
        "diagonal": "YY is the top year",
        "near diagonal": "top year within 10 of YY",
        "triangle": "y > YY above y ≤ YY",
        "own triangle": "the same, mean row out",
        "own step": "correlation with a step at YY, mean row out",
        "band": "YY+1 to YY+50 above later",
    }
    chance = ("1 %", "about 20 %", "50 %", "50 %", "0", "50 %")
    rows = []
    for name, numbers in lens_numbers(lenses).iterrows():
        cells = {key: in_words(float(numbers[key]), digits=0) for key in titles}
        cells["own step"] = f"{numbers['own step']:.2f}".replace("-", "−")
        rows.append((bold(name), *cells.values()))
    note = (
        "Shares of the YYs that have prompts. The mean row is what a component writes whatever YY "
        "is: without it only what depends on YY counts, and a pure step at YY has 0.68."
    )
    return html_table(("", *titles.values()), [*rows, ("<i>chance</i>", *chance)], note)


_LENSES = {"logit lens": logit_lens, "direct effect": direct_effect}
_SHOWN = {
    "as it is": lambda logits: logits,
    "relative to 00": relative_to_00,
    "without its mean row": beyond_mean_row,
}


def lens_explorer(
    cache: ActivationCache, dataset: YearDataset, names: Sequence[str] = ()
) -> Explorer:
    """Choose a component, a lens and what it is shown relative to; see the years it writes.

    ``cache`` holds the dataset's clean prompts; ``names``, such as a circuit's, are listed first.
    """

    def draw(component: str, lens: str, shown: str) -> View:
        logits = _LENSES[lens](cache, component, dataset.year_tokens)
        cells = _SHOWN[shown](mean_by_YY(logits, dataset.YY))
        label = "logit" if lens == "logit lens" else "part of the logit"
        figure = lens_heatmap(cells, f"{component}: {lens}, {shown}", label=label)
        return View(figure, lens_table({component: cells}))

    others = [sender.label for sender in cache.model.shape(["END"]).senders("END")]
    return Explorer(
        draw,
        {
            "component": circuit_first(names, others),
            "lens": widgets.ToggleButtons(options=list(_LENSES)),
            "shown": list(_SHOWN),
        },
    )
