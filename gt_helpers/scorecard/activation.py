"""Plain activation patching: clean values into the corrupted run, which runs on from there."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..dataset.published import century_prompts
from ..formatting import in_words
from ..metrics import Measurement, average, recovered
from ..model.components import END, component
from ..patching.activation import activation_patching
from ..patching.circuits import Circuit
from ..processes import Tensors
from . import registry
from .registry import Bench, Effects, Evidence, Measure, Topic

topic = Topic("activation")


@topic.experiment
def _activation(bench: Bench) -> Tensors:
    model, heads = bench.model, bench.parts.heads
    dataset = century_prompts(model.tokenizer, bench.prompts, bench.seed)
    late = list(dataset.positions)[dataset.positions["YY"] :]  # before YY every effect is exactly 0
    layers = range(model.n_layers)
    groups: dict[str, list[Any]] = {
        "heads@END": [f"a{i}.h{j}@END" for i in layers for j in range(model.n_heads)]
    }
    groups |= {f"mlps@{p}": [f"m{layer}@{p}" for layer in layers] for p in late}
    groups |= {f"stream@{p}": [f"stream{layer}@{p}" for layer in layers] for p in ("YY", END)}
    groups |= {f"{x}@{p}": [f"{h}.{x}@{p}" for h in heads] for x in "qkv" for p in late}
    if heads:
        groups["together"] = [heads]  # one site: all of them at once
    sites = [site for group in groups.values() for site in group]
    values = activation_patching(model, dataset, sites, progress=True)
    parts = values.split([len(group) for group in groups.values()])
    last = f"m{model.n_layers - 1}"
    by_path = {"last_mlp_path": Circuit([f"{last} -> logits"])}
    return {
        **dict(zip(groups, parts, strict=True)),
        **registry.prob_diffs(registry.circuit_log_probs(model, dataset, impaired=by_path)),
        "last_mlp": activation_patching(model, dataset, [last], "clean")[0],
    }


# ---- where a patched run's score lies between the corrupted run's, 0, and the clean run's, 1 ----

_HEADS = ("a9.h1", "a7.h10", "a8.h11", "a6.h9", "a5.h1", "a5.h5", "a8.h8")  # as they rank
_MLPS = ("m0@YY", "m10", "m9", "m8", "m11")
_ALONE = (*_HEADS, "a10.h7", *_MLPS)
_STREAMS = ("stream8@YY", "stream8@END", "stream10@END")


def _sites(e: Evidence) -> Effects:
    """The score after one head, MLP or stream was overwritten, for each by its name."""
    n_heads = len(e["heads@END"]) // len(e["mlps@END"])
    found = Effects()
    for key, scores in e.starting("heads@", "mlps@", "stream@").items():
        kind, position = key.split("@")
        for i, score in enumerate(scores):
            head = f"a{i // n_heads}.h{i % n_heads}"
            label = {"heads": head, "mlps": f"m{i}", "stream": f"stream{i}"}[kind]
            found[f"{label}@{position}"] = score
    return found


def _recovered(e: Evidence, score: Float[Tensor, " prompt"]) -> Measurement:
    return registry.share_of(score, e["clean"], e["corrupted"])


def _denoised(site: str) -> Measure:
    return lambda e: _recovered(e, _sites(e)[site])


def _more(e: Evidence, score: Tensor, other: Tensor) -> Measurement:
    """By how much more of the gap a score recovers than another."""
    return recovered(score - other, e["clean"] - e["corrupted"])


topic.measures |= {
    "century_clean_prob_diff": lambda e: average(e["clean"]),
    "century_corrupted_prob_diff": lambda e: average(e["corrupted"]),
    "denoise_circuit": lambda e: _recovered(e, e["together"][0]),
    "last_mlp_alike": lambda e: Measurement(
        float((e["last_mlp_path"] - e["last_mlp"]).abs().max()), detail="the largest of all prompts"
    ),
    **{f"denoise_{name}": _denoised(component(name).name) for name in _ALONE},
    **{name.replace("@", "_"): _denoised(name) for name in _STREAMS},
}


@topic.measure
def _denoise_order(e: Evidence) -> Measurement:
    sites = _sites(e).items()
    heads = Effects({name.removesuffix("@END"): one for name, one in sites if name[0] == "a"})
    ranks = {name: heads[name] for name in _HEADS}
    others = [one for name, one in heads.items() if name not in ranks]
    ranks["all other heads"] = max(others, key=torch.mean)
    pairs = [pair for pair in pairwise(ranks) if pair != ("a5.h1", "a5.h5")]  # about equal
    pairs += [("a6.h9", "a5.h5"), ("a5.h1", "a8.h8")]
    return registry.smallest({f"{a} over {b}": _more(e, ranks[a], ranks[b]) for a, b in pairs})


@topic.measure
def _denoise_other_mlps(e: Evidence) -> Measurement:
    reported = [component(name).name for name in _MLPS]
    shares = {
        name: _recovered(e, score)
        for name, score in _sites(e).items()
        if name[0] == "m" and name not in reported
    }
    name, one = max(shares.items(), key=lambda share: abs(share[1].value))
    low, high = (one.low, one.high) if one.value >= 0 else (-one.high, -one.low)
    return Measurement(abs(one.value), low, high, f"the largest: {name} {in_words(one.value)}")


@topic.measure
def _best_receiver(e: Evidence) -> Measurement:
    inputs = e.starting("q@", "k@", "v@")  # [head, prompt] each
    ours = inputs.pop("v@YY")
    margins = {}
    for i, head in enumerate(e.parts.heads):
        best = max(inputs, key=lambda key: float(inputs[key][i].mean()))
        margins[f"{head}, whose next is {best}"] = _more(e, ours[i], inputs[best][i])
    return registry.smallest(margins)
