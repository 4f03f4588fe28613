"""One measure per claim that needs an experiment of ``experiments.py``; see ``measures.py``."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..analysis.logit_lens import beyond_mean_row, step_correlation, triangle
from ..formatting import in_words
from ..metrics import Measurement, average, prob_diff, prob_diff_below, ratio
from ..model.components import component
from ..patching.paper import PAPER, CircuitParts
from .measures import NotMeasured, measures
from .results import Results


def _tensor(results: Results, experiment: str, name: str) -> Tensor:
    """One tensor of an experiment, in double precision if it is not of whole numbers."""
    if experiment not in results.experiments:
        raise NotMeasured(
            f"the experiment {experiment!r} is missing: python -m gt_helpers scorecard runs it"
        )
    tensors = results.experiments[experiment].tensors
    if name not in tensors:
        raise NotMeasured(f"{name!r} is not defined for this model or its circuit")
    return tensors[name].double() if tensors[name].is_floating_point() else tensors[name]


def _score(results: Results, experiment: str, run: str, family: str = "") -> Tensor:
    """Probability difference [prompt] of a run; of a less-than family, its own metric."""
    log_probs, YY = (_tensor(results, experiment, family + name) for name in (run, "YY"))
    metric = prob_diff_below if family in ("ended_", "BC_") else prob_diff
    return metric(log_probs.exp(), YY)


def _narrowest(found: dict[str, Measurement]) -> Measurement:
    name = min(found, key=lambda key: found[key].value)
    one = found[name]
    return Measurement(one.value, one.low, one.high, f"narrowest: {name}")


def _control(results: Results, name: str) -> Tensor:
    return _tensor(results, "controls", name)


@measures("values_only")
def _values_only(results: Results) -> Measurement:
    return ratio(_control(results, "values_only"), _control(results, "partial"))


def _losses(results: Results, mlp: str) -> tuple[Tensor, Tensor]:
    """What an MLP's direct and indirect paths cost when they are corrupted [prompt]."""
    clean = _control(results, "clean")
    direct, indirect = (_control(results, f"{path}_{mlp}") for path in ("direct", "indirect"))
    return clean - direct, clean - indirect


def _path_words(*losses: Tensor) -> str:
    words = [in_words(float(loss.mean()), "points") for loss in losses]
    return f"direct {words[0]}, indirect {words[1]}"


@measures("m8_indirect")
def _m8_indirect(results: Results) -> Measurement:
    direct, indirect = _losses(results, "m8")
    return average(indirect - direct, _path_words(direct, indirect))


@measures("m9_balanced")
def _m9_balanced(results: Results) -> Measurement:
    direct, indirect = _losses(results, "m9")
    found = ratio(direct, direct + indirect)
    return Measurement(found.value, found.low, found.high, _path_words(direct, indirect))


def _below_partial(results: Results, control: Tensor) -> Measurement:
    partial = _control(results, "partial")
    return average(partial - control, f"its own: {in_words(float(control.mean()))}")


@measures("shifted_heads")
def _shifted_heads(results: Results) -> Measurement:
    return _below_partial(results, _control(results, "shifted"))


@measures("one_mlp")
def _one_mlp(results: Results) -> Measurement:
    return _below_partial(results, _control(results, "one_mlp"))


@measures("random_circuits")
def _random_circuits(results: Results) -> Measurement:
    _control(results, "random_0")  # or it is said that there is none
    drawn = [
        _control(results, name)
        for name in results.experiments["controls"].tensors
        if name.startswith("random_")
    ]
    found = _below_partial(results, max(drawn, key=lambda score: float(score.mean())))
    detail = f"the best of {len(drawn)}; {found.detail}"
    return Measurement(found.value, found.low, found.high, detail)


# ---- activation patching ----------------------------------------------------------------------

_DENOISED_HEADS = ("a9.h1", "a7.h10", "a8.h11", "a6.h9", "a5.h1", "a5.h5", "a8.h8")
_DENOISED_MLPS = ("m0@YY", "m10", "m9", "m8", "m11")


