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
from torch import Tensor

from ..model.cache import ActivationCache
from ..model.components import END, Component, Edge, Input, Shape, inputs
from ..patching.circuits import Circuit
from ..patching.engine import Evaluation, PathPatching
from ..processes import Tensors, over_prompts

# Edges may be chosen by their names, their numbers or a mask over all of them.
Edges = str | Iterable[str] | Iterable[int] | Tensor

_PROMPTS = 64  # prompts whose live components are kept at once


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
    def exists(self) -> Tensor:
        """Which edges exist [row, sender, receiver]."""
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

    def mlp_reads_heads(self, layer: int) -> bool:
        """Whether a layer's MLP reads the heads of its own layer."""
        return self.shape.reaches(Component("head", layer, 0), Input(Component("mlp", layer)))

    @cached_property
    def index(self) -> Tensor:
        """Where the edges are [edge, 3]: the numbers of their row, sender and receiver."""
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

    def mask(self, edges: Edges) -> Tensor:
        """Which edges are chosen [edge], of names, numbers or a mask.

        Raises ValueError for an edge that does not exist.
        """
        chosen = torch.zeros(len(self), dtype=torch.bool)
        if isinstance(edges, Tensor) and edges.dtype == torch.bool:
            if edges.shape != chosen.shape:
                raise ValueError(
                    f"The mask has the shape {list(edges.shape)}; this graph has {len(self)} edges."
                )
            return edges.cpu()
        if isinstance(edges, Tensor):
            edges = edges.tolist()  # as numbers: going through a tensor is slow
        listed = [edges] if isinstance(edges, str) else list(edges)
        if listed and all(isinstance(one, bool | np.bool_) for one in listed):
            return self.mask(torch.tensor(listed))
        numbers = [self._number.get(e, -1) if isinstance(e, str) else int(e) for e in listed]
        for edge, number in zip(listed, numbers, strict=True):
            if not 0 <= number < len(self):
                raise ValueError(
                    f"{edge!r} is none of the {len(self)} edges of this graph; there is e.g. "
                    f"{self.names[-1]!r}."
                )
        chosen[numbers] = True
        return chosen

    def grid(self, edges: Edges) -> Tensor:
        """Which edges are chosen, as [row, sender, receiver]; raises ValueError as `mask` does."""
        chosen = torch.zeros_like(self.exists)
        chosen[self.index[self.mask(edges)].unbind(1)] = True
        return chosen

    def pruned(self, edges: Edges) -> Tensor:
        """The chosen edges [edge] on a path of chosen edges from the embedding to the logits.

        The others change nothing. Raises ValueError as `mask` does.
        """
        chosen = self.grid(edges)
        fed = torch.zeros(chosen.shape[:2], dtype=torch.bool)  # [row, sender]
        fed[:, 0] = True
        for receivers, nodes, read_later in self._layers:
            brought = (chosen[:, :, receivers] & fed[:, :, None]).any(1)
            later = brought.cummax(0).values  # a key or value is read by later rows too
            brought = torch.where(read_later, later, brought)
            fed[:, nodes] |= brought.unflatten(1, (len(nodes), -1)).any(2)
        useful = torch.zeros(chosen.shape[::2], dtype=torch.bool)  # [row, receiver]
        useful[-1, -1] = True
        for receivers, nodes, read_later in reversed(self._layers):
            sends = (chosen[:, nodes] & useful[:, None]).any(2)
            sends = sends.repeat_interleave(len(receivers) // len(nodes), dim=1)
            later = sends.flip(0).cummax(0).values.flip(0)
            useful[:, receivers] = torch.where(read_later, later, sends)
        kept = chosen & fed[:, :, None] & useful[:, None]
        return kept[self.index.unbind(1)]

    @cached_property
    def _layers(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Per layer of heads or MLPs, upstream first: receivers, their nodes, which are k or v."""
        found = []
        listed = list(enumerate(self.inputs[:-1]))
        for _, layer in groupby(listed, key=lambda one: one[1].component.depth):
            numbers, receivers = zip(*layer, strict=True)
            nodes = dict.fromkeys(self.nodes.index(one.component) for one in receivers)
            read_later = torch.tensor([one.part in ("k", "v") for one in receivers])
            found.append((torch.tensor(numbers), torch.tensor(list(nodes)), read_later))
        return found

    def components(self, edges: Edges) -> tuple[str, ...]:
        """Names of the heads and MLPs that the chosen edges join, upstream first.

        Raises ValueError as `mask` does.
        """
        chosen = self.index[self.mask(edges)]
        joined = {self.nodes[sender] for sender in chosen[:, 1].unique().tolist()}
        joined |= {self.inputs[number].component for number in chosen[:, 2].unique().tolist()}
        return tuple(node.label for node in self.nodes[1:] if node in joined)

    def edges_of(self, circuit: Circuit) -> Tensor:
        """The edges [edge] of a circuit, whatever positions it has them at.

        What it holds whole (a source, and what an edge from `all` enters) comes from the embedding
        and from the circuit's own components below. Positions before `first` are passed over.
        """
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
            for base, patch, _ in patching.caches(_PROMPTS, some)
        ]
        return {"log_probs": torch.cat(answers)}

    found = over_prompts("answers of edges", len(patching.dataset), measure)
    name = f"{int(chosen.sum())} of {len(graph)} edges"
    return Evaluation(name, found["log_probs"], patching.dataset.YY)


def check_graph(patching: PathPatching, graph: EdgeGraph) -> None:
    """Raise ValueError for a graph of another model or other prompts than the patching's.

    Also for a patching whose norms are its own, as `variants.FrozenNorms`: edges of a graph are
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


def rows_before_mlp(run: ActivationCache, layer: int) -> Tensor:
    """The stream [prompt, position, d_model] that a layer's MLP reads, from the run's start on."""
    positions = range(run.start, run.stream.shape[2])
    return torch.stack([run.before_mlp(layer, position) for position in positions], dim=1)


def _final_stream(
    graph: EdgeGraph, base: ActivationCache, patch: ActivationCache, grid: Tensor
) -> Tensor:
    """The last stream [prompt, d_model] at END when the edges of the grid are live."""
    sending = grid.any(2).any(0).nonzero().flatten().tolist()
    place = {graph.nodes[number]: i for i, number in enumerate(sending)}
    weights = grid[:, sending].to(base.stream)  # [row, sending, receiver]
    rows = base.stream[:, :, base.start :]
    # The live senders' changes; those not computed yet are 0, and no edge reads them before.
    live = rows.new_zeros(rows.shape[2], len(sending), rows.shape[1], rows.shape[3])
    if graph.nodes[0] in place:
        change = patch.stream[0, :, base.start :] - rows[0]
        live[:, place[graph.nodes[0]]] = change.transpose(0, 1)
    entered = grid.any(1).any(0).tolist()
    listening = [(n, r) for n, r in enumerate(graph.inputs) if entered[n]]
    for _, layer in groupby(listening, key=lambda one: one[1].component.depth):
        numbers, receivers = zip(*layer, strict=True)
        arriving = weights[:, :, list(numbers)].mT @ live.flatten(2)
        arriving = arriving.unflatten(2, rows.shape[1::2]).permute(1, 2, 0, 3)
        changes: dict[Component, dict[str, Tensor]] = {}
        for receiver, change in zip(receivers, arriving, strict=True):
            changes.setdefault(receiver.component, {})[receiver.part] = change
        for node, of_part in changes.items():
            if node.kind == "logits":
                return rows[-1, :, -1] + of_part[""][:, -1]
            live[:, place[node]] = output_change(base, node, of_part).transpose(0, 1)
    return rows[-1, :, -1]


def output_change(base: ActivationCache, node: Component, changes: dict[str, Tensor]) -> Tensor:
    """How a component's output changes [..., prompt, position, d_model] when its inputs do.

    ``changes`` are those of the stream that the inputs "q", "k", "v" (an MLP's: "") read, likewise
    [..., prompt, position, d_model], at the positions from the run's start on.
    """
    block, head = base.model.blocks[node.layer], node.head
    if node.kind == "mlp":
        stream = rows_before_mlp(base, node.layer) + changes[""]
        return block.mlp(stream) - base.mlp[node.layer]
    before, rows = base.stream[node.layer].tensor_split([base.start], dim=1)

    def changed(part: str) -> Tensor:
        return rows + changes[part] if part in changes else rows

    earlier, later = slice(base.start), slice(base.start, base.stream.shape[2])
    query = block.query(head, changed("q"), later)
    key = after(block.key(head, before, earlier), block.key(head, changed("k"), later))
    value = after(block.value(head, before), block.value(head, changed("v")))
    z = block.mix(*(part.unsqueeze(-2) for part in (query, key, value))).squeeze(-2)
    return (z - base.z[node.layer, :, :, head]) @ block.W_O[head]


def after(before: Tensor, now: Tensor, dim: int = -2) -> Tensor:
    """The earlier positions' part of the base run, then what is at the later ones.

    ``now`` may have axes in front that ``before`` lacks. ``dim`` is the axis of the positions.
    """
    shape = list(now.shape)
    shape[dim] = before.shape[dim]
    return torch.cat([before.expand(shape), now], dim)
