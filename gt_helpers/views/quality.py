"""Quality of circuits: what they recover over their number of edges, and scores over scores."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from ..edges.scores import EdgeScores, worst_edges
from .kit.style import COLOURS, INK, LEGEND, OTHERS, TEMPLATE, counts_axis

_TITLES = {
    "above_corrupted": "recovered above corrupted",
    "recovered": "recovered: circuit / clean",
    "prob_diff": "probability difference",
}
_RANDOM = "#b5bcc4"
_POINTS = ("diamond", "star", "square", "cross", "triangle-up", "pentagon")
_QUIET = 1e-3  # of the largest score: what is smaller in both is not drawn


def quality_curves(
    curves: pd.DataFrame, y: str = "above_corrupted", title: str | None = None
) -> go.Figure:
    """`faithfulness_curves` over the number of edges: rankings as lines, given circuits as points.

    ``y`` is "above_corrupted", "recovered" or "prob_diff"; bands and bars are 95 % intervals. The
    random rankings are the thin grey lines. Circuits without any edge have no place on a log axis.
    Raises ValueError if no other is there.
    """
    shown = curves[curves["edges"] > 0]
    if shown.empty:
        raise ValueError("No circuit of these curves has an edge; follow them to larger shares.")
    unit = 1 if y == "prob_diff" else 100
    figure = go.Figure()
    random = shown[shown["kind"] == "random"]
    for i, (name, rows) in enumerate(random.groupby("name", sort=False)):
        figure.add_scatter(
            x=rows["edges"],
            y=unit * rows[y],
            mode="lines",
            line={"color": _RANDOM, "width": 1},
            name="random rankings",
            legendgroup="random",
            showlegend=i == 0,
            hovertemplate=f"{name}<br>%{{x}} edges: %{{y:.3~g}}<extra></extra>",
        )
    rankings = shown[shown["kind"] == "ranking"]
    colours = [*(COLOURS[name] for name in ("clean", "partial", "reverse", "full")), *OTHERS]
    for i, (name, rows) in enumerate(rankings.groupby("name", sort=False)):
        colour = colours[i % len(colours)]
        figure.add_scatter(
            x=[*rows["edges"], *rows["edges"][::-1]],
            y=[*unit * rows[f"{y}_low"], *(unit * rows[f"{y}_high"])[::-1]],
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=colour,
            opacity=0.15,
            legendgroup=str(name),
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=rows["edges"],
            y=unit * rows[y],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            name=str(name),
            legendgroup=str(name),
            customdata=rows["components"],
            hovertemplate=f"<b>{name}</b><br>%{{x}} edges, %{{customdata}} components"
            "<br>%{y:.3~g}<extra></extra>",
        )
    for i, row in enumerate(shown[shown["kind"] == "circuit"].to_dict("records")):
        figure.add_scatter(
            x=[row["edges"]],
            y=[unit * row[y]],
            mode="markers",
            marker={"size": 11, "symbol": _POINTS[i % len(_POINTS)], "color": INK},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [unit * (row[f"{y}_high"] - row[y])],
                "arrayminus": [unit * (row[y] - row[f"{y}_low"])],
                "thickness": 1.4,
                "width": 4,
            },
            name=str(row["name"]),
            hovertemplate=f"<b>{row['name']}</b><br>%{{x}} edges, {row['components']} components"
            "<br>%{y:.3~g}<extra></extra>",
        )
    figure.add_hline(0, line={"color": INK, "width": 1}, layer="below")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=860,
        height=470 if title is None else 510,
        margin={"t": 36 if title is None else 64, "b": 130},
        legend=LEGEND | {"y": -0.2, "yanchor": "top"},  # many names: they need two lines
    )
    known = shown[shown["kind"] != "random"]
    first, last = (known if len(known) else shown)["edges"].min(), int(shown["edges"].max())
    axis = counts_axis(last) | {"range": [math.log10(0.8 * first), math.log10(1.1 * last)]}
    figure.update_xaxes(title={"text": "edges"}, **axis)
    figure.update_yaxes(title={"text": _TITLES[y]}, ticksuffix="" if unit == 1 else " %")
    return figure


def score_scatter(
    reference: EdgeScores, other: EdgeScores, n_named: int = 8, title: str | None = None
) -> go.Figure:
    """Every edge's mean score by another method over the reference's, e.g. over exact effects.

    The edges that it gets most wrong are dark, and named where there is room. On the grey line both
    agree; edges that are next to 0 in both are left out. Raises ValueError for scores of another
    graph.
    """
    every = worst_edges(reference, other, len(reference.graph))
    columns = ["reference", "other"]
    every[columns] *= 100
    sizes = every[columns].abs()
    frame = every[(sizes > _QUIET * sizes.to_numpy().max(initial=0)).any(axis=1)]
    ranges = [_with_room(frame[column]) for column in columns]
    ends = [min(low for low, _ in ranges), max(high for _, high in ranges)]
    figure = go.Figure()
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": _RANDOM, "width": 1}, hoverinfo="skip"
    )
    for rows, colour, mode in (
        (frame[n_named:], COLOURS["clean"], "markers"),
        (frame[:n_named], INK, "markers+text"),
    ):
        figure.add_scatter(
            x=rows["reference"],
            y=rows["other"],
            mode=mode,
            text=_apart(rows, ranges) if mode == "markers+text" else None,
            hovertext=rows["edge"],
            textposition="top center",
            textfont={"size": 11},
            marker={"size": 6, "color": colour, "opacity": 0.7},
            hovertemplate=f"<b>%{{hovertext}}</b><br>{reference.method} %{{x:+.3f}}"
            f"<br>{other.method} %{{y:+.3f}}<extra></extra>",
        )
    for line in (figure.add_hline, figure.add_vline):
        line(0, line={"color": INK, "width": 1}, layer="below")
    figure.update_layout(template=TEMPLATE, title=title, width=680, height=520, showlegend=False)
    for update, one, ends in (
        (figure.update_xaxes, reference, ranges[0]),
        (figure.update_yaxes, other, ranges[1]),
    ):
        update(title={"text": f"{one.method} (percentage points)"}, range=ends)
    return figure


def _apart(rows: pd.DataFrame, ranges: list[list[float]]) -> list[str]:
    """The names of edges in this order; empty for those whose names would lie on earlier ones."""
    wide, high = (end - start for start, end in ranges)
    names: list[str] = []
    taken: list[tuple[float, float]] = []
    for x, y, name in zip(rows["reference"], rows["other"], rows["edge"], strict=True):
        free = all(abs(x - a) > 0.25 * wide or abs(y - b) > 0.045 * high for a, b in taken)
        taken += [(x, y)] if free else []
        names.append(name if free else "")
    return names


def _with_room(values: pd.Series) -> list[float]:
    """The range of values and 0, with room for names at its ends."""
    low, high = min(0.0, values.min()), max(0.0, values.max())
    room = 0.12 * (high - low) or 1.0
    return [low - room, high + room]
