"""What all figures share: colours, the template, axes of years, grids of heads, colour bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
from torch import Tensor

from ...metrics import FIRST_YY, LAST_YY

COLOURS = {
    "clean": "#1f5fa8",
    "corrupted": "#c0392b",
    "partial": "#2a8a6a",
    "full": "#7a4fa0",
    "reverse": "#d17f1f",
}
OTHERS = ("#4d4d4d", "#8c6d31", "#17869e", "#b0578d", "#6f9a2a", "#e07f66", "#8089d6")
INK, LINES, UNREACHED = "#25292e", "#c9ced4", "#e9ebee"
MINUS = str.maketrans("-", "−")
GREY = {
    "colorscale": [[0, UNREACHED], [1, UNREACHED]],
    "showscale": False,
    "xgap": 1,
    "ygap": 1,
    "hoverongaps": False,
}
AXIS = {
    "showline": True,
    "linecolor": LINES,
    "ticks": "outside",
    "tickcolor": LINES,
    "ticklen": 4,
    "gridcolor": "#eceff2",
    "zeroline": False,
    "title": {"standoff": 8, "font": {"size": 14}},
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif",
            "size": 13,
            "color": INK,
        },
        "title": {
            "font": {"size": 16},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "yref": "container",
        },
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": [*COLOURS.values(), *OTHERS],
        "margin": {"l": 64, "r": 24, "t": 64, "b": 56},
        "modebar": {
            "bgcolor": "rgba(255,255,255,0)",
            "remove": [
                *("select", "lasso", "zoomIn", "zoomOut", "pan", "autoScale"),
                *("sendChartToCloud", "sendDataToCloud"),
            ],
        },
        "hoverlabel": {"bgcolor": "white", "bordercolor": LINES, "font": {"color": INK}},
        "xaxis": AXIS,
        "yaxis": AXIS,
    }
)
LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


def outline_cells(
    figure: go.Figure, cells: np.ndarray, colour: str = "#111111", half: float = 0.5
) -> None:
    """A frame around every true cell [row, column] of a heatmap."""
    for row, column in zip(*np.where(cells), strict=True):
        figure.add_shape(
            type="rect",
            x0=column - half,
            x1=column + half,
            y0=row - half,
            y1=row + half,
            line={"color": colour, "width": 1.8},
        )


def lay_out_grid(figure: go.Figure, n_layers: int, columns: int, title: str | None) -> None:
    """The size and the axes of a grid [layer, column], layer 0 on top."""
    layers = list(range(0, n_layers, tick_step(n_layers)))
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=min(1100, 190 + max(380, 34 * columns)),
        height=min(1200, (92 if title is None else 120) + max(300, 32 * n_layers)),
        margin={"t": 36 if title is None else 64},
    )
    figure.update_xaxes(range=[-0.5, columns - 0.5], showgrid=False)
    figure.update_yaxes(
        title={"text": "layer"},
        tickvals=layers,
        ticktext=[str(layer) for layer in layers],
        range=[n_layers - 0.5, -0.5],
        showgrid=False,
    )


def largest_size(cells: np.ndarray) -> float:
    """The largest cell, or 1 where all are 0."""
    return float(np.nanmax(cells, initial=0.0)) or 1.0


def check_year_tables(tables: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless there are tables, all [97, 100]."""
    if not tables:
        raise ValueError("There is nothing to draw; give tables by name, e.g. {'clean': probs}.")
    for name, table in tables.items():
        if table.shape != (LAST_YY - FIRST_YY + 1, 100):
            raise ValueError(
                f"The table {name!r} has the shape {list(table.shape)}; it must be [97, 100], rows "
                "YY 02 to 98, columns years 00 to 99, e.g. per_YY_probs(log_probs, YY)."
            )


def colour_bar(text: str) -> dict[str, object]:
    """A thin colour bar with a title along it."""
    return {
        "title": {"text": text, "side": "right", "font": {"size": 13}},
        "thickness": 13,
        "outlinewidth": 0,
        "exponentformat": "none",
        "nticks": 9,
        "xpad": 8,
        "tickfont": {"size": 12},
    }


def colour_of(name: str, among: Iterable[str]) -> str:
    """The fixed colour of a known evaluation, by the name's first word, or one of the others."""
    first = name.split()[0] if name.split() else ""
    unknown = [other for other in among if not other or other.split()[0] not in COLOURS]
    return COLOURS.get(first) or OTHERS[unknown.index(name) % len(OTHERS)]


def years_axis(last: int, step: int = 10) -> dict[str, object]:
    """Ticks of an axis of two-digit years, from 00, or from 02 where YY ends it."""
    first = FIRST_YY if last == LAST_YY else 0
    values = [first, *range(step, 91, step), last]
    return {"tickvals": values, "ticktext": [f"{value:02d}" for value in values], "tickangle": 0}


def counts_axis(largest: int) -> dict[str, object]:
    """A log axis from 1 to a largest count, with plain numbers at its ticks."""
    ticks = [digit * 10**power for power in range(len(str(largest))) for digit in (1, 3)]
    ticks = [tick for tick in ticks if tick < largest / 1.5] + [largest]
    end = math.log10(largest)
    return {
        "type": "log",
        "range": [-0.03 * end, 1.03 * end],
        "tickvals": ticks,
        "ticktext": [str(tick) for tick in ticks],
    }


def tick_step(n: int) -> int:
    """How far ticks stand apart, so that there are at most 16."""
    return math.ceil(n / 16)
