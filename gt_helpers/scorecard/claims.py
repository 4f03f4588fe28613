"""The scorecard: every claim of the paper that a reproduction touches, beside what it measured.

Nothing is run here: everything comes from finished results. The claims and their measures lie in
pairs of files beside this one, a pair for a topic (see registry.py).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import pandas as pd

from ..formatting import in_words, interval_in_words
from ..metrics import Measurement, average, recovered
from . import activation, controls, discovery, edges, neurons, samples
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
# What samples.toml says of a theme comes before what discovery.toml does.
TOPICS = tuple(room.topic for room in (samples, discovery, controls, activation, neurons, edges))
MEASURES = {claim: measure for topic in TOPICS for claim, measure in topic.measures.items()}


@cache
def claims() -> tuple[Claim, ...]:
    """The claims of all topics, in the order of the page.

    Raises ValueError if a claim lacks its measure, or a measure its claim.
    """
    for topic in TOPICS:
        topic.check()
    every = [claim for topic in TOPICS for claim in topic.claims]
    return tuple(sorted(every, key=lambda claim: THEMES.index(claim["theme"])))


# In the order of the page, but for the discovery: it finds the circuit that the rest is about.
_BY_NAME = {name: one for topic in TOPICS for name, one in topic.experiments.items()}
EXPERIMENTS = {
    name: _BY_NAME[name]
    for name in ("discovery", *(claim["experiment"] for claim in claims()))
    if name in _BY_NAME
}


def measurable(results: Results) -> list[str]:
    """Ids of the claims whose experiment these results hold; the discovery is taken to be there."""
    there = {"discovery", *FALLBACK, *results.experiments}
    return [claim["id"] for claim in claims() if claim["experiment"] in there]


def scorecard(results: Results, ids: Iterable[str] | None = None) -> pd.DataFrame:
    """One row per claim: what is reported, what these results show, and whether they agree.

    ``ids`` are the claims, by default all. The verdict is "agrees", "disagrees", "not measured",
    or, on another model than GPT-2 small, "not comparable". Shares and points are fractions of 1;
    ``reported`` is the paper's value where it has one, ``paper`` what it says in words; ``low`` and
    ``high`` bound the 95 % bootstrap interval.
    """
    wanted = {claim["id"] for claim in claims()} if ids is None else set(ids)
    rows = [_row(claim, results) for claim in claims() if claim["id"] in wanted]
    return pd.DataFrame(rows, columns=list(COLUMNS))


# ---- one row ----------------------------------------------------------------------------------


def _row(claim: Claim, results: Results) -> dict[str, Any]:
    """A claim beside its measurement; what was not measured is NaN, and the detail says why."""
    outcome = results.experiments.get(claim["experiment"])
    settings = outcome.settings if outcome else results.settings
    found = _measured(claim, results, settings)
    verdict = _verdict(claim, found, results, settings)
    sample = "" if math.isnan(found.value) else _in_words(settings)
    remarks = [*_remarks(claim, found, verdict, settings)]
    if outcome and sample and claim["experiment"] in FALLBACK:
        remarks.append(f"measured on {sample}")
    return {
        "id": claim["id"],
        "theme": claim["theme"],
        "claim": claim["claim"],
        "source": f"{claim['section']}; {certainty_in_words(claim['certainty'])}",
        "paper": claim.get("paper") or in_words(claim["value"], claim["unit"]),
        "reported": claim["value"] if claim["kind"] == "value" else math.nan,
        "measured": found.value,
        "low": found.low,
        "high": found.high,
        "verdict": verdict,
        "unit": claim["unit"],
        "detail": "; ".join(filter(None, remarks)),
        "sample": sample,
    }


def _measured(claim: Claim, results: Results, settings: dict[str, Any]) -> Measurement:
    """The measurement of a claim, or NaN with the reason in its detail."""
    try:
        if "missing" in claim:
            raise NotMeasured(claim["missing"])
        if claim.get("required") and (others := _other_prompts(claim, settings)):
            raise NotMeasured(f"{others}, which this run has not")
        return MEASURES[claim["id"]](Evidence(results, claim["experiment"]))
    except NotMeasured as reason:
        return Measurement(math.nan, detail=str(reason))


def _verdict(claim: Claim, found: Measurement, results: Results, settings: dict[str, Any]) -> str:
    if results.settings.get("gpt2_small") is not True or _corruption(settings) != "01":
        return "not comparable"
    if math.isnan(found.value):
        return "not measured"
    return "agrees" if _holds(claim, found.value) else "disagrees"


def _remarks(
    claim: Claim, found: Measurement, verdict: str, settings: dict[str, Any]
) -> Iterator[str]:
    """What a reader of the numbers and the verdict must know."""
    yield found.detail
    yield _limits_in_words(claim)
    if claim["kind"] == "exact" and found.value > 0:
        yield f"{found.value:.1e} where 0 is exact"  # too small to be seen in points
    if (corruption := _corruption(settings)) != "01":
        yield f"these prompts are corrupted by {corruption!r}, the paper's by '01'"
    if verdict in ("agrees", "disagrees"):
        low, high = _limits(claim)
        if not math.isnan(found.low) and _holds(claim, found.low) != _holds(claim, found.high):
            yield "the interval crosses the limit, so the verdict is open"
        elif claim["kind"] == "value" and verdict == "disagrees":
            if found.low <= high and found.high >= low:
                yield "the interval meets the tolerance, so the verdict is open"
        if not claim.get("required"):
            yield _other_prompts(claim, settings)


def _limits(claim: Claim) -> tuple[float, float]:
    """The smallest and the largest measurement that agree with a claim."""
    match claim["kind"]:
        case "value":
            return claim["value"] - claim["tolerance"], claim["value"] + claim["tolerance"]
        case "above":
            return claim["value"], math.inf
        case "below":
            return -math.inf, claim["value"]
        case "between":
            return claim["range"][0], claim["range"][1]
        case "order" | "sign":
            return math.ulp(0.0), math.inf  # from the smallest number above 0 on
        case "exact":
            return 0.0, 0.0


def _holds(claim: Claim, value: float) -> bool:
    """Whether a measured number agrees with the claim; NaN never does."""
    low, high = _limits(claim)
    # A limit itself still agrees, however it is rounded; for a margin 0 does not.
    rounding = 0.0 if claim["kind"] in ("order", "sign", "exact") else 1e-9
    return low - rounding <= value <= high + rounding


def _limits_in_words(claim: Claim) -> str:
    low, high = (in_words(end, claim["unit"]) for end in _limits(claim))
    match claim["kind"]:
        case "value" | "between":
            return f"agrees from {low} to {high}"
        case "above":
            return f"agrees above {low}"
        case "below":
            return f"agrees below {high}"
    return ""


_CERTAINTY = {
    "P2": "quoted second-hand",
    "CALC": "follows from the definitions",
    "TL3": "measured by a later reimplementation",
    "REPO": "inferred from the released code",
    "INF": "inferred, not quoted",
}


def certainty_in_words(tag: str) -> str:
    """A claim's certainty in words: "P2 x3" is "quoted second-hand, 3 sources"."""
    kind, _, times = tag.partition(" x")
    return _CERTAINTY[kind] + (f", {times} sources" if times else "")


