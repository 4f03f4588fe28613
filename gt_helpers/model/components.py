"""The vocabulary of path patching: components, their inputs and edges, and what can reach what.

Names read like the paper: ``embed@YY``, ``a9.h1@END``, ``m10@END`` are components (one writer to
the residual stream at one position); ``a7.h10.v@END``, ``m9``, ``logits`` are inputs that a
component can be received by. A name without a position means END.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

END = "END"
_NAME = re.compile(
    r"(?:(?P<kind>embed|all|logits)|a(?P<a_layer>\d+)\.h(?P<head>\d+)"
    r"(?:\.(?P<part>[qkv])(?:\[(?P<row>\w+)\])?)?"
    r"|m(?P<m_layer>\d+))(?:@(?P<position>\w+))?"
)
_EXAMPLES = "embed@YY, a9.h1@END, m10, a7.h10.v@END, logits"
_RECEIVERS = "m10, a7.h10.v@END, m3@YY or logits"


# How kinds are called in sentences, with an example of each.
_KINDS = {"head": ("head", "a7.h10"), "mlp": ("MLP", "m9"), "embed": ("embedding", "embed")}


@dataclass(frozen=True)
class Component:
    """One writer to the residual stream at one position (or ``logits``, the only pure reader).

    ``kind`` is "embed", "head", "mlp", "logits" or "all"; ``all@P`` stands for the whole stream
    at position P, as a sender that replaces a receiver's entire input.
    """

    kind: str
    layer: int = -1
    head: int = -1
    position: str = END

    @property
    def name(self) -> str:
        """The component's name with its position, e.g. ``a9.h1@END``."""
        if self.kind == "logits":
            return "logits"
        return f"{self.label}@{self.position}"

    @property
    def label(self) -> str:
        """The component's name without its position, e.g. ``a9.h1``."""
        if self.kind == "head":
            return f"a{self.layer}.h{self.head}"
        return f"m{self.layer}" if self.kind == "mlp" else self.kind

    @property
    def depth(self) -> int:
        """Place in the order of computation: a component reads only what lies strictly below it."""
        if self.kind == "logits":
            return 1_000_000
        if self.kind in ("embed", "all"):
            return -1
        return 2 * self.layer + (self.kind == "mlp")

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Input:
    """Where a change can enter a component: an MLP's input, a head's q, k or v, or the logits.

    With a row, ``a7.h10.v[YY]@END``, it listens to senders at that position only.
    """

    component: Component
    part: str = ""  # "q", "k" or "v" for a head, "" otherwise
    row: str = ""

    @property
    def name(self) -> str:
        """The input's name, e.g. ``a7.h10.v@END`` or ``a7.h10.v[YY]@END``."""
        if not self.part:
            return self.component.name
        row = f"[{self.row}]" if self.row else ""
        return f"{self.component.label}.{self.part}{row}@{self.component.position}"

    @property
    def any_row(self) -> Input:
        """The same input listening to every position."""
        return replace(self, row="") if self.row else self

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Edge:
    """A direct residual-stream edge from a sender to an input of a receiver.

    The sender's position is the row it is read at: ``m0@YY -> a7.h10.v@END`` changes the value
    vector at YY that the head reads when it computes its output at END. Edges name no row.
    """

    sender: Component
    receiver: Input

    @property
    def name(self) -> str:
        """The edge's name, e.g. ``a9.h1@END -> m9@END``."""
        return f"{self.sender.name} -> {self.receiver.name}"

    def __str__(self) -> str:
        return self.name


def _parse(name: str) -> tuple[Component, str, str]:
    match = _NAME.fullmatch(name.strip()) if isinstance(name, str) else None
    if match is None:
        raise ValueError(f"{name!r} is not a component name; allowed are names like: {_EXAMPLES}.")
    position = match["position"] or END
    if match["m_layer"] is not None:
        return Component("mlp", int(match["m_layer"]), position=position), "", ""
    if match["a_layer"] is not None:
        layer, head = int(match["a_layer"]), int(match["head"])
        return Component("head", layer, head, position), match["part"] or "", match["row"] or ""
    if match["kind"] == "logits" and position != END:
        raise ValueError(f"{name!r}: the logits are read at END only; write 'logits'.")
    return Component(match["kind"], position=position), "", ""


def component(name: str | Component, *kinds: str) -> Component:
    """Parse a sender's name such as ``a9.h1@END``; a name without position means END.

    With ``kinds`` only these are allowed: ``component(name, "head", "mlp")``. Raises ValueError for
    a name that no component has, that names an input (``a9.h1.q``), or of another kind.
    """
    parsed, part = (name, "") if isinstance(name, Component) else _parse(name)[:2]
    if part:
        raise ValueError(f"{name!r} is an input of a head, not a component; write {parsed.name!r}.")
    if kinds and parsed.kind not in kinds:
        wanted = " and no ".join(_KINDS[kind][0] for kind in kinds)
        raise ValueError(f"{parsed.name} is no {wanted}; give e.g. {_KINDS[kinds[0]][1]!r}.")
    return parsed


