"""What all figures share: colours, the template, sizes, heatmap cells, lines, axes of years.

How they look by default is said in ``data/figures.toml``.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from ...metrics import FIRST_YY, LAST_YY

_LOOK = tomllib.loads(
    files("gt_helpers").joinpath("data", "figures.toml").read_text(encoding="utf-8")
)
COLOURS: dict[str, str] = _LOOK["colours"]
OTHERS: list[str] = _LOOK["others"]
INK, FRAME = _LOOK["layout"]["font"]["color"], _LOOK["axis"]["linecolor"]
NO_EFFECT, QUIET = "#e9ebee", "#8d97a3"
WORSE, BETTER = "#b2182b", "#2166ac"  # what the model gets without a component or an edge
TEMPLATE = go.layout.Template(
    layout=_LOOK["layout"]
    | {"xaxis": _LOOK["axis"], "yaxis": _LOOK["axis"], "colorway": [*COLOURS.values(), *OTHERS]}
    | {"coloraxis": {"colorbar": _LOOK["colour_bar"]}},
    data={
        "heatmap": [_LOOK["heatmap"] | {"colorbar": _LOOK["colour_bar"]}],
        "scatter": [_LOOK["scatter"]],
    },
)
Pair = tuple[int, int]  # to the right and down, in pixels


# ---- sizes and shapes -------------------------------------------------------------------------


def lay_out(
    figure: go.Figure,
    title: str | None,
    width: int,
    height: int,
    x: str | None = None,
    y: str | None = None,
    *,
    legend: bool = False,
    **more: Any,
) -> None:
    """Template, titles and size; ``height`` is that without a title, which adds its own.

    ``x`` and ``y`` are the axes' titles. ``legend`` makes room for a row of names above the plot.
    """
    room = 0 if not title else 40 if legend else 28
    size = {"width": width, "height": height + room, "margin": {"t": room + (40 if legend else 36)}}
    figure.update_layout(template=TEMPLATE, title=title, showlegend=legend, **size)
    figure.update_layout(**more)  # by itself, for it may name what is set above
    if x:
        figure.update_xaxes(title={"text": x})
    if y:
        figure.update_yaxes(title={"text": y})


def horizontal_lines(figure: go.Figure, *values: float, colour: str = FRAME) -> None:
    """Thin horizontal lines below the data, by default one at 0."""
    for value in values or (0,):
        figure.add_hline(value, line={"color": colour, "width": 1}, layer="below")


def name_rows(figure: go.Figure, labels: Sequence[str]) -> None:
    """One row per label, the first on top, also those without a point."""
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], categoryorder="array", categoryarray=labels, dtick=1
    )


def named_ticks(
    names: Iterable[object], step: int = 1, upside_down: bool = False
) -> dict[str, Any]:
    """An axis of a heatmap: numbers 0, 1, ... with a name at every one, or every ``step``."""
    texts = [str(name) for name in names]
    ends = [-0.5, len(texts) - 0.5]
    return {
        "tickvals": list(range(0, len(texts), step)),
        "ticktext": texts[::step],
        "range": ends[::-1] if upside_down else ends,
        "showgrid": False,
    }


def lay_out_grid(
    figure: go.Figure, n_layers: int, n_heads: int, title: str | None, x: str, mlp: bool = False
) -> None:
    """The size and the axes of a grid [layer, head], layer 0 on top, and perhaps MLPs on the right.

    ``x`` is the title of the heads' axis.
    """
    columns = n_heads + mlp
    width = min(1100, 190 + max(380, 34 * columns))
    lay_out(figure, title, width, min(1200, 92 + max(300, 32 * n_layers)), x, "layer")
    heads = named_ticks(range(n_heads), math.ceil(n_heads / 16))
    if mlp:
        heads["tickvals"].append(n_heads)
        heads["ticktext"].append("MLP")
    figure.update_xaxes(heads, range=[-0.5, columns - 0.5])
    figure.update_yaxes(named_ticks(range(n_layers), math.ceil(n_layers / 16), upside_down=True))


# ---- heatmaps ---------------------------------------------------------------------------------


def array(values: Tensor) -> np.ndarray:
    """A tensor's numbers as numpy's."""
    return values.detach().double().cpu().numpy()


def squares(
    cells: np.ndarray, label: str, zmax: float | None = None, signed: bool = False, **more: Any
) -> go.Heatmap:
    """Squares in blues from 0 to zmax, or ``signed`` in red and blue from -zmax to zmax.

    Without ``zmax`` the colours reach to the largest size among the cells; NaN is left blank.
    """
    limit = largest_size(cells) if zmax is None else zmax
    return go.Heatmap(
        z=cells,
        colorscale="RdBu" if signed else "Blues",
        zmin=-limit if signed else 0,
        zmax=limit,
        colorbar={"title": {"text": label}},
        **more,
    )


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


def largest_size(cells: np.ndarray) -> float:
    """The largest size of a cell, or 1 where all are 0."""
    return float(np.nanmax(np.abs(cells), initial=0.0)) or 1.0


# ---- tables of years by start years -----------------------------------------------------------


def year_cells(
    table: Float[Tensor, "YY year"], name: str, label: str, digits: str = ".4f", **more: Any
) -> go.Heatmap:
    """A heatmap of a value for every YY, 02 to 98, and every year, 00 to 99."""
    return go.Heatmap(
        x=list(range(100)),
        y=list(range(FIRST_YY, LAST_YY + 1)),
        z=array(table.double().round(decimals=5)),  # keeps the page small
        xgap=0,
        ygap=0,
        hovertemplate=f"{name + '<br>' if name else ''}start year YY = %{{y:02d}}<br>"
        f"end year %{{x:02d}}<br>{label} %{{z:{digits}}}<extra></extra>",
        **more,
    )


def years_axis(first: int = 0, last: int = 99, step: int = 10) -> dict[str, Any]:
    """Ticks of an axis of two-digit years."""
    values = [first, *range(step, 91, step), last]
    return {"tickvals": values, "ticktext": [f"{value:02d}" for value in values], "tickangle": 0}


def year_panels(
    tables: Mapping[str, Tensor], x: str, columns: int, panel: Pair, between: Pair, **more: Any
) -> tuple[go.Figure, list[dict]]:
    """`panels` for `year_cells`: years (``x``) to the right, YY 02 on top as in the paper.

    Raises ValueError unless there are tables, all [97, 100].
    """
    if not tables:
        raise ValueError("There is nothing to draw; give tables by name, e.g. {'clean': probs}.")
    wanted = "rows YY 02 to 98, columns years 00 to 99, e.g. per_YY_probs(log_probs, YY)"
    for name, table in tables.items():
        check_shape(f"The table {name!r}", table, [LAST_YY - FIRST_YY + 1, 100], wanted)
    figure, places = panels(tables, columns, panel, between, **more)
    step = 10 if panel[0] > 250 else 20
    years_down = years_axis(FIRST_YY, LAST_YY, step) | {"range": [LAST_YY + 0.5, FIRST_YY - 0.5]}
    figure.update_xaxes(years_axis(step=step), showgrid=False)
    figure.update_yaxes(years_down, showgrid=False)
    figure.update_yaxes(title={"text": "start year YY"}, col=1)
    for place in places[-columns:]:  # the lowest of every column
        figure.update_xaxes(title={"text": x}, **place)
    return figure, places


def check_shape(what: str, table: Tensor, shape: list[int], wanted: str) -> None:
    """Raise ValueError unless a table has this shape; ``wanted`` says of what."""
    if list(table.shape) != shape:
        raise ValueError(f"{what} has the shape {list(table.shape)}; it must be {shape}, {wanted}.")


def panels(
    names: Iterable[str], columns: int, panel: Pair, between: Pair, **more: Any
) -> tuple[go.Figure, list[dict]]:
    """A figure with a panel per name, and their places, as plotly's methods take them.

    ``panel`` is the size of one, and ``between`` the room between two; at the right is room for a
    colour bar.
    """
    names = list(names)
    columns = min(columns, len(names))
    rows = math.ceil(len(names) / columns)
    width = columns * (panel[0] + between[0]) - between[0]
    height = rows * (panel[1] + between[1]) - between[1]
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=names if any(names) else None,
        horizontal_spacing=between[0] / width,
        vertical_spacing=between[1] / height,
        **more,
    )
    figure.update_annotations(font_size=14)
    lay_out(figure, None, width + 154, height + 92, margin_r=90)
    return figure, [{"row": i // columns + 1, "col": i % columns + 1} for i in range(len(names))]


# ---- lines and points -------------------------------------------------------------------------


def lines(
    curves: Mapping[str, Any], x: Sequence[Any], hover: str, mode: str = "lines"
) -> go.Figure:
    """A line per name over the same x; ``hover`` says in plotly's words what a point is."""
    figure = go.Figure()
    for name, values in curves.items():
        figure.add_scatter(
            x=list(x),
            y=array(values) if isinstance(values, Tensor) else list(values),
            name=name,
            mode=mode,
            line={"color": colour_of(name, curves), "width": 2},
            hovertemplate=f"{name}<br>{hover}<extra></extra>",
        )
    return figure


