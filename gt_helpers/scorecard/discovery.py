"""The paper's circuit discovery, and what it is to show: sweeps, circuits, attention and lens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..analysis.attention import attention_map
from ..analysis.logit_lens import (
    band,
    beyond_mean_row,
    diagonal,
    logit_lens,
    near_diagonal,
    step_correlation,
    triangle,
)
from ..dataset.year_dataset import YearDataset
from ..formatting import in_words
from ..metrics import Measurement, average, mean_by_YY, per_YY_probs
from ..model import cache
from ..model.components import component, inputs
from ..model.transformer import Transformer
from ..patching.engine import Evaluation, PathPatching, Sweep
from ..patching.paper import (
    attention_sweeps,
    circuit_parts,
    early_sweeps,
    end_sweeps,
    full_circuit,
    partial_circuit,
)
from ..processes import Tensors, over_prompts
from .registry import NotMeasured, Topic, evaluation, points, smallest
from .results import Results, Run

topic = Topic("discovery")
DISCOVERY = topic.experiments["discovery"]


def discover(run: Run) -> None:
    """Every experiment that the results do not hold yet, each saved as soon as it is finished."""
    results, steps = run.results, _Steps(run, PathPatching(run.model, run.dataset, progress=True))
    noising, denoising = steps.patching, steps.patching.reversed()
    steps.evaluation("clean", lambda: noising.base_log_probs)
    steps.evaluation("corrupted", lambda: denoising.base_log_probs)
    if results.softmax_of_mean is None:
        with run.step("probabilities of mean logits"):
            results.softmax_of_mean = softmax_of_mean_logits(run.model, run.dataset)
    results.parts = parts = circuit_parts(noising, steps.sweep)
    end_sweeps(steps.sweep, parts.mlps)
    if parts.heads:
        attention_sweeps(steps.sweep, parts)
        first_four = [f"m{layer}" for layer in range(min(4, run.model.n_layers))]
        early_sweeps(steps.sweep, parts, list(dict.fromkeys((*first_four, *parts.early_mlps))))
    partial, full = partial_circuit(parts), full_circuit(parts)
    steps.evaluation("partial", lambda: denoising.evaluate(partial).log_probs)
    steps.evaluation("full", lambda: denoising.evaluate(full).log_probs)
    steps.evaluation("reverse", lambda: noising.evaluate(partial).log_probs)
    if results.attention is None:
        with run.step("attention and logit lens"):
            results.attention, results.lens = looks_and_writes(
                run.model, run.dataset, [*parts.heads, *parts.mlps]
            )
    results.save(run.folder)


@dataclass
class _Steps:
    """Sweeps and evaluations that are taken from the results, or measured and saved there."""

    run: Run
    patching: PathPatching

    def sweep(self, receivers: Sequence[str], via: Sequence[str], senders_at: str) -> Sweep:
        sweeps = self.run.results.sweeps
        # "m9", "m0@YY", "logits", or for the inputs of several heads the part: "v"
        name = receivers[0].split(".")[-1]
        if name not in sweeps:
            with self.run.step(f"sweep to {name}"):
                sweeps[name] = self.patching.sweep(receivers, via, senders_at)
        return sweeps[name]

    def evaluation(self, name: str, measure: Callable[[], Tensor]) -> None:
        if name not in self.run.results.evaluations:
            with self.run.step(name):
                found = Evaluation(name, measure(), self.run.dataset.YY)
                self.run.results.evaluations[name] = found


def softmax_of_mean_logits(model: Transformer, dataset: YearDataset) -> Float[Tensor, "YY year"]:
    """Year probabilities of the logits averaged over prompts of equal YY, rows 02 to 98.

    The order of the paper's circuit discovery code; a YY without a prompt is NaN.
    """
    batches = (logits.double().cpu() for logits in cache.end_logits(model, dataset.clean))
    mean = mean_by_YY(batches, dataset.YY)
    return mean.softmax(-1)[:, dataset.year_tokens].to(model.dtype)


def looks_and_writes(
    model: Transformer, dataset: YearDataset, names: Sequence[str]
) -> tuple[Float[Tensor, "layer head prompt"], dict[str, Float[Tensor, "YY year"]]]:
    """Every head's attention from END to YY, and named components' logit lens.

    On the clean prompts, in chunks that bound the memory.
    """
    end, YY = dataset.position("END"), dataset.position("YY")

    def measure(prompts: slice) -> Tensors:
        found: dict[str, list[Tensor]] = {name: [] for name in ("attention", *names)}
        for tokens in dataset.clean[prompts].split(cache.PROMPTS_AT_ONCE):
            clean = cache.cache_activations(model, tokens, start=end)
            found["attention"].append(attention_map(clean, end, YY).movedim(-1, 0))
            for name in names:
                found[name].append(logit_lens(clean, name, dataset.year_tokens))
        return {name: torch.cat(parts) for name, parts in found.items()}

    found = over_prompts("attention and logit lens", len(dataset), measure)
    attention = found.pop("attention").movedim(0, -1)
    return attention, {name: mean_by_YY(lens, dataset.YY) for name, lens in found.items()}


# ---- what the model does ----------------------------------------------------------------------


@topic.measure("year_mass")
def _year_mass(results: Results) -> Measurement:
    probs = {name: evaluation(results, name).probs.double() for name in ("clean", "corrupted")}
    name, mass = smallest({name: average(one.sum(-1)) for name, one in probs.items()})
    return replace(mass, detail=f"{name} prompts")


def _top_year_valid(results: Results, name: str) -> Measurement:
    found = evaluation(results, name)
    return average((found.log_probs.argmax(-1) > found.YY).double())


def _positive(results: Results, name: str) -> Measurement:
    return average((evaluation(results, name).prob_diff > 0).double())


topic.measures |= {
    "top_year_valid": lambda r: _top_year_valid(r, "clean"),
    "top_year_valid_corrupted": lambda r: _top_year_valid(r, "corrupted"),
    "prob_diff_positive": lambda r: _positive(r, "clean"),
    "prob_diff_positive_corrupted": lambda r: _positive(r, "corrupted"),
}


@topic.measure("invalid_mass")
def _invalid_mass(results: Results) -> Measurement:
    clean = evaluation(results, "clean")
    return average((clean.probs.double().sum(-1) - clean.prob_diff) / 2)


@topic.measure("heatmap_maximum")
def _heatmap_maximum(results: Results) -> Measurement:
    clean = evaluation(results, "clean")
    table = per_YY_probs(clean.log_probs, clean.YY).nan_to_num(0.0)
    row, year = divmod(int(table.argmax()), table.shape[1])
    return Measurement(float(table.max()), detail=f"at YY {row + 2:02d}, year {year:02d}")


@topic.measure("step_at_YY")
def _step_at_YY(results: Results) -> Measurement:
    clean = evaluation(results, "clean")
    table = per_YY_probs(clean.log_probs, clean.YY)
    rows = [row for row in range(len(table)) if not bool(table[row].isnan().any())]
    # Row r is YY = r + 2, so the years up to it are r + 3.
    later = [bool(table[r, r + 3 :].mean() > table[r, : r + 3].mean()) for r in rows]
    return Measurement(sum(later) / len(later), detail=f"{sum(later)} of {len(later)} YYs")


# ---- sweeps -----------------------------------------------------------------------------------

_HEADS, _MLPS, _GRID = ("head",), ("mlp",), ("head", "mlp")
_Effects = dict[str, Float[Tensor, " prompt"]]  # by the senders' labels, e.g. "a9.h1"


def _sweep(results: Results, name: str, senders_at: str = "END") -> Sweep:
    # An MLP can be a receiver at END ("m3") and at YY ("m3@YY"): the senders' position decides.
    for key in (f"{name}@{senders_at}", name):
        sweep = results.sweeps.get(key)
        if sweep is not None and component(sweep.senders[0]).position == senders_at:
            return sweep
    raise NotMeasured(f"the sweep {name!r} with senders at {senders_at} is missing")


def _effects(sweep: Sweep, kinds: Iterable[str]) -> _Effects:
    """Effects of all senders of these kinds."""
    nodes = [component(name) for name in sweep.senders]
    rows = zip(nodes, sweep.values.double(), strict=True)
    return {node.label: effects for node, effects in rows if node.kind in kinds}


def _of(sweep: Sweep, names: Iterable[str]) -> _Effects:
    """Effects of the named senders."""
    every = _effects(sweep, ("embed", *_GRID))
    if lacking := [name for name in names if name not in every]:
        raise NotMeasured(f"the model has no {lacking[0]}")
    return {name: every[name] for name in names}


def _mean(effects: _Effects, name: str) -> float:
    return float(effects[name].mean())


def _said(effects: _Effects, *names: str) -> list[str]:
    return [f"{name} {points(effects[name])}" for name in names]


def _first(sweep: Sweep, group: Sequence[str], kinds: Iterable[str]) -> Measurement:
    """By how much the weakest of a group is more negative than the strongest of all the others."""
    effects = _effects(sweep, kinds) | _of(sweep, group)
    others = [name for name in effects if name not in group]
    if not others:
        raise NotMeasured("there is nothing to compare with")
    weakest = max(group, key=lambda name: _mean(effects, name))
    strongest = min(others, key=lambda name: _mean(effects, name))
    own, other = _said(effects, weakest, strongest)
    label = "weakest of them: " if len(group) > 1 else ""
    margin = effects[strongest] - effects[weakest]
    return average(margin, f"{label}{own}, strongest other: {other}")


def _all_negative(sweep: Sweep, group: Sequence[str]) -> Measurement:
    """By how much the weakest of a group is below 0."""
    effects = _of(sweep, group)
    weakest = max(group, key=lambda name: _mean(effects, name))
    return average(-effects[weakest], f"weakest: {_said(effects, weakest)[0]}")


def _first_each_time(results: Results, name: str, kinds: Iterable[str]) -> Measurement:
    """By how much a sender is first into m1, m2 and m3 at YY, where it is so least."""
    into = {mlp: _first(_sweep(results, mlp, "YY"), [name], kinds) for mlp in ("m1", "m2", "m3")}
    mlp, margin = smallest(into)
    return replace(margin, detail=f"into {mlp}: {margin.detail}")


_LATE = ("m8", "m9", "m10", "a9.h1")
_SIX = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11")
_SEVEN_EARLY = ("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5")

topic.measures |= {
    "logits_senders": lambda r: _first(_sweep(r, "logits"), (*_LATE, "m11"), _GRID),
    "logits_strongest": lambda r: _first(_sweep(r, "logits"), ["m10"], _GRID),
    "logits_a10h7": lambda r: average(_of(_sweep(r, "logits"), ["a10.h7"])["a10.h7"]),
    "m11_senders": lambda r: _all_negative(_sweep(r, "m11"), _LATE),
    "m10_senders": lambda r: _all_negative(_sweep(r, "m10"), ("m8", "m9", "a9.h1")),
    "m9_top_head": lambda r: _first(_sweep(r, "m9"), ["a9.h1"], _HEADS),
    "m9_top_mlp": lambda r: _first(_sweep(r, "m9"), ["m8"], _MLPS),
    "m8_top_heads": lambda r: _first(_sweep(r, "m8"), _SIX, _HEADS),
    "values_first": lambda r: _first(_sweep(r, "v", "YY"), ["m0"], _GRID),
    "values_senders": lambda r: _first(_sweep(r, "v", "YY"), _SEVEN_EARLY, _GRID),
    "early_top_mlp": lambda r: _first_each_time(r, "m0", _GRID),
    "early_top_head": lambda r: _first_each_time(r, "a0.h1", _HEADS),
    "queries_zero": lambda r: Measurement(float(_sweep(r, "q", "YY").values.abs().max())),
}


@topic.measure("logits_a9h1_alone")
def _logits_a9h1_alone(results: Results) -> Measurement:
    effects = _effects(sweep := _sweep(results, "logits"), _HEADS) | _of(sweep, ["a9.h1"])
    others = [name for name in effects if name != "a9.h1"]
    next_ = max(others, key=lambda name: abs(_mean(effects, name)))
    own, other = _said(effects, "a9.h1", next_)
    # Half of a9.h1's effect, which has to be negative, less the size of the largest other one.
    size = effects[next_] * (1.0 if _mean(effects, next_) >= 0 else -1.0)
    return average(-effects["a9.h1"] / 2 - size, f"{own}, largest other head: {other}")


@topic.measure("m10_direct")
def _m10_direct(results: Results) -> Measurement:
    direct, indirect = (_of(_sweep(results, name), ["m10"])["m10"] for name in ("logits", "m11"))
    return average(indirect - direct, f"direct {points(direct)}, through m11 {points(indirect)}")


@topic.measure("unreachable")
def _unreachable(results: Results) -> Measurement:
    effects = [
        float(values.abs().max())
        for sweep in results.sweeps.values()
        for sender, values in zip(map(component, sweep.senders), sweep.values, strict=True)
        if not any(sweep.shape.reaches(sender, one) for one in inputs(sweep.receivers))
    ]
    if not effects:
        raise NotMeasured("no sweep has a sender that cannot reach its receivers")
    detail = f"{len(effects)} senders in {len(results.sweeps)} sweeps"
    return Measurement(max(effects), detail=detail)


@topic.measure("values_over_keys")
def _values_over_keys(results: Results) -> Measurement:
    sizes = {}
    for part in ("v", "k"):
        grid = _sweep(results, part, "YY").values[:-1].double()  # without the embedding
        effects = grid[int(grid.mean(-1).abs().argmax())]
        sizes[part] = effects * torch.sign(effects.mean())
    return average(sizes["v"] - sizes["k"], "sizes: " + ", ".join(_said(sizes, "v", "k")))


@topic.measure("m0_reads_embedding")
def _m0_reads_embedding(results: Results) -> Measurement:
    effects = _effects(_sweep(results, "m0", "YY"), ("embed", "head"))
    heads = [name for name in effects if name != "embed"]
    head = max(heads, key=lambda name: abs(_mean(effects, name)))
    sizes = {name: effects[name] * torch.sign(effects[name].mean()) for name in ("embed", head)}
    own, other = _said(effects, "embed", head)
    return average(sizes["embed"] / 10 - sizes[head], f"{own}, largest head: {other}")


# ---- attention and logit lens -----------------------------------------------------------------


def _attention(results: Results, name: str) -> Float[Tensor, " prompt"]:
    """Attention of one head from END to YY."""
    if results.attention is None:
        raise NotMeasured("the attention from END to YY is missing")
    node = component(name)
    try:
        return results.attention[node.layer, node.head].double()
    except IndexError:
        raise NotMeasured(f"the model has no {name}") from None


@topic.measure("attention_to_YY")
def _attention_to_YY(results: Results) -> Measurement:
    five = ("a5.h5", "a6.h9", "a7.h10", "a8.h11", "a9.h1")
    found = {name: average(_attention(results, name)) for name in five}
    detail = ", ".join(f"{name} {in_words(one.value)}" for name, one in found.items())
    return replace(smallest(found)[1], detail=detail)


@topic.measure("attention_a7h10_dip")
def _attention_a7h10_dip(results: Results) -> Measurement:
    attention, lowest = _attention(results, "a7.h10"), results.YY < 10
    if not lowest.any() or lowest.all():
        raise NotMeasured("the prompts have no YYs below 10, or no others")
    low, later = attention[lowest], attention[~lowest]
    words = [in_words(float(group.mean())) for group in (low, later)]
    gap, n = later.mean() - low.mean(), len(attention)
    # Deviations whose bootstrap interval is that of a difference of two groups, which both vary.
    parts = [n / len(later) * (later - later.mean()), -n / len(low) * (low - low.mean())]
    return average(gap + torch.cat(parts), f"YY 02 to 09: {words[0]}, later ones: {words[1]}")


def _lens(results: Results, name: str) -> Float[Tensor, "YY year"]:
    """Logit lens of one component."""
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


topic.measures |= {
    "lens_heads_diagonal": lambda r: _lowest_lens(r, ("a7.h10", "a8.h11"), diagonal),
    "lens_m8_peak": lambda r: _lowest_lens(r, ["m8"], near_diagonal),
    "lens_m11_band": lambda r: _lowest_lens(r, ["m11"], band),
}


@topic.measure("lens_mlps_triangle")
def _lens_mlps_triangle(results: Results) -> Measurement:
    found = _lowest_lens(results, ("m9", "m10"), triangle)
    # A lens that rises with the year for every YY alike is triangular as well.
    rest = [triangle(beyond_mean_row(_lens(results, name))) for name in ("m9", "m10")]
    words = " and ".join(map(in_words, rest))
    return replace(found, detail=f"{found.detail}; without their mean rows: {words}")


@topic.measure("lens_m8_no_step")
def _lens_m8_no_step(results: Results) -> Measurement:
    # Years that a component favours for every YY make no step at YY, so the mean row is left out.
    lenses = {name: beyond_mean_row(_lens(results, name)) for name in ("m8", "m9", "m10")}
    steps = {name: step_correlation(lens) for name, lens in lenses.items()}
    least = min(steps["m9"], steps["m10"])
    if not least > 0:
        raise NotMeasured("m9 or m10 has no step to compare with")
    detail = ", ".join(f"{name} {step:.2f}" for name, step in steps.items())
    return Measurement(steps["m8"] / least, detail=f"correlation with a step at YY: {detail}")
