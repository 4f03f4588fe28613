"""The scorecard: every claim of the paper that a reproduction touches, beside what it measured.

Claims live in ``data/paper_facts.toml``; each is measured by one small function registered here
under the claim's id. Nothing is run: everything comes from finished results.
"""

from __future__ import annotations

import math
import textwrap
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .components import component, inputs
from .metrics import bootstrap_ci, per_YY_probs
from .path_patching import Evaluation, Sweep
from .results import Results

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


class NotMeasured(LookupError):
    """The results lack what a claim needs; the message says what."""


@dataclass(frozen=True)
class Measurement:
    """One number with its 95 % interval, and what it consists of in words."""

    value: float
    low: float = math.nan
    high: float = math.nan
    detail: str = ""


Measure = Callable[[Results], Measurement]
MEASURES: dict[str, Measure] = {}


def measures(claim: str) -> Callable[[Measure], Measure]:
    """Register the function that measures one claim, by the claim's id."""

    def register(measure: Measure) -> Measure:
        MEASURES[claim] = measure
        return measure

    return register


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


# ---- numbers in words -------------------------------------------------------------------------


def in_words(value: float, unit: str = "share", digits: int | None = None) -> str:
    """A fraction as "81.7 %" (share) or "+3.21 pp" (points, percentage points); NaN as a dash."""
    if math.isnan(value):
        return "–"
    places = digits if digits is not None else (1 if unit == "share" else 2)
    value = 100 * value
    if round(value, places) == 0:
        value = 0.0  # no minus zero
    sign = "+" if unit == "points" and value > 0 else ""
    number = f"{value:{sign}.{places}f}".replace("-", "−")
    return number + (" %" if unit == "share" else " pp")


