"""What a measurement says about a claim: limits, verdict, and both in words."""

from __future__ import annotations

import math
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from ..formatting import in_words
from ..metrics import Measurement
from .registry import Claim, Found

JUDGED = ("agrees", "disagrees", "open")
VERDICTS = (*JUDGED, "passes", "fails", "not judged", "not measured", "not comparable")
LEVEL = 0.05  # a correct run disagrees with a claim at most this often
LEAST = 0.001  # a margin below 0.1 points counts nowhere
_ROUNDING = 1e-9


@cache
def sources() -> dict[str, dict[str, Any]]:
    """Where reported numbers come from, by the keys that claims use."""
    return tomllib.loads(files(__package__).joinpath("sources.toml").read_text("utf-8"))


def limits_of(claim: Claim, found: Found, settings: dict[str, Any]) -> tuple[float, float]:
    """The smallest and the largest measurement that agree with a claim.

    A reported value has an error too: two standard deviations of the difference between two
    correct runs, and what another implementation may differ by.
    """
    match claim["kind"]:
        case "above":
            return reported_values(claim)[0], math.inf
        case "below":
            return -math.inf, reported_values(claim)[0]
        case "between":
            return claim["range"][0], claim["range"][1]
        case "margin":
            return max(claim["least"] * found.largest, LEAST), math.inf
        case "measured":
            return math.nan, math.nan
    ours = len(found.values) if found.values.ndim else settings.get("prompts", math.inf)
    error = claim.get("sd", 0.0) * math.sqrt(1 / claim.get("n", math.inf) + 1 / ours)
    limit = 2 * error + _allowance(claim)
    return min(reported_values(claim)) - limit, max(reported_values(claim)) + limit


def verdict_of(claim: Claim, measured: Measurement, limits: tuple[float, float]) -> str:
    """Where the whole interval, or without one the number, lies."""
    if math.isnan(measured.value):
        return "not measured"
    if claim["kind"] == "measured":
        return "not judged"
    low, high = measured.low, measured.high
    if math.isnan(low):
        low = high = measured.value
    if claim.get("check"):
        return "passes" if limits[0] <= low and high <= limits[1] else "fails"
    least, most = limits[0] - _ROUNDING, limits[1] + _ROUNDING
    inside = least <= low and high <= most
    # An order that is reversed by too little to count does not contradict one either.
    outside = high < (-least if claim["kind"] == "margin" else least) or low > most
    return "agrees" if inside else "disagrees" if outside else "open"


@cache
def most_by_chance(judged: int) -> int:
    """How many claims of a correct run disagree at most, but for one run in twenty."""
    below = 0.0
    for k in range(judged + 1):
        below += math.comb(judged, k) * LEVEL**k * (1 - LEVEL) ** (judged - k)
        if 1 - below <= LEVEL + _ROUNDING:
            return k
    return judged


# ---- in words ---------------------------------------------------------------------------------


def source_in_words(claim: Claim) -> str:
    """Where a reader can check what is reported, and who quoted it if its text was not at hand."""
    quoted = ", ".join(sources()[one]["name"] for one in claim.get("quoted", []))
    text = f"{sources()[claim['source']]['name']}, {claim['where']}"
    return f"{text} (quoted by {quoted})" if quoted else text


def reported_values(claim: Claim) -> list[float]:
    """What is reported, several values where sources differ."""
    value = claim.get("value", 0.0)
    return value if isinstance(value, list) else [value]


def _allowance(claim: Claim) -> float:
    return claim.get("allowance", sources()[claim["source"]].get("allowance", 0.0))


def values_in_words(claim: Claim) -> str:
    """What is reported, as a reader writes it."""
    return " or ".join(in_words(value, claim["unit"]) for value in reported_values(claim))


def fails(claim: Claim, limits: tuple[float, float], found: Found) -> str:
    """What would contradict the claim, in a sentence, and how its limit comes about."""
    low, high = (in_words(end, claim["unit"]).removeprefix("+") for end in limits)
    if claim.get("check"):
        return f"fails outside {low} to {high}" if limits[0] > -math.inf else f"fails above {high}"
    match claim["kind"]:
        case "measured":
            return "nothing: no source gives a limit"
        case "above":
            return f"disagrees if the whole interval lies below {low}"
        case "below":
            return f"disagrees if the whole interval lies above {high}"
        case "between":
            return f"disagrees if the whole interval lies outside {low} to {high}"
        case "margin":
            part = f"{100 * claim['least']:g} % of the largest effect"
            return f"disagrees if it is reversed by {low} or more ({part}), with its whole interval"
    text = f"disagrees if the whole interval lies outside {low} to {high}"
    return f"{text} ({_limit_in_words(claim, found)})"


def _limit_in_words(claim: Claim, found: Found) -> str:
    allowed = f"{in_words(_allowance(claim), 'number')} for another implementation"
    if not claim.get("sd"):
        return allowed
    ours = f" + 1/{len(found.values):,}" if found.values.ndim else ""
    error = f"2 x {in_words(claim['sd'], 'number')} x √(1/{claim['n']:,}{ours})"
    return f"{error}, and {allowed}"
