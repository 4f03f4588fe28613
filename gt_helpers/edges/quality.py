"""Quality of circuits: faithful, complete, minimal, stable; against their number of edges.

A circuit is a `Circuit`, evaluated as it is, or edges of an `EdgeGraph`. It always carries clean
values into the corrupted run, unless the reverse is said; scores are probability differences.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from ..analysis.controls import changes_without
from ..metrics import Measurement, average, prob_diff, recovered, resamples
from ..patching.circuits import Circuit
from ..patching.engine import PathPatching
from .discovery import greedy_order
from .graph import EdgeGraph, Edges, evaluate_edges
from .scores import TOP, EdgeScores, common_graph, in_common, strongest_first

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of all edges, as MIB's
_PAIRS = 100  # of bootstrap resamples

Circuits = Mapping[str, Circuit | Edges]


def faithfulness(patching: PathPatching, graph: EdgeGraph, circuits: Circuits) -> pd.DataFrame:
    """How much of the model's behaviour circuits show alone, one row each.

    Columns: ``name``; ``edges`` and ``components`` on the graph, without those that change nothing
    (a `Circuit` counts as `EdgeGraph.edges_of`); ``prob_diff``, the mean; and its share of the
    model's in both conventions: ``recovered`` is circuit / clean, the paper's; ``above_corrupted``
    is (circuit - corrupted) / (clean - corrupted), which later work calls faithfulness (Hanna et
    al. 2024): all edges have 1, none have 0. The ends of 95 % bootstrap intervals over prompts are
    in ``..._low`` and ``..._high``. Raises ValueError as `evaluate_edges` does.
    """
    denoising, YY = _on(patching, "corrupted"), patching.dataset.YY
    clean, corrupted = prob_diff(denoising.patch_probs, YY), prob_diff(denoising.base_probs, YY)
    diffs, strata = _diffs(denoising, graph, circuits.values()), patching.dataset.strata
    rows = []
    for (name, circuit), diff in zip(circuits.items(), diffs, strict=True):
        live = graph.pruned(graph.edges_of(circuit))
        row = {"name": name, "edges": int(live.sum()), "components": len(graph.components(live))}
        scores = _columns(
            prob_diff=average(diff, strata=strata),
            recovered=recovered(diff, clean, strata=strata),
            above_corrupted=recovered(diff, clean, corrupted, strata),
        )
        rows.append(row | scores)
    return pd.DataFrame(rows)


def paired_differences(
    patching: PathPatching, graph: EdgeGraph, circuit: Circuit | Edges, others: Circuits
) -> pd.DataFrame:
    """How much more than a circuit others show alone, on the same prompts, one row each.

    The table of `leave_out`: ``name``, ``prob_diff`` of the other one, ``change`` (other less
    circuit) and its 95 % bootstrap interval, ``low`` and ``high``; the largest first. Raises
    ValueError as `evaluate_edges` does.
    """
    denoising = _on(patching, "corrupted")
    whole, *diffs = _diffs(denoising, graph, [circuit, *others.values()])
    return changes_without(others, whole, diffs, patching.dataset.strata)


def faithfulness_curves(
    patching: PathPatching,
    scores: Sequence[EdgeScores],
    circuits: Circuits | None = None,
    n_random: int = 3,
    signed: bool = False,
) -> pd.DataFrame:
    """`faithfulness` of circuits that grow along rankings of edges, of random ones, and of others.

    A ranking is followed in `greedy_order`, up to the `SHARES` of all edges, rounded down; edges
    that change nothing are not counted in ``edges``. Random rankings are the first scores
    `dealt_out`. The other ``circuits`` are points. Columns before those of `faithfulness`: ``kind``
    ("ranking", "random" or "circuit") and ``share`` (NaN for points). Raises ValueError for no
    scores, and scores of different graphs.
    """
    scores = list(scores)
    if not scores:
        raise ValueError("There are no scores to follow; give some, e.g. [eap(patching, graph)].")
    graph = common_graph(scores)
    rankings = [("ranking", one) for one in scores]
    rankings += [("random", dealt_out(scores[0], seed)) for seed in range(n_random)]
    points: list[tuple[str, float, str, Circuit | Edges]] = []
    for kind, ranking in rankings:
        order = greedy_order(ranking, signed)
        points += [(kind, n, ranking.method, order[: int(n * len(graph))]) for n in SHARES]
    points += [("circuit", math.nan, name, one) for name, one in (circuits or {}).items()]
    table = pd.DataFrame([point[:3] for point in points], columns=["kind", "share", "name"])
    measured = faithfulness(patching, graph, {str(n): one[3] for n, one in enumerate(points)})
    return pd.concat([table, measured.drop(columns="name")], axis=1)


def dealt_out(scores: EdgeScores, seed: int = 0) -> EdgeScores:
    """The same scores, dealt out to the measured edges at random: the floor of a ranking."""
    numbers = scores.measured.nonzero().flatten()
    generator = torch.Generator().manual_seed(seed)
    values = scores.values.clone()
    values[numbers] = values[numbers[torch.randperm(len(numbers), generator=generator)]]
    return replace(scores, method=f"random, seed {seed}", values=values)


def curve_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """The areas of the MIB benchmark (Mueller et al. 2025) for every ranking, one row each.

    With f = ``above_corrupted`` over the share of edges: ``CPR``, the integrated circuit
    performance ratio, is the area under f, and ``CMD``, the integrated circuit-model distance,
    that between f and 1, by the trapezoidal rule over the shares as they are, from the smallest
    one on. The benchmark takes CPR of signed rankings, where higher is better, and CMD of those by
    size, where lower is better; it takes the strongest edges wherever they are, and drops what is
    on no path, while `greedy_order` grows from the logits down.
    """
    rows = []
    rankings = curves.dropna(subset=["share"]).sort_values("share", kind="stable")
    for name, curve in rankings.groupby("name", sort=False):
        share, f = (torch.tensor(curve[of].to_numpy()) for of in ("share", "above_corrupted"))
        CPR, CMD = torch.trapezoid(f, share), torch.trapezoid((1 - f).abs(), share)
        rows.append((name, float(CPR), float(CMD)))
    return pd.DataFrame(rows, columns=["name", "CPR", "CMD"])


def necessity(patching: PathPatching, graph: EdgeGraph, circuits: Circuits) -> pd.DataFrame:
    """How the model does without circuits, in two senses, one row each.

    ``reverse`` is the paper's (section 3.2): the circuit's edges carry corrupted values into the
    clean run, and what the others bring is as in the clean run. ``without`` is the knockout of
    later work: all the other edges of the graph are live, and the circuit's are corrupted. Both
    are mean probability differences; the ends of their 95 % bootstrap intervals are in
    ``..._low`` and ``..._high``. Raises ValueError as `evaluate_edges` does.
    """
    masks = [graph.edges_of(circuit) for circuit in circuits.values()]
    reverse = _diffs(_on(patching, "clean"), graph, circuits.values())
    knocked_out = _diffs(_on(patching, "corrupted"), graph, [~mask for mask in masks])
    rows, strata = [], patching.dataset.strata
    for name, mask, corrupted, without in zip(circuits, masks, reverse, knocked_out, strict=True):
        row = {"name": name, "edges": int(graph.pruned(mask).sum())}
        scores = {"reverse": corrupted, "without": without}
        rows.append(row | _columns(**{run: average(x, strata=strata) for run, x in scores.items()}))
    return pd.DataFrame(rows)


def completeness(
    patching: PathPatching, graph: EdgeGraph, circuit: Circuit | Edges, n: int = 20, seed: int = 0
) -> pd.DataFrame:
    """Whether circuit and model lose the same when both lose some of the circuit's components.

    As in the study of indirect object identification (Wang et al. 2023): a complete circuit C has
    no substitute in the model M, so that M without K does as C without K, for every part K of it.
    The first row removes all of C; ``n`` more remove each component with even odds, by the seed.
    Columns: ``removed`` (names), ``circuit`` and ``model`` (mean probability difference without
    them), ``difference`` (model less circuit; its size is their incompleteness score), ``low`` and
    ``high`` (its 95 % bootstrap interval). On the graph, whatever a circuit's positions. Raises
    ValueError as `EdgeGraph.mask` does, and for n below 0.
    """
    if not isinstance(n, int) or n < 0:
        raise ValueError(f"n is {n!r}; it is a number of random parts, e.g. n=20.")
    edges = graph.edges_of(circuit)
    names = graph.components(edges)
    rng = random.Random(f"completeness {seed}")
    parts = [names, *([name for name in names if rng.random() < 0.5] for _ in range(n))]
    left = [~_at(graph, part) for part in parts]
    denoising = _on(patching, "corrupted")
    of_circuits = _diffs(denoising, graph, [edges & rest for rest in left])
    of_models = _diffs(denoising, graph, left)
    rows = []
    for part, of_circuit, of_model in zip(parts, of_circuits, of_models, strict=True):
        means = float(of_circuit.mean()), float(of_model.mean())
        less = average(of_model - of_circuit, strata=patching.dataset.strata)
        rows.append((", ".join(part), *means, less.value, less.low, less.high))
    columns = ["removed", "circuit", "model", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def leave_one_out(patching: PathPatching, graph: EdgeGraph, edges: Edges) -> pd.DataFrame:
    """What each component adds to a circuit on the graph; of a `Circuit`, see `leave_out`.

    The table is that of `leave_out`: ``name``, ``prob_diff`` without it, ``change``, ``low``,
    ``high``; strongest first. Raises ValueError as `EdgeGraph.mask` does.
    """
    mask = graph.mask(edges)
    names = graph.components(mask)
    smaller = [mask & ~_at(graph, [name]) for name in names]
    whole, *diffs = _diffs(_on(patching, "corrupted"), graph, [mask, *smaller])
    return changes_without(names, whole, diffs, patching.dataset.strata)


def stability(scores: EdgeScores, k: Sequence[int] = TOP) -> pd.DataFrame:
    """How much the strongest edges depend on the prompts that happened to be drawn, one row per k.

    In 100 pairs, prompts are drawn anew (`bootstrap_ci`), and the k edges of largest mean size are
    compared. Columns: ``k``; ``overlap``, the share of k that both have, on average over the pairs;
    ``low`` and ``high``, between which 95 % of the pairs lie; ``jaccard``, the mean of shared by
    all.
    """
    values = scores.values[scores.measured].double()
    n = values.shape[1]
    draws = resamples(n, scores.strata)[: 2 * _PAIRS]
    shared = torch.empty(_PAIRS, len(k), dtype=torch.float64)
    for pair, counts in zip(shared, draws.split(2), strict=True):
        one, two = (strongest_first(mean) for mean in (values @ counts.double().T / n).T)
        pair[:] = torch.tensor([in_common(one, two, size) for size in k])
    low, high = shared.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    columns = {"k": k, "overlap": shared.mean(0), "low": low, "high": high}
    return pd.DataFrame({**columns, "jaccard": (shared / (2 - shared)).mean(0)})


def edge_overlap(scores: Mapping[str, EdgeScores], k: Sequence[int] = TOP) -> pd.DataFrame:
    """How many of the strongest edges scores have in common, e.g. those of datasets of other seeds.

    One row per pair and k: ``first``, ``second`` (names), ``k``, ``overlap`` (the share of k that
    both have, of the edges that both measured) and ``jaccard`` (shared / all). Raises ValueError
    for scores of different graphs.
    """
    common_graph(scores.values())
    rows = []
    for (name, one), (other, two) in combinations(scores.items(), 2):
        both = one.measured & two.measured
        ours, theirs = strongest_first(one.mean[both]), strongest_first(two.mean[both])
        rows += [(name, other, size, in_common(ours, theirs, size)) for size in k]
    table = pd.DataFrame(rows, columns=["first", "second", "k", "overlap"])
    return table.assign(jaccard=table["overlap"] / (2 - table["overlap"]))


def _on(patching: PathPatching, base: str) -> PathPatching:
    """The patching with this base."""
    return patching if patching.base == base else patching.reversed()


def _diffs(
    patching: PathPatching, graph: EdgeGraph, circuits: Iterable[Circuit | Edges]
) -> Iterator[Float[Tensor, " prompt"]]:
    """Probability differences of circuits, as they are, or of edges, one after the other."""
    bar = tqdm(list(circuits), desc="circuits", disable=not patching.progress, leave=False)
    for circuit in bar:
        if isinstance(circuit, Circuit):
            yield patching.evaluate(circuit).prob_diff
        else:
            yield evaluate_edges(patching, graph, circuit).prob_diff


def _at(graph: EdgeGraph, names: Iterable[str]) -> Bool[Tensor, " edge"]:
    """The edges that start or end at the named components."""
    chosen = set(names)
    sends = torch.tensor([node.label in chosen for node in graph.nodes])
    receives = torch.tensor([one.component.label in chosen for one in graph.inputs])
    return sends[graph.index[:, 1]] | receives[graph.index[:, 2]]


def _columns(**measured: Measurement) -> dict[str, float]:
    """What was measured and, in columns ``..._low`` and ``..._high``, the ends of its interval."""
    row: dict[str, float] = {}
    for name, one in measured.items():
        row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return row
