"""The scorecard: claims of the paper and of later work, each beside what a reproduction measured.

Nothing is run here: everything comes from finished results. The claims and their measures lie in
pairs of files beside this one, a pair for a topic (see registry.py).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from typing import Any

import pandas as pd
import torch

from ..formatting import in_words, interval_in_words
from ..metrics import average, recovered
from . import activation, controls, found_circuits, neurons, samples, sweeps
from .registry import FALLBACK, Claim, Evidence, Found, NotMeasured, number
from .results import Results
from .verdicts import (
    JUDGED,
    LEVEL,
    VERDICTS,
    fails,
    limits_of,
    most_by_chance,
    reported_values,
    source_in_words,
    values_in_words,
    verdict_of,
)

RULE = (
    "A claim agrees if the whole 95 % interval lies within the limits, disagrees if all of it lies "
    "outside, and is open if it crosses a limit. Limits of a reported value are two standard "
    "deviations of the difference between two correct runs, and a stated allowance. An order "
    "or a sign is measured by its margin, which counts from a stated part "
    "of the largest effect on. Checks follow from the definitions and must hold on every model."
)
COLUMNS = (
    *("id", "theme", "claim", "source", "paper", "reported", "measured", "low", "high"),
    *("limit_low", "limit_high", "verdict", "essential", "unit", "detail", "fails", "interval"),
    "sample",
)
THEMES = (  # in the order of the page
    "What the model does",
    "Path patching at END",
    "The circuit",
    "Path patching at YY",
    "Attention and logit lens",
    "Controls of the circuit",
    "Activation patching",
    "Prompts and circuit of ACDC's paper",
    "Other prompt families",
    "Neurons",
    "Geometry",
    "Attribution",
    "A circuit from the data alone",
    "Checks of the engine",
)
# What samples.toml says of a theme comes before what sweeps.toml does.
TOPICS = tuple(
    room.topic for room in (samples, sweeps, controls, activation, neurons, found_circuits)
)
MEASURES = {claim: measure for topic in TOPICS for claim, measure in topic.measures.items()}


@cache
def claims() -> tuple[Claim, ...]:
    """The claims of all topics, in the order of the page."""
    every = [claim for topic in TOPICS for claim in topic.claims]
    return tuple(sorted(every, key=lambda claim: THEMES.index(claim["theme"])))


# In the order of the page, but for the discovery: it finds the circuit that the rest is about.
_BY_NAME = {name: one for topic in TOPICS for name, one in topic.experiments.items()}
EXPERIMENTS = {
    name: _BY_NAME[name]
    for name in ("discovery", *(claim["experiment"] for claim in claims()))
    if name in _BY_NAME  # geometry is none: notebook 6 alone measures it
}


def known(ids: Iterable[str] | None = None) -> list[str]:
    """These ids of claims, or those of all; ValueError for what is none."""
    every = [claim["id"] for claim in claims()]
    found = every if ids is None else list(ids)
    if unknown := [name for name in found if name not in every]:
        raise ValueError(f"There is no claim {unknown[0]!r}; known are {', '.join(every)}.")
    return found


def measurable(results: Results) -> list[str]:
    """Ids of the claims whose experiment these results hold; the discovery is taken to be there."""
    there = {*FALLBACK, *results.experiments}
    return [claim["id"] for claim in claims() if claim["experiment"] in there]


def scorecard(results: Results, ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per claim: what is reported, what these results show, and whether they agree.

    ``ids`` are the claims, by default all. The verdict of a claim is "agrees", "disagrees", "open",
    "not judged" where no source gives a limit, "not measured", or, on another model than GPT-2
    small, "not comparable"; a check of the engine "passes" or "fails" on every model. Shares and
    points are fractions of 1; ``reported`` is the source's value where it has one, ``paper`` what
    it says in words; ``low`` and ``high`` bound the 95 % interval, of which ``interval`` says what
    it resamples; ``fails`` says what would contradict the claim. Raises ValueError for an unknown
    id.
    """
    wanted = set(known(ids))
    rows = [_row(claim, results) for claim in claims() if claim["id"] in wanted]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def contradictions(card: pd.DataFrame) -> list[str]:
    """Why a `scorecard` contradicts what it is held against, in sentences; none if it does not.

    A check fails, an essential claim disagrees, or more claims disagree than chance explains.
    """
    wrong, said = card[card["verdict"] == "disagrees"], []
    judged = int(card["verdict"].isin(JUDGED).sum())
    for verdict, rows in (("fails", card), ("disagrees", card[card["essential"]])):
        ids = ", ".join(rows["id"][rows["verdict"] == verdict])
        what = "check fails" if verdict == "fails" else "essential claim disagrees"
        said += [f"A{'n' * (what[0] == 'e')} {what}: {ids}."] if ids else []
    if len(wrong) > (most := most_by_chance(judged)):
        said.append(f"{len(wrong)} of {judged} claims disagree; chance explains {most} at most.")
    return said