def _corruption(settings: dict[str, Any]) -> str:
    return settings.get("corruption", "01")


def _other_prompts(claim: Claim, settings: dict[str, Any]) -> str:
    """The prompts behind a reported value, if they differ from those measured, or nothing."""
    reported = claim.get("setting", {})
    same = all(settings.get(key) == value for key, value in reported.items())
    return "" if same else f"reported on {_in_words(reported)}"


def _in_words(setting: dict[str, Any]) -> str:
    """Prompts in words: "490 prompts, balanced, years 1100-1799"."""
    parts = []
    if setting.get("prompts"):
        parts.append(f"{setting['prompts']:,} prompts")
    if "balanced" in setting:
        parts.append("balanced" if setting["balanced"] else "unbalanced")
    if setting.get("years"):
        parts.append(f"years {setting['years'][0]}-{setting['years'][1] - 1}")
    if setting.get("note"):
        parts.append(setting["note"])
    return ", ".join(parts)


# ---- the table --------------------------------------------------------------------------------


def sample_of(table: pd.DataFrame) -> str:
    """The prompts that a scorecard's claims were measured on, if all on the same, or nothing."""
    samples = {sample for sample in table["sample"] if sample}
    return samples.pop() if len(samples) == 1 else ""


def to_text(table: pd.DataFrame, width: int = 100) -> str:
    """The scorecard for a terminal: claims with their intervals, then a count of the verdicts."""
    name_width = width - 48
    head = f"{'claim':<{name_width}}{'reported':>17} {'measured':>13}  verdict"
    lines, theme = [head, "-" * width], ""
    for row in table.itertuples():
        if row.theme != theme:
            theme = str(row.theme)
            sample = sample_of(table[table["theme"] == theme])
            lines += [*([""] if len(lines) > 2 else []), theme.upper()]
            lines += textwrap.wrap(f"measured on {sample}", width) if sample else []
        claim = textwrap.wrap(str(row.claim), name_width - 2) or [""]
        numbers = f"{row.paper:>17} {in_words(float(row.measured), row.unit):>13}  {row.verdict}"
        lines.append(f"{claim[0]:<{name_width}}{numbers}")
        interval = interval_in_words(float(row.low), float(row.high), row.unit)
        rest = [f"  {part}" for part in claim[1:]]
        if interval != "–":
            second, *rest = rest or [""]
            lines.append(f"{second:<{name_width}}{interval:>31}")
        lines += rest
    counts = table["verdict"].value_counts()
    lines += ["-" * width, ", ".join(f"{v}: {counts[v]}" for v in VERDICTS if v in counts)]
    return "\n".join(lines)