def points_against(
    groups: Mapping[str, tuple[str, pd.DataFrame]], x: str, y: str, equal: bool = True
) -> go.Figure:
    """One quantity, called ``y`` in hover texts, over another, ``x``, for groups of named points.

    A group has a colour and a frame of the columns x, y, name and perhaps text, which stands beside
    the point. On the dotted line both are ``equal``.
    """
    figure = go.Figure()
    for group, (colour, rows) in groups.items():
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers+text" if "text" in rows else "markers",
            text=rows.get("text"),
            customdata=rows["name"],
            name=group,
            marker={"size": 7, "color": colour, "opacity": 0.75},
            hovertemplate=f"<b>%{{customdata}}</b><br>{x} %{{x:+.3f}}<br>{y} %{{y:+.3f}}"
            "<extra></extra>",
        )
    if equal:
        # As far as both axes reach, so that it stretches neither.
        every = pd.concat([rows[["x", "y"]] for _, rows in groups.values()])
        low, high = every.min().max(), every.max().min()
        line = {"color": INK, "width": 1, "dash": "dot"}
        figure.add_shape(type="line", x0=low, y0=low, x1=high, y1=high, line=line, layer="below")
    horizontal_lines(figure, colour=INK)
    figure.add_vline(0, line={"color": INK, "width": 1}, layer="below")
    return figure


