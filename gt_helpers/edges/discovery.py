"""Discovery: a circuit from nothing but the data, by path patching or by the scores of all edges.

`discover_circuit` is the paper's procedure (section 3.1) for every component and position;
`greedy_edges` grows a circuit from any scores of edges, from the logits down.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import bootstrap_ci, prob_diff
from ..model.components import Component, Edge, Input, component
from ..patching.circuits import Circuit
from ..patching.engine import LOGITS, PathPatching, Sweep
from ..patching.paper import SweepFunction, needed
from ..processes import Tensors, over_prompts
from .effects import EdgeScores
from .graph import EdgeGraph, Edges

Node = TypeVar("Node", bound=Hashable)


@dataclass(frozen=True, init=False)
class FoundCircuit(Circuit):
    """A circuit with the effect of each edge on the way on which it was found.

    ``effects`` [edge, prompt] are patched less base metric: negative means that the edge matters.
    The embedding is its only source.
    """

    effects: Tensor = field(compare=False)

    def __init__(self, effects: Mapping[Edge, Tensor], name: str = "found circuit") -> None:
        senders = dict.fromkeys(edge.sender for edge in effects)
        super().__init__(effects, name, [one for one in senders if one.kind == "embed"])
        values = torch.stack(list(effects.values())) if effects else torch.empty(0, 0)
        object.__setattr__(self, "effects", values)

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per edge, strongest first: edge, effect and its bootstrap interval."""
        columns = {"edge": [edge.name for edge in self.edges]}
        intervals = bootstrap_ci(self.effects, level) if self.edges else [self.effects[0:0]] * 3
        for name, values in zip(("effect", "low", "high"), intervals, strict=True):
            columns[name] = values.tolist()
        return pd.DataFrame(columns).sort_values("effect", kind="stable", ignore_index=True)

    def strongest(self, n_edges: int) -> FoundCircuit:
        """A part of at most so many edges, grown from the logits down as by `greedy_edges`.

        Raises ValueError for a number below 1.
        """
        _check_number(n_edges)
        entering: dict[Component, list[int]] = {}
        for number, edge in enumerate(self.edges):
            entering.setdefault(edge.receiver.component, []).append(number)
        strengths = (-self.effects.mean(-1)).tolist() if self.edges else []
        order = _grown(strengths, [edge.sender for edge in self.edges], entering, LOGITS.component)

        def first(length: int) -> FoundCircuit:
            return _live({self.edges[n]: self.effects[n] for n in order[:length]})

        return first(_longest(len(order), n_edges, lambda length: len(first(length))))


def discover_circuit(
    patching: PathPatching,
    threshold: float = 0.002,
    n_edges: int | None = None,
    sweep: SweepFunction[Sweep] | None = None,
) -> FoundCircuit:
    """Find a circuit by path patching, from the logits down to the embedding (section 3.1).

    Every component that was found becomes a receiver, highest layer first: an MLP's input, or a
    head's query, keys and values, each swept from every position that it reads and that can
    change. What arrives flows on to the logits and through every input that was found so far. A
    sweep keeps a sender whose patching lowers the metric, its 95 % bootstrap interval below 0, by
    ``threshold`` of the gap between clean and corrupted prompts or more; of those into a component,
    the strongest is kept however small it is, so that each leads down to the embedding. What does
    not is left out at the end, and with ``n_edges`` also all but the strongest edges (see
    `FoundCircuit.strongest`). ``sweep`` may stand in for the patching's own, e.g. a `Preview`'s.
    Raises ValueError unless the patching's base is "clean", and for a threshold below 0.
    """
    if patching.base != "clean":
        raise ValueError(
            "discover_circuit needs the clean base, e.g. PathPatching(model, dataset)."
        )
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold!r}; it is a share of the gap, e.g. 0.002.")
    if n_edges is not None:
        _check_number(n_edges)
    YY = patching.dataset.YY
    gap = prob_diff(patching.base_probs, YY) - prob_diff(patching.patch_probs, YY)
    least = threshold * abs(float(gap.mean()))
    positions, moved = EdgeGraph.of(patching).positions, _moved_embeddings(patching)
    found: dict[Edge, Tensor] = {}
    waiting = {LOGITS.component}
    bar = tqdm(desc="discover", unit="sweep", disable=not patching.progress, leave=False)
    while waiting:
        node = max(waiting, key=lambda one: (one.depth, one.name))  # all above it is known by now
        waiting.remove(node)
        via = list(dict.fromkeys(_onward(edge) for edge in found if edge.receiver != LOGITS))
        effects: dict[Edge, Tensor] = {}
        for receiver, row in _entrances(node, positions):
            *others, _ = patching.shape.senders(row)
            if row not in moved and not any(patching.shape.reaches(s, receiver) for s in others):
                continue  # it reads the embedding only, which is the same in both runs
            effects |= _needed_edges((sweep or patching.sweep)([receiver.name], via, row), receiver)
            bar.update()
        sizes = {edge: -float(values.mean()) for edge, values in effects.items()}
        enough = min(least, max(sizes.values(), default=0.0))
        kept = {edge: effects[edge] for edge, size in sizes.items() if size >= enough}
        found |= kept
        waiting |= {edge.sender for edge in kept if edge.sender.kind != "embed"}
        bar.set_postfix_str(f"{len(found)} edges, {len(waiting)} components to go")
    bar.close()
    circuit = _live(found)
    return circuit if n_edges is None else circuit.strongest(n_edges)


