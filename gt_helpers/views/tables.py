"""Tables from results, as HTML that shows itself in a notebook: nothing is computed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

import pandas as pd
from torch import Tensor

from ..analysis.logit_lens import lens_numbers
from ..dataset.prompts import token_text
from ..dataset.year_dataset import YearDataset
from ..differences.comparison import ALL_SWEEPS, Comparison
from ..differences.diagnosis.dataset import Diagnosis
from ..formatting import in_words, interval_in_words
from ..patching.engine import Sweep
from ..patching.paper import CircuitParts
from ..scorecard.claims import EVALUATIONS, VERDICTS, headline_numbers, sample_of, scorecard
from ..scorecard.results import Results
from .patching import top_rows

_CELL = "padding:3px 10px;text-align:left;vertical-align:top;border-bottom:1px solid #8884"
_CHANGED = "background:#c0392b;color:white;border-radius:3px;padding:0 3px"
_VERDICTS = {"agrees": "#2a8a6a", "disagrees": "#c0392b"}
_SEVERITIES = {"breaks the comparison": "#c0392b", "changes the numbers": "#b7791f"}


class Html(str):
    """HTML text that a notebook renders when it is the last value of a cell."""

    def _repr_html_(self) -> str:
        return str(self)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> Html:
    """A table of HTML cells under a head, and a note below it; cells are not escaped."""
    lines = ["".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) for row in rows]
    top = "".join(f'<th style="{_CELL}">{cell}</th>' for cell in head)
    below = f'<div style="margin:4px 10px;opacity:.8">{note}</div>' if note else ""
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    return Html(
        '<table style="border-collapse:collapse;font-size:13px;line-height:1.4;margin:6px 0">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{below}"
    )


def frame_table(frame: pd.DataFrame, note: str = "", digits: int = 3) -> Html:
    """A data frame as a table whose texts are shown whole, without its index."""

    def cell(value: object) -> str:
        text = in_words(value, "number", digits) if isinstance(value, float) else str(value)
        return _one_line(text) if len(text) < 40 else escape(text)

    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    head = [escape(str(name).replace("_", " ")) for name in frame.columns]
    return html_table(head, rows, note)


def one_edge_drawing() -> Html:
    """Path patching in one picture: base run, patch run, and one edge between them patched."""
    return Html(files("gt_helpers").joinpath("data", "one_edge.svg").read_text(encoding="utf-8"))


def token_table(dataset: YearDataset, prompt: int, tokenizer: object) -> Html:
    """One prompt token by token: position, clean and corrupted token with id, changes marked."""
    rows = []
    pairs = zip(dataset.clean[prompt].tolist(), dataset.corrupted[prompt].tolist(), strict=True)
    for (name, index), (clean, corrupted) in zip(dataset.positions.items(), pairs, strict=True):
        texts = []
        for token, style in ((clean, ""), (corrupted, _CHANGED if clean != corrupted else "")):
            text = escape(repr(token_text(tokenizer, token)))  # type: ignore[arg-type]
            texts.append(f'<code style="{style}">{text}</code>')
        rows.append((str(index), f"<b>{name}</b>", texts[0], str(clean), texts[1], str(corrupted)))
    head = ("", "position", "clean token", "id", "corrupted token", "id")
    return html_table(head, rows)


def diagnosis_table(diagnosis: Diagnosis) -> Html:
    """The findings of a `diagnosis.diagnose`, worst first, and what the model answers."""
    note = "<br>".join(escape(line) for line in (diagnosis.headline, *diagnosis.answers))
    rows = []
    for finding in diagnosis.findings:
        colour = _SEVERITIES.get(finding.severity, "inherit")
        measured = f"<br><small>{escape(finding.measured)}</small>" if finding.measured else ""
        rows.append(
            (
                f'<b>{escape(finding.check)}</b><br><span style="color:{colour}">'
                f"{escape(finding.severity)}</span>",
                f"{escape(finding.problem)}{measured}",
                f"<small>{escape(finding.example)}</small>",
                escape(finding.fix),
            )
        )
    if not rows:
        return Html(f"<p>{note}</p>")
    return html_table(("finding", "what is wrong", "example", "what to do"), rows, note)


def top_components(sweep: Sweep, parts: CircuitParts, n: int = 8) -> Html:
    """The strongest senders of a sweep: effect, 95 % interval, and whether ``parts`` has them."""
    rows = [
        (
            f"<b>{row.component}</b>",
            in_words(float(row.effect), "points"),
            interval_in_words(float(row.low), float(row.high), "points"),
            "yes" if row.in_circuit else "no",
        )
        for row in top_rows(sweep, parts, n).itertuples()
    ]
    if not rows:
        return Html("<p>Every sender has exactly no effect.</p>")
    head = ("component", "effect", "95 % interval", "in the circuit")
    return html_table(head, rows)


def lens_table(lenses: Mapping[str, Tensor]) -> Html:
    """What named lenses [YY, year] show, in shares of YYs and a correlation; chance comes last."""
    titles = {
        "diagonal": "YY is the top year",
        "near diagonal": "top year within 10 of YY",
        "triangle": "y > YY above y ≤ YY",
        "own triangle": "the same, mean row out",
        "own step": "correlation with a step at YY, mean row out",
        "band": "YY+1 to YY+50 above later",
    }
    chance = ("1 %", "about 20 %", "50 %", "50 %", "0", "50 %")
    rows = []
    for name, numbers in lens_numbers(lenses).iterrows():
        words = {key: in_words(float(numbers[key]), digits=0) for key in titles}
        words["own step"] = f"{numbers['own step']:.2f}".replace("-", "−")
        rows.append((f"<b>{escape(str(name))}</b>", *words.values()))
    note = (
        "Shares of the YYs that have prompts. The mean row is what a component writes whatever YY "
        "is: without it only what depends on YY counts, and a pure step at YY has 0.68."
    )
    return html_table(("", *titles.values()), [*rows, ("<i>chance</i>", *chance)], note)


def headline_table(results: Results) -> Html:
    """Per evaluation what `headline_numbers` holds, each number with its 95 % interval."""
    metrics = {
        "prob_diff": "probability difference",
        "cutoff_sharpness": "cutoff sharpness",
        "recovered": "recovered: circuit / clean",
        "recovered_above_corrupted": "recovered above corrupted",
    }
    rows = []
    for row in headline_numbers(results).to_dict("records"):
        cells = [f"<b>{escape(EVALUATIONS.get(row['evaluation'], row['evaluation']))}</b>"]
        for metric in metrics:
            interval = interval_in_words(row[f"{metric}_low"], row[f"{metric}_high"], "share")
            small = f"<br><small>{interval}</small>" if row[metric] == row[metric] else ""
            cells.append(in_words(row[metric]) + small)
        rows.append(cells)
    return html_table(("", *metrics.values()), rows)


def beside_the_paper(results: Results, claims: Iterable[str]) -> Html:
    """Claims of the paper, by their ids, beside what these results measured (see `scorecard`).

    Raises ValueError for an unknown id.
    """
    wanted = list(claims)
    frame = scorecard(results, wanted).set_index("id")
    if unknown := [name for name in wanted if name not in frame.index]:
        known = ", ".join(scorecard(results)["id"])
        raise ValueError(f"There is no claim {unknown[0]!r}; known are {known}.")
    rows = []
    for claim in frame.loc[wanted].itertuples():
        is_open = "the verdict is open" in claim.detail
        colour = "inherit" if is_open else _VERDICTS.get(str(claim.verdict), "inherit")
        measured = in_words(float(claim.measured), str(claim.unit))
        interval = interval_in_words(float(claim.low), float(claim.high), str(claim.unit))
        detail = f"<br><small>{escape(claim.detail)}</small>" if claim.detail else ""
        rows.append(
            (
                f"{escape(claim.claim)}<br><small>{escape(claim.source)}</small>",
                escape(claim.paper),
                f"<b>{measured}</b>"
                + (f"<br><small>{interval}</small>" if claim.low == claim.low else ""),
                f'<span style="color:{colour}">{claim.verdict}</span>{detail}',
            )
        )
    sample = sample_of(frame)
    note = f"Measured on {escape(sample)}. " if sample else ""
    if results.settings.get("gpt2_small") is not True:
        name = escape(str(results.settings.get("model")))
        note += (
            f"This run is about <b>{name}</b>, so nothing here confirms or contradicts the paper, "
            "whose numbers are GPT-2 small's."
        )
    return html_table(("claim", "reported", "this run", "verdict"), rows, note)


def verdict_counts(card: pd.DataFrame) -> Html:
    """How many claims of a `scorecard` have which verdict, by theme, and in all."""
    verdicts = [verdict for verdict in VERDICTS if verdict in set(card["verdict"])]
    themes = [(f"<b>{escape(t)}</b>", part) for t, part in card.groupby("theme", sort=False)]
    rows = []
    for name, part in [*themes, ("all", card)]:
        counts = part["verdict"].value_counts()
        rows.append((name, *(str(counts.get(verdict, 0)) for verdict in verdicts)))
    return html_table(("", *verdicts), rows)


def choice_words(comparison: Comparison) -> Html:
    """Every choice in words, worst first: what is done instead, and what becomes of the results."""
    rows = [
        (f"<b>{escape(row.choice)}</b>", escape(row.what), escape(row.words))
        for row in comparison.summary().itertuples()
    ]
    return html_table(("choice", "instead of the paper's setting", "what changes"), rows)


def choice_scores(comparison: Comparison, names: Iterable[str] | None = None) -> Html:
    """Scores and mean correlations of choices (all, or those named) with the seeds' ends."""
    scores = comparison.scores()
    maps = comparison.correlations().set_index(["choice", "map"])
    units = {choice.name: choice.unit for choice in comparison.choices}
    rows = []
    for name in list(scores.index) if names is None else [scores.index[0], *names]:
        row, unit = scores.loc[name].to_dict(), units.get(name, "share")
        cells = [_with_interval(row, score, unit) for score in ("clean", "corrupted")]
        cells += [_with_interval(row, score) for score in ("recovered", "above_corrupted")]
        for kind in (ALL_SWEEPS, "lens"):
            if name in units:
                r, low, high = maps.loc[(name, kind)]
                ends = {"r": r, "r_low": low, "r_high": high}
                cells.append(_with_interval(ends, "r", "number", 2))
            else:
                cells.append("1")  # the reference
        rows.append((f"<b>{escape(name)}</b>", *cells))
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


