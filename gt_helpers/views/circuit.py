"""Notebooks 5 and 7, circuits: what they recover, what they need, and other prompt families."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..analysis.generalization import FamilyStudy, family_summary, study_family
from ..dataset.families import FAMILIES, PromptFamily
from ..formatting import in_words
from ..metrics import per_YY_probs
from ..model.transformer import Transformer
from ..patching.circuits import Circuit
from ..patching.engine import Evaluation, PathPatching
from ..patching.paper import CircuitParts, circuit_senders, full_circuit, partial_circuit
from ..scorecard.claims import EVALUATIONS, headline_numbers
from ..scorecard.results import Results
from .dataset import token_table, year_heatmaps
from .kit import style
from .kit.drawing import circuit_svg
from .kit.explorer import Explorer, View, typed_names
from .kit.html import Html, bold, interval_of, one_line, table_of
from .patching import sweep_heatmap, top_components


def headline_table(results: Results) -> Html:
    """Per evaluation what `headline_numbers` holds, each number with its 95 % interval."""
    columns = {
        "": lambda row: bold(EVALUATIONS.get(row["evaluation"], row["evaluation"])),
        "probability difference": interval_of("prob_diff"),
        "cutoff sharpness": interval_of("cutoff_sharpness"),
        "recovered: circuit / clean": interval_of("recovered"),
        "recovered above corrupted": interval_of("recovered_above_corrupted"),
    }
    return table_of(headline_numbers(results).to_dict("records"), columns)


def changes_plot(
    changes: pd.DataFrame, x_title: str = "change without it", title: str | None = None
) -> go.Figure:
    """What `leave_out` measured: a change and its 95 % interval per row, in percentage points.

    Red gets worse without it, blue better; grey are intervals that include 0.
    """
    table = changes[["change", "low", "high"]].mul(100).assign(label=changes["name"])
    worse, better = table["high"] < 0, table["low"] > 0
    figure = go.Figure()
    for name, colour, rows in (
        ("worse without it", style.WORSE, table[worse]),
        ("better without it", style.BETTER, table[better]),
        ("interval includes 0", style.QUIET, table[~(worse | better)]),
    ):
        hover = "<b>%{y}</b><br>%{x:+.2f} percentage points"
        style.add_dots(figure, rows, "change", name, colour, hover)
    figure.add_vline(x=0, line={"color": style.INK, "width": 1}, layer="below")
    x_title += " (percentage points of probability difference)"
    height = 150 + 24 * max(len(table), 3)
    style.lay_out(figure, title, 760, height, x_title, legend=True)
    style.name_rows(figure, table["label"])
    figure.update_xaxes(range=style.with_room([0.0, *table["low"], *table["high"]]))
    return figure


def distribution_plot(values: Iterable[float], marks: Mapping[str, float], name: str) -> go.Figure:
    """How often values occur, as a histogram, and where others lie: a line for every mark."""
    drawn = np.asarray(list(values), dtype=float)
    ends = [*drawn, *marks.values()]
    # Counted here, so that the lines can be as high as the highest bar.
    counts, bounds = np.histogram(drawn, bins=80, range=(min(ends), max(ends)))
    top = 1.06 * int(counts.max(initial=1))
    figure = go.Figure(
        go.Bar(
            x=(bounds[:-1] + bounds[1:]) / 2,
            y=counts,
            width=np.diff(bounds),
            name=name,
            marker={"color": style.QUIET, "line": {"color": "white", "width": 0.5}},
            hovertemplate="%{y} near %{x:.3f}<extra></extra>",
        )
    )
    for mark, value in marks.items():
        figure.add_scatter(
            x=[value, value],
            y=[0, top],
            mode="lines",
            name=f"{mark} ({in_words(value, 'number')})",
            line={"color": style.colour_of(mark, marks), "width": 2.5},
            hovertemplate=f"{mark}<br>%{{x:.3f}}<extra></extra>",
        )
    style.lay_out(figure, None, 860, 360, "probability difference", "circuits", legend=True)
    figure.update_xaxes(showgrid=False, range=style.with_room(ends))
    figure.update_yaxes(range=[0, top])
    return figure


_SENT = {"clean values into the corrupted run": 0, "corrupted values into the clean run": 1}


def circuit_builder(patching: PathPatching, parts: CircuitParts) -> Explorer:
    """Switch components and edges of a circuit off, or add edges; see how well it does, and it."""
    noising = patching if patching.base == "clean" else patching.reversed()
    partial, full = partial_circuit(parts), full_circuit(parts)
    starts = {"partial circuit": partial, "full circuit": full, "no edges": Circuit()}
    engines = (noising.reversed(), noising)
    whole = {"corrupted": engines[0].base_log_probs, "clean": noising.base_log_probs}
    YY, positions = patching.dataset.YY, patching.dataset.positions

    def draw(
        start_from: str,
        it_sends: str,
        without: Sequence[str],
        cut_edges: Sequence[str],
        add_edges: str,
    ) -> View:
        circuit = starts[start_from]
        for off in (without, cut_edges):
            # The lists are those of the full circuit; what this one lacks is off already.
            circuit = circuit.without(*{*off} & {*circuit.components, *circuit.links})
        added = Circuit(typed_names(add_edges)).edges
        circuit |= Circuit([edge for edge in added if edge not in circuit.edges])
        name = "reverse of this circuit" if _SENT[it_sends] else "this circuit"
        answers = whole | {name: engines[_SENT[it_sends]].evaluate(circuit).log_probs}
        results = Results({}, YY, evaluations={k: Evaluation(k, v, YY) for k, v in answers.items()})
        heatmaps = {k: per_YY_probs(answers[k], YY) for k in ("clean", name)}
        drawing = circuit_svg(circuit, positions=positions)
        return View(year_heatmaps(heatmaps, zmax=None), headline_table(results) + drawing)

    wide = widgets.Layout(width="330px")
    members = [name for name in full.components if name != "logits"]
    example = "a9.h1 -> m9, m9 -> logits"
    return Explorer(
        draw,
        start_from=list(starts),
        it_sends=widgets.Dropdown(options=list(_SENT), layout=wide),
        without=widgets.SelectMultiple(options=members, rows=9),
        cut_edges=widgets.SelectMultiple(options=full.links, rows=9, layout=wide),
        add_edges=widgets.Text(placeholder=example, layout=wide),
    )


# ---- notebook 7: other prompt families --------------------------------------------------------


_FAMILY = {
    "family": lambda row: bold(row["family"]),
    "right": lambda row: one_line(row["asks"]),
}
_EXPECTED = {"the paper (section 5)": lambda row: escape(row["expects"])}


def family_behaviour(summary: pd.DataFrame) -> Html:
    """What a model does with prompt families (`family_summary`), each score with its interval."""
    columns = {
        "prompts": lambda row: str(row["prompts"]),
        "clean": interval_of("clean"),
        "corrupted": interval_of("corrupted"),
        "top year right": lambda row: in_words(row["top_right"], digits=0),
        "top year is YY": lambda row: in_words(row["top_YY"], digits=0),
    }
    note = "Scores: the probability of right end years less that of all others, YY among these."
    return table_of(summary.to_dict("records"), _FAMILY | columns | _EXPECTED, note)


def family_recovery(summary: pd.DataFrame) -> Html:
    """What a circuit does of a model's behaviour in prompt families (`family_summary`)."""
    columns = {
        "model": interval_of("clean"),
        "circuit alone": interval_of("partial"),
        "recovered": interval_of("recovered"),
        "recovered above corrupted": interval_of("above_corrupted"),
        "change when impaired": interval_of("change", "points"),
    }
    note = (
        "Recovered: the circuit's score / the model's, as in the paper; above corrupted: the same "
        "after the corrupted prompts' score is taken from both. A dash: the model's score (or its "
        "distance from the corrupted one) cannot be told from 0. Impaired: the circuit is corrupted"
        ", everything else clean."
    )
    return table_of(summary.to_dict("records"), _FAMILY | columns | _EXPECTED, note)


