"""One measure per claim of the paper: a number with its interval, from finished results.

Each is a small function, registered under the id that the claim has in ``data/paper_facts.toml``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..analysis.logit_lens import (
    band,
    beyond_mean_row,
    diagonal,
    near_diagonal,
    step_correlation,
    triangle,
)
from ..formatting import in_words
from ..metrics import Measurement, average, per_YY_probs, ratio
from ..model.components import component, inputs
from ..patching.engine import Evaluation, Sweep
from .results import Results


class NotMeasured(LookupError):
    """The results lack what a claim needs; the message says what."""


Measure = Callable[[Results], Measurement]
MEASURES: dict[str, Measure] = {}


def measures(claim: str) -> Callable[[Measure], Measure]:
    """Register the function that measures one claim, by the claim's id."""

    def register(measure: Measure) -> Measure:
        MEASURES[claim] = measure
        return measure

    return register


def _gap(values: Tensor, others: Tensor, detail: str = "") -> Measurement:
    """Difference of the means of two groups of prompts; both vary in the interval."""
    gap, n = values.mean() - others.mean(), len(values) + len(others)
    parts = [
        sign * n / len(group) * (group - group.mean())
        for sign, group in ((1, values), (-1, others))
    ]
    return average(gap + torch.cat(parts), detail)


def _sd(values: Tensor) -> Measurement:
    n = len(values)
    if n < 2:
        raise NotMeasured("one prompt has no standard deviation")
    squares = (values.double() - values.double().mean()) ** 2 * n / (n - 1)
    variance = average(squares)
    return Measurement(math.sqrt(variance.value), math.sqrt(variance.low), math.sqrt(variance.high))


def _evaluation(results: Results, name: str, experiment: str = "") -> Evaluation:
    """An evaluation of the named experiment if that was run, else of the discovery."""
    outcome = results.experiments.get(experiment)
    if outcome is not None:
        return Evaluation(name, outcome.tensors[name], outcome.tensors["YY"])
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
    return average(margin, f"{label}{words[0]}, strongest other: {words[1]}")


def _all_negative(sweep: Sweep, group: Iterable[str]) -> Measurement:
    weakest = max(group, key=lambda name: _mean_effect(sweep, name))
    detail = f"weakest: {weakest} {in_words(_mean_effect(sweep, weakest), 'points')}"
    return average(-_values(sweep, weakest).double(), detail)


def _attention(results: Results, name: str) -> Tensor:
    """Attention [prompt] of one head from END to YY."""
    if results.attention is None:
        raise NotMeasured("the attention from END to YY is missing")
    node, (n_layers, n_heads, _) = component(name), results.attention.shape
    if node.layer >= n_layers or node.head >= n_heads:
        raise NotMeasured(f"the model has no {name}")
    return results.attention[node.layer, node.head].double()


def _lens(results: Results, name: str) -> Tensor:
    """Logit lens [YY, year] of one component."""
    if name not in results.lens:
        raise NotMeasured(f"the logit lens of {name} is missing")
    return results.lens[name]


def _lowest_lens(
    results: Results, names: Iterable[str], share: Callable[[Tensor], float]
) -> Measurement:
    """The lowest share of YYs in a group of lenses."""
    found = {name: share(_lens(results, name)) for name in names}
    if any(math.isnan(value) for value in found.values()):
        raise NotMeasured("no prompt has a YY for which this is defined")
    detail = ", ".join(f"{name} {in_words(value)}" for name, value in found.items())
    return Measurement(min(found.values()), detail=f"of the YYs: {detail}")


_HEADS, _GRID = ("head",), ("head", "mlp")
_PARTIAL = ("partial", "clean")


@measures("clean_prob_diff")
def _clean_prob_diff(results: Results) -> Measurement:
    return average(_evaluation(results, "clean", "large").prob_diff)


@measures("clean_prob_diff_balanced")
def _clean_prob_diff_balanced(results: Results) -> Measurement:
    return average(_evaluation(results, "clean", "bos").prob_diff)


@measures("clean_prob_diff_sd")
def _clean_prob_diff_sd(results: Results) -> Measurement:
    return _sd(_evaluation(results, "clean", "large").prob_diff)


@measures("clean_cutoff_sharpness")
def _clean_cutoff_sharpness(results: Results) -> Measurement:
    return average(_evaluation(results, "clean", "large").cutoff_sharpness)


@measures("clean_cutoff_sharpness_sd")
def _clean_cutoff_sharpness_sd(results: Results) -> Measurement:
    return _sd(_evaluation(results, "clean", "large").cutoff_sharpness)


@measures("corrupted_prob_diff")
def _corrupted_prob_diff(results: Results) -> Measurement:
    return average(_evaluation(results, "corrupted", "bos").prob_diff)


@measures("year_mass")
def _year_mass(results: Results) -> Measurement:
    masses = {
        name: average(_evaluation(results, name).probs.double().sum(-1))
        for name in ("clean", "corrupted")
    }
    name = min(masses, key=lambda key: masses[key].value)
    return Measurement(masses[name].value, masses[name].low, masses[name].high, f"{name} prompts")


def _top_year_valid(evaluation: Evaluation) -> Measurement:
    return average((evaluation.log_probs.argmax(-1) > evaluation.YY).double())


@measures("top_year_valid")
def _top_year_valid_clean(results: Results) -> Measurement:
    return _top_year_valid(_evaluation(results, "clean"))


@measures("top_year_valid_corrupted")
def _top_year_valid_corrupted(results: Results) -> Measurement:
    return _top_year_valid(_evaluation(results, "corrupted"))


