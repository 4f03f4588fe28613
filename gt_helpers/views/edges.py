"""Notebook 9, edges: what circuits recover over their size, scores over scores, discovered ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from ..analysis.neurons import counts_up_to
from ..edges.discovery import FoundCircuit, agreement, greedy_edges
from ..edges.graph import EdgeGraph
from ..edges.quality import faithfulness
from ..edges.scores import EdgeScores, worst_edges
from ..formatting import in_words
from ..patching.circuits import Circuit
from ..patching.engine import PathPatching
from .kit import style
from .kit.drawing import circuit_svg, edges_svg
from .kit.explorer import FEW, Explorer, View, some_prompts
from .kit.html import Html, bold, html_table, interval_of, table_of

_TITLES = {
    "above_corrupted": "recovered above corrupted",
    "recovered": "recovered: circuit / clean",
    "prob_diff": "probability difference",
}
_THIN = {"color": "#b5bcc4", "width": 1}
_RANKINGS = (*(style.COLOURS[n] for n in ("clean", "partial", "reverse", "full")), *style.OTHERS)
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
    shown = curves[curves["edges"] > 0].copy()
    if shown.empty:
        raise ValueError("No circuit of these curves has an edge; follow them to larger shares.")
    unit = 1 if y == "prob_diff" else 100
    shown[["y", "low", "high"]] = unit * shown[[y, f"{y}_low", f"{y}_high"]]
    figure = go.Figure()
    adders = {"random": _add_random, "ranking": _add_ranking, "circuit": _add_circuit}
    for kind, add in adders.items():
        of_kind = shown[shown["kind"] == kind].groupby("name", sort=False)
        for i, (name, rows) in enumerate(of_kind):
            add(figure, str(name), rows, i)
    style.horizontal_lines(figure, colour=style.INK)
    style.lay_out(figure, title, 860, 482, "edges", _TITLES[y], showlegend=True)
    below = {"y": -0.2, "yanchor": "top"}  # many names: they need two lines
    figure.update_layout(legend=below, margin={"b": 130})
    followed = shown[shown["kind"] != "random"]
    first, last = (followed if len(followed) else shown)["edges"].min(), int(shown["edges"].max())
    axis = style.counts_axis(last) | {"range": [math.log10(0.8 * first), math.log10(1.1 * last)]}
    figure.update_xaxes(axis)
    figure.update_yaxes(ticksuffix="" if unit == 1 else " %")
    return figure


def _add_random(figure: go.Figure, name: str, rows: pd.DataFrame, number: int) -> None:
    look = {"mode": "lines", "line": _THIN, "legendgroup": "random", "showlegend": number == 0}
    _add_points(figure, name, rows, **look).name = "random rankings"


def _add_ranking(figure: go.Figure, name: str, rows: pd.DataFrame, number: int) -> None:
    """A ranking's line, and the band of its intervals: along the lower ends, back on the upper."""
    colour = _RANKINGS[number % len(_RANKINGS)]
    figure.add_scatter(
        x=[*rows["edges"], *rows["edges"][::-1]],
        y=[*rows["low"], *rows["high"][::-1]],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=colour,
        opacity=0.15,
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
    )
    look = {"line": {"color": colour, "width": 2}, "marker": {"size": 5}, "legendgroup": name}
    _add_points(figure, name, rows, mode="lines+markers", **look)


def _add_circuit(figure: go.Figure, name: str, rows: pd.DataFrame, number: int) -> None:
    marker = {"size": 11, "symbol": _POINTS[number % len(_POINTS)], "color": style.INK}
    bars = style.error_bars(rows["y"], rows["low"], rows["high"])
    _add_points(figure, name, rows, mode="markers", marker=marker, error_y=bars)


def _add_points(figure: go.Figure, name: str, rows: pd.DataFrame, **look: Any) -> go.Scatter:
    """What was measured over the number of edges; hover for the sizes."""
    words = f"<b>{name}</b><br>%{{x}} edges, %{{customdata}} components<br>%{{y:.3~g}}"
    figure.add_scatter(
        x=rows["edges"],
        y=rows["y"],
        name=name,
        customdata=rows["components"],
        hovertemplate=f"{words}<extra></extra>",
        **look,
    )
    return figure.data[-1]


def score_scatter(reference: EdgeScores, other: EdgeScores, n_named: int = 8) -> go.Figure:
    """Every edge's mean score by another method over the reference's, e.g. over exact effects.

    The edges that it gets most wrong are dark, and named where there is room. On the dotted line
    both agree; edges that are next to 0 in both are left out. Raises ValueError for scores of
    another graph.
    """
    every = worst_edges(reference, other, len(reference.graph))
    every = every.rename(columns={"reference": "x", "other": "y", "edge": "name"})
    every[["x", "y"]] *= 100
    sizes = every[["x", "y"]].abs()
    frame = every[(sizes > _QUIET * sizes.to_numpy().max(initial=0)).any(axis=1)]
    ranges = [style.with_room([0.0, *frame[column]], 0.12) for column in ("x", "y")]  # for names
    worst, rest = frame[:n_named], frame[n_named:]
    groups = {
        "the others": (style.COLOURS["clean"], rest),
        "the worst": (style.INK, worst.assign(text=_apart(worst, ranges))),
    }
    figure = style.points_against(groups, reference.method, other.method)
    titles = [f"{one.method} (percentage points)" for one in (reference, other)]
    style.lay_out(figure, None, 680, 492, *titles)
    figure.update_xaxes(range=ranges[0])
    figure.update_yaxes(range=ranges[1])
    return figure


