"""What a measurement says about a claim: limits, verdict, and both in words."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from ..formatting import in_words
from ..metrics import Measurement
from .registry import Claim, Found

JUDGED = ("agrees", "disagrees", "open")
VERDICTS = (*JUDGED, "passes", "fails", "not judged", "not measured", "not comparable")
LEVEL = 0.005  # a correct run disagrees with a claim less often (benchmarks/judge.py: 0.1 %)
LEAST = 0.001  # a margin below 0.1 points counts nowhere
BAND = 0.05  # a number without an interval is open so near to a limit that this project chose
_ROUNDING = 1e-9


@cache
def sources() -> dict[str, dict[str, Any]]:
    """Where reported numbers come from, by the keys that claims use."""
    return tomllib.loads(files(__package__).joinpath("sources.toml").read_text("utf-8"))


def limits_of(claim: Claim, found: Found, settings: dict[str, Any]) -> tuple[float, float]:
    """The smallest and the largest measurement that agree with a claim.

    A reported value has an error too: two standard deviations of the difference between two
    correct runs, and an allowance for what else differs.
    """
    values = reported_values(claim)
    match claim["kind"]:
        case "above":
            return values[0], math.inf
        case "below":
            return -math.inf, values[0]
        case "between":
            return claim["range"][0], claim["range"][1]
        case "margin":
            return max(claim["least"] * found.largest, LEAST), math.inf
        case "measured":
            return math.nan, math.nan
    ours = len(found.values) if found.values.ndim else settings.get("prompts", math.inf)
    error = claim.get("sd", 0.0) * math.sqrt(1 / claim.get("n", math.inf) + 1 / ours)
    limit = 2 * error + _allowance(claim)
    low, high = min(values) - limit, max(values) + limit
    return (max(low, 0), min(high, 1)) if found.values.dtype == torch.bool else (low, high)


def verdict_of(claim: Claim, measured: Measurement, limits: tuple[float, float]) -> str:
    """Where the whole interval lies, or the number if it has none; NaN is nowhere."""
    if claim["kind"] == "measured":
        return "not judged"
    low, high = measured.low, measured.high
    if claim.get("check"):
        return "passes" if limits[0] <= measured.value <= limits[1] else "fails"
    if math.isnan(low):
        band = BAND if claim["kind"] in ("above", "below") else 0.0
        low, high = measured.value - band, measured.value + band
    least, most = limits[0] - _ROUNDING, limits[1] + _ROUNDING
    if least <= low and high <= most:
        return "agrees"
    # An order that is reversed by too little to count does not contradict one either.
    reached = high >= (-least if claim["kind"] == "margin" else least) and low <= most
    return "open" if reached else "disagrees"


@cache
def most_by_chance(judged: int) -> int:
    """How many claims of a correct run disagree at most, but for one run in twenty."""
    below = 0.0
    for k in range(judged + 1):
        below += math.comb(judged, k) * LEVEL**k * (1 - LEVEL) ** (judged - k)
        if 1 - below <= 0.05:
            return k
    return judged


# ---- in words ---------------------------------------------------------------------------------


def source_in_words(claim: Claim) -> str:
    """Where a reader can check what is reported, and who quoted it if its text was not at hand."""
    source = sources()[claim["source"]]
    text = f"{source['name']}, {claim['where']}"
    quoted = [sources()[one]["name"] for one in claim.get("quoted", [])]
    if quoted or claim["source"] == "paper":
        text += f" (read second-hand{': ' * bool(quoted)}{', '.join(quoted)})"
    return f"{text}; {source['url']}" if "url" in source else text


def reported_values(claim: Claim) -> list[float]:
    """What is reported, several values where sources differ."""
    value = claim.get("value", 0.0)
    return value if isinstance(value, list) else [value]


def values_in_words(claim: Claim) -> str:
    """What is reported, as a reader writes it."""
    return " or ".join(in_words(value, claim["unit"]) for value in reported_values(claim))


def fails(claim: Claim, limits: tuple[float, float], found: Found) -> str:
    """What would contradict the claim, in a sentence, and how its limit comes about."""
    low, high = (in_words(end, claim["unit"]).removeprefix("+") for end in limits)
    if claim.get("check"):
        return f"fails above {high}"
    what = "the whole interval lies" if found.values.ndim else "it lies"
    match claim["kind"]:
        case "measured":
            return "nothing: no source gives a limit"
        case "margin":
            part = f"{100 * claim['least']:g} % of the largest effect"
            return f"disagrees if it is reversed by {low} or more ({part}), with its whole interval"
        case "above":
            where = f"below {low}"
        case "below":
            where = f"above {high}"
        case _:
            where = f"outside {low} to {high}"
    if claim["kind"] == "value":
        return f"disagrees if {what} {where} ({_limit_in_words(claim, found)})"
    near = "" if found.values.ndim else f", by more than {in_words(BAND, 'points', 0)[1:]}"
    return f"disagrees if {what} {where}{near} (a limit of this project)"


def _allowance(claim: Claim) -> float:
    return claim.get("allowance", sources()[claim["source"]].get("allowance", 0.0))


def _limit_in_words(claim: Claim, found: Found) -> str:
    unit = "number" if claim["unit"] == "number" else "share"
    allowed = f"{in_words(_allowance(claim), unit)} for "
    allowed += claim.get("allowed_for", "another implementation")
    if not claim.get("sd"):
        return allowed
    ours = f" + 1/{len(found.values):,}" if found.values.ndim else ""
    return f"2 x {in_words(claim['sd'], unit)} x √(1/{claim['n']:,}{ours}), and {allowed}"