def add_dots(
    figure: go.Figure, table: pd.DataFrame, x: str, name: str, colour: str, hover: str
) -> None:
    """A point per row, from the column ``x``, beside its label, with its 95 % interval."""
    figure.add_scatter(
        x=table[x],
        y=[str(label) for label in table["label"]],
        mode="markers",
        name=name,
        marker={"size": 8, "color": colour},
        error_x=error_bars(table[x], table["low"], table["high"]),
        hovertemplate=f"{hover}<extra></extra>",
    )


def error_bars(mean: Any, low: Any, high: Any) -> dict[str, Any]:
    """Bars from low to high around means: the 95 % intervals of one trace's points."""
    mean, low, high = (np.asarray(values, dtype=float) for values in (mean, low, high))
    above, below = (high - mean).clip(min=0), (mean - low).clip(min=0)
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def colour_of(name: str, among: Iterable[str]) -> str:
    """The fixed colour of a known evaluation, by the name's first word, or one of the others."""
    first = name.split()[0] if name.split() else ""
    unknown = [other for other in among if not other or other.split()[0] not in COLOURS]
    return COLOURS.get(first) or OTHERS[unknown.index(name) % len(OTHERS)]


def with_room(values: Iterable[float], share: float = 0.03) -> list[float]:
    """An axis' range for values: a share of it more at both ends."""
    ends = list(values)
    low, high = min(ends), max(ends)
    room = share * (high - low) or 1.0
    return [low - room, high + room]


def counts_axis(largest: int) -> dict[str, Any]:
    """A log axis of counts up to a largest one, with plain numbers at its ticks."""
    ticks = [digit * 10**power for power in range(len(str(largest))) for digit in (1, 3)]
    ticks = [tick for tick in ticks if tick < largest / 1.5] + [largest]
    return {"type": "log", "tickvals": ticks, "ticktext": [str(tick) for tick in ticks]}