@measures("prob_diff_positive")
def _prob_diff_positive(results: Results) -> Measurement:
    return average((_evaluation(results, "clean").prob_diff > 0).double())


@measures("prob_diff_positive_corrupted")
def _prob_diff_positive_corrupted(results: Results) -> Measurement:
    return average((_evaluation(results, "corrupted").prob_diff > 0).double())


@measures("invalid_mass")
def _invalid_mass(results: Results) -> Measurement:
    clean = _evaluation(results, "clean")
    return average((clean.probs.double().sum(-1) - clean.prob_diff) / 2)


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
    return average(margin, f"{words[0]}, largest other head: {words[1]}")


@measures("logits_a10h7")
def _logits_a10h7(results: Results) -> Measurement:
    return average(_values(_sweep(results, "logits"), "a10.h7").double())


@measures("m10_direct")
def _m10_direct(results: Results) -> Measurement:
    direct = _values(_sweep(results, "logits"), "m10").double()
    indirect = _values(_sweep(results, "m11"), "m10").double()
    words = [in_words(float(x.mean()), "points") for x in (direct, indirect)]
    return average(indirect - direct, f"direct {words[0]}, through m11 {words[1]}")


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
    return average(_evaluation(results, "partial", "large").prob_diff)


@measures("partial_recovered")
def _partial_recovered(results: Results) -> Measurement:
    partial, clean = (_evaluation(results, name, "large").prob_diff for name in _PARTIAL)
    return ratio(partial.double(), clean.double())


@measures("partial_cutoff_sharpness")
def _partial_cutoff_sharpness(results: Results) -> Measurement:
    return average(_evaluation(results, "partial", "large").cutoff_sharpness)


@measures("partial_sharper")
def _partial_sharper(results: Results) -> Measurement:
    partial, clean = (_evaluation(results, name, "large").cutoff_sharpness for name in _PARTIAL)
    return average(partial.double() - clean.double())


@measures("reverse_prob_diff")
def _reverse_prob_diff(results: Results) -> Measurement:
    return average(_evaluation(results, "reverse", "large").prob_diff)


@measures("reverse_sign")
def _reverse_sign(results: Results) -> Measurement:
    sides = {
        "reverse": -_evaluation(results, "reverse", "large").prob_diff.double(),
        "clean": _evaluation(results, "clean", "large").prob_diff.double(),
    }
    narrower = min(sides, key=lambda name: float(sides[name].mean()))
    return average(sides[narrower], f"the smaller side is {narrower}")


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
    return average(strongest["v"] - strongest["k"], "sizes: " + ", ".join(words))


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
    return average(margin, f"{words[0]}, largest head: {words[1]}")


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
    return average(_evaluation(results, "full", "large").prob_diff)


@measures("full_below_partial")
def _full_below_partial(results: Results) -> Measurement:
    full, partial = (_evaluation(results, name, "large").prob_diff for name in ("full", "partial"))
    return average(partial.double() - full.double())


@measures("attention_to_YY")
def _attention_to_YY(results: Results) -> Measurement:
    five = ("a5.h5", "a6.h9", "a7.h10", "a8.h11", "a9.h1")
    found = {name: average(_attention(results, name)) for name in five}
    name = min(found, key=lambda key: found[key].value)
    detail = ", ".join(f"{name} {in_words(one.value)}" for name, one in found.items())
    return Measurement(found[name].value, found[name].low, found[name].high, detail)


@measures("attention_a7h10_dip")
def _attention_a7h10_dip(results: Results) -> Measurement:
    attention, lowest = _attention(results, "a7.h10"), results.YY < 10
    if not lowest.any() or lowest.all():
        raise NotMeasured("the prompts have no YYs below 10, or no others")
    groups = [attention[lowest], attention[~lowest]]
    words = [in_words(float(group.mean())) for group in groups]
    return _gap(groups[1], groups[0], f"YY 02 to 09: {words[0]}, later ones: {words[1]}")


@measures("lens_heads_diagonal")
def _lens_heads_diagonal(results: Results) -> Measurement:
    return _lowest_lens(results, ("a7.h10", "a8.h11"), diagonal)


@measures("lens_mlps_triangle")
def _lens_mlps_triangle(results: Results) -> Measurement:
    found = _lowest_lens(results, ("m9", "m10"), triangle)
    # A lens that rises with the year for every YY alike is triangular as well.
    rest = [triangle(beyond_mean_row(_lens(results, name))) for name in ("m9", "m10")]
    words = " and ".join(map(in_words, rest))
    return Measurement(found.value, detail=f"{found.detail}; without their mean rows: {words}")


@measures("lens_m8_peak")
def _lens_m8_peak(results: Results) -> Measurement:
    return _lowest_lens(results, ["m8"], near_diagonal)


@measures("lens_m8_no_step")
def _lens_m8_no_step(results: Results) -> Measurement:
    # Years that a component favours for every YY make no step at YY, so the mean row is left out.
    steps = {
        name: step_correlation(beyond_mean_row(_lens(results, name)))
        for name in ("m8", "m9", "m10")
    }
    least = min(steps["m9"], steps["m10"])
    if not least > 0:
        raise NotMeasured("m9 or m10 has no step to compare with")
    detail = ", ".join(f"{name} {step:.2f}" for name, step in steps.items())
    return Measurement(steps["m8"] / least, detail=f"correlation with a step at YY: {detail}")


@measures("lens_m11_band")
def _lens_m11_band(results: Results) -> Measurement:
    return _lowest_lens(results, ["m11"], band)
