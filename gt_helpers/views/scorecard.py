"""Notebook 10, the scorecard: claims of the paper beside what results show; used everywhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from html import escape

import pandas as pd
import plotly.graph_objects as go

from ..scorecard.claims import VERDICTS, sample_of, scorecard
from ..scorecard.results import Results
from .kit import style
from .kit.explorer import Explorer, View
from .kit.html import Html, bold, html_table, with_interval

_VERDICT_COLOURS = {
    **dict.fromkeys(("agrees", "passes"), "#2a8a6a"),
    **dict.fromkeys(("disagrees", "fails"), "#c0392b"),
    "open": "#a86b00",
}


def beside_the_paper(results: Results, claims: Iterable[str]) -> Html:
    """Claims of the paper, by their ids, beside what these results measured (see `scorecard`).

    Raises ValueError for an unknown id.
    """
    wanted = list(claims)
    frame = scorecard(results, wanted).set_index("id")
    sample = sample_of(frame)
    note = f"Measured on {escape(sample)}. " if sample else ""
    if results.settings.get("gpt2_small") is not True:
        note += (
            f"This run is about {bold(results.settings.get('model'))}, so nothing here confirms or "
            "contradicts the paper, whose numbers are GPT-2 small's."
        )
    rows = [_claim_row(claim) for claim in frame.loc[wanted].to_dict("records")]
    return html_table(("claim", "reported", "this run", "verdict"), rows, note)


def _claim_row(claim: dict) -> tuple[str, ...]:
    """A scorecard's row as cells: claim and source, reported, measured, verdict and detail."""
    colour = _VERDICT_COLOURS.get(claim["verdict"], "inherit")
    remarks = filter(None, (claim["detail"], claim["fails"], claim["interval"]))
    detail = "".join(f"<br><small>{escape(remark)}</small>" for remark in remarks)
    numbers = {"m": claim["measured"], "m_low": claim["low"], "m_high": claim["high"]}
    measured, line, interval = with_interval(numbers, "m", claim["unit"], None).partition("<br>")
    return (
        f"{escape(claim['claim'])}<br><small>{escape(claim['source'])}</small>",
        escape(claim["paper"]),
        f"<b>{measured}</b>{line}{interval}",
        f'<span style="color:{colour}">{claim["verdict"]}</span>{detail}',
    )


def verdict_counts(card: pd.DataFrame) -> Html:
    """How many claims of a `scorecard` have which verdict, by theme, and in all."""
    counts = pd.crosstab(card["theme"], card["verdict"], margins=True, margins_name="all")
    counts = counts.reindex(
        index=[*card["theme"].unique(), "all"],
        columns=[name for name in VERDICTS if name in counts],
    )
    rows = [(bold(theme), *map(str, row)) for theme, row in counts.iterrows()]
    return html_table(("", *counts), rows)


def interval_plot(
    table: pd.DataFrame, x_title: str, title: str | None = None, reported: str = "reported"
) -> go.Figure:
    """Measured values with their intervals beside the reported ones, one row per label.

    ``table`` has the columns label, measured, low, high and reported (NaN: nothing is reported).
    """
    figure = go.Figure()
    figure.add_scatter(
        x=table["reported"],
        y=table["label"],
        mode="markers",
        name=reported,
        marker={"symbol": "diamond-open", "size": 13, "color": "#5b6570", "line": {"width": 1.8}},
        hovertemplate="%{y}<br>reported %{x:.3f}<extra></extra>",
    )
    hover = "%{y}<br>measured %{x:.3f}"
    blue = style.COLOURS["clean"]
    style.add_dots(figure, table, "measured", "measured, 95 % interval", blue, hover)
    style.lay_out(figure, title, 540, 140 + 34 * len(table), x_title, legend=True)
    style.name_rows(figure, table["label"])
    return figure


def scorecard_plot(table: pd.DataFrame) -> go.Figure:
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
    figure = interval_plot(shown.assign(label=labels), "share", None, reported)
    figure.update_layout(width=860)
    figure.update_xaxes(tickformat=".0%", zeroline=True)
    figure.update_yaxes(automargin=True, tickfont={"size": 11})
    return figure


def scorecard_explorer(results: Results) -> Explorer:
    """Choose a theme and a verdict; see these claims beside what the results show."""
    card = scorecard(results)

    def draw(theme: str, verdict: str) -> View:
        shown = card[(theme == "all") | (card["theme"] == theme)]
        shown = shown[(verdict == "all") | (shown["verdict"] == verdict)]
        if shown.empty:
            return View(None, "No claim has this theme and this verdict.")
        values = shown.dropna(subset=["reported", "measured"])
        figure = scorecard_plot(shown) if "share" in set(values["unit"]) else None
        return View(figure, beside_the_paper(results, shown["id"]))

    return Explorer(draw, theme=[*card["theme"].unique(), "all"], verdict=["all", *VERDICTS])