def _moved_embeddings(patching: PathPatching) -> set[str]:
    """The positions at which the embeddings of the two runs differ."""

    def measure(some: slice) -> Tensors:
        pairs = patching.caches(len(patching.dataset), some)
        moved = [(base.stream[0] != patch.stream[0]).any(-1).cpu() for base, patch, _ in pairs]
        return {"moved": torch.cat(moved)}

    moved = over_prompts("moved embeddings", len(patching.dataset), measure)["moved"].any(0)
    return {position for position, one in zip(patching.shape.positions, moved, strict=True) if one}


def _entrances(node: Component, positions: Sequence[str]) -> list[tuple[Input, str]]:
    """Where a change can enter a component: its inputs, each with the positions that it reads."""
    if node.kind != "head":
        return [(Input(node), node.position)]
    earlier = positions[: positions.index(node.position) + 1]
    rows = {"q": [node.position], "k": earlier, "v": earlier}
    return [(Input(node, part), row) for part in rows for row in rows[part]]


def _onward(edge: Edge) -> str:
    """The input that an edge enters, listening to the edge's own row only."""
    row = edge.sender.position if edge.receiver.part in ("k", "v") else ""
    return Input(edge.receiver.component, edge.receiver.part, row).name


def _needed_edges(swept: Sweep, receiver: Input) -> dict[Edge, Tensor]:
    """The edges into a receiver whose patching lowers the metric, with their effects [prompt]."""
    values = dict(zip(swept.senders, swept.values, strict=True))
    names = needed(swept.to_frame())["component"]
    return {Edge(component(name), receiver): values[name] for name in names}


def _live(effects: Mapping[Edge, Tensor]) -> FoundCircuit:
    """The circuit of the edges on a path from the embedding to the logits."""
    return FoundCircuit({edge: effects[edge] for edge in FoundCircuit(effects).live})


def greedy_order(scores: EdgeScores, signed: bool = False) -> Tensor:
    """The measured edges, by number, in the order in which a circuit grows from the logits down.

    Next comes the strongest edge into what the circuit has so far, and its sender joins with it
    (`apply_greedy` of Hanna et al. 2024). Strong is a mean of large size; ``signed``, one that
    moves the metric towards the patch run, and the others come last. Edges into a component from
    which no measured edge leads on do not occur.
    """
    graph, mean = scores.graph, scores.mean.double()
    towards = scores.settings.get("patch_metric", 0) - scores.settings.get("base_metric", 1)
    strengths = (mean if towards > 0 else -mean) if signed else mean.abs()
    rows, index = range(len(graph.rows)), graph.index.tolist()
    entering: dict[Hashable, list[int]] = {}
    for number in scores.measured.nonzero().flatten().tolist():
        row, _, receiver = index[number]
        one = graph.inputs[receiver]
        for later in rows[row:] if one.part in ("k", "v") else [row]:
            entering.setdefault((later, one.component), []).append(number)
    senders = [(row, graph.nodes[sender]) for row, sender, _ in index]
    order = _grown(strengths.tolist(), senders, entering, (rows[-1], LOGITS.component))
    return torch.tensor(order, dtype=torch.long)


