"""Claims: measured values with their intervals beside the reported ones."""

from __future__ import annotations

import textwrap

import pandas as pd
import plotly.graph_objects as go

from .kit.style import COLOURS, LEGEND, TEMPLATE


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
        template=TEMPLATE,
        title=title,
        width=540,
        height=(140 if title is None else 180) + 34 * len(labels),
        margin={"t": 40 if title is None else 90},
        legend=LEGEND,
    )
    figure.update_xaxes(title={"text": x_title})
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], categoryorder="array", categoryarray=labels
    )
    return figure


def scorecard_plot(table: pd.DataFrame, title: str | None = None) -> go.Figure:
    """The shares of a `scorecard` that the paper gives as a value, beside the measured ones.

    Raises ValueError for a table without such a claim that was measured.
    """
    shown = table.dropna(subset=["reported", "measured"])
    shown = shown[shown["unit"] == "share"]
    if shown.empty:
        raise ValueError("No claim of this table has a reported value and was measured.")
    labels = ["<br>".join(textwrap.wrap(claim, 48)) for claim in shown["claim"]]
    other = "not comparable" in set(shown["verdict"])
    reported = "reported (GPT-2 small)" if other else "reported"
    figure = interval_plot(shown.assign(label=labels), "share", title, reported)
    figure.update_layout(width=860)
    figure.update_xaxes(tickformat=".0%", zeroline=True)
    figure.update_yaxes(automargin=True, tickfont={"size": 11})
    return figure
