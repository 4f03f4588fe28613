"""Numbers in words, as the scorecard, the report and the notebooks print them."""

from __future__ import annotations

import math


def in_words(value: float, unit: str = "share", digits: int | None = None) -> str:
    """A fraction as "81.7 %" (share) or "+3.21 pp" (points, percentage points); NaN as a dash.

    Of the unit "number" the number itself, "0.078".
    """
    if math.isnan(value):
        return "–"
    if unit == "number":
        places = 3 if digits is None else digits
        return f"{_no_minus_zero(value, places):.{places}f}".replace("-", "−")
    places = digits if digits is not None else (1 if unit == "share" else 2)
    value = _no_minus_zero(100 * value, places)
    sign = "+" if unit == "points" and value > 0 else ""
    number = f"{value:{sign}.{places}f}".replace("-", "−")
    return number + (" %" if unit == "share" else " pp")


def _no_minus_zero(value: float, places: int) -> float:
    return value if round(value, places) else 0.0


def interval_in_words(low: float, high: float, unit: str, digits: int | None = None) -> str:
    """A 95 % interval as "79.9 to 83.1"; a dash where there is none."""
    if math.isnan(low) or math.isnan(high):
        return "–"
    ends = [in_words(end, unit, digits).rsplit(" ", 1)[0] for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"