def family_explorer(
    model: Transformer, parts: CircuitParts, families: Iterable[PromptFamily] = (), seed: int = 0
) -> Explorer:
    """Choose a prompt family and what is shown of it: end years, or a sweep into the circuit.

    ``families`` are families of one's own, listed before the ten.
    """
    known = {family.name: family for family in (*families, *FAMILIES.values())}
    late = list(parts.mlps)

    @lru_cache(maxsize=1)  # a family's cached runs take memory: only the last one's are kept
    def study(family: str) -> tuple[PathPatching, FamilyStudy]:
        patching = PathPatching(model, known[family].dataset(model.tokenizer, seed=seed))
        return patching, study_family(known[family], patching, parts)

    def draw(family: str, shown: str) -> View:
        patching, found = study(family)
        prompt = token_table(found.dataset, 0, model.tokenizer)
        text = family_recovery(family_summary([found])) + prompt
        if shown == "end years":
            names = {"clean": "model", "partial": "circuit alone", "reverse": "circuit impaired"}
            answers = {
                words: per_YY_probs(found.log_probs[name], found.dataset.YY)
                for name, words in names.items()
            }
            return View(year_heatmaps(answers, zmax=None), text)
        sweep, receiver = found.sweep, shown.removeprefix("into ")
        if receiver in late:
            higher = late[late.index(receiver) + 1 :]
            sweep = patching.sweep(receiver, higher, metric=found.family.metric)
        marked = circuit_senders(parts, sweep)
        figure = sweep_heatmap(sweep, f"{family}: {shown}", marked=marked)
        return View(figure, top_components(sweep, parts) + text)

    views = ["end years", "into the logits", *(f"into {mlp}" for mlp in reversed(late))]
    return Explorer(draw, family=list(known), shown=views)
