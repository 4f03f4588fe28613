"""Notebook 2, path patching: a sweep's heatmap and its strongest senders, and the path explorer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.preview import Preview
from ..formatting import in_words, interval_in_words
from ..metrics import cutoff_sharpness, prob_diff
from ..model.components import component, inputs
from ..patching.engine import PathPatching, Sweep
from ..patching.paper import (
    CircuitParts,
    attention_sweeps,
    circuit_senders,
    early_sweeps,
    end_sweeps,
)
from .kit import style
from .kit.explorer import FEW, Explorer, View, some_prompts, typed_names
from .kit.html import Html, bold, table_of


def one_edge_drawing() -> Html:
    """Path patching in one picture: base run, patch run, and one edge between them patched."""
    return Html(files("gt_helpers").joinpath("data", "one_edge.svg").read_text(encoding="utf-8"))


def sweep_heatmap(sweep: Sweep, title: str | None = None, marked: Iterable[str] = ()) -> go.Figure:
    """A sweep as the paper draws it: layers from the top, heads and the MLP from left to right.

    Red is negative: patching the sender hurts. The colours reach to the largest size among the
    cells. Senders without any effect are grey. ``marked`` names components, such as a circuit's, to
    outline; names without a position are taken at the sweep's.
    """
    grid = sweep.shape.n_layers, sweep.shape.n_heads + 1
    names = np.array(sweep.senders[:-1], dtype=object).reshape(grid)  # the last is the embedding
    effect = style.array(sweep.effect)
    silent = (sweep.values[:-1] == 0).all(-1).reshape(grid).numpy()
    nothing = bool(silent.all())
    position = component(sweep.senders[0]).position
    figure = go.Figure(
        style.squares(
            effect if nothing else np.where(silent, np.nan, effect),
            "change in probability difference",
            signed=True,
            customdata=np.dstack([names, _hover_texts(sweep, names, silent)]),
            showscale=not nothing,
            opacity=0 if nothing else 1,  # a heatmap without any number would have no hover texts
            hoverongaps=True,
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        )
    )
    wanted = {name if "@" in name else f"{name}@{position}" for name in marked}
    style.outline_cells(figure, np.isin(names, list(wanted)))
    x_title = f"head at {position}"
    if sweep.embed:  # it has no cell
        x_title += "<br><span style='font-size:12px'>not in the grid: embedding at "
        x_title += f"{position}, {in_words(sweep.embed, 'points')}</span>"
    style.lay_out_grid(figure, sweep.shape.n_layers, sweep.shape.n_heads, title, x_title, mlp=True)
    figure.update_layout(plot_bgcolor=style.NO_EFFECT)
    return figure


def _hover_texts(sweep: Sweep, names: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """Every sender's effect; without one, whether layers and positions allow one at all."""
    receivers = inputs(sweep.receivers)

    def words(name: str, effect: float, is_silent: bool) -> str:
        if not is_silent:
            return in_words(effect, "points", 3)
        reached = any(sweep.shape.reaches(component(name), receiver) for receiver in receivers)
        return "no effect (exactly 0)" if reached else "cannot reach"

    return np.vectorize(words)(names, style.array(sweep.effect), silent)


def effects_heatmap(effects: pd.DataFrame, title: str | None = None) -> go.Figure:
    """Mean effects of components (columns), one row per sweep, as `compare_effects` gives them.

    Red is negative: patching hurts. Every row has its own scale, its largest effect; hover
    for the percentage points.
    """
    values = effects.to_numpy(float)
    limits = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    trace = style.squares(
        values / np.where(limits == 0, 1.0, limits),
        "effect / the row's largest",
        1,
        signed=True,
        x=list(effects.columns),
        y=[str(name) for name in effects.index],
        customdata=effects.map(lambda effect: in_words(effect, "points", 3)).to_numpy(),
        hovertemplate="<b>%{y}</b><br>%{x}: %{customdata}<extra></extra>",
    )
    figure = go.Figure(trace)
    width = 200 + 26 * max(len(effects.columns), 12)
    style.lay_out(figure, title, width, 110 + 30 * max(len(effects), 5))
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


