"""Figures from results, in plotly: nothing is computed here but layout.

Every function returns a ``go.Figure`` of a fixed size that fits a notebook and the report alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from .components import component, inputs
from .metrics import FIRST_YY, LAST_YY
from .path_patching import Sweep

COLOURS = {
    "clean": "#1f5fa8",
    "corrupted": "#c0392b",
    "partial": "#2a8a6a",
    "full": "#7a4fa0",
    "reverse": "#d17f1f",
}
_OTHERS = ("#4d4d4d", "#8c6d31", "#17869e", "#b0578d")
_INK, _LINES, _UNREACHED = "#25292e", "#c9ced4", "#e9ebee"
_MINUS = str.maketrans("-", "−")

_AXIS = {
    "showline": True,
    "linecolor": _LINES,
    "ticks": "outside",
    "tickcolor": _LINES,
    "ticklen": 4,
    "gridcolor": "#eceff2",
    "zeroline": False,
    "title": {"standoff": 8, "font": {"size": 14}},
    "automargin": True,
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif",
            "size": 13,
            "color": _INK,
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
        "colorway": [*COLOURS.values(), *_OTHERS],
        "margin": {"l": 64, "r": 24, "t": 64, "b": 56},
        "modebar": {
            "bgcolor": "rgba(255,255,255,0)",
            "remove": [
                *("select", "lasso", "zoomIn", "zoomOut", "pan", "autoScale"),
                *("sendChartToCloud", "sendDataToCloud"),
            ],
        },
        "hoverlabel": {"bgcolor": "white", "bordercolor": _LINES, "font": {"color": _INK}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def sweep_heatmap(
    sweep: Sweep,
    title: str | None = None,
    zmax: float | None = None,
    marked: Iterable[str] = (),
) -> go.Figure:
    """A sweep as the paper draws it: layers from the top, heads and the MLP from left to right.

    Red is negative: patching the sender hurts. The colours reach from -zmax to zmax (by default the
    largest size among the cells). Senders without any effect are grey. ``marked`` names components,
    such as a circuit's, to outline; names without a position are taken at the sweep's.
    """
    shape = sweep.shape
    n_layers, columns = shape.n_layers, shape.n_heads + 1
    effect = sweep.effect.detach().double().numpy()
    silent = (sweep.values[:-1] == 0).all(-1).reshape(n_layers, columns).numpy()
    largest = float(np.abs(effect).max(initial=0.0))
    limit = zmax if zmax is not None else largest
    names = np.array(sweep.senders[:-1], dtype=object).reshape(n_layers, columns)
    words = np.vectorize(lambda value: f"{100 * value:+.3f}".translate(_MINUS))(effect)

    figure = go.Figure(
        go.Heatmap(
            z=np.where(silent, np.nan, effect),
            customdata=np.dstack([names, words]),
            colorscale="RdBu",
            zmin=-(limit or 1.0),
            zmax=limit or 1.0,
            zmid=0,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            showscale=not silent.all(),
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]} percentage points"
            "<extra></extra>",
            colorbar=_colorbar("change in probability difference"),
        )
    )
    if silent.any():
        receivers = inputs(sweep.receivers)
        reaches = np.vectorize(
            lambda name: any(shape.reaches(component(name), r) for r in receivers)
        )(names)
        figure.add_heatmap(
            z=np.where(silent, 1.0, np.nan),
            customdata=np.dstack(
                [names, np.where(reaches, "no effect (exactly 0)", "cannot reach")]
            ),
            colorscale=[[0, _UNREACHED], [1, _UNREACHED]],
            showscale=False,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        )
    position = component(sweep.senders[0]).position
    wanted = {name if "@" in name else f"{name}@{position}" for name in marked}
    for row, column in zip(*np.where(np.isin(names, list(wanted))), strict=True):
        figure.add_shape(
            type="rect",
            x0=column - 0.5,
            x1=column + 0.5,
            y0=row - 0.5,
            y1=row + 0.5,
            line={"color": "#111111", "width": 1.4},
        )
    heads, step = list(range(0, columns - 1, _step(columns - 1))), _step(n_layers)
    layers = list(range(0, n_layers, step))
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=min(1100, 190 + max(380, 34 * columns)),
        height=min(1200, (92 if title is None else 120) + max(300, 32 * n_layers)),
        margin={"t": 36 if title is None else 64},
    )
    x_title = f"head at {position}"
    if sweep.embed:
        value = f"{100 * sweep.embed:+.2f}".translate(_MINUS)
        x_title += (
            f"<br><span style='font-size:12px'>not in the grid: embedding at {position}, {value} "
            "percentage points</span>"
        )
    figure.update_xaxes(
        title={"text": x_title},
        tickvals=[*heads, columns - 1],
        ticktext=[*map(str, heads), "MLP"],
        range=[-0.5, columns - 0.5],
        showgrid=False,
    )
    figure.update_yaxes(
        title={"text": "layer"},
        tickvals=layers,
        ticktext=[str(layer) for layer in layers],
        range=[n_layers - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def year_heatmap(probs: Tensor, title: str | None = None, zmax: float = 0.25) -> go.Figure:
    """Probabilities [YY, year] of every end year, YY 02 to 98 from the top (paper, figure 1)."""
    figure = year_heatmaps({"": probs}, zmax)
    figure.update_layout(
        title=title, width=620, height=550 if title else 520, margin={"t": 64 if title else 36}
    )
    return figure


def year_heatmaps(probs: Mapping[str, Tensor], zmax: float = 0.25) -> go.Figure:
    """Several probability heatmaps [YY, year] side by side, on one colour scale."""
    if not probs:
        raise ValueError("There is nothing to draw; give tables by name, e.g. {'clean': probs}.")
    for name, table in probs.items():
        if table.shape != (LAST_YY - FIRST_YY + 1, 100):
            raise ValueError(
                f"The table {name!r} has the shape {list(table.shape)}; it must be [97, 100], rows "
                "YY 02 to 98, columns years 00 to 99, e.g. per_YY_probs(log_probs, YY)."
            )
    figure = make_subplots(
        cols=len(probs),
        rows=1,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=list(probs) if any(probs) else None,
    )
    for column, (name, table) in enumerate(probs.items(), start=1):
        figure.add_heatmap(
            x=list(range(100)),
            y=list(range(FIRST_YY, LAST_YY + 1)),
            z=np.round(table.detach().double().numpy(), 5),
            coloraxis="coloraxis",
            hoverongaps=False,
            hovertemplate=f"{name + '<br>' if name else ''}start year YY = %{{y:02d}}<br>"
            "end year %{x:02d}<br>probability %{z:.4f}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_layout(
        template=_TEMPLATE,
        width=165 + 300 * len(probs),
        height=420,
        coloraxis={
            "colorscale": "Blues",
            "cmin": 0,
            "cmax": zmax,
            "colorbar": _colorbar("probability"),
        },
        margin={"t": 48},
    )
    figure.update_annotations(font_size=14)
    figure.update_xaxes(title={"text": "predicted end year"}, showgrid=False, **_years(99))
    figure.update_yaxes(showgrid=False, range=[LAST_YY + 0.5, FIRST_YY - 0.5], **_years(LAST_YY))
    figure.update_yaxes(title={"text": "start year YY"}, col=1)
    return figure


def year_curve(
    curves: Mapping[str, Tensor], YY: int, title: str | None = None, height: int = 360
) -> go.Figure:
    """Probabilities [year] of every end year for one YY, one curve per name, a line at YY."""
    figure = go.Figure()
    for name, values in curves.items():
        figure.add_scatter(
            x=list(range(100)),
            y=values.detach().double().numpy(),
            name=name,
            mode="lines+markers",
            line={"color": _colour(name, curves), "width": 2},
            marker={"size": 4},
            hovertemplate=f"{name}<br>end year %{{x:02d}}<br>probability %{{y:.4f}}<extra></extra>",
        )
    figure.add_vline(x=YY, line={"color": _INK, "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=YY,
        y=0.98,
        yref="paper",
        text=f"YY = {YY:02d}",
        showarrow=False,
        xanchor="left" if YY < 50 else "right",
        xshift=5 if YY < 50 else -5,
    )
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=860,
        height=height,
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
    )
    figure.update_xaxes(title={"text": "predicted end year"}, range=[-1, 100], **_years(99))
    # The label of YY needs room above the curves.
    peak = max((float(v.nan_to_num(0.0).max()) for v in curves.values()), default=0.0)
    figure.update_yaxes(title={"text": "probability"}, range=[0, 1.15 * peak or 1.0])
    return figure


def metric_by_YY(
    lines: Mapping[str, Tensor], metric: str = "probability difference", title: str | None = None
) -> go.Figure:
    """A metric [YY], rows YY 02 to 98, one line per name; a YY without a prompt leaves a gap."""
    figure = go.Figure()
    for name, values in lines.items():
        figure.add_scatter(
            x=list(range(FIRST_YY, LAST_YY + 1)),
            y=values.detach().double().numpy(),
            name=name,
            mode="lines",
            line={"color": _colour(name, lines), "width": 2},
            hovertemplate=f"{name}<br>YY = %{{x:02d}}<br>{metric} %{{y:.3f}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": _LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=860,
        height=360 if title is None else 400,
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
    )
    figure.update_xaxes(title={"text": "start year YY"}, range=[0, 100], **_years(LAST_YY))
    figure.update_yaxes(title={"text": metric})
    return figure


def interval_plot(
    table: pd.DataFrame, x_title: str, title: str | None = None, reported: str = "reported"
) -> go.Figure:
    """Measured values with their intervals beside the reported ones, one row per label.

    ``table`` has the columns label, measured, low, high and reported (NaN: nothing is reported).
    """
    labels = [str(label) for label in table["label"]]
    figure = go.Figure()
    figure.add_scatter(
        x=table["reported"],
        y=labels,
        mode="markers",
        name=reported,
        marker={"symbol": "diamond-open", "size": 13, "color": "#5b6570", "line": {"width": 1.8}},
        hovertemplate="%{y}<br>reported %{x:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=table["measured"],
        y=labels,
        mode="markers",
        name="measured, 95 % interval",
        marker={"size": 8, "color": COLOURS["clean"]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (table["high"] - table["measured"]).clip(lower=0),
            "arrayminus": (table["measured"] - table["low"]).clip(lower=0),
            "thickness": 1.6,
            "width": 5,
        },
        hovertemplate="%{y}<br>measured %{x:.3f}<extra></extra>",
    )
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=540,
        height=(140 if title is None else 180) + 34 * len(labels),
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
    )
    figure.update_xaxes(title={"text": x_title})
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], categoryorder="array", categoryarray=labels
    )
    return figure


_LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


def _colorbar(text: str) -> dict[str, object]:
    return {
        "title": {"text": text, "side": "right", "font": {"size": 13}},
        "thickness": 13,
        "outlinewidth": 0,
        "exponentformat": "none",
        "nticks": 9,
        "xpad": 8,
        "tickfont": {"size": 12},
    }


def _colour(name: str, among: Iterable[str]) -> str:
    """The fixed colour of a known evaluation, by the name's first word, or one of the others."""
    first = name.split()[0] if name.split() else ""
    unknown = [other for other in among if not other or other.split()[0] not in COLOURS]
    return COLOURS.get(first) or _OTHERS[unknown.index(name) % len(_OTHERS)]


def _years(last: int) -> dict[str, object]:
    values = [*range(0, 91, 10), last]
    if last == LAST_YY:
        values = [FIRST_YY, *range(10, 91, 10), last]
    return {"tickvals": values, "ticktext": [f"{value:02d}" for value in values], "tickangle": 0}


def _step(n: int) -> int:
    return math.ceil(n / 16)
