"""EdgeGraph: every direct edge of a model in one order, and the answer when some of them are live.

An edge ``a9.h1 -> m9`` stands for the sender's change at every position; with the positions kept
apart, ``m0@YY -> a7.h10.v`` is the change at YY alone. Edges into a key or value change the row
that all later queries read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..model.cache import PROMPTS_AT_ONCE, ActivationCache
from ..model.components import END, Component, Edge, Input, Shape, inputs
from ..patching.circuits import Circuit, everywhere
from ..patching.engine import LOGITS, Evaluation, PathPatching
from .rerun import Rerun

# Edges may be chosen by their names, their numbers or a mask over all of them.
Edges = str | Iterable[str] | Iterable[int] | Tensor


# A component at a row, both by number: an edge's sender, or its receiver where the output changes.
Place = tuple[int, int]


@dataclass(frozen=True)
class EdgeGraph:
    """All direct edges between components, with the positions summed or kept apart.

    Nothing changes before ``first``, the first position at which clean and corrupted prompts
    differ; edges from which no path leads to the logits do not exist. Edges are in order of their
    receivers, upstream first; for each of them by row and sender. Raises ValueError for a position
    that the shape lacks.
    """

    shape: Shape
    first: str
    summed: bool = True

    def __post_init__(self) -> None:
        self.shape.check(Component("embed", position=self.first))

    @classmethod
    def of(cls, patching: PathPatching, summed: bool = True) -> EdgeGraph:
        """The graph of a patching's model and prompts."""
        return cls(patching.shape, patching.first_changed, summed)

    @cached_property
    def positions(self) -> tuple[str, ...]:
        """The positions at which something can change: from the first changed one to END."""
        return self.shape.positions[self.shape.positions.index(self.first) :]

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The positions that edges name: all `positions`, or one nameless row if summed."""
        return ("",) if self.summed else self.positions

    @cached_property
    def nodes(self) -> tuple[Component, ...]:
        """Every component that sends, upstream first: the embedding, then heads and MLPs."""
        *grid, embed = self.shape.senders(END)
        return (embed, *grid)

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """Every input that receives, upstream first: q, k and v of each head, MLPs, the logits."""
        return (*inputs(node.name for node in self.nodes[1:]), LOGITS)

    @cached_property
    def senders(self) -> tuple[str, ...]:
        """Names of the senders, e.g. ``a9.h1``."""
        return tuple(node.label for node in self.nodes)

    @cached_property
    def receivers(self) -> tuple[str, ...]:
        """Names of the receivers, e.g. ``a7.h10.v``, ``m9``, ``logits``."""
        return tuple(one.name.removesuffix(f"@{END}") for one in self.inputs)

    @cached_property
    def exists(self) -> Bool[Tensor, "row sender receiver"]:
        """Which edges exist."""
        reach = [[self.shape.reaches(s, r) for r in self.inputs] for s in self.nodes]
        arrives = [[self.arrives(r, row or END) for r in self.inputs] for row in self.rows]
        return torch.tensor(reach)[None] & torch.tensor(arrives)[:, None]

    def arrives(self, receiver: Input, row: str) -> bool:
        """Whether a change that an input reads at a row can go on to the logits at END."""
        if row == END or receiver.part in ("k", "v"):
            return True
        # Its output stays at the row; only keys and values of heads above carry it on from there.
        last_value = Input(Component("head", self.shape.n_layers - 1), "v")
        here = replace(receiver.component, position=row)
        return receiver != LOGITS and self.shape.reaches(here, last_value)

    @cached_property
    def index(self) -> Int[Tensor, "edge 3"]:
        """Where the edges are: the numbers of their row, sender and receiver."""
        return self.exists.permute(2, 0, 1).nonzero()[:, [1, 2, 0]]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The edges' names, e.g. ``a9.h1 -> m9`` or ``m0@YY -> a7.h10.v``."""
        at = [f"@{row}" if row else "" for row in self.rows]
        senders, receivers = self.senders, self.receivers
        return tuple(f"{senders[s]}{at[p]} -> {receivers[r]}" for p, s, r in self.index.tolist())

    @cached_property
    def _number(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.index)

    def mask(self, edges: Edges) -> Bool[Tensor, " edge"]:
        """Which edges are chosen, of names, numbers or a mask.

        Raises ValueError for an edge that does not exist.
        """
        if isinstance(edges, Tensor | np.ndarray):
            edges = edges.tolist()  # looking at the numbers of a tensor one by one is slow
        listed = [edges] if isinstance(edges, str) else list(edges)
        if listed and all(isinstance(one, bool) for one in listed):
            if len(listed) != len(self):
                raise ValueError(
                    f"The mask is of {len(listed)} edges; this graph has {len(self)}: give e.g. "
                    f"graph.mask({self.names[-1]!r})."
                )
            return torch.tensor(listed)
        numbers = [self._number.get(e, -1) if isinstance(e, str) else int(e) for e in listed]
        for edge, number in zip(listed, numbers, strict=True):
            if not 0 <= number < len(self):
                raise ValueError(
                    f"{edge!r} is none of the {len(self)} edges of this graph; there is e.g. "
                    f"{self.names[-1]!r}."
                )
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[numbers] = True
        return chosen

    def grid(self, edges: Edges) -> Bool[Tensor, "row sender receiver"]:
        """Which edges are chosen, in the form of `exists`; raises ValueError as `mask` does."""
        chosen = torch.zeros_like(self.exists)
        chosen[self.index[self.mask(edges)].unbind(1)] = True
        return chosen

    @cached_property
    def ends(self) -> list[tuple[Place, list[Place]]]:
        """Where each edge starts, and every place that it enters.

        What changes a head's key or value at a row changes the head at all later rows, too.
        """
        rows = range(len(self.rows))
        number = {node: n for n, node in enumerate((*self.nodes, LOGITS.component))}

        def entered(row: int, one: Input) -> list[Place]:
            changed = rows[row:] if one.part in ("k", "v") else [row]
            return [(place, number[one.component]) for place in changed]

        places = [[entered(row, one) for one in self.inputs] for row in rows]
        index = self.index.tolist()
        return [((row, sender), places[row][receiver]) for row, sender, receiver in index]

    @property
    def root(self) -> Place:
        """The logits at END, where every path ends."""
        return len(self.rows) - 1, len(self.nodes)

    def pruned(self, edges: Edges) -> Bool[Tensor, " edge"]:
        """The chosen edges on a path of chosen edges from the embedding to the logits.

        The others change nothing. Raises ValueError as `mask` does.
        """
        numbers = self.mask(edges).nonzero().flatten().tolist()
        chosen = [(number, *self.ends[number]) for number in numbers]  # upstream first
        fed = {(row, 0) for row in range(len(self.rows))}  # node 0 is the embedding
        for _, sender, entered in chosen:
            if sender in fed:
                fed.update(entered)
        useful = {self.root}
        for _, sender, entered in reversed(chosen):
            if not useful.isdisjoint(entered):
                useful.add(sender)
        return self.mask(
            number
            for number, sender, entered in chosen
            if sender in fed and not useful.isdisjoint(entered)
        )

    def components(self, edges: Edges) -> tuple[str, ...]:
        """Names of the heads and MLPs that the chosen edges join, upstream first.

        Raises ValueError as `mask` does.
        """
        chosen = self.index[self.mask(edges)]
        joined = {self.nodes[sender] for sender in chosen[:, 1].unique().tolist()}
        joined |= {self.inputs[number].component for number in chosen[:, 2].unique().tolist()}
        return tuple(node.label for node in self.nodes[1:] if node in joined)

    def edges_of(self, circuit: Circuit | Edges) -> Bool[Tensor, " edge"]:
        """The edges of a circuit, whatever positions it has them at; of chosen edges, their `mask`.

        What it holds whole (a source, and what an edge from `all` enters) comes from the embedding
        and from the circuit's own components below. Positions before `first` are passed over.
        """
        if not isinstance(circuit, Circuit):
            return self.mask(circuit)
        sent = [edge for edge in circuit.edges if edge.sender.kind != "all"]
        found = [(edge.sender.label, edge.receiver, edge.sender.position) for edge in sent]
        held = [(e.receiver, e.sender.position) for e in circuit.edges if e.sender.kind == "all"]
        sources = (source.name for source in circuit.sources if source.kind in ("head", "mlp"))
        held += [
            (one, row)
            for one in inputs(sources)
            for row in self.positions
            if self.shape.reaches(Component("embed", position=row), one)
        ]
        own = {"embed", *(label for label, _, _ in found)}
        found += [(label, *read) for read in held for label in own]
        names = {
            f"{label}{'' if self.summed else f'@{row}'} -> {one.name.partition('@')[0]}"
            for label, one, row in found
            if row in self.positions
        }
        return self.mask(names & self._number.keys())

    def circuit(self, edges: Edges) -> Circuit:
        """The chosen edges as a `Circuit` whose only source is the embedding.

        Each is written out for every position at which it changes something that can arrive at the
        logits. Raises ValueError as `mask` does.
        """
        found = []
        for row, sender, receiver in self.index[self.mask(edges)].tolist():
            one = Edge(self.nodes[sender], self.inputs[receiver])
            whole = Input(one.receiver.component)  # a head's output goes on as an MLP's does
            found += [
                edge
                for edge in everywhere(one, self.positions)
                if self.rows[row] in ("", edge.sender.position)
                and self.arrives(whole, edge.receiver.component.position)
            ]
        return Circuit(found, sources=embeddings(found))


