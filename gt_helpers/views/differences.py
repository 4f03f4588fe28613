"""Notebook 8, why results differ: choices as a matrix and against the reference, and diagnoses."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from textwrap import wrap

import pandas as pd
import plotly.graph_objects as go

from ..dataset.year_dataset import YearDataset
from ..differences.choices import CHOICES, REFERENCE
from ..differences.comparison import ALL_SWEEPS, Comparison
from ..differences.diagnosis import MISTAKES, Diagnosis, diagnose
from ..formatting import in_words
from ..model.transformer import Transformer
from .kit import style
from .kit.explorer import Explorer, View
from .kit.html import Html, bold, html_table, interval_of, table_of, with_interval
from .scorecard import interval_plot


def choices_matrix(
    words: pd.DataFrame, moved: pd.DataFrame, details: pd.DataFrame, title: str | None = None
) -> go.Figure:
    """`Comparison.matrix`: a row per choice, worst first; a cell's colour says how far it moved.

    Cells show the value itself: scores in the choice's own metric, then correlations with the
    reference's maps. Grey has nothing to compare. Hover for the details.
    """
    axes = {"x": [str(column) for column in words], "y": [str(name) for name in words.index]}
    figure = go.Figure()
    figure.add_heatmap(
        **axes,
        z=moved.to_numpy(float),
        text=words.to_numpy(str),
        texttemplate="%{text}",
        customdata=details.map(lambda text: "<br>".join(wrap(text, 60))).to_numpy(str),
        textfont={"size": 10},
        colorscale=[[0, "#ffffff"], [0.15, "#fbe3c8"], [0.5, "#ef9a62"], [1, "#b3352b"]],
        zmin=0,
        zmax=1,
        hovertemplate="<b>%{y}</b><br>%{x}: %{text}<br>%{customdata}<extra></extra>",
        colorbar={"title": {"text": "change from the reference"}, "nticks": 6},
    )
    width = min(1100, 250 + 42 * len(axes["x"]))
    style.lay_out(figure, title, width, 136 + 24 * len(axes["y"]), plot_bgcolor=style.NO_EFFECT)
    # The names of the columns stand above, between title and matrix.
    figure.update_layout(margin_t=84 + (40 if title else 0))
    figure.update_xaxes(side="top", showgrid=False, dtick=1, tickangle=-40, tickfont={"size": 11})
    figure.update_yaxes(autorange="reversed", showgrid=False, dtick=1)
    return figure


def choice_words(comparison: Comparison) -> Html:
    """Every choice in words, worst first: what is done instead, and what becomes of the results."""
    rows = [
        (bold(row.choice), escape(row.what), escape(row.words))
        for row in comparison.summary().itertuples()
    ]
    return html_table(("choice", "instead of the paper's setting", "what changes"), rows)


def choice_scores(comparison: Comparison, names: Iterable[str] | None = None) -> Html:
    """Scores and mean correlations of choices (all, or those named) with the seeds' ends."""
    scores = comparison.scores()
    maps = comparison.correlations().set_index(["choice", "map"])
    units = {choice.name: choice.unit for choice in comparison.choices}

    def correlation(name: str, kind: str) -> str:
        if name not in units:
            return "1"  # the reference with itself
        r, low, high = maps.loc[(name, kind)]
        return with_interval({"r": r, "r_low": low, "r_high": high}, "r", "number", 2)

    rows = []
    for name in list(scores.index) if names is None else [scores.index[0], *names]:
        row, unit = scores.loc[name].to_dict(), units.get(name, "share")
        cells = [with_interval(row, score, unit) for score in ("clean", "corrupted")]
        cells += [with_interval(row, score) for score in ("recovered", "above_corrupted")]
        cells += [correlation(name, kind) for kind in (ALL_SWEEPS, "lens")]
        rows.append((bold(name), *cells))
    head = (
        "",
        "clean",
        "corrupted",
        "recovered: circuit / clean",
        "recovered above corrupted",
        "correlation of the sweeps (mean)",
        "of the lenses",
    )
    note = "Small: the lowest and the highest seed. A dash: clean and corrupted are too close."
    return html_table(head, rows, note)


def choice_changes(comparison: Comparison) -> Html:
    """What every choice adds to the reference's scores, worst first, with 95 % intervals."""
    changes = comparison.changes().loc[comparison.summary()["choice"]]
    columns = {"": lambda row: bold(row["index"])} | {
        score: interval_of(score, "points") for score in ("clean", "corrupted", "recovered")
    }
    note = (
        "Small: 95 % intervals over prompts, each paired with the reference's at its place. "
        "A dash: the unit or the number of prompts is another."
    )
    return table_of(changes.reset_index().to_dict("records"), columns, note)


