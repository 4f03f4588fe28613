"""The scorecard: claims of the paper and of later work, each beside what a reproduction measured.

Nothing is run here: everything comes from finished results. The claims and their measures lie in
pairs of files beside this one, a pair for a topic (see registry.py).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import zip_longest
from typing import Any

import pandas as pd
import torch

from ..formatting import in_words, interval_in_words
from ..metrics import Measurement, average, recovered
from . import activation, controls, found_circuits, neurons, samples, sweeps
from .registry import Claim, Evidence, NotMeasured
from .results import Results

RULE = (
    "A claim agrees if the measured mean lies within the stated limits, which this project chose. "
    "For an order or a sign the measurement is the margin by which it holds, and agrees above 0. "
    "Intervals are 95 % bootstrap intervals over prompts; the last column says where one leaves "
    "the verdict open."
)
COLUMNS = (
    *("id", "theme", "claim", "source", "paper", "reported", "measured", "low", "high"),
    *("verdict", "unit", "detail", "sample"),
)
# Experiments of which every claim can also be measured, less well, on the discovery's prompts.
FALLBACK = ("large", "bos")
VERDICTS = ("agrees", "disagrees", "not measured", "not comparable")
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
    there = {"discovery", *FALLBACK, *results.experiments}
    return [claim["id"] for claim in claims() if claim["experiment"] in there]


def scorecard(results: Results, ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per claim: what is reported, what these results show, and whether they agree.

    ``ids`` are the claims, by default all. The verdict is "agrees", "disagrees", "not measured",
    or, on another model than GPT-2 small, "not comparable". Shares and points are fractions of 1;
    ``reported`` is the source's value where it has one, ``paper`` what it says in words; ``low``
    and ``high`` bound the 95 % bootstrap interval. Raises ValueError for an unknown id.
    """
    wanted = set(known(ids))
    rows = [_row(claim, results) for claim in claims() if claim["id"] in wanted]
    return pd.DataFrame(rows, columns=list(COLUMNS))


# ---- one row ----------------------------------------------------------------------------------


def _row(claim: Claim, results: Results) -> dict[str, Any]:
    """A claim beside its measurement; what was not measured is NaN, and the detail says why."""
    outcome = results.experiments.get(claim["experiment"])
    settings = outcome.settings if outcome else results.settings
    found = _measured(claim, results, settings)
    if not results.settings.get("gpt2_small") or settings.get("corruption", "01") != "01":
        verdict = "not comparable"
    elif math.isnan(found.value):
        verdict = "not measured"
    else:
        verdict = "agrees" if _holds(claim, found.value) else "disagrees"
    remarks = [found.detail, *_remarks(claim, found, settings, verdict)]
    sample = "" if math.isnan(found.value) else _prompts_in_words(settings)
    if outcome and sample and claim["experiment"] in FALLBACK:
        remarks.append(f"measured on {sample}")
    return {
        **claim,  # of its fields, COLUMNS keep those that are a column
        "source": f"{claim['section']}; {claim['certainty']}",
        "paper": claim.get("paper") or in_words(claim["value"], claim["unit"]),
        "reported": claim["value"] if claim["kind"] == "value" else math.nan,
        "measured": found.value,
        "low": found.low,
        "high": found.high,
        "verdict": verdict,
        "detail": "; ".join(filter(None, remarks)),
        "sample": sample,
    }


def _measured(claim: Claim, results: Results, settings: dict[str, Any]) -> Measurement:
    """The measurement of a claim, or NaN with the reason in its detail."""
    try:
        if "missing" in claim:
            raise NotMeasured(claim["missing"])
        if claim.get("required") and (others := _reported_on(claim, settings)):
            raise NotMeasured(f"{others}, which this run has not")
        return MEASURES[claim["id"]](Evidence(results, claim["experiment"]))
    except NotMeasured as reason:
        return Measurement(math.nan, detail=str(reason))


def _limits(claim: Claim) -> tuple[float, float]:
    """The smallest and the largest measurement that agree with a claim."""
    value, tolerance = claim.get("value", 0.0), claim.get("tolerance", 0.0)
    match claim["kind"]:
        case "value" | "exact":  # exactly 0
            return value - tolerance, value + tolerance
        case "above":
            return value, math.inf
        case "below":
            return -math.inf, value
        case "between":
            return claim["range"][0], claim["range"][1]
    return math.ulp(0.0), math.inf  # an order or a sign: from the smallest number above 0 on


def _holds(claim: Claim, value: float) -> bool:
    """Whether a measured number agrees with the claim; NaN never does."""
    low, high = _limits(claim)
    # A limit itself still agrees, however it is rounded; for a margin 0 does not.
    rounding = 0.0 if claim["kind"] in ("order", "sign", "exact") else 1e-9
    return low - rounding <= value <= high + rounding


def _remarks(
    claim: Claim, found: Measurement, settings: dict[str, Any], verdict: str
) -> Iterator[str]:
    """What a reader of the numbers must know."""
    low, high = _limits(claim)
    least, most = (in_words(end, claim["unit"]) for end in (low, high))
    match claim["kind"]:
        case "value" | "between":
            yield f"agrees from {least} to {most}"
        case "above":
            yield f"agrees above {least}"
        case "below":
            yield f"agrees below {most}"
        case "exact" if found.value > 0:
            yield f"{found.value:.1e} where 0 is exact"  # too small to be seen in points
    if (corruption := settings.get("corruption", "01")) != "01":
        yield f"these prompts are corrupted by {corruption!r}, the paper's by '01'"
    if verdict not in ("agrees", "disagrees"):
        return
    if not math.isnan(found.low) and _holds(claim, found.low) != _holds(claim, found.high):
        yield "the interval crosses the limit, so the verdict is open"
    elif claim["kind"] == "value" and verdict == "disagrees":
        if found.low <= high and found.high >= low:
            yield "the interval meets the tolerance, so the verdict is open"
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
    rule, counts = "-" * 100, table["verdict"].value_counts()
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
    count = ", ".join(f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if verdict in counts)
    return "\n".join([*lines[:-1], rule, count])


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
    none = torch.full((1,), math.nan)  # and what is recovered of it is NaN as well
    for name in sorted(found, key=[*EVALUATIONS, *found].index):
        is_circuit = not name.startswith(("clean", "corrupted", "reverse"))
        clean = diffs.get("clean", none) if is_circuit else none
        numbers = {
            "prob_diff": average(diffs[name]),
            "cutoff_sharpness": average(found[name].cutoff_sharpness),
            "recovered": recovered(diffs[name], clean),
            "recovered_above_corrupted": recovered(
                diffs[name], clean, diffs.get("corrupted", none)
            ),
        }
        row: dict[str, Any] = {"evaluation": name}
        for metric, one in numbers.items():
            row |= {metric: one.value, f"{metric}_low": one.low, f"{metric}_high": one.high}
        rows.append(row)
    return pd.DataFrame(rows)
