"""The scorecard: every claim of the paper that a reproduction touches, beside what it measured.

Claims live in ``data/paper_facts.toml``, the functions that measure them in ``measures.py`` and
``experiment_measures.py``. Nothing is run: everything comes from finished results.
"""

from __future__ import annotations

import math
import textwrap
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from ..formatting import in_words, interval_in_words
from ..metrics import Measurement, average, ratio
from . import experiment_measures  # noqa: F401  registers the measures of experiments.py
from .measures import MEASURES, NotMeasured
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
_CERTAINTY = {
    "P2": "quoted second-hand",
    "CALC": "follows from the definitions",
    "TL3": "measured by a later reimplementation",
    "REPO": "inferred from the released code",
    "INF": "inferred, not quoted",
}


@cache
def claims() -> tuple[dict[str, Any], ...]:
    """The claims of ``data/paper_facts.toml``, in the order of the paper."""
    text = files("gt_helpers").joinpath("data", "paper_facts.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["claim"])


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


def _row(claim: dict[str, Any], results: Results) -> dict[str, Any]:
    row = {
        "id": claim["id"],
        "theme": claim["theme"],
        "claim": claim["claim"],
        "source": f"{claim['section']}; {certainty_in_words(claim['certainty'])}",
        "paper": _reported(claim),
        "reported": claim["value"] if claim["kind"] == "value" else math.nan,
        "unit": claim["unit"],
    }
    outcome = results.experiments.get(claim["experiment"])
    settings = outcome.settings if outcome else results.settings
    others = _other_settings(claim, settings)
    try:
        if "missing" in claim:
            raise NotMeasured(claim["missing"])
        if claim.get("required") and others:
            raise NotMeasured(f"{others}, which this run has not")
        found = MEASURES[claim["id"]](results)
    except NotMeasured as missing:
        found, verdict = Measurement(math.nan, detail=str(missing)), "not measured"
    else:
        verdict = "agrees" if _holds(claim, found.value) else "disagrees"
    detail = [found.detail] if found.detail else []
    if limit := _limit(claim):
        detail.append(f"agrees {limit}")
    if claim["kind"] == "exact" and found.value:
        detail.append(f"{found.value:.1e} where 0 is exact")  # too small to be seen in points
    corruption = settings.get("corruption", "01")
    if corruption != "01":
        detail.append(f"these prompts are corrupted by {corruption!r}, the paper's by '01'")
    if results.settings.get("gpt2_small") is not True or corruption != "01":
        verdict = "not comparable"
    elif verdict != "not measured":
        if not math.isnan(found.low) and _holds(claim, found.low) != _holds(claim, found.high):
            detail.append("the interval crosses the limit, so the verdict is open")
        elif claim["kind"] == "value" and verdict == "disagrees" and _overlaps(claim, found):
            detail.append("the interval meets the tolerance, so the verdict is open")
        if others and not claim.get("required"):
            detail.append(others)
    sample = "" if math.isnan(found.value) else _setting(settings)
    if outcome and sample and claim["experiment"] in FALLBACK:
        detail.append(f"measured on {sample}")
    return row | {
        "measured": found.value,
        "low": found.low,
        "high": found.high,
        "verdict": verdict,
        "detail": "; ".join(detail),
        "sample": sample,
    }


def _holds(claim: dict[str, Any], value: float) -> bool:
    """Whether a measured number agrees with the claim, by its kind; NaN never does."""
    rounding = 1e-9  # the limit itself still agrees
    match claim["kind"]:
        case "value":
            return abs(value - claim["value"]) <= claim["tolerance"] + rounding
        case "above":
            return value >= claim["value"] - rounding
        case "below":
            return value <= claim["value"] + rounding
        case "order" | "sign":
            return value > 0
        case "exact":
            return value == 0
        case "between":
            low, high = claim["range"]
            return low - rounding <= value <= high + rounding
    raise ValueError(
        f"The claim {claim['id']!r} has the kind {claim['kind']!r}; allowed are value, above, "
        "below, between, order, sign and exact."
    )


def _overlaps(claim: dict[str, Any], found: Measurement) -> bool:
    low, high = (claim["value"] + sign * claim["tolerance"] for sign in (-1, 1))
    return found.low <= high and found.high >= low


def _reported(claim: dict[str, Any]) -> str:
    """What is reported, in the claim's own words or as its value; limits are this project's."""
    return claim.get("paper") or in_words(claim["value"], claim["unit"])


def _limit(claim: dict[str, Any]) -> str:
    """The limits that a claim's measurement is held against, in words, or an empty string."""

    def words(*keys: float) -> list[str]:
        return [in_words(key, claim["unit"]) for key in keys]

    match claim["kind"]:
        case "value":
            low, high = words(
                claim["value"] - claim["tolerance"], claim["value"] + claim["tolerance"]
            )
            return f"from {low} to {high}"
        case "above" | "below":
            return f"{claim['kind']} {words(claim['value'])[0]}"
        case "between":
            return "from {} to {}".format(*words(*claim["range"]))
    return ""


def certainty_in_words(tag: str) -> str:
    """A certainty tag of the facts file in words: "P2 x3" is "quoted second-hand, 3 sources"."""
    kind, _, times = tag.partition(" x")
    return _CERTAINTY[kind] + (f", {times} sources" if times else "")


def _other_settings(claim: dict[str, Any], settings: dict[str, Any]) -> str:
    """The data behind a reported value, if they differ from those measured, or an empty string."""
    reported = claim.get("setting", {})
    ours = {key: settings.get(key) for key in reported}
    if all(_listed(ours[key]) == _listed(value) for key, value in reported.items()):
        return ""
    return f"reported on {_setting(reported)}"


def _listed(value: object) -> object:
    """A tuple as a list, as JSON gives it back; anything else unchanged."""
    return list(value) if isinstance(value, tuple) else value


def _setting(setting: dict[str, Any]) -> str:
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
    rows = []
    for name, diff in diffs.items():
        numbers = {
            "prob_diff": average(diff),
            "cutoff_sharpness": average(found[name].cutoff_sharpness),
            "recovered": Measurement(math.nan),
            "recovered_above_corrupted": Measurement(math.nan),
        }
        if not name.startswith(("clean", "corrupted", "reverse")) and "clean" in diffs:
            numbers["recovered"] = ratio(diff, diffs["clean"])
            if "corrupted" in diffs:
                numbers["recovered_above_corrupted"] = ratio(
                    diff - diffs["corrupted"], diffs["clean"] - diffs["corrupted"]
                )
        row: dict[str, Any] = {"evaluation": name}
        for metric, number in numbers.items():
            row |= {metric: number.value, f"{metric}_low": number.low}
            row[f"{metric}_high"] = number.high
        rows.append(row)
    metrics = ("prob_diff", "cutoff_sharpness", "recovered", "recovered_above_corrupted")
    columns = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["evaluation", *columns])