def interval_in_words(low: float, high: float, unit: str, digits: int | None = None) -> str:
    """A 95 % interval as "79.9 to 83.1"; a dash where there is none."""
    if math.isnan(low) or math.isnan(high):
        return "–"
    ends = [in_words(end, unit, digits).rsplit(" ", 1)[0] for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


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
    ``recovered_above_corrupted`` ((circuit - corrupted) / (clean - corrupted)). Missing
    evaluations have no row; what cannot be computed is NaN.
    """
    found = results.evaluations
    diffs = {name: found[name].prob_diff.double() for name in EVALUATIONS if name in found}
    rows = []
    for name, diff in diffs.items():
        numbers = {
            "prob_diff": _mean(diff),
            "cutoff_sharpness": _mean(found[name].cutoff_sharpness),
            "recovered": Measurement(math.nan),
            "recovered_above_corrupted": Measurement(math.nan),
        }
        if name in ("partial", "full") and "clean" in diffs:
            numbers["recovered"] = _ratio(diff, diffs["clean"])
            if "corrupted" in diffs:
                numbers["recovered_above_corrupted"] = _ratio(
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


def _mean(values: Tensor, detail: str = "") -> Measurement:
    mean, low, high = bootstrap_ci(values)
    return Measurement(float(mean), float(low), float(high), detail)


def _ratio(numerator: Tensor, denominator: Tensor) -> Measurement:
    """Ratio of two means over the same prompts; the interval is that of its linearisation."""
    bottom = denominator.mean()
    if bottom == 0:
        return Measurement(math.nan)
    ratio = numerator.mean() / bottom
    return _mean(ratio + (numerator - ratio * denominator) / bottom)


def _sd(values: Tensor) -> Measurement:
    n = len(values)
    if n < 2:
        raise NotMeasured("one prompt has no standard deviation")
    squares = (values.double() - values.double().mean()) ** 2 * n / (n - 1)
    variance = _mean(squares)
    return Measurement(math.sqrt(variance.value), math.sqrt(variance.low), math.sqrt(variance.high))


# ---- what claims are measured from ------------------------------------------------------------


def _evaluation(results: Results, name: str) -> Evaluation:
    if name not in results.evaluations:
        raise NotMeasured(f"the evaluation {name!r} is missing")
    return results.evaluations[name]


def _sweep(results: Results, name: str, senders_at: str = "END") -> Sweep:
    # An MLP can be a receiver at END ("m3") and at YY ("m3@YY"): the senders' position decides.
    for key in (f"{name}@{senders_at}", name):
        sweep = results.sweeps.get(key)
        if sweep is not None and component(sweep.senders[0]).position == senders_at:
            return sweep
    raise NotMeasured(f"the sweep {name!r} with senders at {senders_at} is missing")


def _values(sweep: Sweep, name: str) -> Tensor:
    """Effects [prompt] of one sender, at the sweep's own position."""
    position = component(sweep.senders[0]).position
    if f"{name}@{position}" not in sweep.senders:
        raise NotMeasured(f"the model has no {name}")
    return sweep.values[sweep.senders.index(f"{name}@{position}")]


def _names(sweep: Sweep, kinds: Iterable[str]) -> list[str]:
    nodes = [component(name) for name in sweep.senders]
    return [node.label for node in nodes if node.kind in kinds]


def _mean_effect(sweep: Sweep, name: str) -> float:
    return float(_values(sweep, name).double().mean())


def _first(sweep: Sweep, group: Iterable[str], kinds: Iterable[str]) -> Measurement:
    """By how much the weakest of a group is more negative than the strongest of all the others."""
    group = list(group)
    weakest = max(group, key=lambda name: _mean_effect(sweep, name))
    others = [name for name in _names(sweep, kinds) if name not in group]
    if not others:
        raise NotMeasured("there is nothing to compare with")
    strongest = min(others, key=lambda name: _mean_effect(sweep, name))
    words = [f"{n} {in_words(_mean_effect(sweep, n), 'points')}" for n in (weakest, strongest)]
    label = "weakest of them: " if len(group) > 1 else ""
    margin = _values(sweep, strongest).double() - _values(sweep, weakest).double()
    return _mean(margin, f"{label}{words[0]}, strongest other: {words[1]}")


def _all_negative(sweep: Sweep, group: Iterable[str]) -> Measurement:
    weakest = max(group, key=lambda name: _mean_effect(sweep, name))
    detail = f"weakest: {weakest} {in_words(_mean_effect(sweep, weakest), 'points')}"
    return _mean(-_values(sweep, weakest).double(), detail)


_HEADS, _GRID = ("head",), ("head", "mlp")


# ---- one function per claim -------------------------------------------------------------------


@measures("clean_prob_diff")
def _clean_prob_diff(results: Results) -> Measurement:
    return _mean(_evaluation(results, "clean").prob_diff)


measures("clean_prob_diff_balanced")(_clean_prob_diff)


@measures("clean_prob_diff_sd")
def _clean_prob_diff_sd(results: Results) -> Measurement:
    return _sd(_evaluation(results, "clean").prob_diff)


@measures("clean_cutoff_sharpness")
def _clean_cutoff_sharpness(results: Results) -> Measurement:
    return _mean(_evaluation(results, "clean").cutoff_sharpness)


@measures("clean_cutoff_sharpness_sd")
def _clean_cutoff_sharpness_sd(results: Results) -> Measurement:
    return _sd(_evaluation(results, "clean").cutoff_sharpness)


@measures("corrupted_prob_diff")
def _corrupted_prob_diff(results: Results) -> Measurement:
    return _mean(_evaluation(results, "corrupted").prob_diff)


@measures("year_mass")
def _year_mass(results: Results) -> Measurement:
    masses = {
        name: _mean(_evaluation(results, name).probs.double().sum(-1))
        for name in ("clean", "corrupted")
    }
    name = min(masses, key=lambda key: masses[key].value)
    return Measurement(masses[name].value, masses[name].low, masses[name].high, f"{name} prompts")


def _top_year_valid(evaluation: Evaluation) -> Measurement:
    return _mean((evaluation.log_probs.argmax(-1) > evaluation.YY).double())


@measures("top_year_valid")
def _top_year_valid_clean(results: Results) -> Measurement:
    return _top_year_valid(_evaluation(results, "clean"))


@measures("top_year_valid_corrupted")
def _top_year_valid_corrupted(results: Results) -> Measurement:
    return _top_year_valid(_evaluation(results, "corrupted"))


@measures("prob_diff_positive")
def _prob_diff_positive(results: Results) -> Measurement:
    return _mean((_evaluation(results, "clean").prob_diff > 0).double())


@measures("prob_diff_positive_corrupted")
def _prob_diff_positive_corrupted(results: Results) -> Measurement:
    return _mean((_evaluation(results, "corrupted").prob_diff > 0).double())


@measures("invalid_mass")
def _invalid_mass(results: Results) -> Measurement:
    clean = _evaluation(results, "clean")
    return _mean((clean.probs.double().sum(-1) - clean.prob_diff) / 2)


@measures("heatmap_maximum")
def _heatmap_maximum(results: Results) -> Measurement:
    clean = _evaluation(results, "clean")
    table = per_YY_probs(clean.log_probs, clean.YY).nan_to_num(0.0)
    row, year = divmod(int(table.argmax()), table.shape[1])
    return Measurement(float(table.max()), detail=f"at YY {row + 2:02d}, year {year:02d}")


@measures("step_at_YY")
def _step_at_YY(results: Results) -> Measurement:
    clean = _evaluation(results, "clean")
    table = per_YY_probs(clean.log_probs, clean.YY)
    rows = [row for row in range(len(table)) if not bool(table[row].isnan().any())]
    later = [bool(table[r, r + 3 :].mean() > table[r, : r + 3].mean()) for r in rows]
    return Measurement(sum(later) / len(later), detail=f"{sum(later)} of {len(later)} YYs")


@measures("logits_senders")
def _logits_senders(results: Results) -> Measurement:
    return _first(_sweep(results, "logits"), ("m8", "m9", "m10", "m11", "a9.h1"), _GRID)


@measures("logits_strongest")
def _logits_strongest(results: Results) -> Measurement:
    return _first(_sweep(results, "logits"), ["m10"], _GRID)


@measures("logits_a9h1_alone")
def _logits_a9h1_alone(results: Results) -> Measurement:
    sweep = _sweep(results, "logits")
    ours = _values(sweep, "a9.h1").double()
    others = [name for name in _names(sweep, _HEADS) if name != "a9.h1"]
    next_ = max(others, key=lambda name: abs(_mean_effect(sweep, name)))
    effect = _values(sweep, next_).double()
    words = [f"{n} {in_words(_mean_effect(sweep, n), 'points')}" for n in ("a9.h1", next_)]
    # Half of a9.h1's effect, which has to be negative, less the size of the largest other one.
    margin = -ours / 2 - effect * (1.0 if float(effect.mean()) >= 0 else -1.0)
    return _mean(margin, f"{words[0]}, largest other head: {words[1]}")


@measures("logits_a10h7")
def _logits_a10h7(results: Results) -> Measurement:
    return _mean(_values(_sweep(results, "logits"), "a10.h7").double())


@measures("m10_direct")
def _m10_direct(results: Results) -> Measurement:
    direct = _values(_sweep(results, "logits"), "m10").double()
    indirect = _values(_sweep(results, "m11"), "m10").double()
    words = [in_words(float(x.mean()), "points") for x in (direct, indirect)]
    return _mean(indirect - direct, f"direct {words[0]}, through m11 {words[1]}")


@measures("m11_senders")
def _m11_senders(results: Results) -> Measurement:
    return _all_negative(_sweep(results, "m11"), ("m8", "m9", "m10", "a9.h1"))


@measures("m10_senders")
def _m10_senders(results: Results) -> Measurement:
    return _all_negative(_sweep(results, "m10"), ("m8", "m9", "a9.h1"))


@measures("m9_top_head")
def _m9_top_head(results: Results) -> Measurement:
    return _first(_sweep(results, "m9"), ["a9.h1"], _HEADS)


@measures("m9_top_mlp")
def _m9_top_mlp(results: Results) -> Measurement:
    return _first(_sweep(results, "m9"), ["m8"], ("mlp",))


@measures("m8_top_heads")
def _m8_top_heads(results: Results) -> Measurement:
    six = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11")
    return _first(_sweep(results, "m8"), six, _HEADS)


@measures("unreachable")
def _unreachable(results: Results) -> Measurement:
    cells, largest = 0, 0.0
    for sweep in results.sweeps.values():
        receivers = inputs(sweep.receivers)
        rows = [
            i
            for i, name in enumerate(sweep.senders)
            if not any(sweep.shape.reaches(component(name), receiver) for receiver in receivers)
        ]
        cells += len(rows)
        if rows:
            largest = max(largest, float(sweep.values[rows].abs().max()))
    if not cells:
        raise NotMeasured("no sweep has a sender that cannot reach its receivers")
    return Measurement(largest, detail=f"{cells} senders in {len(results.sweeps)} sweeps")


@measures("partial_prob_diff")
def _partial_prob_diff(results: Results) -> Measurement:
    return _mean(_evaluation(results, "partial").prob_diff)


@measures("partial_recovered")
def _partial_recovered(results: Results) -> Measurement:
    partial, clean = (_evaluation(results, name).prob_diff for name in ("partial", "clean"))
    return _ratio(partial.double(), clean.double())


@measures("partial_cutoff_sharpness")
def _partial_cutoff_sharpness(results: Results) -> Measurement:
    return _mean(_evaluation(results, "partial").cutoff_sharpness)


@measures("partial_sharper")
def _partial_sharper(results: Results) -> Measurement:
    partial, clean = (_evaluation(results, name).cutoff_sharpness for name in ("partial", "clean"))
    return _mean(partial.double() - clean.double())


@measures("reverse_prob_diff")
def _reverse_prob_diff(results: Results) -> Measurement:
    return _mean(_evaluation(results, "reverse").prob_diff)


@measures("reverse_sign")
def _reverse_sign(results: Results) -> Measurement:
    sides = {
        "reverse": -_evaluation(results, "reverse").prob_diff.double(),
        "clean": _evaluation(results, "clean").prob_diff.double(),
    }
    narrower = min(sides, key=lambda name: float(sides[name].mean()))
    return _mean(sides[narrower], f"the smaller side is {narrower}")


@measures("values_first")
def _values_first(results: Results) -> Measurement:
    return _first(_sweep(results, "v", "YY"), ["m0"], _GRID)


@measures("values_senders")
def _values_senders(results: Results) -> Measurement:
    seven = ("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5")
    return _first(_sweep(results, "v", "YY"), seven, _GRID)


@measures("values_over_keys")
def _values_over_keys(results: Results) -> Measurement:
    strongest = {}
    for part in ("v", "k"):
        grid = _sweep(results, part, "YY").values[:-1].double()
        row = grid[int(grid.mean(-1).abs().argmax())]
        strongest[part] = row * torch.sign(row.mean())
    words = [f"{part} {in_words(float(x.mean()), 'points')}" for part, x in strongest.items()]
    return _mean(strongest["v"] - strongest["k"], "sizes: " + ", ".join(words))


@measures("queries_zero")
def _queries_zero(results: Results) -> Measurement:
    return Measurement(float(_sweep(results, "q", "YY").values.abs().max()))


@measures("m0_reads_embedding")
def _m0_reads_embedding(results: Results) -> Measurement:
    sweep = _sweep(results, "m0", "YY")
    head = max(_names(sweep, _HEADS), key=lambda name: abs(_mean_effect(sweep, name)))
    embed, effect = _values(sweep, "embed").double(), _values(sweep, head).double()
    margin = embed * torch.sign(embed.mean()) / 10 - effect * torch.sign(effect.mean())
    words = [f"{n} {in_words(_mean_effect(sweep, n), 'points')}" for n in ("embed", head)]
    return _mean(margin, f"{words[0]}, largest head: {words[1]}")


def _narrowest(found: dict[str, Measurement]) -> Measurement:
    name = min(found, key=lambda key: found[key].value)
    one = found[name]
    return Measurement(one.value, one.low, one.high, f"into {name}: {one.detail}")


@measures("early_top_mlp")
def _early_top_mlp(results: Results) -> Measurement:
    sweeps = {name: _sweep(results, name, "YY") for name in ("m1", "m2", "m3")}
    return _narrowest({name: _first(sweep, ["m0"], _GRID) for name, sweep in sweeps.items()})


@measures("early_top_head")
def _early_top_head(results: Results) -> Measurement:
    sweeps = {name: _sweep(results, name, "YY") for name in ("m1", "m2", "m3")}
    return _narrowest({name: _first(sweep, ["a0.h1"], _HEADS) for name, sweep in sweeps.items()})


@measures("full_prob_diff")
def _full_prob_diff(results: Results) -> Measurement:
    return _mean(_evaluation(results, "full").prob_diff)


@measures("full_below_partial")
def _full_below_partial(results: Results) -> Measurement:
    full, partial = (_evaluation(results, name).prob_diff for name in ("full", "partial"))
    return _mean(partial.double() - full.double())