# ---- one row ----------------------------------------------------------------------------------


def _row(claim: Claim, results: Results) -> dict[str, Any]:
    """A claim beside its measurement; what was not measured is NaN, and the detail says why."""
    evidence = Evidence(results, claim["experiment"])
    try:
        found, is_measured = _found(claim, evidence), True
    except NotMeasured as reason:
        found, is_measured = number(math.nan, str(reason)), False
    measured, limits = found.measurement(), limits_of(claim, found, evidence.settings)
    verdict = verdict_of(claim, measured, limits) if is_measured else "not measured"
    if not claim.get("check") and not _is_the_papers(results.settings, evidence.settings):
        verdict = "not comparable"
    sample = _prompts_in_words(evidence.settings) if is_measured else ""
    remarks = [measured.detail, claim.get("note", "")]
    if is_measured:
        remarks += _remarks(claim, evidence, sample)
    values = reported_values(claim) if claim["kind"] == "value" else [math.nan]
    return {
        **claim,  # of its fields, COLUMNS keep those that are a column
        "source": source_in_words(claim),
        "paper": claim.get("paper") or values_in_words(claim),
        "reported": sum(values) / len(values),
        "measured": measured.value,
        "low": measured.low,
        "high": measured.high,
        "limit_low": limits[0],
        "limit_high": limits[1],
        "verdict": verdict,
        "essential": claim.get("essential", False),
        "detail": "; ".join(filter(None, remarks)),
        "fails": fails(claim, limits, found),
        "interval": found.interval if is_measured else "",
        "sample": sample,
    }


def _found(claim: Claim, evidence: Evidence) -> Found:
    """What the claim's measure finds, with the strata of its prompts; or NotMeasured."""
    if "missing" in claim:
        raise NotMeasured(claim["missing"])
    if claim.get("required") and (others := _reported_on(claim, evidence.settings)):
        raise NotMeasured(f"{others}, which this run has not")
    found = MEASURES[claim["id"]](evidence)
    known = found.strata is not None or not found.values.ndim
    return found if known else replace(found, strata=evidence.strata)


def _is_the_papers(*settings: dict[str, Any]) -> bool:
    """Whether claims can be held against a run: GPT-2 small, on 01 prompts."""
    corruptions = {one.get("corruption", "01") for one in settings}
    return settings[0].get("gpt2_small") is True and corruptions == {"01"}


def _remarks(claim: Claim, evidence: Evidence, sample: str) -> Iterator[str]:
    """What a reader of the numbers must know."""
    settings = evidence.settings
    if (corruption := settings.get("corruption", "01")) != "01":
        yield f"these prompts are corrupted by {corruption!r}, the paper's by '01'"
    if evidence.experiment in {"large", "bos"} & evidence.results.experiments.keys():
        yield f"measured on {sample}"
    if not claim.get("required"):
        yield _reported_on(claim, settings)


def _reported_on(claim: Claim, settings: dict[str, Any]) -> str:
    """The prompts behind a reported value, if they differ from those measured, or nothing."""
    reported = claim.get("setting", {})
    same = all(settings.get(key) == value for key, value in reported.items())
    return "" if same else f"reported on {_prompts_in_words(reported)}"


def _prompts_in_words(setting: dict[str, Any]) -> str:
    """Prompts in words: "490 prompts, balanced, years 1100-1799"."""
    parts = []
    if n := setting.get("prompts"):
        parts.append(f"{n:,} prompts")
    if "balanced" in setting:
        parts.append("balanced" if setting["balanced"] else "unbalanced")
    if years := setting.get("years"):
        parts.append(f"years {years[0]}-{years[1] - 1}")
    if note := setting.get("note"):
        parts.append(note)
    return ", ".join(parts)