def family_behaviour(summary: pd.DataFrame) -> Html:
    """What a model does with prompt families (`tasks.summary`), each score with its interval."""
    rows = [
        (
            f"<b>{escape(row['task'])}</b>",
            _one_line(row["asks"]),
            str(row["prompts"]),
            _with_interval(row, "clean"),
            _with_interval(row, "corrupted"),
            in_words(row["top_right"], digits=0),
            in_words(row["top_YY"], digits=0),
            escape(row["expects"]),
        )
        for row in summary.to_dict("records")
    ]
    head = ("family", "right", "prompts", "clean", "corrupted", "top year right", "top year is YY")
    note = "Scores: the probability of right end years less that of all others, YY among these."
    return html_table((*head, "the paper (section 5)"), rows, note)


def family_recovery(summary: pd.DataFrame) -> Html:
    """What a circuit does of a model's behaviour in prompt families (`tasks.summary`)."""
    names = {
        "clean": "model",
        "partial": "circuit alone",
        "recovered": "recovered",
        "above_corrupted": "recovered above corrupted",
        "change": "change when impaired",
    }
    rows = []
    for row in summary.to_dict("records"):
        cells = [
            _with_interval(row, name, "points" if name == "change" else "share") for name in names
        ]
        label = f"<b>{escape(row['task'])}</b>"
        rows.append((label, _one_line(row["asks"]), *cells, escape(row["expects"])))
    note = (
        "Recovered: the circuit's score / the model's, as in the paper; above corrupted: the same "
        "after the corrupted prompts' score is taken from both. A dash: the model's score (or its "
        "distance from the corrupted one) cannot be told from 0. Impaired: the circuit is corrupted"
        ", everything else clean."
    )
    return html_table(("family", "right", *names.values(), "the paper (section 5)"), rows, note)


