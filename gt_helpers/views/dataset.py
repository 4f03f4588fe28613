"""Notebook 1, the dataset: prompts token by token, end years by YY, the pool of start years."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from ..dataset.corruptions import CORRUPTIONS
from ..dataset.prompts import YEAR_STRINGS, load_nouns, token_text
from ..dataset.year_dataset import YearDataset
from ..formatting import in_words
from ..metrics import FIRST_YY, LAST_YY, prob_diff
from ..model.transformer import Transformer
from ..patching.engine import PathPatching
from .kit import style
from .kit.explorer import Explorer, View
from .kit.html import Html, bold, html_table

_CHANGED = "background:#c0392b;color:white;border-radius:3px;padding:0 3px"


def token_table(dataset: YearDataset, prompt: int, tokenizer: object) -> Html:
    """One prompt token by token: position, clean and corrupted token with id, changes marked."""

    def code(token: int, style: str = "") -> str:
        text = repr(token_text(tokenizer, token))  # type: ignore[arg-type]
        return f'<code style="{style}">{escape(text)}</code>'

    rows = []
    pairs = zip(dataset.clean[prompt].tolist(), dataset.corrupted[prompt].tolist(), strict=True)
    for (name, index), (clean, corrupted) in zip(dataset.positions.items(), pairs, strict=True):
        other = code(corrupted, _CHANGED if clean != corrupted else "")
        rows.append((str(index), bold(name), code(clean), str(clean), other, str(corrupted)))
    head = ("", "position", "clean token", "id", "corrupted token", "id")
    return html_table(head, rows)


def year_heatmap(
    probs: Float[Tensor, "YY year"],
    title: str | None = None,
    zmax: float | None = 0.25,
    quantity: str = "probability",
) -> go.Figure:
    """Probabilities of every end year, YY 02 to 98 from the top (section 2)."""
    figure = year_heatmaps({"": probs}, zmax, quantity)
    style.lay_out(figure, title, 620, 520)
    return figure


def year_heatmaps(
    probs: Mapping[str, Float[Tensor, "YY year"]],
    zmax: float | None = 0.25,
    quantity: str = "probability",
) -> go.Figure:
    """Several probability heatmaps side by side, on one colour scale from 0 to zmax.

    The paper's zmax is the default; None takes what all but the highest 0.5 % of cells stay below.
    Raises ValueError for no tables, or another shape than [97, 100].
    """
    figure, places = style.year_panels(
        probs, "predicted end year", len(probs), (280, 320), (24, 0), shared_yaxes=True
    )
    if zmax is None:
        cells = torch.stack([table.detach().double().cpu() for table in probs.values()])
        zmax = math.ceil(100 * float(cells[~cells.isnan()].quantile(0.995))) / 100
    for place, (name, table) in zip(places, probs.items(), strict=True):
        trace = style.year_cells(table, name, quantity, coloraxis="coloraxis")
        figure.add_trace(trace, **place)
    scale = {"colorscale": "Blues", "cmin": 0, "cmax": zmax}
    figure.update_layout(coloraxis=scale, coloraxis_colorbar_title_text=quantity)
    return figure


def year_curve(curves: Mapping[str, Float[Tensor, " year"]], YY: int) -> go.Figure:
    """Probabilities of every end year for one YY, one curve per name, a line at YY."""
    hover = "end year %{x:02d}<br>probability %{y:.4f}"
    figure = style.lines(curves, range(100), hover, "lines+markers")
    figure.update_traces(marker={"size": 4})
    figure.add_vline(
        x=YY,
        line={"color": style.INK, "width": 1, "dash": "dot"},
        annotation_text=f"YY = {YY:02d}",
        annotation_position="top right" if YY < 50 else "top left",
    )
    style.lay_out(figure, None, 860, 360, "predicted end year", "probability", legend=True)
    figure.update_xaxes(style.years_axis(), range=[-1, 100])
    # The label of YY needs room above the curves.
    peak = max((float(v.nan_to_num(0.0).max()) for v in curves.values()), default=0.0)
    figure.update_yaxes(range=[0, 1.15 * peak or 1.0])
    return figure


def metric_by_YY(
    curves: Mapping[str, Float[Tensor, " YY"]],
    metric: str = "probability difference",
    title: str | None = None,
) -> go.Figure:
    """A metric for YY 02 to 98, one line per name; a YY without a prompt leaves a gap."""
    hover = f"YY = %{{x:02d}}<br>{metric} %{{y:.3f}}"
    figure = style.lines(curves, range(FIRST_YY, LAST_YY + 1), hover)
    style.horizontal_lines(figure)
    style.lay_out(figure, title, 860, 360, "start year YY", metric, legend=True)
    figure.update_xaxes(style.years_axis(FIRST_YY, LAST_YY), range=[0, 100])
    return figure


_STATUS_COLOURS = {
    "kept": "#1f5fa8",
    "first or last": "#9dbcdd",
    "one token": "#d17f1f",
    "other split": "#c9ced4",
}


def year_pool_map(pool: pd.DataFrame, title: str | None = None) -> go.Figure:
    """Which start years can be drawn, century by YY, and why the others cannot (`year_pool`)."""
    grid = pool.pivot(index="century", columns="YY")
    centuries = [str(century) for century in grid.index]
    figure = go.Figure()
    for name, colour in _STATUS_COLOURS.items():
        has_it = grid["status"] == name
        figure.add_heatmap(
            x=list(range(100)),
            y=centuries,
            z=np.where(has_it, 1.0, np.nan),
            name=f"{name} ({has_it.to_numpy().sum()})",
            showlegend=True,
            customdata=np.dstack([grid["year"], grid["tokens"]]),
            colorscale=[[0, colour], [1, colour]],
            showscale=False,
            ygap=2,
            hovertemplate=f"<b>%{{customdata[0]}}</b><br>%{{customdata[1]}}<br>{name}<extra></extra>",
        )
    height = 140 + 24 * len(centuries)
    style.lay_out(
        figure, title, 900, height, "last two digits of the year, YY", "century", legend=True
    )
    figure.update_xaxes(style.years_axis(), showgrid=False, range=[-0.5, 99.5])
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return figure


def prompt_tracer(model: Transformer) -> Explorer:
    """Choose noun, start year and corruption; see both prompts and the model's end years."""

    def draw(noun: str, start_year: int, corruption: str) -> View:
        other = next(word for word in load_nouns() if word != noun)  # for the corruption "noun"
        drawn = YearDataset(
            model.tokenizer, 16, years=[start_year], nouns=[noun, other], corruption=corruption
        )
        dataset = drawn[drawn.nouns.index(noun)]
        patching = PathPatching(model, dataset)
        texts = {"clean": dataset.clean_text[0], "corrupted": dataset.corrupted_text[0]}
        probs = {"clean": patching.base_probs, "corrupted": patching.patch_probs}
        rows = [
            (
                bold(name),
                escape(text),
                f"{YEAR_STRINGS[int(probs[name][0].argmax())]} ({float(probs[name].max()):.1%})",
                in_words(float(prob_diff(probs[name], dataset.YY)), digits=1),
            )
            for name, text in texts.items()
        ]
        head = (
            "",
            "prompt",
            "top end year",
            f"probability difference for YY = {start_year % 100:02d}",
        )
        figure = year_curve({name: found[0] for name, found in probs.items()}, start_year % 100)
        return View(figure, html_table(head, rows) + token_table(dataset, 0, model.tokenizer))

    return Explorer(
        draw,
        noun=widgets.Dropdown(options=load_nouns(), value="plague"),
        start_year=widgets.IntSlider(1732, 1000, 1899),
        corruption=list(CORRUPTIONS),
    )
