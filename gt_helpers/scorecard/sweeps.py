"""The paper's circuit discovery, and what it is to show: sweeps, circuits, attention and lens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..analysis import logit_lens as lens
from ..analysis.attention import attention_map
from ..formatting import in_words
from ..metrics import FIRST_YY, mean_by_YY, per_YY_probs
from ..model import cache
from ..model.components import END, component, inputs
from ..patching import paper
from ..patching.engine import Evaluation, PathPatching, Sweep
from ..processes import Tensors
from .registry import Effects, Evidence, Found, NotMeasured, Topic, number, smallest
from .results import Reproduction

topic = Topic("sweeps")
DISCOVERY = topic.experiments["discovery"]


def discover(run: Reproduction) -> None:
    """Every step of the discovery that the results do not hold yet, saved once it is finished."""
    results, noising = run.results, PathPatching(run.model, run.dataset, progress=True)
    denoising = noising.reversed()

    def sweep(receivers: Sequence[str], via: Sequence[str], senders_at: str) -> Sweep:
        # "m9", "m0@YY", "logits", or for the inputs of several heads the part: "v"
        name = receivers[0].split(".")[-1]
        if name not in results.sweeps:
            with run.step(f"sweep to {name}"):
                results.sweeps[name] = noising.sweep(receivers, via, senders_at)
        return results.sweeps[name]

    def answer(name: str, log_probs: Callable[[], Tensor]) -> None:
        if name not in results.evaluations:
            with run.step(name):
                results.evaluations[name] = Evaluation(name, log_probs(), run.dataset.YY)

    answer("clean", lambda: noising.base_log_probs)
    answer("corrupted", lambda: denoising.base_log_probs)
    if results.softmax_of_mean is None:
        with run.step("probabilities of mean logits"):
            results.softmax_of_mean = softmax_of_mean_logits(noising)
    results.parts = parts = paper.circuit_parts(noising, sweep)
    paper.end_sweeps(sweep, parts.mlps)
    if parts.heads:
        paper.attention_sweeps(sweep, parts)
        first_four = [f"m{layer}" for layer in range(min(4, run.model.n_layers))]
        paper.early_sweeps(sweep, parts, list(dict.fromkeys((*first_four, *parts.early_mlps))))
    partial, full = paper.partial_circuit(parts), paper.full_circuit(parts)
    answer("partial", lambda: denoising.evaluate(partial).log_probs)
    answer("full", lambda: denoising.evaluate(full).log_probs)
    answer("reverse", lambda: noising.evaluate(partial).log_probs)
    if results.attention is None:
        with run.step("attention and logit lens"):
            names = [*parts.heads, *parts.mlps]
            results.attention, results.lens = looks_and_writes(noising, names)
    results.save(run.folder)


def softmax_of_mean_logits(patching: PathPatching) -> Float[Tensor, "YY year"]:
    """Year probabilities of the logits averaged over clean prompts of equal YY, rows 02 to 98.

    The order of the paper's circuit discovery code; a YY without a prompt is NaN.
    """
    model, dataset = patching.model, patching.dataset
    batches = (logits.double().cpu() for logits in cache.end_logits(model, dataset.clean))
    mean = mean_by_YY(batches, dataset.YY)
    return mean.softmax(-1)[:, dataset.year_tokens].to(model.dtype)


def looks_and_writes(
    patching: PathPatching, names: Sequence[str]
) -> tuple[Float[Tensor, "layer head prompt"], dict[str, Float[Tensor, "YY year"]]]:
    """Every head's attention from END to YY, and named components' logit lens.

    In the base run, in chunks that bound the memory.
    """
    dataset = patching.dataset
    end, YY = dataset.position("END"), dataset.position("YY")

    def measure(some: slice) -> Tensors:
        found: dict[str, list[Tensor]] = {name: [] for name in ("attention", *names)}
        for base, _, _ in patching.caches(cache.PROMPTS_AT_ONCE, some):
            found["attention"].append(attention_map(base, end, YY).movedim(-1, 0))
            for name in names:
                found[name].append(lens.logit_lens(base, name, dataset.year_tokens))
        return {name: torch.cat(parts) for name, parts in found.items()}

    found = patching.over_prompts("attention and logit lens", measure)
    attention = found.pop("attention").movedim(0, -1)
    return attention, {name: mean_by_YY(wrote, dataset.YY) for name, wrote in found.items()}


# ---- what the model does ----------------------------------------------------------------------


@topic.measure
def _step_at_YY(e: Evidence) -> Found:
    clean = e.evaluation("clean")
    table = per_YY_probs(clean.log_probs, clean.YY)
    rows = [(YY, row) for YY, row in enumerate(table, FIRST_YY) if not row.isnan().any()]
    later = [bool(row[YY + 1 :].mean() > row[: YY + 1].mean()) for YY, row in rows]
    return number(sum(later) / len(later), f"{sum(later)} of {len(later)} YYs")


# ---- sweeps -----------------------------------------------------------------------------------

_HEADS, _MLPS, _GRID = ("head",), ("mlp",), ("head", "mlp")
_LATE = ("m8", "m9", "m10", "a9.h1")
_SIX = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11")
_SEVEN_EARLY = ("m0", "m1", "m2", "m3", "a0.h1", "a0.h3", "a0.h5")


def _sweep(e: Evidence, name: str, senders_at: str) -> Sweep:
    # An MLP can be a receiver at END ("m3") and at YY ("m3@YY"): the senders' position decides.
    for key in (f"{name}@{senders_at}", name):
        sweep = e.results.sweeps.get(key)
        if sweep is not None and component(sweep.senders[0]).position == senders_at:
            return sweep
    raise NotMeasured(f"the sweep {name!r} with senders at {senders_at} is missing")


def _into(e: Evidence, name: str, senders_at: str = END, kinds: Sequence[str] = _GRID) -> Effects:
    """Effects of the senders of these kinds, by their labels, e.g. "a9.h1"."""
    sweep = _sweep(e, name, senders_at)
    rows = zip(map(component, sweep.senders), sweep.values.double(), strict=True)
    return Effects({node.label: effects for node, effects in rows if node.kind in kinds})


def _size(effect: Float[Tensor, " prompt"]) -> Float[Tensor, " prompt"]:
    return effect * torch.sign(effect.mean())


def _first(effects: Effects, *group: str) -> Found:
    """By how much the weakest of a group is more negative than the strongest of all the others."""
    weakest = max(group, key=effects.mean)
    others = [name for name in effects if name not in group]
    if not others:
        raise NotMeasured("there is nothing to compare with")
    strongest = min(others, key=effects.mean)
    label = "weakest of them: " if len(group) > 1 else ""
    own, other = effects.said(weakest), effects.said(strongest)
    margin = effects[strongest] - effects[weakest]
    return Found(margin, f"{label}{own}, strongest other: {other}", effects.largest)


def _first_each_time(e: Evidence, name: str, kinds: Sequence[str]) -> Found:
    """By how much a sender is first into m1, m2 and m3 at YY, where it is so least."""
    margins = {m: _first(_into(e, m, "YY", kinds), name) for m in ("m1", "m2", "m3")}
    return smallest(margins, "into {}: {}")


def _all_negative(effects: Effects, *group: str) -> Found:
    """By how much the weakest of a group is below 0."""
    weakest = max(group, key=effects.mean)
    return Found(-effects[weakest], f"weakest: {effects.said(weakest)}", effects.largest)


def _alone(effects: Effects, name: str) -> Found:
    """By how much half of an effect is more negative than the most negative other."""
    strongest = min((other for other in effects if other != name), key=effects.mean)
    words = f"{effects.said(name)}, most negative other head: {effects.said(strongest)}"
    return Found(effects[strongest] - effects[name] / 2, words, effects.largest)


topic.measures |= {
    "logits_senders": lambda e: _first(_into(e, "logits"), *_LATE, "m11"),
    "logits_strongest": lambda e: _first(_into(e, "logits"), "m10"),
    "logits_a9h1_alone": lambda e: _alone(_into(e, "logits", kinds=_HEADS), "a9.h1"),
    "m11_senders": lambda e: _all_negative(_into(e, "m11"), *_LATE),
    "m10_senders": lambda e: _all_negative(_into(e, "m10"), "m8", "m9", "a9.h1"),
    "m9_top_head": lambda e: _first(_into(e, "m9", kinds=_HEADS), "a9.h1"),
    "m9_top_mlp": lambda e: _first(_into(e, "m9", kinds=_MLPS), "m8"),
    "m8_top_heads": lambda e: _first(_into(e, "m8", kinds=_HEADS), *_SIX),
    "values_first": lambda e: _first(_into(e, "v", "YY"), "m0"),
    "values_senders": lambda e: _first(_into(e, "v", "YY"), *_SEVEN_EARLY),
    "early_top_mlp": lambda e: _first_each_time(e, "m0", _GRID),
    "early_top_head": lambda e: _first_each_time(e, "a0.h1", _HEADS),
    "queries_zero": lambda e: number(
        float(_sweep(e, "q", "YY").values.abs().max()), why="the largest of all prompts"
    ),
}


@topic.measure
def _m0_reads_embedding(e: Evidence) -> Found:
    effects = _into(e, "m0", "YY", ("embed", "head"))
    heads = [name for name in effects if name != "embed"]
    largest = max(heads, key=lambda name: abs(effects.mean(name)))
    words = f"{effects.said('embed')}, largest head: {effects.said(largest)}"
    margin = _size(effects["embed"]) / 10 - _size(effects[largest])
    return Found(margin, words, effects.largest)


@topic.measure
def _logits_a10h7(e: Evidence) -> Found:
    heads = _into(e, "logits", kinds=_HEADS)
    return Found(heads["a10.h7"], largest=heads.largest)


@topic.measure
def _m10_direct(e: Evidence) -> Found:
    paths = Effects({"direct": _into(e, "logits")["m10"], "through m11": _into(e, "m11")["m10"]})
    return Found(paths["through m11"] - paths["direct"], paths.said(), paths.largest)


@topic.measure
def _values_over_keys(e: Evidence) -> Found:
    sizes = Effects()
    for part in ("v", "k"):
        effects = _into(e, part, "YY")
        sizes[part] = _size(effects[max(effects, key=lambda name: abs(effects.mean(name)))])
    return Found(sizes["v"] - sizes["k"], f"sizes: {sizes.said()}", sizes.largest)


@topic.measure
def _unreachable(e: Evidence) -> Found:
    sweeps = e.results.sweeps.values()
    effects = [
        float(values.abs().max())
        for sweep in sweeps
        for sender, values in zip(map(component, sweep.senders), sweep.values, strict=True)
        if not any(sweep.shape.reaches(sender, one) for one in inputs(sweep.receivers))
    ]
    if not effects:
        raise NotMeasured("no sweep has a sender that cannot reach its receivers")
    words = f"{len(effects)} senders in {len(sweeps)} sweeps"
    return number(max(effects), words, "the largest of all prompts")


# ---- attention and logit lens -----------------------------------------------------------------


def _attention(e: Evidence) -> Effects:
    """Attention of every head from END to YY."""
    if e.results.attention is None:
        raise NotMeasured("the attention from END to YY is missing")
    grid = enumerate(e.results.attention.double())
    return Effects({f"a{i}.h{j}": one for i, heads in grid for j, one in enumerate(heads)})


@topic.measure
def _attention_to_YY(e: Evidence) -> Found:
    five = ("a5.h5", "a6.h9", "a7.h10", "a8.h11", "a9.h1")
    attention = _attention(e)
    found = {name: Found(attention[name]) for name in five}
    return smallest(found, ", ".join(f"{name} {in_words(x.mean)}" for name, x in found.items()))


@topic.measure
def _attention_a7h10_dip(e: Evidence) -> Found:
    attention, lowest = _attention(e)["a7.h10"], e.results.YY < 10
    if not lowest.any() or lowest.all():
        raise NotMeasured("the prompts have no YYs below 10, or no others")
    low, later = attention[lowest], attention[~lowest]
    words = [in_words(float(group.mean())) for group in (low, later)]
    gap, n = later.mean() - low.mean(), len(attention)
    # Deviations whose interval is that of a difference of two groups, which both vary.
    apart = torch.where(
        lowest, n / len(low) * (low.mean() - attention), n / len(later) * (attention - later.mean())
    )
    said = f"YY 02 to 09: {words[0]}, later ones: {words[1]}"
    return Found(gap + apart, said, float(attention.mean()))


def _lens(e: Evidence, name: str, own: bool = False) -> Float[Tensor, "YY year"]:
    """Logit lens of one component; ``own`` is the part that depends on YY."""
    if name not in e.results.lens:
        raise NotMeasured(f"the logit lens of {name} is missing")
    found = e.results.lens[name]
    return lens.beyond_mean_row(found) if own else found


def _lowest_lens(e: Evidence, share: Callable[[Tensor], float], *names: str) -> Found:
    """The lowest share of YYs in a group of lenses."""
    found = {name: share(_lens(e, name)) for name in names}
    if any(math.isnan(value) for value in found.values()):
        raise NotMeasured("no prompt has a YY for which this is defined")
    detail = ", ".join(f"{name} {in_words(value)}" for name, value in found.items())
    return number(min(found.values()), f"of the YYs: {detail}")


topic.measures |= {
    "lens_heads_diagonal": lambda e: _lowest_lens(e, lens.diagonal, "a7.h10", "a8.h11"),
    "lens_m8_peak": lambda e: _lowest_lens(e, lens.near_diagonal, "m8"),
    "lens_m11_band": lambda e: _lowest_lens(e, lens.band, "m11"),
}


@topic.measure
def _lens_mlps_triangle(e: Evidence) -> Found:
    found = _lowest_lens(e, lens.triangle, "m9", "m10")
    # A lens that rises with the year for every YY alike is triangular as well.
    rest = " and ".join(in_words(lens.triangle(_lens(e, m, own=True))) for m in ("m9", "m10"))
    return replace(found, detail=f"{found.detail}; without their mean rows: {rest}")


@topic.measure
def _lens_m8_no_step(e: Evidence) -> Found:
    # Years that a component favours for every YY make no step at YY, so the mean row is left out.
    mlps = ("m8", "m9", "m10")
    steps = {name: lens.step_correlation(_lens(e, name, own=True)) for name in mlps}
    least = min(steps["m9"], steps["m10"])
    if not least > 0:
        raise NotMeasured("m9 or m10 has no step to compare with")
    detail = ", ".join(f"{name} {step:.2f}" for name, step in steps.items())
    return number(steps["m8"] / least, f"correlation with a step at YY: {detail}")