def greedy_edges(scores: EdgeScores, n_edges: int, signed: bool = False) -> Tensor:
    """A circuit of at most so many edges [edge], grown from the logits down by `greedy_order`.

    As many of the first as leave ``n_edges`` once those are dropped that are on no path from the
    embedding; EAP-IG's code counts them before. `evaluate_edges` evaluates it, and
    `EdgeGraph.circuit` makes it a `Circuit`. Raises ValueError for a number below 1.
    """
    _check_number(n_edges)
    graph, order = scores.graph, greedy_order(scores, signed)
    length = _longest(len(order), n_edges, lambda n: int(graph.pruned(order[:n]).sum()))
    return graph.pruned(order[:length])


def _grown(
    strengths: Sequence[float],
    senders: Sequence[Node],
    entering: Mapping[Node, Iterable[int]],
    root: Node,
) -> list[int]:
    """Edges, by number, strongest first of those that enter the root or an earlier edge's sender.

    Each has a strength and a sender; ``entering`` has the edges that enter a node.
    """
    joined: set[Node] = set()
    offered: set[int] = set()
    heap: list[tuple[float, int]] = []
    order: list[int] = []
    node: Node = root
    while True:
        if node not in joined:
            joined.add(node)
            for number in entering.get(node, ()):
                if number not in offered:
                    offered.add(number)
                    heappush(heap, (-strengths[number], number))
        if not heap:
            return order
        order.append(heappop(heap)[1])
        node = senders[order[-1]]


def _longest(n: int, limit: int, size: Callable[[int], int]) -> int:
    """The largest length up to n whose size, which grows with the length, is within the limit."""
    return bisect_right(range(n + 1), limit, key=size) - 1


def _check_number(n_edges: int) -> None:
    if not isinstance(n_edges, int) or n_edges < 1:
        raise ValueError(f"n_edges is {n_edges!r}; it is a number of edges, e.g. n_edges=100.")


def agreement(graph: EdgeGraph, found: Circuit | Edges, reference: Circuit | Edges) -> pd.DataFrame:
    """How far a circuit agrees with a reference: of components, of links and of edges.

    Both are a `Circuit`, compared whatever its positions (see `EdgeGraph.edges_of`), or edges of
    the graph. Links are edges that do not tell a head's q, k and v apart; components are heads and
    MLPs. Columns: ``found`` and ``reference`` (how many), ``shared``, ``precision`` (shared of the
    found), ``recall`` (shared of the reference's), ``jaccard`` (shared of all). Raises ValueError
    as `EdgeGraph.mask` does.
    """
    masks = [
        graph.edges_of(one) if isinstance(one, Circuit) else graph.mask(one)
        for one in (found, reference)
    ]
    members: dict[str, list[set[Any]]] = {
        "components": [set(graph.components(mask)) for mask in masks],
        "links": [_links(graph, mask) for mask in masks],
        "edges": [set(mask.nonzero().flatten().tolist()) for mask in masks],
    }
    rows = {}
    for kind, (ours, theirs) in members.items():
        shared = len(ours & theirs)
        rows[kind] = {
            "found": len(ours),
            "reference": len(theirs),
            "shared": shared,
            "precision": shared / max(1, len(ours)),
            "recall": shared / max(1, len(theirs)),
            "jaccard": shared / max(1, len(ours | theirs)),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _links(graph: EdgeGraph, mask: Tensor) -> set[tuple[int, int, Component]]:
    chosen = graph.index[mask].tolist()
    return {(row, sender, graph.inputs[receiver].component) for row, sender, receiver in chosen}
