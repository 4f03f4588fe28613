"""Attention: patterns, what END looks at, maps of all heads, and CircuitsVis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from ..model.components import component
from .kit.style import (
    COLOURS,
    GREY,
    TEMPLATE,
    colour_bar,
    largest_size,
    lay_out_grid,
    outline_cells,
    tick_step,
)


def pattern_heatmap(
    pattern: Tensor,
    names: Iterable[str],
    title: str | None = None,
    zmax: float | None = 1.0,
    label: str = "attention",
) -> go.Figure:
    """A head's pattern [query, key], a named position per row and column, END at the bottom.

    The colours reach from 0 to zmax (None: to the largest entry); later keys are grey. Raises
    ValueError if the pattern does not have one row and one column for each name.
    """
    names = list(names)
    n = len(names)
    if pattern.shape != (n, n):
        raise ValueError(
            f"The pattern has the shape {list(pattern.shape)}; it must be [{n}, {n}], one row and "
            "one column per name, e.g. pattern_heatmap(attention.mean(0), dataset.positions)."
        )
    later = np.triu(np.ones((n, n), dtype=bool), 1)
    cells = np.where(later, np.nan, pattern.detach().double().cpu().numpy())
    hover = [[f"{query} → {key}" for key in names] for query in names]
    figure = go.Figure(_blues(cells, hover, zmax, label))
    figure.add_heatmap(z=np.where(later, 1.0, np.nan), **GREY, hoverinfo="skip")
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=210 + 34 * max(n, 8),
        height=(110 if title is None else 138) + 30 * max(n, 8),
        margin={"t": 36 if title is None else 64},
    )
    ticks = {"tickvals": list(range(n)), "ticktext": names, "showgrid": False}
    figure.update_xaxes(
        title={"text": "key: looks at"}, range=[-0.5, n - 0.5], tickangle=-45, **ticks
    )
    figure.update_yaxes(title={"text": "query: looks from"}, range=[n - 0.5, -0.5], **ticks)
    return figure


def looks_heatmap(
    looks: Mapping[str, Tensor],
    names: Iterable[str],
    title: str | None = None,
    zmax: float | None = 1.0,
    label: str = "attention",
) -> go.Figure:
    """What one position looks at through several heads: a row [key] of a pattern for every head.

    The colours reach from 0 to zmax (None: to the largest entry). Raises ValueError for no heads
    and for rows that do not have one entry for each name.
    """
    names = list(names)
    if not looks or any(row.shape != (len(names),) for row in looks.values()):
        raise ValueError(
            f"Give one row of {len(names)} keys for each of one or more heads, e.g. "
            "looks_heatmap({'a7.h10': pattern.mean(0)[-1]}, dataset.positions)."
        )
    cells = np.stack([row.detach().double().cpu().numpy() for row in looks.values()])
    figure = go.Figure(
        _blues(cells, [[f"{head} → {key}" for key in names] for head in looks], zmax, label)
    )
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=210 + 38 * max(len(names), 8),
        height=(110 if title is None else 138) + 30 * max(len(looks), 5),
        margin={"t": 36 if title is None else 64},
    )
    figure.update_traces(colorbar_nticks=5)
    figure.update_xaxes(
        title={"text": "key: looks at"},
        tickvals=list(range(len(names))),
        ticktext=names,
        tickangle=-45,
        showgrid=False,
    )
    figure.update_yaxes(
        tickvals=list(range(len(looks))),
        ticktext=list(looks),
        range=[len(looks) - 0.5, -0.5],
        showgrid=False,
    )
    return figure


def head_map(
    values: Tensor,
    title: str | None = None,
    label: str = "attention",
    zmax: float | None = None,
    marked: Iterable[str] = (),
) -> go.Figure:
    """A value of every head [layer, head], 0 or more: layers from the top, heads left to right.

    The colours reach from 0 to zmax (by default the largest value). ``marked`` names heads, such as
    a circuit's, to outline.
    """
    n_layers, n_heads = values.shape
    cells = values.detach().double().cpu().numpy()
    names = [[f"a{layer}.h{head}" for head in range(n_heads)] for layer in range(n_layers)]
    figure = go.Figure(_blues(cells, names, zmax, label))
    # Black would not show on dark blue, nor which of two neighbours a shared edge belongs to.
    wanted = [component(name).label for name in marked]
    outline_cells(figure, np.isin(names, wanted), COLOURS["reverse"], half=0.45)
    lay_out_grid(figure, n_layers, n_heads, title)
    heads = list(range(0, n_heads, tick_step(n_heads)))
    figure.update_xaxes(title={"text": "head"}, tickvals=heads, ticktext=[str(h) for h in heads])
    return figure


_MOST_HEADS = 12  # CircuitsVis draws every head at once, which is slow beyond


def attention_html(tokens: Sequence[str], patterns: Mapping[str, Tensor]) -> str:
    """CircuitsVis' view of a handful of heads' patterns [query, key] on one prompt, as HTML.

    The HTML (1.3 MB) holds its script, so that it shows without a network:
    ``IPython.display.HTML(attention_html(...))``. Raises ValueError for no heads, for more than 12,
    and for patterns that do not fit the tokens.
    """
    from circuitsvis.attention import attention_heads

    n = len(tokens)
    if not 1 <= len(patterns) <= _MOST_HEADS:
        raise ValueError(
            f"{len(patterns)} heads are given; choose 1 to {_MOST_HEADS} of them, "
            "e.g. {'a7.h10': attention_pattern(run, 'a7.h10')[0]}."
        )
    for name, pattern in patterns.items():
        if pattern.shape != (n, n):
            raise ValueError(
                f"The pattern of {name} has the shape {list(pattern.shape)}; it must be "
                f"[{n}, {n}], one row and one column for each of the {n} tokens of one prompt."
            )
    shown = attention_heads(
        torch.stack([pattern.detach().cpu() for pattern in patterns.values()]),
        list(tokens),
        list(patterns),
        max_value=1.0,
        min_value=0.0,
    )
    # It fills its column's width, and leaves a <div> open.
    return f'<div style="max-width:780px">{shown.local_src}</div></div>'


def _blues(cells: np.ndarray, hover: list[list[str]], zmax: float | None, label: str) -> go.Heatmap:
    """Cells of 0 or more, coloured up to zmax (None: the largest cell), with a hover text each."""
    return go.Heatmap(
        z=cells,
        customdata=hover,
        colorscale="Blues",
        zmin=0,
        zmax=largest_size(cells) if zmax is None else zmax,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate=f"<b>%{{customdata}}</b><br>{label} %{{z:.3f}}<extra></extra>",
        colorbar=colour_bar(label),
    )