def _activation(results: Results, name: str) -> Tensor:
    return _tensor(results, "activation", name)


def _keys(results: Results, starts: str | tuple[str, ...]) -> list[str]:
    """Names of the tensors that begin so; there are some, or it is said what is missing."""
    _activation(results, "clean")
    return [key for key in results.experiments["activation"].tensors if key.startswith(starts)]


def _recovered(results: Results, score: Tensor) -> Measurement:
    """Where a score [prompt] lies between the corrupted run's, 0, and the clean run's, 1."""
    clean, corrupted = (_activation(results, name) for name in ("clean", "corrupted"))
    return ratio(score - corrupted, clean - corrupted)


def _more(results: Results, score: Tensor, other: Tensor, detail: str = "") -> Measurement:
    """By how much more of the gap a score recovers than another."""
    found = ratio(score - other, _activation(results, "clean") - _activation(results, "corrupted"))
    return Measurement(found.value, found.low, found.high, detail)


def _head(results: Results, name: str) -> Tensor:
    """The score [prompt] after one head's values at END were overwritten."""
    node, scores = component(name), _activation(results, "heads@END")
    first = _activation(results, "mlps@END")
    n_heads = len(scores) // len(first)
    if node.layer >= len(first) or node.head >= n_heads:
        raise NotMeasured(f"the model has no {name}")
    return scores[node.layer * n_heads + node.head]


def _mlp(results: Results, name: str) -> Tensor:
    """The score [prompt] after one MLP's output was overwritten, at END or at its position."""
    node = component(name)
    scores = _activation(results, f"mlps@{node.position}")
    if node.layer >= len(scores):
        raise NotMeasured(f"the model has no {name}")
    return scores[node.layer]


def _stream(results: Results, layer: int, position: str) -> Tensor:
    scores = _activation(results, f"stream@{position}")
    if layer >= len(scores):
        raise NotMeasured(f"the model has no layer {layer}")
    return scores[layer]


@measures("last_mlp_alike")
def _last_mlp_alike(results: Results) -> Measurement:
    by_path, plain = (_activation(results, name) for name in ("last_mlp_path", "last_mlp"))
    return Measurement(float((by_path - plain).abs().max()), detail="the largest of all prompts")


@measures("century_clean_prob_diff")
def _century_clean(results: Results) -> Measurement:
    return average(_activation(results, "clean"))


@measures("century_corrupted_prob_diff")
def _century_corrupted(results: Results) -> Measurement:
    return average(_activation(results, "corrupted"))


def _denoised_head(results: Results, name: str) -> Measurement:
    return _recovered(results, _head(results, name))


def _denoised_mlp(results: Results, name: str) -> Measurement:
    return _recovered(results, _mlp(results, name))


def _denoised_stream(results: Results, layer: int, position: str) -> Measurement:
    return _recovered(results, _stream(results, layer, position))


for _name in (*_DENOISED_HEADS, "a10.h7"):
    measures(f"denoise_{_name}")(partial(_denoised_head, name=_name))


for _name in _DENOISED_MLPS:
    measures(f"denoise_{_name}")(partial(_denoised_mlp, name=_name))


for _layer, _position in ((8, "YY"), (8, "END"), (10, "END")):
    measures(f"stream{_layer}_{_position}")(
        partial(_denoised_stream, layer=_layer, position=_position)
    )


@measures("denoise_order")
def _denoise_order(results: Results) -> Measurement:
    scores = {name: _head(results, name) for name in _DENOISED_HEADS}
    every = _activation(results, "heads@END")
    n_heads = len(every) // len(_activation(results, "mlps@END"))
    rest = [
        score
        for i, score in enumerate(every)
        if f"a{i // n_heads}.h{i % n_heads}" not in _DENOISED_HEADS
    ]
    scores["all other heads"] = max(rest, key=lambda score: float(score.mean()))
    ranks = list(scores)
    pairs = [pair for pair in pairwise(ranks) if pair != ("a5.h1", "a5.h5")]  # about equal
    pairs += [("a6.h9", "a5.h5"), ("a5.h1", "a8.h8")]
    found = {f"{a} over {b}": _more(results, scores[a], scores[b]) for a, b in pairs}
    return _narrowest(found)