def effects_against(comparison: Comparison, choice: str, sweep: str) -> go.Figure:
    """Every sender's effect in a choice's sweep over its effect in the reference's.

    The circuit's senders have their own colour; the strongest of them and of the others are named.
    A dotted line marks equal effects, where both are percentage points.
    """
    same_unit = CHOICES[choice].unit == "share"
    reference, effects = (comparison.effects(one, sweep) for one in (REFERENCE.name, choice))
    frame = pd.DataFrame({"name": comparison.senders(sweep), "x": reference, "y": effects})
    frame[["x", "y"]] *= [100, 100 if same_unit else 1]
    frame = frame[(frame[["x", "y"]] != 0).any(axis=1)]
    size = (frame[["x", "y"]] / frame[["x", "y"]].abs().max()).abs().sum(axis=1)
    inside = frame["name"].isin(list(comparison.members(sweep)))
    strongest = {*frame["name"][size[inside].nlargest(7).index]}
    strongest |= {*frame["name"][size[~inside].nlargest(3).index]}
    frame = frame.assign(text=frame["name"].where(frame["name"].isin(strongest), ""))
    groups = {
        "in the circuit": (style.COLOURS["corrupted"], frame[inside]),
        "not in it": (style.QUIET, frame[~inside]),
    }
    figure = style.points_against(groups, "reference", "here", same_unit)
    unit = "percentage points" if same_unit else "logits"
    titles = "effect in the reference (percentage points)", f"effect with this choice ({unit})"
    style.lay_out(figure, f"{choice}: into {sweep}", 640, 452, *titles, showlegend=True)
    corner = {"x": 1, "xanchor": "right", "y": 0, "yanchor": "bottom", "orientation": "v"}
    figure.update_layout(legend=corner)
    return figure


def choice_explorer(comparison: Comparison) -> Explorer:
    """Choose a choice and a sweep; see every sender's effect against the reference's, in words."""
    summary = comparison.summary().set_index("choice")
    correlations, _, details = comparison.matrix()

    def draw(choice: str, sweep: str) -> View:
        text = f"<p>{bold(choice)}: {escape(summary['words'][choice])}</p>"
        text += choice_scores(comparison, [choice])
        if sweep not in comparison.outcomes[choice][0].effects:
            note = f"<p>With this choice there is no sweep into {escape(sweep)}.</p>"
            return View(None, note + text)
        r, detail = correlations[sweep][choice], escape(details[sweep][choice])
        text = f"<p>Into {escape(sweep)} the correlation is {r} ({detail}).</p>" + text
        return View(effects_against(comparison, choice, sweep), text)

    return Explorer(draw, choice=list(summary.index), sweep=comparison.sweeps)


_SEVERITIES = {"breaks the comparison": "#c0392b", "changes the numbers": "#b7791f"}


def diagnosis_table(diagnosis: Diagnosis) -> Html:
    """The findings of a `diagnosis.diagnose`, worst first, and what the model answers."""
    note = "<br>".join(escape(line) for line in (diagnosis.headline, *diagnosis.scores_in_words))
    rows = []
    for finding in diagnosis.findings:
        colour = _SEVERITIES.get(finding.severity, "inherit")
        severity = f'<span style="color:{colour}">{escape(finding.severity)}</span>'
        measured = f"<br><small>{escape(finding.measured)}</small>" if finding.measured else ""
        rows.append(
            (
                f"{bold(finding.check)}<br>{severity}",
                f"{escape(finding.problem)}{measured}",
                f"<small>{escape(finding.example)}</small>",
                escape(finding.fix),
            )
        )
    if not rows:
        return Html(f"<p>{note}</p>")
    return html_table(("finding", "what is wrong", "example", "what to do"), rows, note)


def explained_table(diagnosis: Diagnosis) -> Html:
    """How much of the way to the paper's scores each difference makes; nothing where none does."""
    if diagnosis.explained.empty:
        return Html("")
    columns = {
        "mended": lambda row: bold(row["index"]),
        "clean": interval_of("clean", "points"),
        "clean: mended alone": lambda row: in_words(row["clean_alone"], "points", 1),
        "corrupted": interval_of("corrupted", "points"),
        "corrupted: mended alone": lambda row: in_words(row["corrupted_alone"], "points", 1),
    }
    note = (
        "From your scores to those of 97 balanced prompts. A difference's part is the mean over "
        "all orders of mending. Small: 95 % intervals over prompts, each paired with itself mended."
    )
    return table_of(diagnosis.explained.reset_index().to_dict("records"), columns, note)


def mistake_explorer(model: Transformer, dataset: YearDataset) -> Explorer:
    """Choose a mistake to plant in a correct dataset; see what `diagnose` says, and the scores."""

    def draw(mistake: str) -> View:
        planted = MISTAKES[mistake](dataset) if mistake in MISTAKES else {"data": dataset}
        diagnosis = diagnose(model=model, **planted)
        given, paper, _ = diagnosis.scores.to_dict("records")
        rows = [
            (side, given[side], given[f"{side}_low"], given[f"{side}_high"], paper[side])
            for side in ("clean", "corrupted")
        ]
        scores = pd.DataFrame(rows, columns=["label", "measured", "low", "high", "reported"])
        figure = interval_plot(
            scores, "probability difference", f"With: {mistake}", "built as in the paper"
        )
        return View(figure, diagnosis_table(diagnosis) + explained_table(diagnosis))

    return Explorer(draw, mistake=[*MISTAKES, "no mistake"])
