"""Experiments beyond the discovery of the circuit, and the command that fills the scorecard.

Each gives named tensors, per prompt where it can, which are saved as soon as it is finished; the
claims that need it and their measures are in ``paper_facts.toml`` and ``experiment_measures.py``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from .activation_patching import activation_patching
from .attribution import eap, eap_ig, strongest_first
from .choices import eap_ig_prompts
from .circuits import (
    PAPER,
    Circuit,
    CircuitParts,
    full_circuit,
    partial_circuit,
    random_parts,
)
from .components import END, component, edges
from .controls import circuit_through, mlp_paths, shifted_heads
from .dataset import YearDataset, draw_prompts
from .discovery import discover_circuit, greedy_order
from .distributed import (
    Tensors,
    chunks,
    is_main,
    main_first,
    main_only,
    over_prompts,
    resumable,
)
from .edge_graph import EdgeGraph, evaluate_edges
from .experiment_measures import SIZES
from .metrics import FIRST_YY, LAST_YY, Metric, mean_by_YY, prob_diff
from .models import is_gpt2_small
from .neurons import Neurons, last_but_one, ranking
from .path_patching import PathPatching
from .prompts import (
    ACDC_TEMPLATE,
    NO_SPACE_TEMPLATE,
    Prompt,
    Template,
    load_nouns,
    valid_years,
)
from .report import write_scorecard
from .reproduce import discover, open_run
from .results import Outcome, Results
from .runs import compute_run
from .scorecard import FALLBACK, claims, scorecard
from .tasks import TASKS, with_components
from .transformer import Transformer

YEARS = (1100, 1800)  # centuries 11 to 17, as in the paper's text
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


# ---- answers of whole circuits ----------------------------------------------------------------


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


# ---- controls of the circuit ------------------------------------------------------------------


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


# ---- activation patching ----------------------------------------------------------------------


def century_prompts(model: Transformer, n: int, seed: int = 0) -> YearDataset:
    """``n`` prompts with a uniform century 11 to 17, a uniform year of it, and `The` without space.

    The sampling of the reimplementation that reports activation patching; its own nouns are not
    known, so the paper's are used.
    """
    pool = valid_years(model.tokenizer, *YEARS)
    template = Template(NO_SPACE_TEMPLATE)
    rng = random.Random(f"century prompts {seed}")
    prompts = []
    for _ in range(n):
        century = 11 + int(rng.random() * 7)
        years = [year for year in pool if year // 100 == century]
        prompts += draw_prompts(rng, 1, years, load_nouns(), balanced=False)
    corrupted = [Prompt(one.noun, one.XX * 100 + 1, one.end_century) for one in prompts]
    return YearDataset.from_prompts(
        [template.fill(one) for one in prompts],
        [template.fill(one) for one in corrupted],
        [one.year for one in prompts],
        model.tokenizer,
        nouns=[one.noun for one in prompts],
        template=template,
    )


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
    dataset = century_prompts(model, bench.prompts, bench.seed)
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


# ---- the circuit on the prompts of ACDC -------------------------------------------------------

_ACDC_HEADS = ("a5.h5", "a6.h1", "a6.h9", "a7.h10", "a8.h11", "a9.h1")


def acdc_circuit(positions: Iterable[str]) -> Circuit:
    """The circuit that the paper on ACDC takes for this paper's, at all of the given positions.

    Six heads instead of seven, the early heads and MLPs, and every MLP below layer 9 into the
    heads' queries. Its 262 edges are these 235, which count all positions as one, and the 27
    between a head and its own q, k and v. Positions are given in order.
    """
    positions = list(positions)
    early = [f"m{layer}" for layer in range(4)]
    late = ["m8", "m9", "m10", "m11"]
    low = ("a0.h1", "a0.h3", "a0.h5")
    pairs = [("embed", name) for name in (*low, *early)]
    pairs += [("a0.h1", name) for name in early]
    pairs += [(sender, head) for sender in (*low, *early) for head in _ACDC_HEADS]
    pairs += [(f"m{i}", f"m{j}") for j in range(9) for i in range(j)]
    pairs += [(late[i], late[j]) for j in range(4) for i in range(j)]
    pairs += [(h, m) for h in _ACDC_HEADS for m in late if component(h).depth < component(m).depth]
    pairs += [
        (f"m{layer}", f"{head}.q") for head in _ACDC_HEADS for layer in range(component(head).layer)
    ]
    to_logits = [f"{name} -> logits" for name in (*_ACDC_HEADS, *late)]
    found = [edge for text in to_logits for edge in edges(text)]
    for sender, receiver in dict.fromkeys(pairs):
        for i, row in enumerate(positions):
            for position in positions[i:]:
                for edge in edges(f"{sender}@{row} -> {receiver}@{position}"):
                    if row == position or edge.receiver.part in ("k", "v"):
                        found.append(edge)
    sources = [f"embed@{position}" for position in positions]
    return Circuit(found, "ACDC's circuit", sources)


def acdc_years(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Its years: of those of each century from 02 to 98, all but the first and the last; 604."""
    by_century: dict[int, list[int]] = {}
    for year in valid_years(tokenizer, *YEARS, trim=False):
        if FIRST_YY <= year % 100 <= LAST_YY:
            by_century.setdefault(year // 100, []).append(year)
    return [year for century in by_century.values() for year in century[1:-1]]


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
        dataset = TASKS[name].dataset(bench.model.tokenizer, seed=bench.seed)[: bench.prompts]
        circuits = {"partial": partial}
        if name == "sequence" and bench.model.n_layers > 7 and bench.model.n_heads > 11:
            circuits["extended"] = partial_circuit(with_components(bench.parts))
        one = answers(bench.model, dataset, circuits, {"reverse": partial}, name)
        found |= {f"{name}_{run}": tensor for run, tensor in one.items()}
    return found


# ---- neurons ----------------------------------------------------------------------------------


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
    base, patch = (compute_run(model, tokens, end) for tokens in (dataset.clean, dataset.corrupted))
    neurons = Neurons(base, patch, dataset, last_but_one(bench.parts))
    effects = neurons.effects(progress=True)
    order = ranking(effects)

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


# ---- circuits found edge by edge --------------------------------------------------------------


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


# ---- the scorecard's command ------------------------------------------------------------------


def run_scorecard(
    model: str | None = None,
    prompts: int = 490,
    seed: int = 0,
    years: tuple[int, int] = YEARS,
    out: str | Path | None = None,
    device: str | None = None,
    only: Iterable[str] = (),
    skip_long: bool = False,
    at_most: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, Path]:
    """Run what the claims need and the folder does not hold yet; returns the table and the folder.

    ``model``, ``prompts``, ``seed``, ``years``, ``out`` and ``device`` are `reproduce`'s, whose
    folder is continued; the years of further experiments are their own. ``only`` are ids of claims,
    by default all. ``skip_long`` leaves out what takes above ten minutes on a CPU; ``at_most``
    limits the prompts of each further experiment. Raises ValueError for an unknown id, and as
    `reproduce` does.
    """
    say = main_only(say)
    with main_first():
        ids = _chosen(only)
    needed = _needed(ids, skip_long)
    transformer, dataset, results, folder = open_run(model, prompts, seed, years, out, device, say)
    if is_gpt2_small(transformer) and results.parts is None:
        results.parts = PAPER
    elif results.parts is None and needed and DISCOVERY not in needed:
        needed = [DISCOVERY, *needed]  # it finds the circuit that the others are about
    wanted = {one.name: one.settings(seed, at_most) for one in needed if one is not DISCOVERY}
    missing = [one for one in needed if not _is_held(results, one.name, wanted.get(one.name))]
    if missing:
        times = ", ".join(f"{one.name} ({one.minutes:g} min)" for one in missing)
        say(f"To measure, with the time that GPT-2 small takes on two CPU cores: {times}")
    for experiment in missing:
        if experiment is DISCOVERY:
            discover(transformer, dataset, results, folder, say)
        else:
            _carry_out(experiment, wanted[experiment.name], transformer, results, folder, say)
    table = scorecard(results, ids)
    if is_main():
        write_scorecard(results, scorecard(results), folder)  # also what is not asked for now
    return table, folder


def _chosen(only: Iterable[str]) -> list[str]:
    """The ids of all claims, or of the given ones."""
    known = [claim["id"] for claim in claims()]
    wanted = list(only) or known
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"There is no claim {unknown[0]!r}; known are {', '.join(known)}.")
    return wanted