@measures("denoise_circuit")
def _denoise_circuit(results: Results) -> Measurement:
    return _recovered(results, _activation(results, "together")[0])


@measures("denoise_other_mlps")
def _denoise_other_mlps(results: Results) -> Measurement:
    reported = [component(name).name for name in _DENOISED_MLPS]
    found = {}
    for key in _keys(results, "mlps@"):
        for layer, score in enumerate(_activation(results, key)):
            if (name := f"m{layer}{key[4:]}") not in reported:
                found[name] = _recovered(results, score)
    name = max(found, key=lambda key: abs(found[key].value))
    one, sign = found[name], math.copysign(1, found[name].value)
    low, high = sorted((sign * one.low, sign * one.high))
    return Measurement(sign * one.value, low, high, f"the largest: {name} {in_words(one.value)}")


@measures("best_receiver")
def _best_receiver(results: Results) -> Measurement:
    ours = _activation(results, "v@YY")  # [head, prompt]
    heads = results.parts.heads if results.parts else ()
    others = [key for key in _keys(results, ("q@", "k@", "v@")) if key != "v@YY"]
    found = {}
    for i, head in enumerate(heads):
        scores = {key: _activation(results, key)[i] for key in others}
        best = max(scores, key=lambda key: float(scores[key].mean()))
        found[f"{head}, whose next is {best}"] = _more(results, ours[i], scores[best])
    return _narrowest(found)


@measures("acdc_clean")
def _acdc_clean(results: Results) -> Measurement:
    return average(_score(results, "acdc", "clean"))


@measures("acdc_corrupted")
def _acdc_corrupted(results: Results) -> Measurement:
    return average(_score(results, "acdc", "corrupted"))


@measures("acdc_circuit")
def _acdc_circuit(results: Results) -> Measurement:
    return average(_score(results, "acdc", "circuit"))


@measures("acdc_kl")
def _acdc_kl(results: Results) -> Measurement:
    clean, circuit = (_with_rest(_tensor(results, "acdc", name)) for name in ("clean", "circuit"))
    divergence = (clean * (clean.log() - circuit.log())).sum(-1)
    return average(divergence, "of 101 outcomes: 100 years and the rest; a little below the full")


def _with_rest(log_probs: Tensor) -> Tensor:
    """Probabilities [prompt, year + 1]; the last is that of all other tokens."""
    probs = log_probs.exp()
    rest = (1 - probs.sum(-1, keepdim=True)).clamp_min(1e-9)
    return torch.cat([probs, rest], dim=-1)


def _family_recovered(results: Results, family: str, run: str = "partial") -> Measurement:
    clean = _score(results, "families", "clean", family + "_")
    size = average(clean)
    if size.low <= 0 <= size.high:
        raise NotMeasured("the model's own score cannot be told from 0")
    return ratio(_score(results, "families", run, family + "_"), clean)


@measures("started_recovered")
def _started(results: Results) -> Measurement:
    return _family_recovered(results, "started")


@measures("price_recovered")
def _price(results: Results) -> Measurement:
    return _family_recovered(results, "price")


@measures("sequence_recovered")
def _sequence(results: Results) -> Measurement:
    return _family_recovered(results, "sequence")


@measures("sequence_gain")
def _sequence_gain(results: Results) -> Measurement:
    extended, partial, clean = (
        _score(results, "families", run, "sequence_") for run in ("extended", "partial", "clean")
    )
    gain = ratio(extended - partial, clean)
    words = in_words(_family_recovered(results, "sequence", "extended").value)
    return Measurement(gain.value, gain.low, gain.high, f"to {words}")


