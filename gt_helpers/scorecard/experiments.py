"""Experiments beyond the discovery of the circuit, and the command that fills the scorecard.

Each gives named tensors, per prompt where it can, which are saved as soon as it is finished; the
claims that need it and their measures are in ``paper_facts.toml`` and ``experiment_measures.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..analysis.neurons import Neurons, last_but_one, neuron_ranking
from ..dataset.families import FAMILIES
from ..dataset.prompts import ACDC_TEMPLATE
from ..dataset.published import YEARS, acdc_years, century_prompts, eap_ig_prompts
from ..dataset.year_dataset import YearDataset
from ..edges.attribution import eap, eap_ig
from ..edges.discovery import discover_circuit, greedy_order
from ..edges.graph import EdgeGraph, evaluate_edges
from ..edges.scores import strongest_first
from ..metrics import Metric, mean_by_YY, prob_diff
from ..model.cache import cache_activations
from ..model.components import END, component
from ..model.transformer import Transformer
from ..patching.activation import activation_patching
from ..patching.circuits import Circuit
from ..patching.controls import circuit_through, mlp_paths, random_parts, shifted_heads
from ..patching.engine import PathPatching
from ..patching.paper import (
    CircuitParts,
    acdc_circuit,
    full_circuit,
    partial_circuit,
    with_components,
)
from ..processes import Tensors, chunks, is_main, over_prompts
from .experiment_measures import SIZES

_PROMPTS = 256  # prompts whose runs are kept at once
_RANDOM_CIRCUITS = 20
_TOP = 50  # edges whose heads and MLPs are compared with the circuit
_LONG = 10  # minutes


@dataclass(frozen=True)
class Bench:
    """What every experiment is given: the model, its circuit, how many prompts, and the seed."""

    model: Transformer
    parts: CircuitParts
    prompts: int
    seed: int


@dataclass(frozen=True)
class Experiment:
    """An experiment: what it does in words, on which prompts, and how long it takes.

    ``minutes`` are for GPT-2 small on two CPU cores; ``data`` says which prompts, apart from their
    number, as a claim's ``setting`` does.
    """

    name: str
    title: str
    prompts: int
    minutes: float
    data: dict[str, Any] = field(default_factory=dict)
    measure: Callable[[Bench], Tensors] = field(default=lambda bench: {}, repr=False)

    def settings(self, seed: int, at_most: int | None = None) -> dict[str, Any]:
        """Which prompts it takes, as it is saved beside its tensors."""
        n = min(self.prompts, at_most or self.prompts)
        return {"prompts": n, "seed": seed, **self.data}

    @property
    def long(self) -> bool:
        """Whether ``--skip-long`` leaves it out."""
        return self.minutes > _LONG


DISCOVERY = Experiment("discovery", "the circuit and its sweeps, as the command reproduce", 490, 10)
EXPERIMENTS: dict[str, Experiment] = {DISCOVERY.name: DISCOVERY}


def _experiment(
    name: str, title: str, prompts: int, minutes: float, **data: object
) -> Callable[[Callable[[Bench], Tensors]], Callable[[Bench], Tensors]]:
    """Register the function that carries out an experiment."""

    def register(measure: Callable[[Bench], Tensors]) -> Callable[[Bench], Tensors]:
        EXPERIMENTS[name] = Experiment(name, title, prompts, minutes, data, measure)
        return measure

    return register


def answers(
    model: Transformer,
    dataset: YearDataset,
    circuits: Mapping[str, Circuit] | None = None,
    impaired: Mapping[str, Circuit] | None = None,
    label: str = "prompts",
) -> Tensors:
    """Year log-probabilities [prompt, year] of the runs "clean" and "corrupted", and of circuits.

    ``circuits`` run on clean prompts and everything else on corrupted ones; ``impaired`` the other
    way round. Chunk by chunk, each with its own two runs, so memory does not grow with the number
    of prompts. "YY" [prompt] comes along.
    """

    def measure(mine: slice) -> Tensors:
        found: dict[str, list[Tensor]] = {}
        total = mine.stop - mine.start
        bar = tqdm(total=total, desc=label, unit="prompt", leave=False, disable=not is_main())
        for prompts in chunks(mine, _PROMPTS):
            patching = PathPatching(model, dataset[prompts])
            back = patching.reversed()
            here = {"clean": patching.base_log_probs, "corrupted": back.base_log_probs}
            for name, one in (circuits or {}).items():
                here[name] = back.evaluate(one).log_probs
            for name, one in (impaired or {}).items():
                here[name] = patching.evaluate(one).log_probs
            for name, log_probs in here.items():
                found.setdefault(name, []).append(log_probs)
            bar.update(prompts.stop - prompts.start)
        bar.close()
        return {name: torch.cat(parts) for name, parts in found.items()}

    return over_prompts(label, len(dataset), measure) | {"YY": dataset.YY}


def _score(log_probs: Tensor, YY: Tensor, metric: Metric = prob_diff) -> Tensor:
    return metric(log_probs.exp(), YY)


@_experiment(
    "large",
    "the model and its circuits on many prompts, drawn as the paper's 10,000",
    10_000,
    15,
    balanced=False,
    years=[1000, 1900],
)
def _large(bench: Bench) -> Tensors:
    dataset = YearDataset(
        bench.model.tokenizer, bench.prompts, years=(1000, 1900), balanced=False, seed=bench.seed
    )
    circuits = {"partial": partial_circuit(bench.parts), "full": full_circuit(bench.parts)}
    impaired = {"reverse": partial_circuit(bench.parts)}
    return answers(bench.model, dataset, circuits, impaired, "large sample")


@_experiment(
    "bos",
    "prompts as later work writes them: The without a space before it, 34 nouns",
    1000,
    1.5,
    balanced=True,
    years=list(YEARS),
    note="The without a space before it, 34 nouns",
)
def _bos(bench: Bench) -> Tensors:
    dataset = eap_ig_prompts(bench.model.tokenizer, bench.prompts, bench.seed, YEARS)
    return answers(bench.model, dataset, label="The without a space")


@_experiment(
    "controls",
    "direct and indirect effects, attention on 01 data, other circuits",
    490,
    1,
    balanced=True,
    years=list(YEARS),
)
def _controls(bench: Bench) -> Tensors:
    model, parts = bench.model, bench.parts
    dataset = YearDataset(model.tokenizer, bench.prompts, years=YEARS, seed=bench.seed)
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
    found = answers(model, dataset, circuits, impaired, "controls")
    YY = found.pop("YY")
    return {name: _score(log_probs, YY) for name, log_probs in found.items()}


@_experiment(
    "activation",
    "plain activation patching, clean values into the corrupted run",
    490,
    10,
    balanced=False,
    years=list(YEARS),
    note="centuries uniform, The without a space before it",
)
def _activation(bench: Bench) -> Tensors:
    model, heads = bench.model, bench.parts.heads
    dataset = century_prompts(model.tokenizer, bench.prompts, bench.seed)
    names = list(dataset.positions)
    late = names[dataset.positions["YY"] :]  # before YY every effect is exactly 0
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
    by_path = answers(model, dataset, impaired={"last_mlp_path": Circuit([f"{last} -> logits"])})
    YY = by_path.pop("YY")
    found |= {name: _score(log_probs, YY) for name, log_probs in by_path.items()}
    found["last_mlp"] = activation_patching(model, dataset, [last], "clean")[0]
    return found


@_experiment(
    "acdc",
    "the prompts of the paper on ACDC, and its version of the circuit",
    490,
    1,
    balanced=False,
    years=list(YEARS),
    note="without <|endoftext|> and the second 'the year', 604 years",
)
def _acdc(bench: Bench) -> Tensors:
    model = bench.model
    dataset = YearDataset(
        model.tokenizer,
        bench.prompts,
        years=acdc_years(model.tokenizer),
        template=ACDC_TEMPLATE,
        balanced=False,
        seed=bench.seed,
    )
    late = list(dataset.positions)[dataset.positions["YY"] :]
    circuits = {}
    # Its heads feed MLPs of their own layer, which parallel ones cannot.
    if model.n_layers >= 12 and model.n_heads >= 12 and not model.parallel:
        circuits["circuit"] = acdc_circuit(late)
    return answers(model, dataset, circuits, label="ACDC's prompts")


# ---- other prompt families --------------------------------------------------------------------

_FAMILIES = ("started", "sequence", "smaller", "ended", "BC", "price")


@_experiment(
    "families",
    "six other prompt families, with the circuit alone and impaired",
    97,
    1,
    note="of each family",
)
def _families(bench: Bench) -> Tensors:
    found: Tensors = {}
    partial = partial_circuit(bench.parts)
    for name in _FAMILIES:
        dataset = FAMILIES[name].dataset(bench.model.tokenizer, seed=bench.seed)[: bench.prompts]
        circuits = {"partial": partial}
        if name == "sequence" and bench.model.n_layers > 7 and bench.model.n_heads > 11:
            circuits["extended"] = partial_circuit(with_components(bench.parts))
        one = answers(bench.model, dataset, circuits, {"reverse": partial}, name)
        found |= {f"{name}_{run}": tensor for run, tensor in one.items()}
    return found


@_experiment(
    "neurons",
    "every neuron of the last but one MLP: alone, and the strongest together",
    97,
    1,
    balanced=True,
    years=list(YEARS),
)
def _neurons(bench: Bench) -> Tensors:
    model = bench.model
    dataset = YearDataset(model.tokenizer, bench.prompts, years=YEARS, seed=bench.seed)
    end = dataset.positions[END]
    base, patch = (
        cache_activations(model, tokens, end) for tokens in (dataset.clean, dataset.corrupted)
    )
    neurons = Neurons(base, patch, dataset, last_but_one(bench.parts))
    effects = neurons.effects(progress=True)
    order = neuron_ranking(effects)

    def lens(chosen: Tensor) -> Tensor:
        return mean_by_YY(neurons.lens(chosen), dataset.YY)

    def years(chosen: Tensor) -> Tensor:
        return mean_by_YY(neurons.year_effect(chosen), dataset.YY)

    return {
        "effects": effects,
        "ten_joint": years(order[:10]),
        "ten_added": torch.stack([years(one) for one in order[:10].split(1)]).sum(0),
        "all": neurons.joint_effect(order),
        "lens_single": torch.stack([lens(order[i : i + 1]) for i in range(10)]),
        "lens_sum": torch.stack([lens(order[:100]), lens(order[:200])]),
    }


@_experiment(
    "attribution",
    "the circuits that EAP and EAP-IG find",
    490,
    5,
    balanced=True,
    years=list(YEARS),
    note="The without a space before it, 34 nouns",
)
def _attribution(bench: Bench) -> Tensors:
    dataset = eap_ig_prompts(bench.model.tokenizer, bench.prompts, bench.seed, YEARS)
    patching = PathPatching(bench.model, dataset, progress=True)
    graph, denoising = EdgeGraph.of(patching), patching.reversed()
    found = {
        "clean": _score(patching.base_log_probs, dataset.YY),
        "corrupted": _score(denoising.base_log_probs, dataset.YY),
    }
    for name, scores in (("eap", eap(patching, graph)), ("eap_ig", eap_ig(patching, graph))):
        order = greedy_order(scores)
        for n in SIZES:  # as the source counts them: before those on no path are dropped
            live = graph.pruned(order[:n])
            found[f"{name}_{n}"] = evaluate_edges(denoising, graph, live).prob_diff
            found[f"{name}_{n}_edges"] = live.nonzero().flatten()
        top = graph.components(strongest_first(scores.mean)[:_TOP])
        found[f"{name}_top"] = _grid(bench.model, dict.fromkeys(top, 1.0))
    return found


@_experiment(
    "edges",
    "a circuit found from the data alone, edge by edge",
    97,
    25,
    balanced=True,
    years=list(YEARS),
)
def _edges(bench: Bench) -> Tensors:
    model = bench.model
    dataset = YearDataset(model.tokenizer, bench.prompts, years=YEARS, seed=bench.seed)
    patching = PathPatching(model, dataset, progress=True)
    denoising, circuit = patching.reversed(), discover_circuit(patching)
    graph = EdgeGraph.of(patching, summed=False)
    found = {
        "clean": _score(patching.base_log_probs, dataset.YY),
        "corrupted": _score(denoising.base_log_probs, dataset.YY),
        "found": denoising.evaluate(circuit).prob_diff,
        "full": denoising.evaluate(full_circuit(bench.parts)).prob_diff,
        "edges": graph.edges_of(circuit).nonzero().flatten(),
    }
    # What was found at a position, by the strongest effect of the edges that it sends.
    strengths: dict[str, dict[str, float]] = {position: {} for position in graph.positions}
    for edge, effect in zip(circuit.edges, circuit.effects.mean(-1).tolist(), strict=True):
        here, name = strengths[edge.sender.position], edge.sender.label
        here[name] = max(here.get(name, 0.0), -effect)
    return found | {f"found@{place}": _grid(model, here) for place, here in strengths.items()}


def _grid(model: Transformer, values: Mapping[str, float]) -> Tensor:
    """Values of heads and MLPs by their names, as [layer, n_heads + 1]; the last column is MLPs."""
    grid = torch.zeros(model.n_layers, model.n_heads + 1)
    for name, value in values.items():
        node = component(name)
        if node.kind != "embed":
            grid[node.layer, node.head if node.kind == "head" else -1] = value
    return grid