def quality_table(frame: pd.DataFrame, note: str = "") -> Html:
    """Circuits as `quality.faithfulness` measured them: size, score, and both recovered shares."""
    names = {
        "prob_diff": "probability difference",
        "recovered": "recovered: circuit / clean",
        "above_corrupted": "recovered above corrupted",
    }
    rows = []
    for row in frame.to_dict("records"):
        size = (f"{row['edges']:,}", str(row["components"]))
        cells = [_with_interval(row, name) for name in names]
        rows.append((f"<b>{escape(str(row['name']))}</b>", *size, *cells))
    return html_table(("", "edges", "components", *names.values()), rows, note)


def agreement_table(frame: pd.DataFrame, found: str, reference: str) -> Html:
    """How far a named circuit agrees with a named reference, as `discovery.agreement` counts."""
    rows = [
        (
            f"<b>{escape(kind)}</b>",
            *(f"{int(row[column]):,}" for column in ("found", "reference", "shared")),
            *(in_words(row[column], digits=0) for column in ("precision", "recall", "jaccard")),
        )
        for kind, row in frame.to_dict("index").items()
    ]
    ours, theirs = escape(found), escape(reference)
    of = ("shared", f"shared of {ours}", f"shared of {theirs}", "shared of all")
    note = "Links do not tell a head's q, k and v apart."
    return html_table(("", ours, theirs, *of), rows, note)


def _one_line(text: str) -> str:
    return f'<span style="white-space:nowrap">{escape(text)}</span>'


def _with_interval(row: dict, name: str, unit: str = "share", digits: int = 1) -> str:
    """A number of a row in words, and its interval from the columns _low and _high below it."""
    small = interval_in_words(row[f"{name}_low"], row[f"{name}_high"], unit, digits)
    value = in_words(row[name], unit, digits)
    return value if small == "–" else f"{value}<br><small>{_one_line(small)}</small>"