def top_components(sweep: Sweep, parts: CircuitParts, n: int = 8) -> Html:
    """The strongest senders of a sweep, as `top_rows` gives them, as a table."""
    rows = top_rows(sweep, parts, n).to_dict("records")
    if not rows:
        return Html("<p>Every sender has exactly no effect.</p>")
    columns = {
        "component": lambda row: bold(row["component"]),
        "effect": lambda row: in_words(row["effect"], "points"),
        "95 % interval": lambda row: interval_in_words(row["low"], row["high"], "points"),
        "in the circuit": lambda row: "yes" if row["in_circuit"] else "no",
    }
    return table_of(rows, columns)


# ---- the path explorer ------------------------------------------------------------------------

_METRICS = {"probability difference": prob_diff, "cutoff sharpness": cutoff_sharpness}


def path_explorer(patching: PathPatching, parts: CircuitParts) -> Explorer:
    """Choose a route, the senders' position, the direction and the metric; see the sweep.

    Outlined is what feeds the route in the circuit. Sweeps are previews: their error, measured on a
    sample of exact cells, stands below.
    """
    every = Preview.of(patching if patching.base == "clean" else patching.reversed())
    n = len(patching.dataset)

    @lru_cache(maxsize=1)  # cached runs take memory: only those of the last choice are kept
    def fewer(prompts: int) -> Preview:
        return Preview(patching.model, some_prompts(patching.dataset, prompts))

    def draw(
        receivers: str, via: str, senders_at: str, direction: str, metric: str, prompts: int
    ) -> View:
        noising = every if prompts == n else fewer(prompts)
        chosen = noising if direction == "noising" else noising.reversed()
        chosen.forget()
        sweep = chosen.sweep(typed_names(receivers), typed_names(via), senders_at, _METRICS[metric])
        text = top_components(sweep, parts) + f"<p><small>{chosen.note()}</small></p>"
        return View(sweep_heatmap(sweep, marked=circuit_senders(parts, sweep)), text)

    at_first = n if patching.model.device.type == "cuda" else min(n, FEW)
    explorer = Explorer(
        draw,
        receivers=widgets.Text("logits"),
        via=widgets.Text(layout=widgets.Layout(width="420px")),
        senders_at=widgets.Dropdown(options=list(patching.dataset.positions), value="END"),
        direction=("noising", "denoising"),
        metric=tuple(_METRICS),
        prompts=widgets.IntSlider(at_first, 1, n),
    )
    fields = [explorer.controls[name] for name in ("receivers", "via", "senders_at")]
    explorer.children = (_route_menu(_routes(parts), fields), *explorer.children)
    return explorer


Route = tuple[str, str, str]  # receivers, via and the senders' position, as one types them


def _routes(parts: CircuitParts) -> dict[str, Route]:
    """The paper's sweeps by name."""

    def typed(receivers: Iterable[str], via: Iterable[str], senders_at: str) -> Route:
        return ", ".join(receivers), ", ".join(via), senders_at

    late = end_sweeps(typed, parts.mlps)
    routes = {f"to {'the logits' if to == 'logits' else to}": late[to] for to in late}
    if parts.heads:
        into = attention_sweeps(typed, parts)
        for part, word in (("q", "queries"), ("k", "keys"), ("v", "values")):
            routes[f"from YY to the heads' {word}"] = into[part]
        for mlp, route in early_sweeps(typed, parts, parts.early_mlps).items():
            routes[f"from YY to {mlp} at YY"] = route
    return routes


def _route_menu(routes: dict[str, Route], fields: list[widgets.Widget]) -> widgets.Dropdown:
    """A menu that fills in the fields, and shows that it no longer does once one is changed."""
    own = "(as typed below)"
    wide = widgets.Layout(width="420px")
    menu = widgets.Dropdown(options=[*routes, own], description="route", layout=wide)

    def fill_in(change: dict[str, Any]) -> None:
        for field, value in zip(fields, routes.get(change["new"], ()), strict=False):
            field.value = value

    def follow(change: dict[str, Any]) -> None:  # so that every route can be chosen again
        chosen = routes.get(menu.value)
        if chosen and change["new"] != chosen[fields.index(change["owner"])]:
            menu.value = own

    menu.observe(fill_in, names="value")
    for field in fields:
        field.observe(follow, names="value")
    return menu
