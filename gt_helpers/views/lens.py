"""Logit lens: years by YY for one or several components, and the residual stream's depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ..metrics import FIRST_YY, LAST_YY
from .kit.style import (
    LEGEND,
    LINES,
    TEMPLATE,
    UNREACHED,
    check_year_tables,
    colour_bar,
    colour_of,
    largest_size,
    years_axis,
)


def lens_heatmap(
    table: Tensor, title: str | None = None, zmax: float | None = None, label: str = "logit"
) -> go.Figure:
    """Year logits [YY, year] that a component writes, YY 02 to 98 from the top; blue is positive.

    The colours reach from -zmax to zmax (by default the largest size among the cells); a YY without
    a prompt is grey. Raises ValueError for another shape than [97, 100].
    """
    check_year_tables({"": table})
    trace = _lens_trace(table, "", zmax, label)
    figure = go.Figure(trace.update(colorbar=colour_bar(label)))
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=620,
        height=550 if title else 520,
        margin={"t": 64 if title else 36},
        plot_bgcolor=UNREACHED,
    )
    figure.update_xaxes(title={"text": "end year"}, showgrid=False, **years_axis(99))
    figure.update_yaxes(title={"text": "start year YY"}, showgrid=False, **years_axis(LAST_YY))
    figure.update_yaxes(range=[LAST_YY + 0.5, FIRST_YY - 0.5])
    return figure


def lens_heatmaps(
    tables: Mapping[str, Tensor],
    zmax: float | None = None,
    label: str = "logit",
    columns: int = 4,
) -> go.Figure:
    """Lens heatmaps [YY, year] of several components, a small one each, ``columns`` in a row.

    Without ``zmax`` each has its own colour scale, as in the paper; with it all share -zmax to
    zmax. Raises ValueError for no tables, or another shape than [97, 100].
    """
    check_year_tables(tables)
    columns = min(columns, len(tables))
    rows = math.ceil(len(tables) / columns)
    # In pixels: the room beside a panel for its colour bar, and below it for ticks and titles.
    panel, beside, below = 190, 76 if zmax is None else 36, 68
    width, height = columns * (panel + beside) - beside, rows * (panel + below) - below
    figure = make_subplots(
        cols=columns,
        rows=rows,
        horizontal_spacing=beside / width if columns > 1 else 0,
        vertical_spacing=below / height if rows > 1 else 0,
        subplot_titles=list(tables),
    )
    for i, (name, table) in enumerate(tables.items()):
        row, column = i // columns + 1, i % columns + 1
        trace = _lens_trace(table, name, zmax, label)
        if zmax is None:
            x, y = (axis.domain for axis in figure.get_subplot(row, column))
            place = {"x": x[1], "y": sum(y) / 2, "len": panel, "lenmode": "pixels"}
            words = label if column == columns or i == len(tables) - 1 else ""
            trace.colorbar = colour_bar(words) | place | {"thickness": 9, "xpad": 5, "nticks": 5}
        else:
            trace.coloraxis = "coloraxis"
        figure.add_trace(trace, row=row, col=column)
        if i + columns >= len(tables):
            figure.update_xaxes(title={"text": "end year"}, row=row, col=column)
    figure.update_layout(
        template=TEMPLATE,
        width=width + 64 + 90,
        height=height + 40 + 56,
        margin={"l": 64, "r": 90, "t": 40, "b": 56},
        plot_bgcolor=UNREACHED,
        coloraxis={"colorscale": "RdBu", "cmin": -(zmax or 1), "cmax": zmax or 1},
    )
    figure.update_layout(coloraxis_colorbar=colour_bar(label) | {"nticks": 5})
    figure.update_annotations(font_size=14)
    figure.update_xaxes(showgrid=False, **years_axis(99, step=20))
    figure.update_yaxes(showgrid=False, **years_axis(LAST_YY, step=20))
    figure.update_yaxes(range=[LAST_YY + 0.5, FIRST_YY - 0.5])
    figure.update_yaxes(title={"text": "start year YY"}, col=1)
    return figure


def depth_plot(
    stages: Sequence[str],
    curves: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    metric: str = "probability difference",
    title: str | None = None,
) -> go.Figure:
    """A metric after every stage of the residual stream, with its intervals, one line per name.

    ``curves`` hold mean, low and high [stage], as `bootstrap_ci` gives them; ``stages`` are those
    of `depth_view`. Circles stand for what all heads of a layer have left, squares for its MLP.
    """
    symbols = {"a": "circle-open", "m": "square"}
    figure = go.Figure()
    for name, values in curves.items():
        mean, low, high = (value.detach().double().cpu().numpy() for value in values)
        figure.add_scatter(
            x=list(stages),
            y=mean,
            name=name,
            mode="lines+markers",
            line={"color": colour_of(name, curves), "width": 2},
            marker={"size": 8, "symbol": [symbols.get(stage[0], "diamond") for stage in stages]},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": high - mean,
                "arrayminus": mean - low,
                "thickness": 1.4,
                "width": 3,
            },
            hovertemplate=f"{name}<br>after %{{x}}<br>{metric} %{{y:.3f}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=860,
        height=380 if title is None else 420,
        margin={"t": 40 if title is None else 90},
        legend=LEGEND,
        showlegend=True,
    )
    figure.update_xaxes(
        title={"text": "residual stream at END after … (○ a layer’s heads, ■ its MLP)"},
        tickangle=-45,
        dtick=1,
        range=[-0.6, len(stages) - 0.4],
    )
    figure.update_yaxes(title={"text": metric})
    return figure


def _lens_trace(table: Tensor, name: str, zmax: float | None, label: str) -> go.Heatmap:
    cells = table.detach().double().cpu().numpy()
    limit = zmax if zmax is not None else largest_size(np.abs(cells))
    return go.Heatmap(
        x=list(range(100)),
        y=list(range(FIRST_YY, LAST_YY + 1)),
        z=np.round(cells, 4),
        colorscale="RdBu",
        zmid=0,
        zmin=-limit,
        zmax=limit,
        hoverongaps=False,
        hovertemplate=f"{name + '<br>' if name else ''}start year YY = %{{y:02d}}<br>"
        f"end year %{{x:02d}}<br>{label} %{{z:+.3f}}<extra></extra>",
    )