# ---- the numbers that open the report ---------------------------------------------------------

EVALUATIONS = {
    "clean": "clean prompts",
    "corrupted": "corrupted prompts",
    "partial": "partial circuit",
    "full": "full circuit",
    "reverse": "reverse of the partial circuit",
}
_HEADLINE = ("prob_diff", "cutoff_sharpness", "recovered", "recovered_above_corrupted")


def headline_numbers(results: Results) -> pd.DataFrame:
    """Per evaluation the probability difference, cutoff sharpness and both recovered shares.

    Columns ``metric``, ``metric_low``, ``metric_high`` for the metrics ``prob_diff``,
    ``cutoff_sharpness``, ``recovered`` (circuit / clean, the paper's) and
    ``recovered_above_corrupted`` ((circuit - corrupted) / (clean - corrupted)). Evaluations of
    other names come last; they count as circuits unless they begin with "reverse". Missing
    evaluations have no row; what cannot be computed is NaN.
    """
    found = results.evaluations
    order = [*(name for name in EVALUATIONS if name in found), *found]
    diffs = {name: found[name].prob_diff.double() for name in order}
    clean, corrupted = diffs.get("clean"), diffs.get("corrupted")
    rows = []
    for name, diff in diffs.items():
        numbers = dict.fromkeys(_HEADLINE, Measurement(math.nan))
        numbers["prob_diff"] = average(diff)
        numbers["cutoff_sharpness"] = average(found[name].cutoff_sharpness)
        if not name.startswith(("clean", "corrupted", "reverse")) and clean is not None:
            numbers["recovered"] = recovered(diff, clean)
            if corrupted is not None:
                numbers["recovered_above_corrupted"] = recovered(diff, clean, corrupted)
        row: dict[str, Any] = {"evaluation": name}
        for metric, number in numbers.items():
            row |= {metric: number.value, f"{metric}_low": number.low}
            row[f"{metric}_high"] = number.high
        rows.append(row)
    columns = [f"{metric}{end}" for metric in _HEADLINE for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["evaluation", *columns])