def _fires(results: Results, family: str) -> Measurement:
    return average(-_score(results, "families", "clean", family))


def _impaired(results: Results, family: str) -> Measurement:
    reverse, clean = (_score(results, "families", run, family) for run in ("reverse", "clean"))
    return average(reverse - clean)


for _name in ("ended", "BC"):
    measures(f"{_name}_negative")(partial(_fires, family=f"{_name}_"))
    measures(f"{_name}_impaired")(partial(_impaired, family=f"{_name}_"))


@measures("smaller_repeats")
def _smaller_repeats(results: Results) -> Measurement:
    top = _tensor(results, "families", "smaller_clean").argmax(-1)
    return average((top == _tensor(results, "families", "smaller_YY")).double())


def _neurons(results: Results, name: str) -> Tensor:
    return _tensor(results, "neurons", name)


@measures("neurons_near_zero")
def _neurons_near_zero(results: Results) -> Measurement:
    effects, whole = _neurons(results, "effects").mean(-1), _neurons(results, "all").mean()
    if whole == 0:
        raise NotMeasured("the MLP has no direct effect at all")
    small = effects.abs() < whole.abs() / 100
    return Measurement(float(small.double().mean()), detail=f"of {len(effects)} neurons")


@measures("neurons_joint")
def _neurons_joint(results: Results) -> Measurement:
    joint = _neurons(results, "ten_joint")
    gap = (_neurons(results, "ten_added") - joint).nan_to_num(0.0).abs().max()
    largest = joint.nan_to_num(0.0).abs().max()
    if not largest > 0:
        raise NotMeasured("the ten neurons have no effect on the year logits")
    return Measurement(float(gap / largest))


@measures("neurons_single")
def _neurons_single(results: Results) -> Measurement:
    single, sums = (
        [step_correlation(beyond_mean_row(lens)) for lens in _neurons(results, name)]
        for name in ("lens_single", "lens_sum")
    )
    if not min(sums) > 0:
        raise NotMeasured("the sums have no step to compare with")
    words = ", ".join(f"{likeness:.2f}" for likeness in (max(single), *sums))
    detail = f"correlation with a step at YY: best of ten, sums of 100 and 200: {words}"
    return Measurement(max(single) / min(sums), detail=f"{detail}; a pure step has 0.68")


@measures("neurons_sum")
def _neurons_sum(results: Results) -> Measurement:
    shares = [triangle(lens) for lens in _neurons(results, "lens_sum")]
    words = " and ".join(map(in_words, shares))
    return Measurement(min(shares), detail=f"of the YYs, for 100 and 200: {words}")


# ---- circuits found edge by edge --------------------------------------------------------------

SIZES = (100, 200, 300, 500, 1000)  # edges of the circuits that are reported of EAP and EAP-IG
_POINTS = "gradients at 0, 20, 40, 60 and 80 % of the way from clean to corrupted embeddings"
# Heads and MLPs of the circuit as the study of EAP-IG takes it, with a6.h1 as an eighth head.
_NINETEEN = {*PAPER.heads, "a6.h1", *PAPER.mlps, *PAPER.readers_of_YY}


def _grid(results: Results, experiment: str, name: str) -> dict[str, float]:
    """Heads and MLPs above 0, strongest first, of a tensor [layer, n_heads + 1]."""
    grid = _tensor(results, experiment, name)
    n_heads = grid.shape[1] - 1
    values = {
        f"m{layer}" if head == n_heads else f"a{layer}.h{head}": float(grid[layer, head])
        for layer, head in grid.nonzero().tolist()
    }
    return dict(sorted(values.items(), key=lambda one: -one[1]))


def _attributed(results: Results, method: str, size: int) -> Measurement:
    score, clean, corrupted = (
        _tensor(results, "attribution", name) for name in (f"{method}_{size}", "clean", "corrupted")
    )
    n = len(_tensor(results, "attribution", f"{method}_{size}_edges"))
    gap = in_words(ratio(score - corrupted, clean - corrupted).value)
    detail = f"{n} of the edges are on a path to the logits; {gap} of the gap"
    return average(score, detail if method == "eap" else f"{detail}; {_POINTS}")


