"""Plain activation patching: clean values into the corrupted run, which runs on from there."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..dataset.published import century_prompts
from ..formatting import in_words
from ..model.components import END, component
from ..patching.activation import activation_patching
from ..patching.circuits import Circuit
from ..processes import Tensors
from . import registry
from .registry import Bench, Effects, Evidence, Found, Measure, Topic

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
    answers = registry.circuit_log_probs(model, dataset, impaired=by_path)
    return {
        **dict(zip(groups, parts, strict=True)),
        **registry.prob_diffs(answers),
        **{f"{run}_log_probs": answers[run] for run in ("clean", "corrupted")},
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


def _recovered(e: Evidence, score: Float[Tensor, " prompt"]) -> Found:
    return Found(registry.recovered_share(score, e["clean"], e["corrupted"]))


def _denoised(site: str) -> Measure:
    return lambda e: _recovered(e, _sites(e)[site])


def _largest_other(e: Evidence, kind: str) -> Found:
    """The largest size of what is recovered by one head ("a") or MLP ("m") that nobody reports."""
    reported = {component(name).name for name in _ALONE}
    others = {name: x for name, x in _sites(e).items() if name[0] == kind and name not in reported}
    sites, low = Effects(others), float(e["corrupted"].mean())
    name = max(sites, key=lambda name: abs(sites.mean(name) - low))
    share = registry.recovered_share(sites[name], e["clean"], e["corrupted"])
    words = f"the largest: {name} {in_words(float(share.mean()))}"
    return Found(share * torch.sign(share.mean()), words)


def _top_year_valid(e: Evidence, run: str) -> Found:
    return Found(e[f"{run}_log_probs"].argmax(-1) > e["YY"])


topic.measures |= {
    "century_clean_prob_diff": lambda e: Found(e["clean"]),
    "century_corrupted_prob_diff": lambda e: Found(e["corrupted"]),
    "century_top_year_valid": lambda e: _top_year_valid(e, "clean"),
    "top_year_valid_corrupted": lambda e: _top_year_valid(e, "corrupted"),
    "prob_diff_positive": lambda e: Found(e["clean"] > 0),
    "prob_diff_positive_corrupted": lambda e: Found(e["corrupted"] > 0),
    "year_mass": lambda e: registry.smallest(
        {x: Found(e[f"{x}_log_probs"].exp().sum(-1)) for x in ("clean", "corrupted")},
        "{} prompts",
    ),
    "denoise_other_heads": lambda e: _largest_other(e, "a"),
    "denoise_other_mlps": lambda e: _largest_other(e, "m"),
    "denoise_circuit": lambda e: _recovered(e, e["together"][0]),
    "last_mlp_alike": lambda e: registry.number(
        float((e["last_mlp_path"] - e["last_mlp"]).abs().max()), "the largest of all prompts"
    ),
    **{f"denoise_{name}": _denoised(component(name).name) for name in _ALONE},
    **{name.replace("@", "_"): _denoised(name) for name in _STREAMS},
}


@topic.measure
def _best_receiver(e: Evidence) -> Found:
    inputs = e.starting("q@", "k@", "v@")  # [head, prompt] each
    ours, gap = inputs.pop("v@YY"), e["clean"] - e["corrupted"]
    margins = {}
    for i, head in enumerate(e.parts.heads):
        best = max(inputs, key=lambda key: float(inputs[key][i].mean()))
        more = registry.recovered_share(ours[i] - inputs[best][i], gap)
        own = _recovered(e, ours[i]).mean
        margins[f"{head}, whose next is {best}"] = Found(more, largest=abs(own))
    return registry.smallest(margins)