# ---- the table --------------------------------------------------------------------------------


def sample_of(table: pd.DataFrame) -> str:
    """The prompts that a scorecard's claims were measured on, if all on the same, or nothing."""
    samples = {sample for sample in table["sample"] if sample}
    return samples.pop() if len(samples) == 1 else ""


def to_text(table: pd.DataFrame) -> str:
    """The scorecard for a terminal: claims with their intervals, then a count of the verdicts."""
    rule = "-" * 100
    lines = [f"{'claim':<52}{'reported':>17} {'measured':>13}  verdict", rule]
    for theme, part in table.groupby("theme", sort=False):
        sample = sample_of(part)
        lines += [str(theme).upper(), *textwrap.wrap(sample and f"measured on {sample}", 100)]
        for row in part.to_dict("records"):
            claim = textwrap.wrap(row["claim"], 50, subsequent_indent="  ")
            measured = in_words(row["measured"], row["unit"])
            numbers = [f"{row['paper']:>17} {measured:>13}  {row['verdict']}"]
            if not math.isnan(row["low"]):
                numbers.append(f"{interval_in_words(row['low'], row['high'], row['unit']):>31}")
            pairs = zip_longest(claim, numbers, fillvalue="")
            lines += [f"{left:<52}{right}".rstrip() for left, right in pairs]
        lines.append("")
    return "\n".join([*lines[:-1], rule, *textwrap.wrap(summary(table), 100)])


def summary(table: pd.DataFrame) -> str:
    """The verdicts counted, what chance explains, and what contradicts the paper."""
    counts = table["verdict"].value_counts()
    said = [", ".join(f"{name}: {counts[name]}" for name in VERDICTS if name in counts) + "."]
    judged = sum(counts.get(verdict, 0) for verdict in JUDGED)
    if judged:
        said.append(
            f"Of {judged} claims a correct run has {LEVEL * judged:.1f} or less that disagree by "
            f"chance, and hardly ever more than {most_by_chance(judged)}."
        )
    return " ".join(said + contradictions(table))


# ---- the numbers that open the report ---------------------------------------------------------

EVALUATIONS = {
    "clean": "clean prompts",
    "corrupted": "corrupted prompts",
    "partial": "partial circuit",
    "full": "full circuit",
    "reverse": "reverse of the partial circuit",
}


def headline_numbers(results: Results) -> pd.DataFrame:
    """Per evaluation the probability difference, cutoff sharpness and both recovered shares.

    Columns ``metric``, ``metric_low``, ``metric_high`` for the metrics ``prob_diff``,
    ``cutoff_sharpness``, ``recovered`` (circuit / clean, the paper's) and
    ``recovered_above_corrupted`` ((circuit - corrupted) / (clean - corrupted)). Evaluations of
    other names come last; they count as circuits unless they begin with "reverse". Missing
    evaluations have no row; what cannot be computed is NaN.
    """
    found, rows = results.evaluations, []
    diffs = {name: one.prob_diff.double() for name, one in found.items()}
    none = torch.full((len(results.YY),), math.nan)  # and what is recovered of it is NaN as well
    corrupted, strata = diffs.get("corrupted", none), results.strata
    for name in sorted(found, key=[*EVALUATIONS, *found].index):
        is_circuit = not name.startswith(("clean", "corrupted", "reverse"))
        clean = diffs.get("clean", none) if is_circuit else none
        numbers = {
            "prob_diff": average(diffs[name], strata=strata),
            "cutoff_sharpness": average(found[name].cutoff_sharpness, strata=strata),
            "recovered": recovered(diffs[name], clean, strata=strata),
            "recovered_above_corrupted": recovered(diffs[name], clean, corrupted, strata),
        }
        row: dict[str, Any] = {"evaluation": name}
        for metric, one in numbers.items():
            row |= {metric: one.value, f"{metric}_low": one.low, f"{metric}_high": one.high}
        rows.append(row)
    return pd.DataFrame(rows)
