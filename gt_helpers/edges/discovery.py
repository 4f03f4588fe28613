"""Discovery: a circuit from nothing but the data, by path patching or by the scores of all edges.

`discover_circuit` is the paper's procedure (section 3.1) for every component and position;
`greedy_edges` grows a circuit from any scores of edges, from the logits down.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import TypeVar

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Metric, Strata, bootstrap_ci, prob_diff
from ..model.cache import PROMPTS_AT_ONCE
from ..model.components import Component, Edge, Input, component
from ..patching.circuits import Circuit
from ..patching.engine import LOGITS, PathPatching, Sweep
from ..patching.paper import needed
from .graph import EdgeGraph, Edges, embeddings
from .scores import EdgeScores

Node = TypeVar("Node", bound=Hashable)
MetricSweep = Callable[[Sequence[str], Sequence[str], str, Metric], Sweep]  # as PathPatching.sweep


@dataclass(frozen=True, init=False)
class FoundCircuit(Circuit):
    """A circuit with the effect of each edge on the way on which it was found.

    ``effects`` are patched less base metric: negative means that the edge matters.
    The embedding is its only source.
    """

    effects: Float[Tensor, "edge prompt"] = field(compare=False)
    strata: Strata | None = field(compare=False)  # of the prompts, see `bootstrap_ci`

    def __init__(
        self, effects: Mapping[Edge, Float[Tensor, " prompt"]], strata: Strata | None = None
    ) -> None:
        super().__init__(effects, "found circuit", embeddings(effects))
        values = torch.stack(list(effects.values())) if effects else torch.empty(0, 1)
        object.__setattr__(self, "effects", values)
        object.__setattr__(self, "strata", strata)

    def to_frame(self) -> pd.DataFrame:
        """One row per edge, strongest first: edge, effect, and its 95 % interval, low and high."""
        found = [self.effects.mean(-1)] * 3  # of nothing no bootstrap can be made
        if self.edges:
            found = list(bootstrap_ci(self.effects, strata=self.strata))
        effect, low, high = found
        names = [edge.name for edge in self.edges]
        table = pd.DataFrame({"edge": names, "effect": effect, "low": low, "high": high})
        return table.sort_values("effect", kind="stable", ignore_index=True)

    def strongest(self, n_edges: int) -> FoundCircuit:
        """A part of at most so many edges, grown from the logits down as by `greedy_edges`.

        Raises ValueError for a number below 1.
        """
        ends = {n: (edge.sender, [edge.receiver.component]) for n, edge in enumerate(self.edges)}
        order = _grown((-self.effects.mean(-1)).tolist(), ends, LOGITS.component)

        def first(length: int) -> FoundCircuit:
            some = {self.edges[n]: self.effects[n] for n in order[:length]}
            return _live(some, self.strata)

        return first(_longest(len(order), n_edges, lambda length: len(first(length))))


def discover_circuit(
    patching: PathPatching,
    threshold: float = 0.002,
    sweep: MetricSweep | None = None,
    metric: Metric = prob_diff,
) -> FoundCircuit:
    """Find a circuit by path patching, from the logits down to the embedding (section 3.1).

    Every component that was found becomes a receiver, highest layer first: an MLP's input, or a
    head's query, keys and values, each swept from every position that it reads and that can
    change. What arrives flows on to the logits and through every input that was found so far. A
    sweep keeps a sender whose patching lowers the metric, its 95 % bootstrap interval below 0, by
    ``threshold`` of the gap between clean and corrupted prompts or more; of those into a component,
    the strongest is kept however small it is, so that each leads down to the embedding. What does
    not is left out at the end. ``sweep`` may stand in for the patching's own, e.g. a `Preview`'s.
    Of a ``metric`` that grows with the damage, as a divergence does, give the negative. Raises
    ValueError unless the patching's base is "clean", and for a threshold below 0.
    """
    if patching.base != "clean":
        raise ValueError(
            "discover_circuit needs the clean base, e.g. PathPatching(model, dataset)."
        )
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold!r}; it is a share of the gap, e.g. 0.002.")
    sweep, YY = sweep or patching.sweep, patching.dataset.YY
    gap = metric(patching.base_probs, YY) - metric(patching.patch_probs, YY)
    least = threshold * abs(float(gap.mean()))
    moved = _moved_embeddings(patching)
    found: dict[Edge, Tensor] = {}
    waiting = {LOGITS.component}
    bar = tqdm(desc="discover", unit="sweep", disable=not patching.progress, leave=False)
    while waiting:
        receiver = max(waiting, key=lambda node: (node.depth, node.name))  # all above is known
        waiting.remove(receiver)
        onward = list(dict.fromkeys(_onward(edge) for edge in found if edge.receiver != LOGITS))
        effects: dict[Edge, Tensor] = {}
        for entry, row in _entries(receiver, patching, moved):
            swept = sweep([entry.name], onward, row, metric)
            values = dict(zip(swept.senders, swept.values, strict=True))
            lowering = needed(swept.to_frame())["component"]
            effects |= {Edge(component(name), entry): values[name] for name in lowering}
            bar.update()
        kept = _strong(effects, least)
        found |= kept
        waiting |= {edge.sender for edge in kept if edge.sender.kind != "embed"}
        bar.set_postfix_str(f"{len(found)} edges, {len(waiting)} components to go")
    bar.close()
    return _live(found, patching.dataset.strata)


def _moved_embeddings(patching: PathPatching) -> set[str]:
    """The positions at which the embeddings of the two runs differ."""

    def measure(some: slice) -> dict[str, Tensor]:
        caches = patching.caches(PROMPTS_AT_ONCE, some)
        moved = [(base.stream[0] != patch.stream[0]).any(-1).cpu() for base, patch, _ in caches]
        return {"moved": torch.cat(moved)}

    moved = patching.over_prompts("moved embeddings", measure)["moved"].any(0)
    return {position for position, one in zip(patching.shape.positions, moved, strict=True) if one}


def _entries(
    receiver: Component, patching: PathPatching, moved: Container[str]
) -> Iterator[tuple[Input, str]]:
    """A component's inputs, each with every position that it reads and at which it can change."""
    positions = EdgeGraph.of(patching).positions
    for part in "qkv" if receiver.kind == "head" else [""]:
        entry = Input(receiver, part)
        for row in positions:
            # Where it reads the embedding only, and that is the same in both runs, a sweep would
            # take rounding for an effect.
            senders = [one for one in patching.shape.senders(row) if one.kind != "embed"]
            embed = Component("embed", position=row)
            senders += [embed] if row in moved else []
            if any(patching.shape.reaches(one, entry) for one in senders):
                yield entry, row


