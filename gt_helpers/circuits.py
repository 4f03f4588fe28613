"""Circuits: sets of edges, the paper's own ones, and the rule that finds their like elsewhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from .components import Component, Edge, Input, Shape, at, below, component, inputs
from .components import edges as parse_edges
from .metrics import bootstrap_ci, prob_diff
from .models import is_gpt2_small
from .path_patching import PathPatching, Sweep


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
        fed, useful = set(self.sources), {Component("logits")}
        for edge in sorted(self.edges, key=lambda edge: edge.sender.depth):
            fed |= {edge.receiver.component} if edge.sender in fed else set()
        for edge in sorted(self.edges, key=lambda edge: -edge.sender.depth):
            useful |= {edge.sender} if edge.receiver.component in useful else set()
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


@dataclass(frozen=True)
class CircuitParts:
    """A circuit of the paper's form, by its members (paper, sections 3.1-3.2 and Appendix B).

    ``heads`` and ``mlps`` work at END; ``readers_of_YY`` (early MLPs and heads at YY, or ``embed``)
    feed the keys and values of the heads, ``early_inputs`` feed the early MLPs among them. In a
    ``parallel`` model no head feeds the MLP of its own layer.
    """

    heads: tuple[str, ...]
    mlps: tuple[str, ...]
    readers_of_YY: tuple[str, ...]
    early_inputs: tuple[str, ...]
    source: str = field(default="", compare=False)
    parallel: bool = False

    @property
    def early_mlps(self) -> tuple[str, ...]:
        """The MLPs among the readers of YY."""
        return tuple(n for n in self.readers_of_YY if component(n).kind == "mlp")


PAPER = CircuitParts(
    heads=("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1"),
    mlps=("m8", "m9", "m10", "m11"),
    readers_of_YY=("a0.h1", "a0.h3", "a0.h5", "m0", "m1", "m2", "m3"),
    early_inputs=("embed", "a0.h1"),
    source="the paper's circuit of GPT-2 small",
)


def partial_circuit(parts: CircuitParts = PAPER) -> Circuit:
    """The heads and late MLPs at END: every head feeds the logits and each MLP above it (sec. 3.2).

    The heads are its sources: they hold their patch-run output whole.
    """
    from_heads = connect(parts.heads, [*parts.mlps, "logits"], parts.parallel)
    from_mlps = connect(parts.mlps, [*parts.mlps, "logits"])
    return Circuit((*from_heads.edges, *from_mlps.edges), "partial circuit", parts.heads)


def full_circuit(parts: CircuitParts = PAPER) -> Circuit:
    """The circuit from the input on: the heads' keys and values at YY come from the early readers.

    Queries are whole patch-run queries (Appendix B and the released code).
    """
    early_mlps = at(parts.early_mlps, "YY")
    early_inputs = at(parts.early_inputs, "YY")
    readers = at(parts.readers_of_YY, "YY")
    sources = [*(name for name in readers if name not in early_mlps), *early_inputs]
    keys_and_values = [f"{head}.{part}" for head in parts.heads for part in "kv"]
    edges = (
        *partial_circuit(parts).edges,
        *connect(["all"], [f"{head}.q" for head in parts.heads]).edges,
        *connect(readers, keys_and_values).edges,
        *connect([*early_inputs, *early_mlps], early_mlps, parts.parallel).edges,
    )
    return Circuit(edges, "full circuit", ["all", *dict.fromkeys(sources)])


def leave_out(
    patching: PathPatching, circuit: Circuit, names: str | Iterable[str] | None = None
) -> pd.DataFrame:
    """How a circuit's probability difference changes when it loses one thing at a time.

    ``names`` are components or edges as in `Circuit.without`: by default every component but the
    logits; ``circuit.links`` is every edge. Columns: ``name``, ``prob_diff`` (mean over prompts,
    without it), ``change`` (that minus the whole circuit's: negative means that the circuit needs
    it), ``low`` and ``high`` (95 % bootstrap interval of the change, paired by prompt). Strongest
    first. Raises ValueError for a name that is not in the circuit.
    """
    if names is None:
        names = [name for name in circuit.components if name != "logits"]
    names = [names] if isinstance(names, str) else list(names)
    smaller = [circuit.without(name) for name in names]  # refuses before anything is computed
    whole = patching.evaluate(circuit).prob_diff
    bar = tqdm(smaller, desc="leave out", disable=not patching.progress, leave=False)
    return changes_without(names, whole, [patching.evaluate(one).prob_diff for one in bar])


def changes_without(names: Iterable[str], whole: Tensor, diffs: Iterable[Tensor]) -> pd.DataFrame:
    """The table of `leave_out`, of the probability differences [prompt] whole and without each."""
    rows = []
    for name, diff in zip(names, diffs, strict=True):
        change, low, high = (float(value) for value in bootstrap_ci(diff - whole))
        rows.append((name, float(diff.mean()), change, low, high))
    table = pd.DataFrame(rows, columns=["name", "prob_diff", "change", "low", "high"])
    return table.sort_values("change", key=abs, ascending=False, kind="stable", ignore_index=True)


def random_parts(parts: CircuitParts, shape: Shape, seed: int = 0) -> CircuitParts:
    """Parts of equal size with other heads, drawn at random: the control for a circuit's heads.

    Every head, at END and at YY, gives way to one of its own layer that the circuit has in no role;
    MLPs and the embedding stay. So there are as many edges as before, between the same layers.
    Raises ValueError if there are no heads, or too few others in a layer.
    """
    if not parts.heads:
        raise ValueError("The circuit has no heads at END that others could stand in for.")
    names = dict.fromkeys((*parts.heads, *parts.readers_of_YY, *parts.early_inputs))
    own = [node for node in map(component, names) if node.kind == "head"]
    rng = random.Random(f"random parts {seed}")
    stand_ins: dict[str, str] = {}
    for layer in sorted({node.layer for node in own}):
        heads = [node for node in own if node.layer == layer]
        for node in heads:
            shape.check(node)
        taken = {node.head for node in heads}
        others = [head for head in range(shape.n_heads) if head not in taken]
        if len(others) < len(heads):
            raise ValueError(
                f"The circuit has {len(heads)} of the {shape.n_heads} heads of layer {layer}, so "
                f"only {len(others)} are left to stand in; at most half of a layer can be replaced."
            )
        others.sort(key=lambda _: rng.random())  # random() alone is the same in every Python
        stand_ins |= {node.label: f"a{layer}.h{h}" for node, h in zip(heads, others, strict=False)}

    def swapped(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(stand_ins.get(component(name).label, name) for name in names)

    return replace(
        parts,
        heads=swapped(parts.heads),
        readers_of_YY=swapped(parts.readers_of_YY),
        early_inputs=swapped(parts.early_inputs),
        source=f"random heads, seed {seed}",
    )


def random_circuits(
    patching: PathPatching,
    parts: CircuitParts,
    n: int = 100,
    seed: int = 0,
    build: Callable[[CircuitParts], Circuit] = partial_circuit,
) -> pd.DataFrame:
    """Probability difference of ``n`` circuits of `random_parts`: what to compare a circuit with.

    One row per draw, columns ``seed`` (of `random_parts`, counted up), ``heads`` (the stand-ins at
    END) and ``prob_diff`` (mean over prompts). ``build`` makes a circuit of parts. Raises
    ValueError as `random_parts` does, and for n below 1.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; it is the number of random circuits, e.g. n=100.")
    rows = []
    bar = tqdm(range(n), desc="random circuits", disable=not patching.progress, leave=False)
    for one in (seed + draw for draw in bar):
        drawn = random_parts(parts, patching.shape, one)
        diff = patching.evaluate(build(drawn)).prob_diff
        rows.append((one, ", ".join(drawn.heads), float(diff.mean())))
    return pd.DataFrame(rows, columns=["seed", "heads", "prob_diff"])