def _needed(ids: Iterable[str], skip_long: bool) -> list[Experiment]:
    """The experiments that claims need, in the order of the registry."""
    names = set()
    for claim in claims():
        name = claim["experiment"]
        if claim["id"] in ids and "missing" not in claim:
            skipped = skip_long and name != "discovery" and EXPERIMENTS[name].long
            names |= {"discovery"} if skipped and name in FALLBACK else set()
            names |= set() if skipped else {name}
    return [experiment for name, experiment in EXPERIMENTS.items() if name in names]


def _is_held(results: Results, name: str, settings: dict[str, Any] | None) -> bool:
    """Whether the results hold an experiment on the prompts of these settings, or on more."""
    if settings is None:
        return results.attention is not None  # what the discovery finishes last
    held = results.experiments.get(name)
    if held is None:
        return False
    n = held.settings["prompts"]
    return n >= settings["prompts"] and held.settings == settings | {"prompts": n}


def _carry_out(
    experiment: Experiment,
    settings: dict[str, Any],
    model: Transformer,
    results: Results,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Run one experiment and save it."""
    n, seed = settings["prompts"], settings["seed"]
    say(f"  {experiment.name}: {experiment.title} ({n:,} prompts)")
    started = time.perf_counter()
    with resumable(f"{experiment.name}, {n} prompts, seed {seed}", folder):
        try:
            tensors = experiment.measure(Bench(model, results.parts or PAPER, n, seed))
        except ValueError as error:  # a model of another shape may lack what an experiment needs
            say(f"  {experiment.name}: not measured: {error}")
            return
        results.drop(experiment.name, folder)  # only now: an interrupted run keeps what there was
        results.experiments[experiment.name] = Outcome(settings, tensors)
        results.seconds[experiment.name] = round(time.perf_counter() - started, 2)
        results.save(folder)
    say(f"  {experiment.name}: {results.seconds[experiment.name]:.1f} s")