def _apart(rows: pd.DataFrame, ranges: list[list[float]]) -> list[str]:
    """The names of edges in this order; empty for those whose names would lie on earlier ones."""
    wide, high = (end - start for start, end in ranges)
    names: list[str] = []
    taken: list[tuple[float, float]] = []
    for x, y, name in zip(rows["x"], rows["y"], rows["name"], strict=True):
        free = all(abs(x - a) > 0.25 * wide or abs(y - b) > 0.045 * high for a, b in taken)
        taken += [(x, y)] if free else []
        names.append(name if free else "")
    return names


def quality_table(frame: pd.DataFrame, note: str = "") -> Html:
    """Circuits as `quality.faithfulness` measured them: size, score, and both recovered shares."""
    columns = {
        "": lambda row: bold(row["name"]),
        "edges": lambda row: f"{row['edges']:,}",
        "components": lambda row: str(row["components"]),
    }
    columns |= {_TITLES[name]: interval_of(name) for name in reversed(_TITLES)}
    return table_of(frame.to_dict("records"), columns, note)


def agreement_table(frame: pd.DataFrame, found: str, reference: str) -> Html:
    """How far a named circuit agrees with a named reference, as `discovery.agreement` counts."""
    rows = [
        (
            bold(kind),
            *(f"{int(row[column]):,}" for column in ("found", "reference", "shared")),
            *(in_words(row[column], digits=0) for column in ("precision", "recall", "jaccard")),
        )
        for kind, row in frame.to_dict("index").items()
    ]
    ours, theirs = escape(found), escape(reference)
    of = ("shared", f"shared of {ours}", f"shared of {theirs}", "shared of all")
    note = "Links do not tell a head's q, k and v apart."
    return html_table(("", ours, theirs, *of), rows, note)


# ---- the discovery explorer -------------------------------------------------------------------

_DRAWN = 300  # edges, of which more cannot be told apart


def discovery_explorer(
    patching: PathPatching,
    scores: Sequence[EdgeScores],
    circuits: Mapping[str, Circuit] | None = None,
) -> Explorer:
    """Choose a method and a number of edges; see the circuit, what it recovers, and its agreement.

    Scores give a greedy circuit of so many edges, a `FoundCircuit` its strongest ones; any other
    of the named ``circuits`` is shown whole. Without a GPU some of the prompts are evaluated.
    """
    rankings, given = {one.method: one for one in scores}, dict(circuits or {})
    graph, few = scores[0].graph, patching
    if len(patching.dataset) > FEW and patching.model.device.type != "cuda":
        few = PathPatching(patching.model, some_prompts(patching.dataset, FEW))

    @cache
    def circuit_of(method: str, edges: int) -> Circuit | Tensor:
        if method in rankings:
            return greedy_edges(rankings[method], edges)
        found = given[method]
        return found.strongest(edges) if isinstance(found, FoundCircuit) else found

    @cache
    def measured(method: str, edges: int) -> pd.DataFrame:
        return faithfulness(few, graph, {method: circuit_of(method, edges)})

    def draw(method: str, edges: int, against: str) -> View:
        ours, theirs = (circuit_of(name, edges) for name in (method, against))
        both = pd.concat([measured(name, edges) for name in dict.fromkeys((method, against))])
        text: str = quality_table(both, _note(len(few.dataset), edges))
        text += agreement_table(agreement(graph, ours, theirs), method, against)
        drawn = circuit_of(method, min(edges, _DRAWN))
        return View(None, text + _drawing(graph, drawn, rankings.get(method)))

    counts = [count for count in counts_up_to(len(graph)) if count >= 10]
    options = [(f"{count:,}", count) for count in counts]
    return Explorer(
        draw,
        method=[*rankings, *given],
        edges=widgets.Dropdown(options=options, value=min(100, counts[-1])),
        against=[*given, *rankings],
    )


def _note(prompts: int, edges: int) -> str:
    stops = f"; it stops at {_DRAWN} edges" if edges > _DRAWN else ""
    return (
        f"Measured on {prompts} prompts; at most {edges:,} edges, but for circuits that are given "
        f"whole. The drawing's colours and numbers are the method's own scores{stops}."
    )


def _drawing(graph: EdgeGraph, circuit: Circuit | Tensor, ranking: EdgeScores | None) -> Html:
    """A circuit, or a ranking's edges as a mask, coloured by the method's own scores."""
    if not isinstance(circuit, Circuit):
        assert ranking is not None
        drawn = circuit.nonzero().flatten().tolist()
        return edges_svg(graph, circuit, {graph.names[n]: float(ranking.mean[n]) for n in drawn})
    if len(circuit.links) > _DRAWN:
        return edges_svg(graph, graph.edges_of(circuit))
    effects = {}
    if isinstance(circuit, FoundCircuit):
        effects = circuit.to_frame().set_index("edge")["effect"].to_dict()
    return circuit_svg(circuit, effects, positions=graph.shape.positions)