T = TypeVar("T")
SweepFunction = Callable[[Sequence[str], Sequence[str], str], T]  # receivers, via, senders_at


def end_sweeps(sweep: SweepFunction[T], mlps: Sequence[str]) -> dict[str, T]:
    """The paper's steps at END: to the logits, then to each late MLP through the higher ones."""
    found = {"logits": sweep(["logits"], [], "END")}
    for mlp in sorted(mlps, key=_layer, reverse=True):
        higher = [other for other in mlps if _layer(other) > _layer(mlp)]
        found[mlp] = sweep([mlp], higher, "END")
    return found


def attention_sweeps(sweep: SweepFunction[T], parts: CircuitParts) -> dict[str, T]:
    """Senders at YY into the queries, keys and values of the circuit's heads (Appendix B)."""
    return {
        part: sweep([f"{head}.{part}" for head in parts.heads], parts.mlps, "YY")
        for part in ("q", "k", "v")
    }


def early_sweeps(
    sweep: SweepFunction[T], parts: CircuitParts, early_mlps: Sequence[str]
) -> dict[str, T]:
    """Senders at YY into each early MLP, and on through the heads' values at YY (Appendix B)."""
    values = [f"{head}.v[YY]" for head in parts.heads]
    return {
        mlp: sweep([f"{mlp}@YY"], [*values, *parts.mlps], "YY")
        for mlp in sorted(early_mlps, key=_layer, reverse=True)
    }


