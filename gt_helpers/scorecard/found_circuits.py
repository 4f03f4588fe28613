"""Circuits that were found edge by edge: by attribution, and by the paper's procedure itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..dataset.published import eap_ig_prompts
from ..edges.attribution import eap, eap_ig
from ..edges.discovery import discover_circuit, greedy_order
from ..edges.graph import EdgeGraph, evaluate_edges
from ..edges.scores import strongest_first
from ..formatting import in_words
from ..metrics import prob_diff
from ..model.components import component
from ..model.transformer import Transformer
from ..patching.engine import PathPatching
from ..patching.paper import PAPER, full_circuit
from ..processes import Tensors
from .registry import Bench, Evidence, Found, NotMeasured, Topic, number, recovered_share, smallest

topic = Topic("found_circuits")

# ---- a grid of heads and MLPs, as it is saved -------------------------------------------------

_Grid = Float[Tensor, "layer column"]  # one column per head, the last is the MLPs


def _to_grid(model: Transformer, values: Mapping[str, float]) -> _Grid:
    """Values of heads and MLPs by their names; what else is named is left out."""
    grid = torch.zeros(model.n_layers, model.n_heads + 1)
    for name, value in values.items():
        node = component(name)
        if node.kind != "embed":
            grid[node.layer, node.head] = value  # the "head" of an MLP is -1
    return grid


def _from_grid(grid: _Grid) -> dict[str, float]:
    """Heads and MLPs above 0."""
    n_heads = grid.shape[1] - 1
    return {
        f"m{layer}" if head == n_heads else f"a{layer}.h{head}": float(grid[layer, head])
        for layer, head in grid.nonzero().tolist()
    }


def _ends(patching: PathPatching) -> Tensors:
    """The scores [prompt] of the clean and the corrupted run, and YY."""
    YY = patching.dataset.YY
    runs = {"clean": patching.base_probs, "corrupted": patching.reversed().base_probs}
    return {name: prob_diff(probs, YY) for name, probs in runs.items()} | {"YY": YY}


# ---- EAP and EAP-IG ---------------------------------------------------------------------------

SIZES = (100, 200, 300, 500, 1000)  # edges of the circuits that are reported
_TOP = 50  # edges whose heads and MLPs are compared with the circuit
# Heads and MLPs of the circuit as the study of EAP-IG takes it, with a6.h1 as an eighth head.
_NINETEEN = {*PAPER.heads, "a6.h1", *PAPER.mlps, *PAPER.readers_of_YY}
_POINTS = "gradients at 0, 20, 40, 60 and 80 % of the way from clean to corrupted embeddings"


@topic.experiment
def _attribution(bench: Bench) -> Tensors:
    dataset = eap_ig_prompts(bench.model.tokenizer, bench.prompts, bench.seed)
    patching = PathPatching(bench.model, dataset, progress=True)
    graph, denoising = EdgeGraph.of(patching), patching.reversed()
    found = _ends(patching)
    for name, scores in (("eap", eap(patching, graph)), ("eap_ig", eap_ig(patching, graph))):
        order = greedy_order(scores)
        for n in SIZES:  # as the source counts them: before those on no path are dropped
            live = graph.pruned(order[:n])
            found[f"{name}_{n}"] = evaluate_edges(denoising, graph, live).prob_diff
            found[f"{name}_{n}_edges"] = live.nonzero().flatten()
        top = graph.components(strongest_first(scores.mean)[:_TOP])
        found[f"{name}_top"] = _to_grid(bench.model, dict.fromkeys(top, 1.0))
    return found


def _attributed(e: Evidence, method: str, size: int) -> Found:
    """The score of a circuit of so many edges."""
    score, n = e[f"{method}_{size}"], len(e[f"{method}_{size}_edges"])
    gap = in_words(float(recovered_share(score, e["clean"], e["corrupted"]).mean()))
    detail = f"{n} of the edges are on a path to the logits; {gap} of the gap"
    return Found(score, detail if method == "eap" else f"{detail}; {_POINTS}")


def _shared(e: Evidence, method: str, of_circuit: bool) -> Found:
    """How many heads and MLPs are both at the strongest edges and in the circuit, of either."""
    top = _from_grid(e[f"{method}_top"]).keys()
    return _fraction(len(_NINETEEN & top), len(_NINETEEN if of_circuit else top))


def _fraction(some: int, every: int) -> Found:
    return number(some / max(1, every), f"{some} of {every}", "counted")


for _method in ("eap", "eap_ig"):
    for _size in SIZES:
        topic.measures[f"{_method}_{_size}"] = partial(_attributed, method=_method, size=_size)
    topic.measures[f"{_method}_precision"] = partial(_shared, method=_method, of_circuit=False)
    topic.measures[f"{_method}_recall"] = partial(_shared, method=_method, of_circuit=True)

topic.measures["eap_ig_better"] = lambda e: smallest(
    {
        f"{size} edges": Found(
            e[f"eap_ig_{size}"] - e[f"eap_{size}"], largest=float(e[f"eap_ig_{size}"].mean())
        )
        for size in SIZES[:3]
    }
)


# ---- a circuit from the data alone ------------------------------------------------------------


@topic.experiment
def _edges(bench: Bench) -> Tensors:
    model = bench.model
    dataset = bench.dataset()
    patching = PathPatching(model, dataset, progress=True)
    denoising, circuit = patching.reversed(), discover_circuit(patching)
    graph = EdgeGraph.of(patching, summed=False)
    found = _ends(patching) | {
        "found": denoising.evaluate(circuit).prob_diff,
        "full": denoising.evaluate(full_circuit(bench.parts)).prob_diff,
        "edges": graph.edges_of(circuit).nonzero().flatten(),
    }
    # What was found at a position, by the strongest effect of the edges that it sends.
    strengths: dict[str, dict[str, float]] = {position: {} for position in graph.positions}
    for edge, effect in zip(circuit.edges, circuit.effects.mean(-1).tolist(), strict=True):
        here, name = strengths[edge.sender.position], edge.sender.label
        here[name] = max(here.get(name, 0.0), -effect)
    return found | {f"found@{place}": _to_grid(model, here) for place, here in strengths.items()}


def _found_at(e: Evidence, place: str, names: Iterable[str]) -> Found:
    """How many of these heads and MLPs were found at a position."""
    found = _from_grid(e[f"found@{place}"])
    wanted = [name for name in names if name != "embed"]
    if not wanted:
        raise NotMeasured("the model's circuit has none")
    missing = [name for name in wanted if name not in found]
    detail = f"{len(found)} heads and MLPs were found at {place}"
    detail += f"; not {', '.join(missing)}" if missing else ""
    return number(1 - len(missing) / len(wanted), detail, "counted")


@topic.measure
def _edges_precision(e: Evidence) -> Found:
    # a head or an MLP counts once, where its edges are strongest
    grids = torch.stack(list(e.starting("found@").values()))
    strengths, parts = _from_grid(grids.amax(0)), e.parts
    own = {*parts.heads, *parts.mlps, *parts.readers_of_YY, *parts.early_inputs} - {"embed"}
    first = sorted(strengths, key=lambda name: -strengths[name])[: len(own)]
    if not first:
        raise NotMeasured("no head and no MLP was found")
    found = _fraction(len(own & set(first)), len(first))
    every = f"{len(own & strengths.keys())} of all {len(strengths)} that were found"
    return replace(found, detail=f"{found.detail}, and {every}")


def _edges_recovered(e: Evidence, nothing: Tensor | None = None) -> Found:
    """What the found circuit recovers of the model's score above another run's, or above 0."""
    other = in_words(float(recovered_share(e["full"], e["clean"], nothing).mean()))
    found = recovered_share(e["found"], e["clean"], nothing)
    return Found(found, f"{len(e['edges'])} edges; the full circuit: {other}")


topic.measures |= {
    "edges_heads": lambda e: _found_at(e, "END", e.parts.heads),
    "edges_late_mlps": lambda e: _found_at(e, "END", e.parts.mlps),
    "edges_early": lambda e: _found_at(e, "YY", e.parts.readers_of_YY),
    "edges_recovered": _edges_recovered,
    "edges_above_corrupted": lambda e: _edges_recovered(e, e["corrupted"]),
}
