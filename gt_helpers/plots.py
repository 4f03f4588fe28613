"""Figures from results, in plotly: nothing is computed here but layout.

Every function returns a ``go.Figure`` of a fixed size that fits a notebook and the report alike;
only ``attention_html`` returns CircuitsVis' HTML.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from .components import component, inputs
from .metrics import FIRST_YY, LAST_YY
from .path_patching import Sweep

COLOURS = {
    "clean": "#1f5fa8",
    "corrupted": "#c0392b",
    "partial": "#2a8a6a",
    "full": "#7a4fa0",
    "reverse": "#d17f1f",
}
_OTHERS = ("#4d4d4d", "#8c6d31", "#17869e", "#b0578d", "#6f9a2a", "#e07f66", "#8089d6")
_INK, _LINES, _UNREACHED = "#25292e", "#c9ced4", "#e9ebee"
_MINUS = str.maketrans("-", "−")
_GREY = {
    "colorscale": [[0, _UNREACHED], [1, _UNREACHED]],
    "showscale": False,
    "xgap": 1,
    "ygap": 1,
    "hoverongaps": False,
}

_AXIS = {
    "showline": True,
    "linecolor": _LINES,
    "ticks": "outside",
    "tickcolor": _LINES,
    "ticklen": 4,
    "gridcolor": "#eceff2",
    "zeroline": False,
    "title": {"standoff": 8, "font": {"size": 14}},
    "automargin": True,
}
_TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif",
            "size": 13,
            "color": _INK,
        },
        "title": {
            "font": {"size": 16},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "yref": "container",
        },
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": [*COLOURS.values(), *_OTHERS],
        "margin": {"l": 64, "r": 24, "t": 64, "b": 56},
        "modebar": {
            "bgcolor": "rgba(255,255,255,0)",
            "remove": [
                *("select", "lasso", "zoomIn", "zoomOut", "pan", "autoScale"),
                *("sendChartToCloud", "sendDataToCloud"),
            ],
        },
        "hoverlabel": {"bgcolor": "white", "bordercolor": _LINES, "font": {"color": _INK}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


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
    words = np.vectorize(lambda value: f"{100 * value:+.3f}".translate(_MINUS))(effect)

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
            colorbar=_colorbar("change in probability difference"),
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
            **_GREY,
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        )
    position = component(sweep.senders[0]).position
    wanted = {name if "@" in name else f"{name}@{position}" for name in marked}
    _outline(figure, np.isin(names, list(wanted)))
    _lay_out_grid(figure, n_layers, columns, title)
    heads = list(range(0, columns - 1, _step(columns - 1)))
    x_title = f"head at {position}"
    if sweep.embed:
        value = f"{100 * sweep.embed:+.2f}".translate(_MINUS)
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
    _check_year_tables(probs)
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
        template=_TEMPLATE,
        width=165 + 300 * len(probs),
        height=420,
        coloraxis={
            "colorscale": "Blues",
            "cmin": 0,
            "cmax": zmax,
            "colorbar": _colorbar(quantity),
        },
        margin={"t": 48},
    )
    figure.update_annotations(font_size=14)
    figure.update_xaxes(title={"text": "predicted end year"}, showgrid=False, **_years(99))
    figure.update_yaxes(showgrid=False, range=[LAST_YY + 0.5, FIRST_YY - 0.5], **_years(LAST_YY))
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
        template=_TEMPLATE,
        title=title,
        width=900,
        height=(130 if title is None else 180) + 24 * len(centuries),
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
    )
    figure.update_xaxes(
        title={"text": "last two digits of the year, YY"},
        showgrid=False,
        range=[-0.5, 99.5],
        **_years(99),
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
            line={"color": _colour(name, curves), "width": 2},
            marker={"size": 4},
            hovertemplate=f"{name}<br>end year %{{x:02d}}<br>probability %{{y:.4f}}<extra></extra>",
        )
    figure.add_vline(x=YY, line={"color": _INK, "width": 1, "dash": "dot"})
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
        template=_TEMPLATE,
        title=title,
        width=860,
        height=height,
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
    )
    figure.update_xaxes(title={"text": "predicted end year"}, range=[-1, 100], **_years(99))
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
            line={"color": _colour(name, lines), "width": 2},
            hovertemplate=f"{name}<br>YY = %{{x:02d}}<br>{metric} %{{y:.3f}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": _LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=860,
        height=360 if title is None else 400,
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
    )
    figure.update_xaxes(title={"text": "start year YY"}, range=[0, 100], **_years(LAST_YY))
    figure.update_yaxes(title={"text": metric})
    return figure


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
        template=_TEMPLATE,
        title=title,
        width=540,
        height=(140 if title is None else 180) + 34 * len(labels),
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
    )
    figure.update_xaxes(title={"text": x_title})
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], categoryorder="array", categoryarray=labels
    )
    return figure


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
    figure.add_heatmap(z=np.where(later, 1.0, np.nan), **_GREY, hoverinfo="skip")
    figure.update_layout(
        template=_TEMPLATE,
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
        template=_TEMPLATE,
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
    _outline(figure, np.isin(names, wanted), COLOURS["reverse"], half=0.45)
    _lay_out_grid(figure, n_layers, n_heads, title)
    heads = list(range(0, n_heads, _step(n_heads)))
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


def lens_heatmap(
    table: Tensor, title: str | None = None, zmax: float | None = None, label: str = "logit"
) -> go.Figure:
    """Year logits [YY, year] that a component writes, YY 02 to 98 from the top; blue is positive.

    The colours reach from -zmax to zmax (by default the largest size among the cells); a YY without
    a prompt is grey. Raises ValueError for another shape than [97, 100].
    """
    _check_year_tables({"": table})
    trace = _lens_trace(table, "", zmax, label)
    figure = go.Figure(trace.update(colorbar=_colorbar(label)))
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=620,
        height=550 if title else 520,
        margin={"t": 64 if title else 36},
        plot_bgcolor=_UNREACHED,
    )
    figure.update_xaxes(title={"text": "end year"}, showgrid=False, **_years(99))
    figure.update_yaxes(title={"text": "start year YY"}, showgrid=False, **_years(LAST_YY))
    figure.update_yaxes(range=[LAST_YY + 0.5, FIRST_YY - 0.5])
    return figure


def lens_heatmaps(
    tables: Mapping[str, Tensor],
    zmax: float | None = None,
    label: str = "logit",
    columns: int = 4,
) -> go.Figure:
    """Lens heatmaps [YY, year] of several components, a small one each, ``columns`` in a row.

    Without ``zmax`` each has its own colour scale, as in the paper; with it all share -zmax to
    zmax. Raises ValueError for no tables, or another shape than [97, 100].
    """
    _check_year_tables(tables)
    columns = min(columns, len(tables))
    rows = math.ceil(len(tables) / columns)
    # In pixels: the room beside a panel for its colour bar, and below it for ticks and titles.
    panel, beside, below = 190, 76 if zmax is None else 36, 68
    width, height = columns * (panel + beside) - beside, rows * (panel + below) - below
    figure = make_subplots(
        cols=columns,
        rows=rows,
        horizontal_spacing=beside / width if columns > 1 else 0,
        vertical_spacing=below / height if rows > 1 else 0,
        subplot_titles=list(tables),
    )
    for i, (name, table) in enumerate(tables.items()):
        row, column = i // columns + 1, i % columns + 1
        trace = _lens_trace(table, name, zmax, label)
        if zmax is None:
            x, y = (axis.domain for axis in figure.get_subplot(row, column))
            place = {"x": x[1], "y": sum(y) / 2, "len": panel, "lenmode": "pixels"}
            words = label if column == columns or i == len(tables) - 1 else ""
            trace.colorbar = _colorbar(words) | place | {"thickness": 9, "xpad": 5, "nticks": 5}
        else:
            trace.coloraxis = "coloraxis"
        figure.add_trace(trace, row=row, col=column)
        if i + columns >= len(tables):
            figure.update_xaxes(title={"text": "end year"}, row=row, col=column)
    figure.update_layout(
        template=_TEMPLATE,
        width=width + 64 + 90,
        height=height + 40 + 56,
        margin={"l": 64, "r": 90, "t": 40, "b": 56},
        plot_bgcolor=_UNREACHED,
        coloraxis={"colorscale": "RdBu", "cmin": -(zmax or 1), "cmax": zmax or 1},
    )
    figure.update_layout(coloraxis_colorbar=_colorbar(label) | {"nticks": 5})
    figure.update_annotations(font_size=14)
    figure.update_xaxes(showgrid=False, **_years(99, step=20))
    figure.update_yaxes(showgrid=False, **_years(LAST_YY, step=20))
    figure.update_yaxes(range=[LAST_YY + 0.5, FIRST_YY - 0.5])
    figure.update_yaxes(title={"text": "start year YY"}, col=1)
    return figure


def depth_plot(
    stages: Sequence[str],
    curves: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    metric: str = "probability difference",
    title: str | None = None,
) -> go.Figure:
    """A metric after every stage of the residual stream, with its intervals, one line per name.

    ``curves`` hold mean, low and high [stage], as `bootstrap_ci` gives them; ``stages`` are those
    of `depth_view`. Circles stand for what all heads of a layer have left, squares for its MLP.
    """
    symbols = {"a": "circle-open", "m": "square"}
    figure = go.Figure()
    for name, values in curves.items():
        mean, low, high = (value.detach().double().cpu().numpy() for value in values)
        figure.add_scatter(
            x=list(stages),
            y=mean,
            name=name,
            mode="lines+markers",
            line={"color": _colour(name, curves), "width": 2},
            marker={"size": 8, "symbol": [symbols.get(stage[0], "diamond") for stage in stages]},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": high - mean,
                "arrayminus": mean - low,
                "thickness": 1.4,
                "width": 3,
            },
            hovertemplate=f"{name}<br>after %{{x}}<br>{metric} %{{y:.3f}}<extra></extra>",
        )
    figure.add_hline(y=0, line={"color": _LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=860,
        height=380 if title is None else 420,
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
        showlegend=True,
    )
    figure.update_xaxes(
        title={"text": "residual stream at END after … (○ a layer’s heads, ■ its MLP)"},
        tickangle=-45,
        dtick=1,
        range=[-0.6, len(stages) - 0.4],
    )
    figure.update_yaxes(title={"text": metric})
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
    words = np.vectorize(lambda value: f"{100 * value:+.3f}".translate(_MINUS))(values)
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
            colorbar=_colorbar(
                "effect / the row's largest" if zmax is None else f"effect / {100 * zmax:g} points"
            )
            | {"nticks": 5},
        )
    )
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=200 + 26 * max(len(effects.columns), 12),
        height=(110 if title is None else 138) + 30 * max(len(effects), 5),
        margin={"t": 36 if title is None else 64},
    )
    figure.update_xaxes(type="category", tickangle=-45, dtick=1, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", dtick=1, showgrid=False)
    return figure


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
    figure.add_hline(y=0, line={"color": _LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=860,
        height=340 if title is None else 370,
        margin={"t": 36 if title is None else 64},
    )
    figure.update_xaxes(
        title={"text": f"neurons of {mlp}, by size of effect"}, **_counts(len(order))
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
            line={"color": _colour(name, shares), "width": 2},
            hovertemplate=f"{name}<br>%{{x}} neurons<br>%{{y:.1%}} of {mlp}<extra></extra>",
        )
    for y in (0, 1):
        figure.add_hline(y=y, line={"color": _LINES, "width": 1}, layer="below")
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=860,
        height=380 if title is None else 430,
        margin={"t": 56 if title is None else 100},
        legend=_LEGEND,
        showlegend=True,
    )
    figure.update_xaxes(title={"text": f"number of neurons of {mlp}"}, **_counts(counts[-1]))
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
        template=_TEMPLATE,
        width=150 + 370 * columns,
        height=60 + 340 * rows,
        margin={"t": 40},
        coloraxis={"colorscale": "Viridis", "cmin": 2, "cmax": 98},
    )
    figure.update_layout(coloraxis_colorbar=_colorbar("start year YY"))
    figure.update_annotations(font_size=14)
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


_LEGEND = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


def changes_plot(
    changes: pd.DataFrame, x_title: str = "change without it", title: str | None = None
) -> go.Figure:
    """What `leave_out` measured: a change and its 95 % interval per row, in percentage points.

    Red gets worse without it, blue better; grey are intervals that include 0.
    """
    labels = [str(name) for name in changes["name"]]
    figure = go.Figure()
    kinds = {
        "worse without it": ("#b2182b", changes["high"] < 0),
        "better without it": ("#2166ac", changes["low"] > 0),
        "interval includes 0": ("#8d97a3", (changes["low"] <= 0) & (changes["high"] >= 0)),
    }
    for name, (colour, chosen) in kinds.items():
        rows = changes[chosen]
        figure.add_scatter(
            x=100 * rows["change"],
            y=[str(label) for label in rows["name"]],
            mode="markers",
            name=name,
            marker={"size": 8, "color": colour},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": 100 * (rows["high"] - rows["change"]).clip(lower=0),
                "arrayminus": 100 * (rows["change"] - rows["low"]).clip(lower=0),
                "thickness": 1.6,
                "width": 4,
            },
            hovertemplate="<b>%{y}</b><br>%{x:+.2f} percentage points<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": _INK, "width": 1}, layer="below")
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=760,
        height=(140 if title is None else 190) + 24 * max(len(labels), 3),
        margin={"t": 40 if title is None else 90},
        legend=_LEGEND,
        showlegend=True,
    )
    low, high = (100 * end for end in (changes["low"].min(), changes["high"].max()))
    low, high = min(0.0, low), max(0.0, high)  # a NaN of an empty table comes second
    room = 0.03 * (high - low) or 1.0
    figure.update_xaxes(
        title={"text": f"{x_title} (percentage points of probability difference)"},
        range=[low - room, high + room],
    )
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5], categoryorder="array", categoryarray=labels, dtick=1
    )
    return figure


def distribution_plot(
    values: Iterable[float],
    marks: Mapping[str, float],
    name: str,
    x_title: str = "probability difference",
    title: str | None = None,
) -> go.Figure:
    """How often values occur, as a histogram, and where others lie: a line for every mark."""
    drawn = np.asarray(list(values), dtype=float)
    ends = [*drawn, *marks.values()]
    counts, bounds = np.histogram(drawn, bins=80, range=(min(ends), max(ends)))
    top = 1.06 * int(counts.max(initial=1))
    figure = go.Figure(
        go.Bar(
            x=(bounds[:-1] + bounds[1:]) / 2,
            y=counts,
            width=np.diff(bounds),
            name=name,
            marker={"color": "#8d97a3", "line": {"color": "white", "width": 0.5}},
            customdata=np.column_stack([bounds[:-1], bounds[1:]]),
            hovertemplate="%{y} between %{customdata[0]:.3f} and %{customdata[1]:.3f}"
            "<extra></extra>",
        )
    )
    for mark, value in marks.items():
        figure.add_scatter(
            x=[value, value],
            y=[0, top],
            mode="lines",
            name=f"{mark} ({value:.3f})".translate(_MINUS),
            line={"color": _colour(mark, marks), "width": 2.5},
            hovertemplate=f"{mark}<br>%{{x:.3f}}<extra></extra>",
        )
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=860,
        height=360 if title is None else 400,
        margin={"t": 70 if title is None else 110},
        legend=_LEGEND,
        showlegend=True,
    )
    room = 0.03 * (max(ends) - min(ends))
    figure.update_xaxes(
        title={"text": x_title}, showgrid=False, range=[min(ends) - room, max(ends) + room]
    )
    figure.update_yaxes(title={"text": "circuits"}, range=[0, top])
    return figure


def _outline(
    figure: go.Figure, cells: np.ndarray, colour: str = "#111111", half: float = 0.5
) -> None:
    """A frame around every true cell [row, column] of a heatmap."""
    for row, column in zip(*np.where(cells), strict=True):
        figure.add_shape(
            type="rect",
            x0=column - half,
            x1=column + half,
            y0=row - half,
            y1=row + half,
            line={"color": colour, "width": 1.8},
        )


def _lay_out_grid(figure: go.Figure, n_layers: int, columns: int, title: str | None) -> None:
    """The size and the axes of a grid [layer, column], layer 0 on top."""
    layers = list(range(0, n_layers, _step(n_layers)))
    figure.update_layout(
        template=_TEMPLATE,
        title=title,
        width=min(1100, 190 + max(380, 34 * columns)),
        height=min(1200, (92 if title is None else 120) + max(300, 32 * n_layers)),
        margin={"t": 36 if title is None else 64},
    )
    figure.update_xaxes(range=[-0.5, columns - 0.5], showgrid=False)
    figure.update_yaxes(
        title={"text": "layer"},
        tickvals=layers,
        ticktext=[str(layer) for layer in layers],
        range=[n_layers - 0.5, -0.5],
        showgrid=False,
    )


def _limit(cells: np.ndarray) -> float:
    """The largest cell, or 1 where all are 0."""
    return float(np.nanmax(cells, initial=0.0)) or 1.0


def _blues(cells: np.ndarray, hover: list[list[str]], zmax: float | None, label: str) -> go.Heatmap:
    """Cells of 0 or more, coloured up to zmax (None: the largest cell), with a hover text each."""
    return go.Heatmap(
        z=cells,
        customdata=hover,
        colorscale="Blues",
        zmin=0,
        zmax=_limit(cells) if zmax is None else zmax,
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate=f"<b>%{{customdata}}</b><br>{label} %{{z:.3f}}<extra></extra>",
        colorbar=_colorbar(label),
    )


def _lens_trace(table: Tensor, name: str, zmax: float | None, label: str) -> go.Heatmap:
    cells = table.detach().double().cpu().numpy()
    limit = zmax if zmax is not None else _limit(np.abs(cells))
    return go.Heatmap(
        x=list(range(100)),
        y=list(range(FIRST_YY, LAST_YY + 1)),
        z=np.round(cells, 4),
        colorscale="RdBu",
        zmid=0,
        zmin=-limit,
        zmax=limit,
        hoverongaps=False,
        hovertemplate=f"{name + '<br>' if name else ''}start year YY = %{{y:02d}}<br>"
        f"end year %{{x:02d}}<br>{label} %{{z:+.3f}}<extra></extra>",
    )


def _check_year_tables(tables: Mapping[str, Tensor]) -> None:
    if not tables:
        raise ValueError("There is nothing to draw; give tables by name, e.g. {'clean': probs}.")
    for name, table in tables.items():
        if table.shape != (LAST_YY - FIRST_YY + 1, 100):
            raise ValueError(
                f"The table {name!r} has the shape {list(table.shape)}; it must be [97, 100], rows "
                "YY 02 to 98, columns years 00 to 99, e.g. per_YY_probs(log_probs, YY)."
            )


def _colorbar(text: str) -> dict[str, object]:
    return {
        "title": {"text": text, "side": "right", "font": {"size": 13}},
        "thickness": 13,
        "outlinewidth": 0,
        "exponentformat": "none",
        "nticks": 9,
        "xpad": 8,
        "tickfont": {"size": 12},
    }


def _colour(name: str, among: Iterable[str]) -> str:
    """The fixed colour of a known evaluation, by the name's first word, or one of the others."""
    first = name.split()[0] if name.split() else ""
    unknown = [other for other in among if not other or other.split()[0] not in COLOURS]
    return COLOURS.get(first) or _OTHERS[unknown.index(name) % len(_OTHERS)]


def _years(last: int, step: int = 10) -> dict[str, object]:
    first = FIRST_YY if last == LAST_YY else 0
    values = [first, *range(step, 91, step), last]
    return {"tickvals": values, "ticktext": [f"{value:02d}" for value in values], "tickangle": 0}


def _counts(largest: int) -> dict[str, object]:
    """A log axis from 1 to a largest count, with plain numbers at its ticks."""
    ticks = [digit * 10**power for power in range(len(str(largest))) for digit in (1, 3)]
    ticks = [tick for tick in ticks if tick < largest / 1.5] + [largest]
    end = math.log10(largest)
    return {
        "type": "log",
        "range": [-0.03 * end, 1.03 * end],
        "tickvals": ticks,
        "ticktext": [str(tick) for tick in ticks],
    }


def _step(n: int) -> int:
    return math.ceil(n / 16)