def _onward(edge: Edge) -> str:
    """The input that an edge enters, listening to the edge's own row only."""
    row = edge.sender.position if edge.receiver.part in ("k", "v") else ""
    return replace(edge.receiver, row=row).name


def _strong(effects: Mapping[Edge, Tensor], least: float) -> dict[Edge, Tensor]:
    """Those edges that lower the metric by so much, or else the strongest of them."""
    sizes = {edge: -float(values.mean()) for edge, values in effects.items()}
    enough = min(least, max(sizes.values(), default=0.0))
    return {edge: effects[edge] for edge, size in sizes.items() if size >= enough}


def _live(effects: Mapping[Edge, Tensor], strata: Strata | None) -> FoundCircuit:
    """The circuit of the edges on a path from the embedding to the logits."""
    live = {edge: effects[edge] for edge in FoundCircuit(effects).live}
    return FoundCircuit(live, strata)


def greedy_order(scores: EdgeScores, signed: bool = False) -> Int[Tensor, " edge"]:
    """The measured edges, by number, in the order in which a circuit grows from the logits down.

    Next comes the strongest edge into what the circuit has so far, and its sender joins with it
    (`apply_greedy` of Hanna et al. 2024). Strong is a mean of large size; ``signed``, one that
    moves the metric towards the patch run, and the others come last. Edges into a component from
    which no measured edge leads on do not occur.
    """
    graph, mean = scores.graph, scores.mean.double()
    strengths = (mean if scores.gap > 0 else -mean) if signed else mean.abs()
    ends = {number: graph.ends[number] for number in scores.measured.nonzero().flatten().tolist()}
    return torch.tensor(_grown(strengths.tolist(), ends, graph.root), dtype=torch.long)


