"""Controls of the circuit: attention on 01 data, direct and indirect effects, other circuits."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..analysis.controls import circuit_through, mlp_paths, random_parts, shifted_heads
from ..analysis.neurons import last_but_one
from ..formatting import in_words
from ..patching.engine import PathPatching
from ..patching.paper import partial_circuit
from ..processes import Tensors
from . import registry
from .registry import Bench, Effects, Evidence, Found, Topic

_RANDOM_CIRCUITS = 20

topic = Topic("controls")


@topic.experiment
def _controls(bench: Bench) -> Tensors:
    model, parts = bench.model, bench.parts
    dataset = bench.dataset()
    first = dataset.positions["YY"]  # nothing before it differs
    circuits = {
        "partial": partial_circuit(parts),
        "values_only": circuit_through(parts, list(dataset.positions)[first:]),
        "shifted": partial_circuit(shifted_heads(parts, model.n_heads)),
        "one_mlp": partial_circuit(replace(parts, mlps=(last_but_one(parts),))),
    }
    shape = PathPatching(model, dataset[:1]).shape
    with suppress(ValueError):  # a circuit with most heads of a layer leaves none to stand in
        drawn = [random_parts(parts, shape, seed) for seed in range(_RANDOM_CIRCUITS)]
        circuits |= {f"random_{i}": partial_circuit(one) for i, one in enumerate(drawn)}
    impaired = {
        f"{path}_{mlp}": circuit
        for mlp, paths in mlp_paths(parts.mlps).items()
        for path, circuit in paths.items()
    }
    found = registry.circuit_log_probs(model, dataset, circuits, impaired, "controls")
    return registry.prob_diffs(found)


def _losses(e: Evidence, mlp: str) -> Effects:
    """What an MLP's direct and indirect paths cost when they are corrupted."""
    return Effects({path: e["clean"] - e[f"{path}_{mlp}"] for path in ("direct", "indirect")})


def _below_partial(e: Evidence, score: Float[Tensor, " prompt"]) -> Found:
    """By how much another circuit does worse than the partial one."""
    whole = abs(float(e["partial"].mean()))
    return Found(e["partial"] - score, f"its own: {in_words(float(score.mean()))}", whole)


topic.measures |= {
    "values_only": lambda e: Found(registry.recovered_share(e["values_only"], e["partial"])),
    "shifted_heads": lambda e: _below_partial(e, e["shifted"]),
    "one_mlp": lambda e: _below_partial(e, e["one_mlp"]),
}


@topic.measure
def _m8_indirect(e: Evidence) -> Found:
    losses = _losses(e, "m8")
    return Found(losses["indirect"] - losses["direct"], losses.said(), losses.largest)


@topic.measure
def _m9_balanced(e: Evidence) -> Found:
    losses = _losses(e, "m9")
    both = losses["direct"] + losses["indirect"]
    return Found(registry.recovered_share(losses["direct"], both), losses.said())


@topic.measure
def _random_circuits(e: Evidence) -> Found:
    drawn = e.starting("random_").values()
    found = _below_partial(e, max(drawn, key=torch.mean))
    return replace(found, detail=f"the best of {len(drawn)}; {found.detail}")