def _attributed_share(results: Results, method: str, of: str) -> Measurement:
    """How many of the heads and MLPs at the strongest edges are the circuit's, or the reverse."""
    top = set(_grid(results, "attribution", f"{method}_top"))
    shared, every = len(top & _NINETEEN), len(top if of == "precision" else _NINETEEN)
    return Measurement(shared / max(1, every), detail=f"{shared} of {every}")


for _method in ("eap", "eap_ig"):
    for _size in SIZES:
        measures(f"{_method}_{_size}")(partial(_attributed, method=_method, size=_size))
    for _of in ("precision", "recall"):
        measures(f"{_method}_{_of}")(partial(_attributed_share, method=_method, of=_of))


@measures("eap_ig_better")
def _eap_ig_better(results: Results) -> Measurement:
    found = {}
    for size in SIZES[:3]:
        ours, theirs = (
            _tensor(results, "attribution", f"{method}_{size}") for method in ("eap_ig", "eap")
        )
        found[f"{size} edges"] = average(ours - theirs)
    return _narrowest(found)


def _found_at(results: Results, place: str, names: tuple[str, ...]) -> Measurement:
    """How many of these heads and MLPs were found at a position."""
    found = _grid(results, "edges", f"found@{place}")
    if not names:
        raise NotMeasured("the model's circuit has none")
    missing = [name for name in names if name not in found]
    detail = f"{len(found)} heads and MLPs were found at {place}"
    detail += f"; not {', '.join(missing)}" if missing else ""
    return Measurement(1 - len(missing) / len(names), detail=detail)


def _parts(results: Results) -> CircuitParts:
    if results.parts is None:
        raise NotMeasured("the circuit has not been chosen yet")
    return results.parts


@measures("edges_heads")
def _edges_heads(results: Results) -> Measurement:
    return _found_at(results, "END", _parts(results).heads)


@measures("edges_late_mlps")
def _edges_late_mlps(results: Results) -> Measurement:
    return _found_at(results, "END", _parts(results).mlps)


@measures("edges_early")
def _edges_early(results: Results) -> Measurement:
    readers = _parts(results).readers_of_YY
    return _found_at(results, "YY", tuple(name for name in readers if name != "embed"))


@measures("edges_precision")
def _edges_precision(results: Results) -> Measurement:
    _tensor(results, "edges", "found")  # or it is said what is missing
    parts, strengths = _parts(results), dict[str, float]()
    for key in results.experiments["edges"].tensors:
        if key.startswith("found@"):
            for name, value in _grid(results, "edges", key).items():
                strengths[name] = max(value, strengths.get(name, 0.0))
    own = {*parts.heads, *parts.mlps, *parts.readers_of_YY, *parts.early_inputs} - {"embed"}
    first = sorted(strengths, key=lambda name: -strengths[name])[: len(own)]
    if not first:
        raise NotMeasured("no head and no MLP was found")
    shared = len(own & set(first))
    every = f"{len(own & set(strengths))} of all {len(strengths)} that were found"
    return Measurement(shared / len(first), detail=f"{shared} of {len(first)}, and {every}")


def _edges_share(results: Results, low: str) -> Measurement:
    """What the found circuit recovers of the model's score above another run's, or above 0."""
    found, full, clean = (_tensor(results, "edges", name) for name in ("found", "full", "clean"))
    base = _tensor(results, "edges", low) if low else 0
    own, other = (ratio(score - base, clean - base) for score in (found, full))
    n = len(_tensor(results, "edges", "edges"))
    detail = f"{n} edges; the full circuit: {in_words(other.value)}"
    return Measurement(own.value, own.low, own.high, detail)


measures("edges_recovered")(partial(_edges_share, low=""))


measures("edges_above_corrupted")(partial(_edges_share, low="corrupted"))
