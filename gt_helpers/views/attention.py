"""Notebook 3, attention: patterns, what END looks at, maps of all heads, and CircuitsVis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from ..analysis.attention import attention_pattern
from ..dataset.year_dataset import YearDataset
from ..model.cache import ActivationCache
from ..model.components import component
from .kit import style
from .kit.explorer import Explorer, View, circuit_first
from .kit.html import html_table

_WANTED = (
    "one entry for each position, e.g. attention_pattern(cache, 'a7.h10').mean(0) or its last row"
)


def pattern_heatmap(
    pattern: Float[Tensor, "query key"],
    names: Iterable[str],
    title: str | None = None,
    zmax: float | None = 1.0,
    label: str = "attention",
) -> go.Figure:
    """A head's pattern, a named position per row and column, END at the bottom.

    The colours reach from 0 to zmax (None: to the largest entry); later keys are grey. Raises
    ValueError if the pattern does not have one row and one column for each name.
    """
    names = list(names)
    n = len(names)
    style.check_shape("The pattern", pattern, [n, n], _WANTED)
    later = np.triu(np.ones((n, n), dtype=bool), 1)
    figure = _looks(np.where(later, np.nan, style.array(pattern)), names, names, zmax, label)
    style.lay_out(figure, title, 210 + 34 * max(n, 8), 110 + 30 * max(n, 8), y="query: looks from")
    figure.update_layout(plot_bgcolor=style.NO_EFFECT)
    return figure


def looks_heatmap(
    looks: Mapping[str, Float[Tensor, " key"]],
    names: Iterable[str],
    title: str | None = None,
    zmax: float | None = 1.0,
    label: str = "attention",
) -> go.Figure:
    """What one position looks at through several heads: a row of a pattern for every head.

    The colours reach from 0 to zmax (None: to the largest entry). Raises ValueError unless there
    are heads, and one entry of each for every name.
    """
    names = list(names)
    for head, row in looks.items():
        style.check_shape(head, row, [len(names)], _WANTED)
    cells = np.stack([style.array(row) for row in looks.values()])
    figure = _looks(cells, list(looks), names, zmax, label)
    style.lay_out(figure, title, 210 + 38 * max(len(names), 8), 110 + 30 * max(len(looks), 5))
    return figure


def _looks(
    cells: np.ndarray, rows: list[str], keys: list[str], zmax: float | None, label: str
) -> go.Figure:
    """Who (rows, from the top) looks how much at which keys."""
    figure = go.Figure(
        _named(cells, [[f"{row} → {key}" for key in keys] for row in rows], zmax, label)
    )
    figure.update_xaxes(style.named_ticks(keys), title={"text": "key: looks at"}, tickangle=-45)
    figure.update_yaxes(style.named_ticks(rows, upside_down=True))
    return figure


def _named(cells: np.ndarray, names: list[list[str]], zmax: float | None, label: str) -> go.Heatmap:
    """Squares in blues, each with its name in the hover text."""
    hover = f"<b>%{{customdata}}</b><br>{label} %{{z:.3f}}<extra></extra>"
    return style.squares(cells, label, zmax, customdata=names, hovertemplate=hover)


def head_map(
    values: Float[Tensor, "layer head"],
    title: str | None = None,
    label: str = "attention",
    zmax: float | None = None,
    marked: Iterable[str] = (),
) -> go.Figure:
    """A value of every head, 0 or more: layers from the top, heads left to right.

    The colours reach from 0 to zmax (by default the largest value). ``marked`` names heads, such as
    a circuit's, to outline.
    """
    n_layers, n_heads = values.shape
    names = [[f"a{layer}.h{head}" for head in range(n_heads)] for layer in range(n_layers)]
    figure = go.Figure(_named(style.array(values), names, zmax, label))
    wanted = [component(name, "head").label for name in marked]
    # Black would not show on dark blue, nor which of two neighbours a shared edge belongs to.
    style.outline_cells(figure, np.isin(names, wanted), style.COLOURS["reverse"], half=0.45)
    style.lay_out_grid(figure, n_layers, n_heads, title, "head")
    return figure


_MOST_HEADS = 12  # CircuitsVis draws every head at once, which is slow beyond


def attention_html(
    tokens: Sequence[str], patterns: Mapping[str, Float[Tensor, "query key"]]
) -> str:
    """CircuitsVis' view of a handful of heads' patterns on one prompt, as HTML.

    The HTML (1.3 MB) holds its script, so that it shows without a network:
    ``IPython.display.HTML(attention_html(...))``. Raises ValueError for no heads, for more than 12,
    and for patterns that do not fit the tokens.
    """
    from circuitsvis.attention import attention_heads

    n = len(tokens)
    if not 1 <= len(patterns) <= _MOST_HEADS:
        raise ValueError(
            f"{len(patterns)} heads are given; choose 1 to {_MOST_HEADS} of them, "
            "e.g. {'a7.h10': attention_pattern(cache, 'a7.h10')[0]}."
        )
    for head, pattern in patterns.items():
        style.check_shape(head, pattern, [n, n], _WANTED)
    stacked = torch.stack([pattern.detach().cpu() for pattern in patterns.values()])
    shown = attention_heads(stacked, list(tokens), list(patterns), max_value=1.0, min_value=0.0)
    # It fills its column's width, and leaves a <div> open.
    return f'<div style="max-width:780px">{shown.local_src}</div></div>'


_WEIGHTINGS = {"attention": False, "attention × norm moved": True}


def attention_explorer(
    cache: ActivationCache, dataset: YearDataset, heads: Sequence[str] = ()
) -> Explorer:
    """Choose a head, plain or value-weighted attention and some YYs; see the mean pattern.

    ``cache`` holds the dataset's clean prompts; ``heads``, such as a circuit's, are listed first.
    """
    names = list(dataset.positions)
    decades = {
        f"{YY:02d} to {YY + 9:02d}": (dataset.YY // 10 == YY // 10) for YY in range(0, 99, 10)
    }
    prompts = {"all": dataset.YY >= 0, **{name: d for name, d in decades.items() if d.any()}}

    def draw(head: str, shown: str, prompts_YY: str) -> View:
        chosen = prompts[prompts_YY]
        pattern = attention_pattern(cache, head, _WEIGHTINGS[shown])[chosen].mean(0)
        rows = [
            (names[key], f"{float(pattern[-1, key]):.3f}")
            for key in pattern[-1].argsort(descending=True)[:5].tolist()
        ]
        title = f"{head}, mean over {int(chosen.sum())} prompts"
        zmax = None if _WEIGHTINGS[shown] else 1.0
        figure = pattern_heatmap(pattern, names, title, zmax, shown)
        return View(figure, html_table(("END looks at", shown), rows))

    senders = cache.model.shape(["END"]).senders("END")
    others = [sender.label for sender in senders if sender.kind == "head"]
    return Explorer(
        draw,
        head=circuit_first(heads, others),
        shown=tuple(_WEIGHTINGS),
        prompts_YY=list(prompts),
    )