def embeddings(edges: Iterable[Edge]) -> list[Component]:
    """The embeddings among the senders of edges, each once."""
    return list(dict.fromkeys(edge.sender for edge in edges if edge.sender.kind == "embed"))


@torch.no_grad()
def evaluate_edges(patching: PathPatching, graph: EdgeGraph, edges: Edges) -> Evaluation:
    """Answer with the chosen edges live and everything else on the base run.

    The embedding sends its patch-run output; any other component sends what it computes from the
    chosen edges that enter it (the evaluation of Conmy et al. 2023 and Hanna et al. 2024). All
    edges give the patch run, none the base run. Raises ValueError as `EdgeGraph.mask` does, and
    for a graph of another model or other prompts.
    """
    check_graph(patching, graph)
    chosen = graph.mask(edges)
    grid = graph.grid(graph.pruned(chosen))
    years = patching.dataset.year_tokens

    def measure(some: slice) -> dict[str, Tensor]:
        answers = [
            patching.model.log_probs(_final_stream(graph, base, patch, grid), years).cpu()
            # a quarter, for every live component's change is kept of each
            for base, patch, _ in patching.caches(PROMPTS_AT_ONCE // 4, some)
        ]
        return {"log_probs": torch.cat(answers)}

    found = patching.over_prompts("answers of edges", measure)
    name = f"{int(chosen.sum())} of {len(graph)} edges"
    return Evaluation(name, found["log_probs"], patching.dataset.YY)


def check_graph(patching: PathPatching, graph: EdgeGraph) -> None:
    """Raise ValueError for a graph of another model or other prompts than the patching's.

    Also for a patching whose norms are its own, as `FrozenNorms`: edges of a graph are
    computed with the model's.
    """
    kind = type(patching)
    if (kind._block, kind._normed) != (PathPatching._block, PathPatching._normed):
        raise ValueError(
            f"{kind.__name__} has norms of its own, which edges of a graph do not follow; give "
            "PathPatching(model, dataset)."
        )
    if (graph.shape, graph.first) != (patching.shape, patching.first_changed):
        raise ValueError(
            "The graph is not of this model and these prompts; build it of them: "
            "EdgeGraph.of(patching)."
        )


def _final_stream(
    graph: EdgeGraph,
    base: ActivationCache,
    patch: ActivationCache,
    live: Bool[Tensor, "row sender receiver"],
) -> Float[Tensor, "prompt d_model"]:
    """The last stream at END when the edges of a pruned grid are live."""
    rerun = Rerun(base)
    sending = live.any(2).any(0).nonzero().flatten().tolist()
    place = {graph.nodes[number]: i for i, number in enumerate(sending)}
    weights = live[:, sending].to(base.stream)
    # What is sent [position, sending, prompt, d_model]; no edge reads a sender before it is filled
    # in. Positions stand in front, so that one product brings it to all inputs of a layer.
    n_prompts, n_positions, d_model = rerun.base_stream(0).shape
    sent = weights.new_zeros(n_positions, len(sending), n_prompts, d_model)

    def arriving(receivers: list[int]) -> Float[Tensor, "receiver prompt position d_model"]:
        brought = weights[:, :, receivers].mT @ sent.flatten(2)
        return brought.unflatten(2, (n_prompts, d_model)).permute(1, 2, 0, 3)

    if sending:  # of a pruned grid the embedding is always one
        sent[:, 0] = (patch.stream[0] - base.stream[0])[:, base.start :].transpose(0, 1)
    entered = live[:, :, :-1].any(1).any(0).nonzero().flatten().tolist()  # but for the logits
    for _, layer in groupby(entered, key=lambda number: graph.inputs[number].component.depth):
        numbers = list(layer)
        changed = zip((graph.inputs[n] for n in numbers), arriving(numbers), strict=True)
        for node, its_inputs in groupby(changed, key=lambda one: one[0].component):
            changes = {one.part: change for one, change in its_inputs}
            sent[:, place[node]] = rerun.output_change(node, changes).transpose(0, 1)
    return rerun.base_stream(-1)[:, -1] + arriving([-1])[0, :, -1]
