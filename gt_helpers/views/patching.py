"""Path patching: a sweep's heatmap, and the effects of some components in several settings."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..model.components import component, inputs
from ..patching.engine import Sweep
from ..patching.paper import CircuitParts, circuit_senders
from .kit.style import GREY, MINUS, TEMPLATE, colour_bar, lay_out_grid, outline_cells, tick_step


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
    words = np.vectorize(lambda value: f"{100 * value:+.3f}".translate(MINUS))(effect)

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
            colorbar=colour_bar("change in probability difference"),
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
            **GREY,
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        )
    position = component(sweep.senders[0]).position
    wanted = {name if "@" in name else f"{name}@{position}" for name in marked}
    outline_cells(figure, np.isin(names, list(wanted)))
    lay_out_grid(figure, n_layers, columns, title)
    heads = list(range(0, columns - 1, tick_step(columns - 1)))
    x_title = f"head at {position}"
    if sweep.embed:
        value = f"{100 * sweep.embed:+.2f}".translate(MINUS)
        x_title += (
            f"<br><span style='font-size:12px'>not in the grid: embedding at {position}, {value} "
            "percentage points</span>"
        )
    figure.update_xaxes(
        title={"text": x_title},
        tickvals=[*heads, columns - 1],
        ticktext=[*map(str, heads), "MLP"],
    )
    return figure


def effects_heatmap(
    effects: pd.DataFrame, title: str | None = None, zmax: float | None = None
) -> go.Figure:
    """Mean effects of components (columns), one row per sweep, as `compare_effects` gives them.

    Red is negative: patching hurts. Every row has its own scale, its largest effect, unless
    ``zmax`` gives one for all; hover for the percentage points.
    """
    values = effects.to_numpy(float)
    limits = np.abs(values).max(axis=1, keepdims=True, initial=0.0) if zmax is None else zmax
    words = np.vectorize(lambda value: f"{100 * value:+.3f}".translate(MINUS))(values)
    figure = go.Figure(
        go.Heatmap(
            x=list(effects.columns),
            y=[str(name) for name in effects.index],
            z=values / np.where(limits == 0, 1.0, limits),
            customdata=words,
            colorscale="RdBu",
            zmin=-1,
            zmax=1,
            zmid=0,
            xgap=1,
            ygap=1,
            hovertemplate="<b>%{y}</b><br>%{x}: %{customdata} percentage points<extra></extra>",
            colorbar=colour_bar(
                "effect / the row's largest" if zmax is None else f"effect / {100 * zmax:g} points"
            )
            | {"nticks": 5},
        )
    )
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=200 + 26 * max(len(effects.columns), 12),
        height=(110 if title is None else 138) + 30 * max(len(effects), 5),
        margin={"t": 36 if title is None else 64},
    )
    figure.update_xaxes(type="category", tickangle=-45, dtick=1, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", dtick=1, showgrid=False)
    return figure


def top_rows(sweep: Sweep, parts: CircuitParts | None, n: int = 8) -> pd.DataFrame:
    """The n strongest senders of a sweep, without those that have exactly no effect.

    Columns component, effect, low and high (95 % interval), and in_circuit: whether the full
    circuit of ``parts`` connects the sender to one of the sweep's receivers. So a0.h3@YY, which
    feeds heads only, is not in the circuit of a sweep into m1@YY.
    """
    table = sweep.to_frame()[["component", "effect", "low", "high"]]
    table = table[table["effect"] != 0].head(n)
    return table.assign(in_circuit=table["component"].isin(circuit_senders(parts, sweep)))
