"""Neurons and geometry: ranked effects, how many carry how much, principal components."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from .kit.style import COLOURS, LEGEND, LINES, TEMPLATE, colour_bar, colour_of, counts_axis


def neuron_effects(effects: Tensor, mlp: str, title: str | None = None) -> go.Figure:
    """Mean effect of every neuron [neuron] against its rank by size, the ranks on a log axis.

    Effects are changes of the probability difference: red, below 0, is a neuron that helps.
    """
    values = 100 * effects.detach().double().cpu().numpy()
    order = np.argsort(-np.abs(values), kind="stable")
    colours = np.where(values[order] < 0, COLOURS["corrupted"], COLOURS["clean"])
    figure = go.Figure(
        go.Scattergl(
            x=np.arange(1, len(order) + 1),
            y=values[order],
            mode="markers",
            customdata=order,
            marker={"size": 6, "color": colours},
            hovertemplate=f"{mlp} neuron %{{customdata}}<br>rank %{{x}}<br>%{{y:+.3f}} percentage "
            "points<extra></extra>",
        )
    )
    figure.add_hline(y=0, line={"color": LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=860,
        height=340 if title is None else 370,
        margin={"t": 36 if title is None else 64},
    )
    figure.update_xaxes(
        title={"text": f"neurons of {mlp}, by size of effect"}, **counts_axis(len(order))
    )
    figure.update_yaxes(title={"text": "change in probability<br>difference (pp)"})
    return figure


def share_curves(
    counts: Sequence[int], shares: Mapping[str, Sequence[float]], mlp: str, title: str | None = None
) -> go.Figure:
    """Shares of an MLP's direct effect that its first k neurons carry, a line per way to count."""
    figure = go.Figure()
    for name, values in shares.items():
        figure.add_scatter(
            x=list(counts),
            y=list(values),
            name=name,
            mode="lines+markers",
            line={"color": colour_of(name, shares), "width": 2},
            hovertemplate=f"{name}<br>%{{x}} neurons<br>%{{y:.1%}} of {mlp}<extra></extra>",
        )
    for y in (0, 1):
        figure.add_hline(y=y, line={"color": LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=860,
        height=380 if title is None else 430,
        margin={"t": 56 if title is None else 100},
        legend=LEGEND,
        showlegend=True,
    )
    figure.update_xaxes(title={"text": f"number of neurons of {mlp}"}, **counts_axis(counts[-1]))
    figure.update_yaxes(title={"text": f"share of {mlp}’s direct effect"}, tickformat=".0%")
    return figure


def pca_panels(
    points: Mapping[str, Tensor], explained: Mapping[str, Tensor], YY: Tensor
) -> go.Figure:
    """Prompts in the plane of the first two principal components, coloured by YY, a panel a place.

    ``points`` are [prompt, component] and ``explained`` [component] shares of variance by the same
    names. Every tenth YY is written beside a prompt of it.
    """
    columns = min(2, len(points))
    rows = math.ceil(len(points) / columns)
    years = YY.tolist()
    labelled = {
        years.index(year) for year in {*range(10, 99, 10), min(years), max(years)} & {*years}
    }
    figure = make_subplots(
        cols=columns,
        rows=rows,
        horizontal_spacing=0.12,
        vertical_spacing=0.3 / rows,
        subplot_titles=list(points),
    )
    for i, (name, xy) in enumerate(points.items()):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        x, y = xy.detach().double().cpu().numpy()[:, :2].T
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers+text",
            text=[f"{year:02d}" if n in labelled else "" for n, year in enumerate(years)],
            textposition="top center",
            textfont={"size": 11},
            customdata=years,
            marker={"size": 7, "color": years, "coloraxis": "coloraxis"},
            hovertemplate="YY = %{customdata:02d}<extra></extra>",
            showlegend=False,
            **place,
        )
        shares = [f"{100 * float(share):.0f} %" for share in explained[name][:2]]
        figure.update_xaxes(title={"text": f"component 1 ({shares[0]} of variance)"}, **place)
        figure.update_yaxes(title={"text": f"component 2 ({shares[1]})"}, **place)
    figure.update_layout(
        template=TEMPLATE,
        width=150 + 370 * columns,
        height=60 + 340 * rows,
        margin={"t": 40},
        coloraxis={"colorscale": "Viridis", "cmin": 2, "cmax": 98},
    )
    figure.update_layout(coloraxis_colorbar=colour_bar("start year YY"))
    figure.update_annotations(font_size=14)
    return figure
