"""Plain activation patching: clean values into the corrupted run, which runs on from there."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..dataset.published import century_prompts
from ..formatting import in_words
from ..metrics import Measurement, average, recovered
from ..model.components import END, component
from ..patching.activation import activation_patching
from ..patching.circuits import Circuit
from ..processes import Tensors
from .registry import (
    Bench,
    NotMeasured,
    Topic,
    circuit_log_probs,
    narrowest,
    prob_diffs,
    share_of,
    strongest,
    tensor,
)
from .results import Results

topic = Topic("activation")


@topic.experiment("activation")
def _activation(bench: Bench) -> Tensors:
    model, heads = bench.model, bench.parts.heads
    dataset = century_prompts(model.tokenizer, bench.prompts, bench.seed)
    late = list(dataset.positions)[dataset.positions["YY"] :]  # before YY every effect is exactly 0
    layers = range(model.n_layers)
    groups = {"heads@END": [f"a{i}.h{j}@END" for i in layers for j in range(model.n_heads)]}
    groups |= {f"mlps@{p}": [f"m{layer}@{p}" for layer in layers] for p in late}
    groups |= {f"stream@{p}": [f"stream{layer}@{p}" for layer in layers] for p in ("YY", END)}
    groups |= {f"{x}@{p}": [f"{h}.{x}@{p}" for h in heads] for x in "qkv" for p in late}
    sites: list[Any] = [one for group in groups.values() for one in group]
    if heads:
        sites, groups = [*sites, list(heads)], groups | {"together": ["all heads"]}
    values = activation_patching(model, dataset, sites, progress=True)
    parts = values.split([len(group) for group in groups.values()])
    found = dict(zip(groups, parts, strict=True))
    last = f"m{model.n_layers - 1}"
    by_path = {"last_mlp_path": Circuit([f"{last} -> logits"])}
    found |= prob_diffs(circuit_log_probs(model, dataset, impaired=by_path))
    found["last_mlp"] = activation_patching(model, dataset, [last], "clean")[0]
    return found


# ---- where a patched run's score lies between the corrupted run's, 0, and the clean run's, 1 ----

_HEADS = ("a9.h1", "a7.h10", "a8.h11", "a6.h9", "a5.h1", "a5.h5", "a8.h8")  # as they rank
_MLPS = ("m0@YY", "m10", "m9", "m8", "m11")
_STREAMS = ("stream8@YY", "stream8@END", "stream10@END")
_Score = Float[Tensor, " prompt"]


def _scores(results: Results, name: str) -> Tensor:
    return tensor(results, "activation", name)


def _every(results: Results, *starts: str) -> dict[str, Tensor]:
    """The tensors whose names begin so; there are some, or it is said what is missing."""
    _scores(results, "clean")
    names = results.experiments["activation"].tensors
    return {name: _scores(results, name) for name in names if name.startswith(starts)}


def _sites(results: Results) -> dict[str, _Score]:
    """The score after one head, MLP or stream was overwritten, for each by its name."""
    n_heads = len(_scores(results, "heads@END")) // len(_scores(results, "mlps@END"))
    found = {}
    for key, scores in _every(results, "heads@", "mlps@", "stream@").items():
        kind, position = key.split("@")
        for i, score in enumerate(scores):
            head = f"a{i // n_heads}.h{i % n_heads}"
            label = {"heads": head, "mlps": f"m{i}", "stream": f"stream{i}"}[kind]
            found[f"{label}@{position}"] = score
    return found


def _recovered(results: Results, score: _Score) -> Measurement:
    return share_of(score, _scores(results, "clean"), _scores(results, "corrupted"))


def _more(results: Results, score: _Score, other: _Score) -> Measurement:
    """By how much more of the gap a score recovers than another."""
    return recovered(score - other, _scores(results, "clean") - _scores(results, "corrupted"))


def _site(sites: dict[str, _Score], name: str) -> _Score:
    if name not in sites:
        raise NotMeasured(f"the model has no {name}")
    return sites[name]


def _denoised(results: Results, site: str) -> Measurement:
    return _recovered(results, _site(_sites(results), site))


topic.measures |= {
    "century_clean_prob_diff": lambda r: average(_scores(r, "clean")),
    "century_corrupted_prob_diff": lambda r: average(_scores(r, "corrupted")),
    "denoise_circuit": lambda r: _recovered(r, _scores(r, "together")[0]),
}
for _name in (*_HEADS, "a10.h7", *_MLPS):
    topic.measures[f"denoise_{_name}"] = partial(_denoised, site=component(_name).name)
for _name in _STREAMS:
    topic.measures[_name.replace("@", "_")] = partial(_denoised, site=_name)


@topic.measure("last_mlp_alike")
def _last_mlp_alike(results: Results) -> Measurement:
    by_path, plain = (_scores(results, name) for name in ("last_mlp_path", "last_mlp"))
    return Measurement(float((by_path - plain).abs().max()), detail="the largest of all prompts")


@topic.measure("denoise_order")
def _denoise_order(results: Results) -> Measurement:
    heads = {
        name.removesuffix("@END"): one for name, one in _sites(results).items() if name[0] == "a"
    }
    if lacking := [name for name in _HEADS if name not in heads]:
        raise NotMeasured(f"the model has no {lacking[0]}")
    ranks = {name: heads.pop(name) for name in _HEADS}
    ranks["all other heads"] = strongest(heads.values())
    pairs = [pair for pair in pairwise(ranks) if pair != ("a5.h1", "a5.h5")]  # about equal
    pairs += [("a6.h9", "a5.h5"), ("a5.h1", "a8.h8")]
    return narrowest({f"{a} over {b}": _more(results, ranks[a], ranks[b]) for a, b in pairs})


@topic.measure("denoise_other_mlps")
def _denoise_other_mlps(results: Results) -> Measurement:
    reported = [component(name).name for name in _MLPS]
    shares = {
        name: _recovered(results, score)
        for name, score in _sites(results).items()
        if name[0] == "m" and name not in reported
    }
    name = max(shares, key=lambda key: abs(shares[key].value))
    one, sign = shares[name], math.copysign(1, shares[name].value)
    low, high = sorted((sign * one.low, sign * one.high))
    return Measurement(sign * one.value, low, high, f"the largest: {name} {in_words(one.value)}")


@topic.measure("best_receiver")
def _best_receiver(results: Results) -> Measurement:
    inputs = _every(results, "q@", "k@", "v@")  # [head, prompt] each
    ours = inputs.pop("v@YY")
    margins = {}
    for i, head in enumerate(results.parts.heads if results.parts else ()):
        best = max(inputs, key=lambda key: float(inputs[key][i].mean()))
        margins[f"{head}, whose next is {best}"] = _more(results, ours[i], inputs[best][i])
    return narrowest(margins)
