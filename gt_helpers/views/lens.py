"""Notebook 4, the logit lens: years by YY for components, and the residual stream's depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    figure = lens_heatmaps({"": table}, label=label, panel=460)
    style.lay_out(figure, title, 620, 520)
    return figure


def lens_heatmaps(
    tables: Mapping[str, Float[Tensor, "YY year"]],
    zmax: float | None = None,
    label: str = "logit",
    columns: int = 4,
    panel: int = 190,
) -> go.Figure:
    """Lens heatmaps of several components, ``columns`` in a row, each ``panel`` pixels wide.

    Without ``zmax`` each has its own colour scale, as in the paper; with it all share -zmax to
    zmax. Raises ValueError for no tables, or another shape than [97, 100].
    """
    # Beside a panel is room for its colour bar, below it for ticks and titles.
    figure, places = style.year_panels(tables, "end year", columns, (panel, panel), (76, 68))
    for place, (name, table) in zip(places, tables.items(), strict=True):
        limit = style.largest_size(style.array(table)) if zmax is None else zmax
        ends_row = place["col"] == columns or place == places[-1]
        x, y = (axis.domain for axis in figure.get_subplot(*place.values()))
        bar = {
            "title": {"text": label if ends_row else ""},
            "x": x[1],
            "y": sum(y) / 2,
            "len": y[1] - y[0],
            **{"thickness": 9, "xpad": 5, "nticks": 5},
        }
        trace = style.year_cells(
            table,
            name,
            label,
            "+.3f",
            colorscale="RdBu",
            zmin=-limit,
            zmax=limit,
            colorbar=bar,
            showscale=zmax is None or ends_row,
        )
        figure.add_trace(trace, **place)
    figure.update_layout(plot_bgcolor=style.NO_EFFECT)
    return figure


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
    style.horizontal_lines(figure)
    x_title = "residual stream at END after … (○ a layer’s heads, ■ its MLP)"
    y_title = "probability difference"
    style.lay_out(figure, None, 860, 380, x_title, y_title, legend=True)
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
        draw, component=circuit_first(names, others), lens=tuple(_LENSES), shown=list(_SHOWN)
    )