def greedy_edges(scores: EdgeScores, n_edges: int) -> Bool[Tensor, " edge"]:
    """A circuit of at most so many edges, grown from the logits down by `greedy_order`.

    As many of the first as leave ``n_edges`` once those are dropped that are on no path from the
    embedding; EAP-IG's code counts them before. `evaluate_edges` evaluates it, and
    `EdgeGraph.circuit` makes it a `Circuit`. Raises ValueError for a number below 1.
    """
    graph, order = scores.graph, greedy_order(scores)
    length = _longest(len(order), n_edges, lambda n: int(graph.pruned(order[:n]).sum()))
    return graph.pruned(order[:length])


def _grown(
    strengths: Sequence[float], ends: Mapping[int, tuple[Node, Iterable[Node]]], root: Node
) -> list[int]:
    """Edges, by number, strongest first of those that enter the root or an earlier edge's sender.

    ``ends`` are the edges' senders and all that each of them enters.
    """
    entering: dict[Node, list[int]] = {}
    for number, (_, entered) in ends.items():
        for node in entered:
            entering.setdefault(node, []).append(number)
    order: list[int] = []
    choices: list[tuple[float, int]] = []  # a heap, the strongest first
    offered: set[int] = set()  # an edge into a key enters the head at several positions

    def join(node: Node) -> None:
        for number in entering.pop(node, ()):  # a node joins once
            if number not in offered:
                offered.add(number)
                heappush(choices, (-strengths[number], number))

    join(root)
    while choices:
        _, number = heappop(choices)
        order.append(number)
        join(ends[number][0])
    return order


def _longest(n: int, n_edges: int, size: Callable[[int], int]) -> int:
    """The largest length up to n whose size, which grows with the length, is within ``n_edges``."""
    if not isinstance(n_edges, int) or n_edges < 1:
        raise ValueError(f"n_edges is {n_edges!r}; it is a number of edges, e.g. n_edges=100.")
    return bisect_right(range(n + 1), n_edges, key=size) - 1


def agreement(graph: EdgeGraph, found: Circuit | Edges, reference: Circuit | Edges) -> pd.DataFrame:
    """How far a circuit agrees with a reference: of components, of links and of edges.

    Both are a `Circuit`, compared whatever its positions (see `EdgeGraph.edges_of`), or edges of
    the graph. Links are edges that do not tell a head's q, k and v apart; components are heads and
    MLPs. Columns: ``found`` and ``reference`` (how many), ``shared``, ``precision`` (shared of the
    found), ``recall`` (shared of the reference's), ``jaccard`` (shared of all). Raises ValueError
    as `EdgeGraph.mask` does.
    """
    ours, theirs = (_parts(graph, graph.edges_of(one)) for one in (found, reference))
    rows = [(len(one), len(theirs[kind]), len(one & theirs[kind])) for kind, one in ours.items()]
    table = pd.DataFrame(rows, list(ours), ["found", "reference", "shared"])
    for name, of in (
        ("precision", table["found"]),
        ("recall", table["reference"]),
        ("jaccard", table["found"] + table["reference"] - table["shared"]),
    ):
        table[name] = table["shared"] / of.clip(lower=1)  # of nothing, nothing is shared
    return table


def _parts(graph: EdgeGraph, mask: Bool[Tensor, " edge"]) -> dict[str, set[Hashable]]:
    """What chosen edges consist of, by the rows of `agreement`."""
    chosen = graph.index[mask].tolist()
    return {
        "components": set(graph.components(mask)),
        "links": {(row, sender, graph.inputs[one].component) for row, sender, one in chosen},
        "edges": {tuple(edge) for edge in chosen},
    }
