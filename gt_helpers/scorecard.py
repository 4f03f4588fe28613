"""The scorecard: every claim of the paper that a reproduction touches, beside what it measured.

Claims live in ``data/paper_facts.toml``, the functions that measure them in ``measures.py``.
Nothing is run: everything comes from finished results.
"""

from __future__ import annotations

import math
import textwrap
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from .measures import MEASURES, Measurement, NotMeasured, average, ratio
from .results import Results
from .words import in_words

RULE = (
    "A value agrees if the measured mean lies within the stated tolerance of the reported value. "
    "For an order or a sign the measurement is the margin by which it holds, and agrees above 0. "
    "Intervals are 95 % bootstrap intervals over prompts; the last column says where one leaves "
    "the verdict open."
)
COLUMNS = ("id", "claim", "source", "paper", "measured", "low", "high", "verdict", "unit", "detail")
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
    text = files(__package__).joinpath("data", "paper_facts.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["claim"])


def scorecard(results: Results) -> pd.DataFrame:
    """One row per claim: what is reported, what these results show, and whether they agree.

    The verdict is "agrees", "disagrees", "not measured", or, on another model than GPT-2 small,
    "not comparable". Shares and points are fractions of 1; ``low`` and ``high`` bound the 95 %
    bootstrap interval.
    """
    return pd.DataFrame([_row(claim, results) for claim in claims()], columns=list(COLUMNS))


def _row(claim: dict[str, Any], results: Results) -> dict[str, Any]:
    row = {
        "id": claim["id"],
        "claim": claim["claim"],
        "source": f"{claim['section']}; {certainty_in_words(claim['certainty'])}",
        "paper": _reported(claim),
        "unit": claim["unit"],
    }
    try:
        if claim.get("required") and (others := _other_settings(claim, results)):
            raise NotMeasured(f"{others}, which this run has not")
        found = MEASURES[claim["id"]](results)
    except NotMeasured as missing:
        found, verdict = Measurement(math.nan, detail=str(missing)), "not measured"
    else:
        verdict = "agrees" if _holds(claim, found.value) else "disagrees"
    detail = [found.detail] if found.detail else []
    if claim["kind"] == "exact" and found.value:
        detail.append(f"{found.value:.1e} where 0 is exact")  # too small to be seen in points
    if results.settings.get("gpt2_small") is not True:
        verdict = "not comparable"
    elif verdict != "not measured":
        if not math.isnan(found.low) and _holds(claim, found.low) != _holds(claim, found.high):
            detail.append("the interval crosses the limit, so the verdict is open")
        elif claim["kind"] == "value" and verdict == "disagrees" and _overlaps(claim, found):
            detail.append("the interval meets the tolerance, so the verdict is open")
        if not claim.get("required") and (others := _other_settings(claim, results)):
            detail.append(others)
    return row | {
        "measured": found.value,
        "low": found.low,
        "high": found.high,
        "verdict": verdict,
        "detail": "; ".join(detail),
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
    raise ValueError(
        f"The claim {claim['id']!r} has the kind {claim['kind']!r}; allowed are value, above, "
        "below, order, sign and exact."
    )


def _overlaps(claim: dict[str, Any], found: Measurement) -> bool:
    low, high = (claim["value"] + sign * claim["tolerance"] for sign in (-1, 1))
    return found.low <= high and found.high >= low


def _reported(claim: dict[str, Any]) -> str:
    if "paper" in claim:
        return claim["paper"]
    value = in_words(claim["value"], claim["unit"])
    if claim["kind"] == "value":
        return f"{value} ± {claim['tolerance'] * 100:.1f}"
    return f"{claim['kind']} {value}"


def certainty_in_words(tag: str) -> str:
    """A certainty tag of the facts file in words: "P2 x3" is "quoted second-hand, 3 sources"."""
    kind, _, times = tag.partition(" x")
    return _CERTAINTY[kind] + (f", {times} sources" if times else "")


def _other_settings(claim: dict[str, Any], results: Results) -> str:
    """The data behind a reported value, if they differ from this run's, or an empty string."""
    reported = claim.get("setting", {})
    ours = {key: results.settings.get(key) for key in reported}
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
    return ", ".join(parts)


def to_text(table: pd.DataFrame, width: int = 100) -> str:
    """The scorecard for a terminal: one line per claim, then a count of the verdicts."""
    name_width = width - 48
    head = f"{'claim':<{name_width}}{'reported':>17} {'measured':>13}  verdict"
    lines = [head, "-" * width]
    for row in table.itertuples():
        claim = textwrap.wrap(str(row.claim), name_width - 2) or [""]
        numbers = f"{row.paper:>17} {in_words(float(row.measured), row.unit):>13}  {row.verdict}"
        lines.append(f"{claim[0]:<{name_width}}{numbers}")
        lines += [f"  {rest}" for rest in claim[1:]]
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
