"""Choices: what each one changes as a matrix, and one of its sweeps against the reference's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from textwrap import wrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .kit.style import COLOURS, GREY, INK, TEMPLATE, colour_bar


def choices_matrix(
    words: pd.DataFrame, moved: pd.DataFrame, details: pd.DataFrame, title: str | None = None
) -> go.Figure:
    """`Comparison.matrix`: a row per choice, worst first; a cell's colour says how far it moved.

    Cells show the value itself: scores in the choice's own metric, then correlations with the
    reference's maps. Grey has nothing to compare. Hover for the details.
    """
    names = [str(name) for name in words.index]
    columns = [str(column) for column in words.columns]
    figure = go.Figure()
    figure.add_heatmap(x=columns, y=names, z=moved.isna().to_numpy(float), **GREY, hoverinfo="skip")
    figure.add_heatmap(
        x=columns,
        y=names,
        z=moved.to_numpy(float),
        text=words.to_numpy(str),
        texttemplate="%{text}",
        customdata=_lines(details),
        textfont={"size": 10},
        colorscale=[[0, "#ffffff"], [0.15, "#fbe3c8"], [0.5, "#ef9a62"], [1, "#b3352b"]],
        zmin=0,
        zmax=1,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate="<b>%{y}</b><br>%{x}: %{text}<br>%{customdata}<extra></extra>",
        colorbar=colour_bar("change from the reference") | {"nticks": 6},
    )
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=min(1100, 250 + 42 * len(columns)),
        height=(110 if title is None else 148) + 24 * len(names),
        margin={"t": 70 if title is None else 118},
    )
    figure.update_xaxes(side="top", showgrid=False, dtick=1, tickangle=-40, tickfont={"size": 11})
    figure.update_yaxes(autorange="reversed", showgrid=False, dtick=1)
    return figure


def _lines(details: pd.DataFrame) -> np.ndarray:
    """Details broken into lines for a hover text."""
    return details.map(lambda text: "<br>".join(wrap(text, 60))).to_numpy(str)


def effects_against(
    senders: Sequence[str],
    reference: Sequence[float],
    effects: Sequence[float],
    marked: Collection[str] = (),
    title: str | None = None,
    unit: str = "percentage points",
) -> go.Figure:
    """Every sender's effect in a choice's sweep over its effect in the reference's.

    ``marked`` senders, such as a circuit's, have their own colour; the strongest of them and of the
    others are named. ``unit`` is the choice's; the reference's are percentage points. A dotted line
    marks equal effects, where both have this unit.
    """
    frame = pd.DataFrame({"name": list(senders), "x": reference, "y": effects})
    frame["x"] *= 100
    frame["y"] *= 100 if unit == "percentage points" else 1
    frame = frame[(frame["x"] != 0) | (frame["y"] != 0)]
    inside = frame["name"].isin(list(marked))
    size = (frame[["x", "y"]] / frame[["x", "y"]].abs().max()).abs().sum(axis=1)
    named = {*size[inside].nlargest(7).index, *size[~inside].nlargest(3).index}
    figure = go.Figure()
    for label, rows, colour in (
        ("in the circuit", frame[inside], COLOURS["corrupted"]),
        ("not in it", frame[~inside], "#8d97a3"),
    ):
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers+text",
            text=[name if i in named else "" for i, name in rows["name"].items()],
            customdata=rows["name"],
            textposition="top center",
            textfont={"size": 11},
            name=label,
            marker={"size": 8, "color": colour, "opacity": 0.8},
            hovertemplate="<b>%{customdata}</b><br>reference %{x:+.3f}<br>here %{y:+.3f}"
            "<extra></extra>",
        )
    if unit == "percentage points":
        # As far as both axes reach, so that it stretches neither.
        ends = [frame[["x", "y"]].min().max(), frame[["x", "y"]].max().min()]
        figure.add_shape(
            type="line",
            **{"x0": ends[0], "y0": ends[0], "x1": ends[1], "y1": ends[1]},
            line={"color": INK, "width": 1, "dash": "dot"},
            layer="below",
        )
    for line in (figure.add_hline, figure.add_vline):
        line(0, line={"color": INK, "width": 1}, layer="below")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=640,
        height=480,
        showlegend=True,
        legend={"x": 1, "xanchor": "right", "y": 0, "yanchor": "bottom"},
    )
    figure.update_xaxes(title={"text": "effect in the reference (percentage points)"})
    figure.update_yaxes(title={"text": f"effect with this choice ({unit})"})
    return figure