def inputs(names: str | Input | Iterable[str | Input]) -> list[Input]:
    """Parse one or more receiver names; a head without q, k or v stands for all three inputs.

    Raises ValueError for names that cannot receive anything (``embed``, ``all``).
    """
    if isinstance(names, (str, Input)):
        names = [names]
    if not isinstance(names, Iterable):
        raise ValueError(f"{names!r} names no input; give names, e.g. {_RECEIVERS}.")
    found: dict[Input, None] = {}
    for name in names:
        if isinstance(name, Input):
            found[name] = None
            continue
        receiver, part, row = _parse(name)
        if receiver.kind in ("embed", "all"):
            raise ValueError(
                f"{name!r} reads nothing and cannot be a receiver; use e.g. {_RECEIVERS}."
            )
        parts = [part] if part or receiver.kind != "head" else ["q", "k", "v"]
        found.update({Input(receiver, p, row): None for p in parts})
    return list(found)


def edges(text: str | Edge) -> list[Edge]:
    """Parse ``"a9.h1@END -> m9"`` into edges (three when the receiver is a head without part).

    Raises ValueError for what is no edge, or whose receiver listens to another row.
    """
    if isinstance(text, Edge):
        return [text]
    sides = text.split("->") if isinstance(text, str) else []
    if len(sides) != 2:
        raise ValueError(
            f"{text!r} is not an edge; write 'sender -> receiver', e.g. 'a9.h1 -> m9'."
        )
    sender = component(sides[0])
    receivers = inputs(sides[1])
    for receiver in receivers:
        if receiver.row not in ("", sender.position):
            raise ValueError(
                f"{text!r} names another row than its sender's position {sender.position}; leave "
                f"the row out, e.g. '{sender.name} -> {receiver.any_row.name}'."
            )
    return [Edge(sender, receiver.any_row) for receiver in receivers]


def below(sender: Component, receiver: Component, parallel: bool = False) -> bool:
    """Whether the sender is part of the stream that the receiver reads, wherever the two stand.

    In a ``parallel`` model, such as Pythia, an MLP does not read the heads of its own layer.
    """
    if parallel and receiver.kind == "mlp" and sender.layer == receiver.layer:
        return False
    return sender.depth < receiver.depth


@dataclass(frozen=True)
class Shape:
    """What names may be used: the model's layers and heads, and the ordered position names.

    ``parallel`` as for `below`.
    """

    n_layers: int
    n_heads: int
    positions: tuple[str, ...]
    parallel: bool = False

    def check(self, node: Component) -> None:
        """Raise ValueError, saying what is allowed, if the model or prompt lacks this component."""
        missing = f"{node.label} does not exist: the model has"
        last_layer, last_head = self.n_layers - 1, self.n_heads - 1
        if node.layer > last_layer:
            raise ValueError(f"{missing} layers 0 to {last_layer}, e.g. m{last_layer}.")
        if node.head > last_head:
            raise ValueError(f"{missing} heads 0 to {last_head}, e.g. a{node.layer}.h{last_head}.")
        if node.position not in self.positions:
            raise ValueError(
                f"{node.name}: there is no position {node.position!r} in these prompts; "
                f"allowed are {', '.join(self.positions)}."
            )

    def check_input(self, receiver: Input) -> None:
        """Raise ValueError if the receiver does not exist, or does not read the row it names."""
        self.check(receiver.component)
        if not receiver.row:
            return
        self.check(replace(receiver.component, position=receiver.row))
        own, row = (self.positions.index(p) for p in (receiver.component.position, receiver.row))
        if row > own or (receiver.part == "q" and row != own):
            raise ValueError(
                f"{receiver.name} reads no row {receiver.row}: a head reads keys and values of its "
                "own and earlier positions and its query at its own, e.g. a7.h10.v[YY]@END."
            )

    def reaches(self, sender: Component, receiver: Input) -> bool:
        """Whether a direct edge exists: the sender lies below, at a position that is read."""
        node = receiver.component
        if not below(sender, node, self.parallel) or receiver.row not in ("", sender.position):
            return False
        if receiver.part in ("k", "v"):
            return self.positions.index(sender.position) <= self.positions.index(node.position)
        return sender.position == node.position

    def check_edge(self, edge: Edge) -> None:
        """Raise ValueError if the edge cannot exist, saying why."""
        self.check(edge.sender)
        self.check(edge.receiver.component)
        if edge.sender.kind == "logits":
            raise ValueError(f"{edge.name}: the logits send to nothing.")
        if self.reaches(edge.sender, edge.receiver):
            return
        if not below(edge.sender, edge.receiver.component, self.parallel):
            reads = "heads read lower layers, MLPs also the heads of their own layer"
            if self.parallel:
                reads = "heads and MLPs of this model read lower layers only"
            why = f"the sender is not below the receiver ({reads})"
        elif edge.receiver.part in ("k", "v"):
            why = "a head reads keys and values of its own and earlier positions only"
        else:
            why = "this input is read at the receiver's own position only"
        raise ValueError(f"{edge.name} is impossible: {why}; e.g. 'a9.h1@END -> m9@END' exists.")

    def senders(self, position: str) -> list[Component]:
        """Every sender at one position: layer by layer the heads, then the MLP; last the embedding.

        The first n_layers * (n_heads + 1) fill the paper's heatmap row by row.
        """
        grid = [
            Component("head", layer, head, position)
            if head < self.n_heads
            else Component("mlp", layer, position=position)
            for layer in range(self.n_layers)
            for head in range(self.n_heads + 1)
        ]
        return [*grid, Component("embed", position=position)]


def at(names: Sequence[str], position: str) -> list[str]:
    """Put bare component names at a position: ``at(["m0", "a0.h1"], "YY")``."""
    return [replace(component(name), position=position).name for name in names]
