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
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..model.cache import PROMPTS_AT_ONCE, ActivationCache
from ..model.components import END, Component, Edge, Input, Shape, inputs
from ..patching.circuits import Circuit
from ..patching.engine import Evaluation, PathPatching
from ..processes import Tensors, over_prompts
from .rerun import Rerun

# Edges may be chosen by their names, their numbers or a mask over all of them.
Edges = str | Iterable[str] | Iterable[int] | Tensor


class _Layer(NamedTuple):
    """A layer's heads, or its MLP: inputs and nodes by number, and which inputs are k or v."""

    receivers: Int[Tensor, " receiver"]
    nodes: Int[Tensor, " node"]
    read_later: Bool[Tensor, " receiver"]


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
        found = [
            Input(node, part)
            for node in self.nodes[1:]
            for part in (("q", "k", "v") if node.kind == "head" else ("",))
        ]
        return (*found, Input(Component("logits")))

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
        read_later = Input(Component("head", self.shape.n_layers - 1), "v")
        here = replace(receiver.component, position=row)
        return receiver.component.kind != "logits" and self.shape.reaches(here, read_later)

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

    def pruned(self, edges: Edges) -> Bool[Tensor, " edge"]:
        """The chosen edges on a path of chosen edges from the embedding to the logits.

        The others change nothing. Raises ValueError as `mask` does.
        """
        chosen = self.grid(edges)
        kept = chosen & self._fed(chosen)[:, :, None] & self._useful(chosen)[:, None]
        return kept[self.index.unbind(1)]

    def _fed(self, chosen: Tensor) -> Bool[Tensor, "row sender"]:
        """Which senders the embedding arrives at along the grid's edges."""
        fed = torch.zeros(chosen.shape[:2], dtype=torch.bool)
        fed[:, 0] = True
        for layer in self._layers:
            brought = (chosen[:, :, layer.receivers] & fed[:, :, None]).any(1)
            later = brought.cummax(0).values  # a key or value is read by later rows too
            brought = torch.where(layer.read_later, later, brought)
            fed[:, layer.nodes] |= brought.unflatten(1, (len(layer.nodes), -1)).any(2)
        return fed

    def _useful(self, chosen: Tensor) -> Bool[Tensor, "row receiver"]:
        """Which inputs, read at a row, lead on to the logits along the grid's edges."""
        useful = torch.zeros(chosen.shape[::2], dtype=torch.bool)
        useful[-1, -1] = True
        for layer in reversed(self._layers):
            sends = (chosen[:, layer.nodes] & useful[:, None]).any(2)
            sends = sends.repeat_interleave(len(layer.receivers) // len(layer.nodes), dim=1)
            later = sends.flip(0).cummax(0).values.flip(0)  # ... so an earlier one is of use
            useful[:, layer.receivers] = torch.where(layer.read_later, later, sends)
        return useful

    @cached_property
    def _layers(self) -> list[_Layer]:
        """Heads and MLPs in turn, upstream first."""
        found = []
        listed = list(enumerate(self.inputs[:-1]))
        for _, layer in groupby(listed, key=lambda one: one[1].component.depth):
            numbers, receivers = zip(*layer, strict=True)
            nodes = dict.fromkeys(self.nodes.index(one.component) for one in receivers)
            read_later = torch.tensor([one.part in ("k", "v") for one in receivers])
            found.append(_Layer(torch.tensor(numbers), torch.tensor(list(nodes)), read_later))
        return found

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
        senders = {edge.sender for edge in circuit.edges if edge.sender.kind != "all"}
        own = {"embed", *(sender.label for sender in senders)}
        whole = [(e.receiver, e.sender.position) for e in circuit.edges if e.sender not in senders]
        for source in circuit.sources:
            if source.kind in ("head", "mlp"):
                for one in inputs(source.name):
                    embeds = [Component("embed", position=row) for row in self.positions]
                    whole += [(one, e.position) for e in embeds if self.shape.reaches(e, one)]
        found = [(edge.sender.label, edge.receiver, edge.sender.position) for edge in circuit.edges]
        found += [(label, one, row) for one, row in whole for label in own]
        names = {
            f"{label}{'' if self.summed else f'@{row}'} -> {one.name.partition('@')[0]}"
            for label, one, row in found
            if row in self.positions
        }
        return self.mask(names & self._number.keys())

    def circuit(self, edges: Edges, name: str = "circuit") -> Circuit:
        """The chosen edges as a `Circuit` whose only source is the embedding.

        Each is written out for every position at which it changes something that can arrive at the
        logits. Raises ValueError as `mask` does.
        """
        found = [
            edge
            for row, sender, receiver in self.index[self.mask(edges)].tolist()
            for position in ([self.rows[row]] if self.rows[row] else self.positions)
            for edge in self._expanded(self.nodes[sender], self.inputs[receiver], position)
        ]
        senders = dict.fromkeys(edge.sender for edge in found)
        return Circuit(found, name, [sender for sender in senders if sender.kind == "embed"])

    def _expanded(self, sender: Component, receiver: Input, row: str) -> list[Edge]:
        """The edges from one position of a sender to every output that they change."""
        later = self.positions[self.positions.index(row) :]
        outputs = later if receiver.part in ("k", "v") else (row,)
        whole = Input(receiver.component)  # a head's output goes on as an MLP's does
        return [
            Edge(
                replace(sender, position=row),
                replace(receiver, component=replace(receiver.component, position=output)),
            )
            for output in outputs
            if self.arrives(whole, output)
        ]


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

    def measure(some: slice) -> Tensors:
        answers = [
            patching.model.log_probs(_final_stream(graph, base, patch, grid), years).cpu()
            # every live component's change is kept of each
            for base, patch, _ in patching.caches(PROMPTS_AT_ONCE // 4, some)
        ]
        return {"log_probs": torch.cat(answers)}

    found = over_prompts("answers of edges", len(patching.dataset), measure)
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
    graph: EdgeGraph, base: ActivationCache, patch: ActivationCache, live: Tensor
) -> Float[Tensor, "prompt d_model"]:
    """The last stream at END when the edges of a pruned grid [row, sender, receiver] are live."""
    rerun = Rerun(base)
    sending = live.any(2).any(0).nonzero().flatten().tolist()
    place = {graph.nodes[number]: i for i, number in enumerate(sending)}
    weights = live[:, sending].to(base.stream)
    # What is sent [position, sending, prompt, d_model]; no edge reads a sender before it is filled
    # in. Positions stand in front, so that one product brings it to all inputs of a layer.
    n_prompts, n_positions, d_model = rerun.base_stream(0).shape
    sent = weights.new_zeros(n_positions, len(sending), n_prompts, d_model)

    def arriving(receivers: Tensor) -> Float[Tensor, "receiver prompt position d_model"]:
        brought = weights[:, :, receivers].mT @ sent.flatten(2)
        return brought.unflatten(2, (n_prompts, d_model)).permute(1, 2, 0, 3)

    if sending and sending[0] == 0:
        sent[:, 0] = (patch.stream[0] - base.stream[0])[:, base.start :].transpose(0, 1)
    entered = live.any(1).any(0)
    for layer in graph._layers:
        receivers = layer.receivers[entered[layer.receivers]]
        changes: dict[Component, dict[str, Tensor]] = {}
        for number, change in zip(receivers.tolist(), arriving(receivers), strict=True):
            one = graph.inputs[number]
            changes.setdefault(one.component, {})[one.part] = change
        for node, of_part in changes.items():
            sent[:, place[node]] = rerun.output_change(node, of_part).transpose(0, 1)
    return rerun.base_stream(-1)[:, -1] + arriving(torch.tensor([-1]))[0, :, -1]
