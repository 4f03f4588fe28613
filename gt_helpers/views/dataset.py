"""End years: probability heatmaps, one row as a curve, metrics by YY, and the pool of years."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..metrics import FIRST_YY, LAST_YY
from .kit.style import (
    INK,
    LEGEND,
    LINES,
    TEMPLATE,
    check_year_tables,
    colour_bar,
    colour_of,
    years_axis,
)


def year_heatmap(
    probs: Tensor,
    title: str | None = None,
    zmax: float | None = 0.25,
    quantity: str = "probability",
) -> go.Figure:
    """Probabilities [YY, year] of every end year, YY 02 to 98 from the top (section 2)."""
    figure = year_heatmaps({"": probs}, zmax, quantity)
    figure.update_layout(
        title=title, width=620, height=550 if title else 520, margin={"t": 64 if title else 36}
    )
    return figure


def year_heatmaps(
    probs: Mapping[str, Tensor], zmax: float | None = 0.25, quantity: str = "probability"
) -> go.Figure:
    """Several probability heatmaps [YY, year] side by side, on one colour scale from 0 to zmax.

    The paper's zmax is the default; None takes what all but the highest 0.5 % of cells stay below.
    """
    check_year_tables(probs)
    if zmax is None:
        cells = torch.stack([table.detach().double().cpu() for table in probs.values()])
        zmax = math.ceil(100 * float(cells[~cells.isnan()].quantile(0.995))) / 100
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
            f"end year %{{x:02d}}<br>{quantity} %{{z:.4f}}<extra></extra>",
            row=1,
            col=column,
        )
    figure.update_layout(
        template=TEMPLATE,
        width=165 + 300 * len(probs),
        height=420,
        coloraxis={
            "colorscale": "Blues",
            "cmin": 0,
            "cmax": zmax,
            "colorbar": colour_bar(quantity),
        },
        margin={"t": 48},
    )
    figure.update_annotations(font_size=14)
    figure.update_xaxes(title={"text": "predicted end year"}, showgrid=False, **years_axis(99))
    figure.update_yaxes(
        showgrid=False, range=[LAST_YY + 0.5, FIRST_YY - 0.5], **years_axis(LAST_YY)
    )
    figure.update_yaxes(title={"text": "start year YY"}, col=1)
    return figure


_STATUS_COLOURS = {
    "kept": "#1f5fa8",
    "first or last": "#9dbcdd",
    "one token": "#d17f1f",
    "other split": "#c9ced4",
}


def year_pool_map(pool: pd.DataFrame, title: str | None = None) -> go.Figure:
    """Which start years can be drawn, century by YY, and why the others cannot (`year_pool`)."""
    names = list(_STATUS_COLOURS)
    if unknown := set(pool["status"]) - set(names):
        raise ValueError(
            f"The status {sorted(unknown)[0]!r} is unknown; give year_pool(tokenizer)."
        )
    grid = pool.assign(code=pool["status"].map(names.index)).pivot(index="century", columns="YY")
    centuries = [str(century) for century in grid.index]
    figure = go.Figure()
    for code, name in enumerate(names):
        figure.add_heatmap(
            x=list(range(100)),
            y=centuries,
            z=grid["code"].where(grid["code"] == code).to_numpy(float),
            customdata=np.dstack([grid["year"].to_numpy(object), grid["tokens"].to_numpy(object)]),
            colorscale=[[0, _STATUS_COLOURS[name]], [1, _STATUS_COLOURS[name]]],
            showscale=False,
            xgap=1,
            ygap=2,
            hoverongaps=False,
            hovertemplate=f"<b>%{{customdata[0]}}</b><br>%{{customdata[1]}}<br>{name}<extra></extra>",
        )
        # A heatmap has no entry in the legend; an empty square stands in for it.
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=f"{name} ({int((pool['status'] == name).sum())})",
            marker={"symbol": "square", "size": 12, "color": _STATUS_COLOURS[name]},
        )
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=900,
        height=(130 if title is None else 180) + 24 * len(centuries),
        margin={"t": 40 if title is None else 90},
        legend=LEGEND,
    )
    figure.update_xaxes(
        title={"text": "last two digits of the year, YY"},
        showgrid=False,
        range=[-0.5, 99.5],
        **years_axis(99),
    )
    figure.update_yaxes(
        title={"text": "century"},
        type="category",
        categoryorder="array",
        categoryarray=centuries[::-1],
        showgrid=False,
    )
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
            line={"color": colour_of(name, curves), "width": 2},
            marker={"size": 4},
            hovertemplate=f"{name}<br>end year %{{x:02d}}<br>probability %{{y:.4f}}<extra></extra>",
        )
    figure.add_vline(x=YY, line={"color": INK, "width": 1, "dash": "dot"})
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
        template=TEMPLATE,
        title=title,
        width=860,
        height=height,
        margin={"t": 40 if title is None else 90},
        legend=LEGEND,
    )
    figure.update_xaxes(title={"text": "predicted end year"}, range=[-1, 100], **years_axis(99))
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
            line={"color": colour_of(name, lines), "width": 2},
            hovertemplate=f"{name}<br>YY = %{{x:02d}}<br>{metric} %{{y:.3f}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=860,
        height=360 if title is None else 400,
        margin={"t": 40 if title is None else 90},
        legend=LEGEND,
    )
    figure.update_xaxes(title={"text": "start year YY"}, range=[0, 100], **years_axis(LAST_YY))
    figure.update_yaxes(title={"text": metric})
    return figure