def needed(table: pd.DataFrame, least: float = 0.0) -> pd.DataFrame:
    """The rows of a sweep's table with an effect of ``-least`` or less, the interval below 0."""
    return table[(table["effect"] <= -least) & (table["high"] < 0)]


def find_circuit(
    sweep: SweepFunction[Sweep], share: float = 0.05, floor: float = 0.0
) -> CircuitParts:
    """The paper's procedure as a rule, for models whose circuit nobody has described.

    The circuit has the paper's form, and its heads are swept together; `discover_circuit` of the
    module discovery takes no form for granted and finds edge by edge.

    A sweep keeps a sender whose mean effect is negative, with its 95 % bootstrap interval below 0,
    at least ``share`` of the sweep's most negative effect, and at least ``floor`` (in units of the
    metric). From the logits down, every kept MLP at END becomes a receiver in turn; kept heads at
    END are the circuit's heads. What is kept at YY among the senders into their keys and values are
    the readers of YY, and what is kept among the senders into the early MLPs among these are the
    early inputs.
    """

    def kept(found: Sweep, kind: str) -> list[str]:
        table = found.to_frame()
        table = needed(table, max(floor, -share * table["effect"].min()))
        nodes = [component(name) for name in table["component"]]
        return [node.label for node in nodes if node.kind == kind]

    direct = sweep(["logits"], [], "END")
    heads, waiting, mlps = set(kept(direct, "head")), set(kept(direct, "mlp")), list[str]()
    while waiting:
        mlp = max(waiting, key=_layer)  # everything above it is known by now
        found = sweep([mlp], mlps, "END")
        waiting = (waiting | set(kept(found, "mlp"))) - {mlp}
        heads |= set(kept(found, "head"))
        mlps = [mlp, *mlps]
    source = (
        f"found by this run's own sweeps: kept is what has at least {share:.0%} of the strongest "
        f"effect of its sweep and {floor:.2%} in itself, its interval below 0"
    )
    ordered, parallel = tuple(sorted(heads, key=_layer)), direct.shape.parallel
    parts = CircuitParts(ordered, tuple(mlps), (), (), source, parallel)
    if not heads:
        return parts
    into = attention_sweeps(sweep, parts)
    senders = {kind: [*kept(into["v"], kind), *kept(into["k"], kind)] for kind in _KINDS}
    early, inputs_ = set(senders["mlp"]), set[str]()
    for mlp in sorted(early, key=_layer, reverse=True):
        lower = early_sweeps(sweep, parts, [mlp])[mlp]
        inputs_ |= {*kept(lower, "embed"), *kept(lower, "head")}
    readers = sorted({*senders["embed"], *senders["head"], *early}, key=_layer)
    return replace(parts, readers_of_YY=tuple(readers), early_inputs=tuple(sorted(inputs_)))


def circuit_parts(
    patching: PathPatching, sweep: SweepFunction[Sweep] | None = None
) -> CircuitParts:
    """The paper's circuit on GPT-2 small; on any other model the one that its own sweeps find.

    A sender is found if it keeps 5 % of its sweep's strongest effect and 0.1 % of the gap between
    clean and corrupted prompts (see `find_circuit`). ``sweep`` may stand in for the patching's own,
    to keep what is swept. Raises ValueError unless the patching's base is "clean".
    """
    if patching.base != "clean":
        raise ValueError("circuit_parts needs the clean base, e.g. PathPatching(model, dataset).")
    if is_gpt2_small(patching.model):
        return PAPER
    YY = patching.dataset.YY
    gap = prob_diff(patching.base_probs, YY) - prob_diff(patching.patch_probs, YY)
    return find_circuit(sweep or patching.sweep, floor=0.001 * abs(float(gap.mean())))


_KINDS = ("embed", "head", "mlp")


def _layer(name: str) -> tuple[int, int]:
    node = component(name)
    return node.depth, node.head
