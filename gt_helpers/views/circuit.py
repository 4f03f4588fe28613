"""Circuits: the change without each of its parts, and a distribution of random ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .kit.style import INK, LEGEND, MINUS, TEMPLATE, colour_of


def changes_plot(
    changes: pd.DataFrame, x_title: str = "change without it", title: str | None = None
) -> go.Figure:
    """What `leave_out` measured: a change and its 95 % interval per row, in percentage points.

    Red gets worse without it, blue better; grey are intervals that include 0.
    """
    labels = [str(name) for name in changes["name"]]
    figure = go.Figure()
    kinds = {
        "worse without it": ("#b2182b", changes["high"] < 0),
        "better without it": ("#2166ac", changes["low"] > 0),
        "interval includes 0": ("#8d97a3", (changes["low"] <= 0) & (changes["high"] >= 0)),
    }
    for name, (colour, chosen) in kinds.items():
        rows = changes[chosen]
        figure.add_scatter(
            x=100 * rows["change"],
            y=[str(label) for label in rows["name"]],
            mode="markers",
            name=name,
            marker={"size": 8, "color": colour},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": 100 * (rows["high"] - rows["change"]).clip(lower=0),
                "arrayminus": 100 * (rows["change"] - rows["low"]).clip(lower=0),
                "thickness": 1.6,
                "width": 4,
            },
            hovertemplate="<b>%{y}</b><br>%{x:+.2f} percentage points<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": INK, "width": 1}, layer="below")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=760,
        height=(140 if title is None else 190) + 24 * max(len(labels), 3),
        margin={"t": 40 if title is None else 90},
        legend=LEGEND,
        showlegend=True,
    )
    low, high = (100 * end for end in (changes["low"].min(), changes["high"].max()))
    low, high = min(0.0, low), max(0.0, high)  # a NaN of an empty table comes second
    room = 0.03 * (high - low) or 1.0
    figure.update_xaxes(
        title={"text": f"{x_title} (percentage points of probability difference)"},
        range=[low - room, high + room],
    )
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], categoryorder="array", categoryarray=labels, dtick=1
    )
    return figure


def distribution_plot(
    values: Iterable[float],
    marks: Mapping[str, float],
    name: str,
    x_title: str = "probability difference",
    title: str | None = None,
) -> go.Figure:
    """How often values occur, as a histogram, and where others lie: a line for every mark."""
    drawn = np.asarray(list(values), dtype=float)
    ends = [*drawn, *marks.values()]
    counts, bounds = np.histogram(drawn, bins=80, range=(min(ends), max(ends)))
    top = 1.06 * int(counts.max(initial=1))
    figure = go.Figure(
        go.Bar(
            x=(bounds[:-1] + bounds[1:]) / 2,
            y=counts,
            width=np.diff(bounds),
            name=name,
            marker={"color": "#8d97a3", "line": {"color": "white", "width": 0.5}},
            customdata=np.column_stack([bounds[:-1], bounds[1:]]),
            hovertemplate="%{y} between %{customdata[0]:.3f} and %{customdata[1]:.3f}"
            "<extra></extra>",
        )
    )
    for mark, value in marks.items():
        figure.add_scatter(
            x=[value, value],
            y=[0, top],
            mode="lines",
            name=f"{mark} ({value:.3f})".translate(MINUS),
            line={"color": colour_of(mark, marks), "width": 2.5},
            hovertemplate=f"{mark}<br>%{{x:.3f}}<extra></extra>",
        )
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=860,
        height=360 if title is None else 400,
        margin={"t": 70 if title is None else 110},
        legend=LEGEND,
        showlegend=True,
    )
    room = 0.03 * (max(ends) - min(ends))
    figure.update_xaxes(
        title={"text": x_title}, showgrid=False, range=[min(ends) - room, max(ends) + room]
    )
    figure.update_yaxes(title={"text": "circuits"}, range=[0, top])
    return figure
