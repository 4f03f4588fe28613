"""Circuits: sets of edges, and what can be done with them before anything is run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

from ..model.components import Component, Edge, Input, below, component, inputs
from ..model.components import edges as parse_edges


@dataclass(frozen=True, init=False)
class Circuit:
    """A set of edges; evaluated with these on the patch run and everything else on the base run.

    ``edges`` may be given as names, ``Circuit(["a9.h1 -> m9", "m9 -> logits"])``; duplicates are
    dropped; no edges at all is the base run. The ``sources`` send their patch-run output whole;
    without them it is every sender that no edge enters. Any other component is recomputed from
    what its edges bring. Raises ValueError for a source that an edge enters.
    """

    edges: tuple[Edge, ...]
    name: str
    sources: tuple[Component, ...]

    def __init__(
        self,
        edges: str | Edge | Iterable[str | Edge] = (),
        name: str = "circuit",
        sources: str | Component | Iterable[str | Component] | None = None,
    ) -> None:
        edges = [edges] if isinstance(edges, (str, Edge)) else edges
        sources = [sources] if isinstance(sources, (str, Component)) else sources
        parsed = tuple(dict.fromkeys(edge for text in edges for edge in parse_edges(text)))
        entered = {edge.receiver.component for edge in parsed}
        free = tuple(dict.fromkeys(e.sender for e in parsed if e.sender not in entered))
        chosen = free if sources is None else tuple(component(source) for source in sources)
        for source in chosen:
            if source in entered:
                raise ValueError(
                    f"{source.name} cannot be a source of {name}: an edge of it enters there; "
                    "leave out the edge, or the source."
                )
        object.__setattr__(self, "edges", parsed)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "sources", chosen)

    def __or__(self, other: Circuit) -> Circuit:
        """The union of two circuits; what an edge of either enters is a source no longer."""
        edges = (*self.edges, *other.edges)
        entered = {edge.receiver.component for edge in edges}
        sources = dict.fromkeys((*self.sources, *other.sources))
        return Circuit(edges, self.name, [source for source in sources if source not in entered])

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.edges)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of everything that an edge starts or ends at, upstream first."""
        nodes = {e.sender for e in self.edges} | {e.receiver.component for e in self.edges}
        return tuple(node.name for node in sorted(nodes, key=lambda n: (n.depth, n.head, n.name)))

    @property
    def links(self) -> tuple[str, ...]:
        """Names of the pairs that edges join; a head's q, k and v inputs share one name."""
        pairs = dict.fromkeys((e.sender, e.receiver.component) for e in self.edges)
        return tuple(f"{sender.name} -> {receiver.name}" for sender, receiver in pairs)

    @property
    def live(self) -> tuple[Edge, ...]:
        """The edges on a path from a source to the logits; the others change nothing."""
        fed, useful = set(self.sources), leading_to_logits(self.edges)
        for edge in sorted(self.edges, key=lambda edge: edge.sender.depth):
            fed |= {edge.receiver.component} if edge.sender in fed else set()
        return tuple(e for e in self.edges if e.sender in fed and e.receiver.component in useful)

    def without(self, *names: str) -> Circuit:
        """The circuit less the named edges, and every edge at the named components.

        An edge to a head without q, k or v, as in `links`, is all the edges between the two. What
        loses its last input stays as in the base run. Raises ValueError for what is not in the
        circuit.
        """
        if not names:
            return self
        texts = [str(name) for name in names]
        edges = {name: set(parse_edges(name)) & set(self.edges) for name in texts if "->" in name}
        for name, found in edges.items():
            if not found:
                raise ValueError(f"{name!r} is no edge of {self.name}; {_it_has(self.links)}.")
        nodes = {component(name) for name in texts if name not in edges}
        for node in nodes:
            if node.name not in self.components:
                raise ValueError(f"{node.name} is not in {self.name}; {_it_has(self.components)}.")
        gone = {edge for found in edges.values() for edge in found}
        gone |= {e for e in self.edges if e.sender in nodes or e.receiver.component in nodes}
        name = f"{self.name} without {', '.join(sorted({*edges, *(node.name for node in nodes)}))}"
        return Circuit(
            [edge for edge in self.edges if edge not in gone],
            name,
            [source for source in self.sources if source not in nodes],
        )


def leading_to_logits(edges: Iterable[Edge]) -> set[Component]:
    """The logits, and every sender from which a path of these edges ends there."""
    leading = {Component("logits")}
    for edge in sorted(edges, key=lambda edge: -edge.sender.depth):
        if edge.receiver.component in leading:
            leading.add(edge.sender)
    return leading


def _it_has(names: Sequence[str]) -> str:
    """What a circuit has, for an error; a long list is cut short."""
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"it has {', '.join(names[:12]) or 'no edges'}{more}"


def connect(
    senders: Iterable[str], receivers: Iterable[str | Input], parallel: bool = False
) -> Circuit:
    """Every direct edge that layers allow from the senders to the receivers.

    Whether a position comes before another is checked when the circuit is evaluated; ``parallel``
    as for `components.below`.
    """
    targets = inputs(receivers)
    found = []
    for sender in (component(name) for name in senders):
        for receiver in targets:
            same_row = sender.position == receiver.component.position
            if below(sender, receiver.component, parallel) and (
                same_row or receiver.part in ("k", "v")
            ):
                found.append(Edge(sender, receiver))
    return Circuit(found)


def everywhere(edge: Edge, positions: Iterable[str]) -> Iterator[Edge]:
    """The edge between its two components wherever they may stand, of positions in their order."""
    for sender_at, receiver_at in combinations_with_replacement(positions, 2):
        if sender_at == receiver_at or edge.receiver.part in ("k", "v"):  # read from before, too
            node = replace(edge.receiver.component, position=receiver_at)
            sender = replace(edge.sender, position=sender_at)
            yield Edge(sender, replace(edge.receiver, component=node))
