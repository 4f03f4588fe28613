"""The paper's circuit: its parts, its sweeps, and the rule that finds their like elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from ..metrics import prob_diff
from ..model.components import at, component, inputs
from ..model.load import is_gpt2_small
from .circuits import Circuit, connect
from .engine import PathPatching, Sweep

if TYPE_CHECKING:
    import pandas as pd


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
    """The heads and late MLPs at END, each feeding the logits and every late MLP above (sec. 3.2).

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


def circuit_senders(parts: CircuitParts | None, sweep: Sweep) -> tuple[str, ...]:
    """The sweep's senders that the full circuit connects to one of the sweep's receivers.

    A component of the circuit need not be one of them: a0.h3@YY feeds heads, but not m1@YY.
    """
    if parts is None or not (parts.heads or parts.mlps):
        return ()
    receivers = {receiver.any_row for receiver in inputs(sweep.receivers)}
    edges = full_circuit(parts).edges
    members = {edge.sender.name for edge in edges if edge.receiver in receivers}
    return tuple(name for name in sweep.senders if name in members)


T = TypeVar("T")
SweepFunction = Callable[[Sequence[str], Sequence[str], str], T]  # receivers, via, senders_at


def end_sweeps(sweep: SweepFunction[T], mlps: Sequence[str]) -> dict[str, T]:
    """The paper's steps at END: to the logits, then to each late MLP through the higher ones."""
    found = {"logits": sweep(["logits"], [], "END")}
    for mlp in sorted(mlps, key=_order, reverse=True):
        higher = [other for other in mlps if _order(other) > _order(mlp)]
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
        for mlp in sorted(early_mlps, key=_order, reverse=True)
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

    def kept(found: Sweep, *kinds: str) -> list[str]:
        table = found.to_frame()
        table = needed(table, max(floor, -share * table["effect"].min()))
        nodes = [component(name) for name in table["component"]]
        return [node.label for node in nodes if node.kind in kinds]

    direct = sweep(["logits"], [], "END")
    heads, waiting, mlps = set(kept(direct, "head")), set(kept(direct, "mlp")), list[str]()
    while waiting:
        mlp = max(waiting, key=_order)  # everything above it is known by now
        found = sweep([mlp], mlps, "END")
        waiting = (waiting | set(kept(found, "mlp"))) - {mlp}
        heads |= set(kept(found, "head"))
        mlps = [mlp, *mlps]
    parts = CircuitParts(
        heads=tuple(sorted(heads, key=_order)),
        mlps=tuple(mlps),
        readers_of_YY=(),
        early_inputs=(),
        source="found by this run's own sweeps: kept is what has at least "
        f"{share:.0%} of the strongest effect of its sweep and {floor:.2%} in itself, its "
        "interval below 0",
        parallel=direct.shape.parallel,
    )
    if not heads:
        return parts
    into = attention_sweeps(sweep, parts)
    readers = {name for part in ("v", "k") for name in kept(into[part], "embed", "head", "mlp")}
    early_mlps = [name for name in readers if component(name).kind == "mlp"]
    below = early_sweeps(sweep, parts, early_mlps).values()
    early_inputs = {name for found in below for name in kept(found, "embed", "head")}
    return replace(
        parts,
        readers_of_YY=tuple(sorted(readers, key=_order)),
        early_inputs=tuple(sorted(early_inputs, key=_order)),
    )


def circuit_parts(
    patching: PathPatching, sweep: SweepFunction[Sweep] | None = None
) -> CircuitParts:
    """The paper's circuit on GPT-2 small; on any other model the one that its own sweeps find.

    A sender is found if patching it hurts, by 5 % of its sweep's strongest effect or more and 0.1 %
    of the gap between clean and corrupted prompts (see `find_circuit`). ``sweep`` may stand in for
    the patching's own, to keep what is swept. Raises ValueError for another base than "clean".
    """
    if patching.base != "clean":
        raise ValueError("circuit_parts needs the clean base, e.g. PathPatching(model, dataset).")
    if is_gpt2_small(patching.model):
        return PAPER
    YY = patching.dataset.YY
    gap = prob_diff(patching.base_probs, YY) - prob_diff(patching.patch_probs, YY)
    return find_circuit(sweep or patching.sweep, floor=0.001 * abs(float(gap.mean())))


def _order(name: str) -> tuple[int, int]:
    node = component(name)
    return node.depth, node.head


SEQUENCE_EXTRA = ("a6.h1", "a7.h11", "m7")  # what the paper adds for the sequence family


def with_components(parts: CircuitParts, names: Iterable[str] = SEQUENCE_EXTRA) -> CircuitParts:
    """The circuit with more heads and MLPs at END; by default the paper's for the sequence family.

    Raises ValueError for names that are no heads or MLPs.
    """
    nodes = {component(name, "head", "mlp") for name in (*parts.heads, *parts.mlps, *names)}
    ordered = sorted(nodes, key=lambda node: (node.depth, node.head))
    return replace(
        parts,
        heads=tuple(node.label for node in ordered if node.kind == "head"),
        mlps=tuple(node.label for node in ordered if node.kind == "mlp"),
    )
