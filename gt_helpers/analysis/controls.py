"""Controls of a circuit: leave one out, random heads, direct and indirect paths, single inputs."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Strata, average, prob_diff
from ..model.components import Shape, component
from ..patching.circuits import Circuit, connect
from ..patching.engine import PathPatching
from ..patching.paper import CircuitParts, partial_circuit

if TYPE_CHECKING:
    import pandas as pd


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
    diffs = [patching.evaluate(one).prob_diff for one in bar]
    return changes_without(names, whole, diffs, patching.dataset.strata)


def changes_without(
    names: Iterable[str], whole: Tensor, diffs: Iterable[Tensor], strata: Strata | None
) -> pd.DataFrame:
    """The table of `leave_out`, of the probability differences [prompt] whole and without each."""
    import pandas as pd

    rows = []
    for name, diff in zip(names, diffs, strict=True):
        change = average(diff - whole, strata=strata)
        rows.append((name, float(diff.mean()), change.value, change.low, change.high))
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
    patching: PathPatching, parts: CircuitParts, n: int = 100, seed: int = 0
) -> pd.DataFrame:
    """Probability difference of ``n`` partial circuits of `random_parts`: what to compare with.

    One row per draw, columns ``seed`` (of `random_parts`, counted up), ``heads`` (the stand-ins at
    END) and ``prob_diff`` (mean over prompts). Raises ValueError as `random_parts` does, and for n
    below 1.
    """
    import pandas as pd

    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; it is the number of random circuits, e.g. n=100.")
    rows = []
    bar = tqdm(range(n), desc="random circuits", disable=not patching.progress, leave=False)
    for one in (seed + draw for draw in bar):
        drawn = random_parts(parts, patching.shape, one)
        diff = patching.evaluate(partial_circuit(drawn)).prob_diff
        rows.append((one, ", ".join(drawn.heads), float(diff.mean())))
    return pd.DataFrame(rows, columns=["seed", "heads", "prob_diff"])


def direct_and_indirect(patching: PathPatching, mlps: Iterable[str]) -> pd.DataFrame:
    """How MLPs at END act: straight on the logits, or through the later ones of ``mlps``.

    Clean base: an MLP's corrupted value is sent along its edge to the logits only ("direct"), only
    to the later MLPs and on ("indirect"), and along both ("total"). One row per MLP but the last
    and path; columns ``component``, ``path``, ``change`` of the probability difference, ``low`` and
    ``high`` (95 % bootstrap interval), and ``share``, the loss divided by the mean clean
    probability difference. Both paths together are not their sum, because norms and MLPs are not
    linear. Raises ValueError for another base and for names of no MLPs.
    """
    import pandas as pd

    nodes = sorted((component(name) for name in mlps), key=lambda node: node.layer)
    if patching.base != "clean" or not nodes or any(node.kind != "mlp" for node in nodes):
        raise ValueError(
            "direct_and_indirect needs the clean base and MLPs, e.g. ['m8', 'm9', 'm10', 'm11']."
        )
    clean = prob_diff(patching.base_probs, patching.dataset.YY)
    rows = []
    for name, paths in mlp_paths(node.label for node in nodes).items():
        total = paths["direct"] | paths["indirect"]
        for path, circuit in {**paths, "total": total}.items():
            diff = patching.evaluate(circuit).prob_diff
            change = average(diff - clean, strata=patching.dataset.strata)
            share = -change.value / float(clean.mean())
            rows.append((name, path, change.value, change.low, change.high, share))
    return pd.DataFrame(rows, columns=["component", "path", "change", "low", "high", "share"])


def mlp_paths(mlps: Iterable[str]) -> dict[str, dict[str, Circuit]]:
    """Of each MLP but the last its "direct" path, and its "indirect" ones through the later MLPs.

    ``m8 -> logits`` alone, and every chain from m8 over later MLPs of ``mlps``, given in order, to
    the logits (section 4.2).
    """
    mlps, found = list(mlps), {}
    for i, name in enumerate(mlps[:-1]):
        later = mlps[i + 1 :]
        indirect = connect([name], later) | connect(later, [*later, "logits"])
        found[name] = {"direct": connect([name], ["logits"]), "indirect": indirect}
    return found


def circuit_through(parts: CircuitParts, positions: Iterable[str], inputs: str = "v") -> Circuit:
    """The partial circuit whose heads get only some of their inputs from the patch run.

    ``inputs`` are letters of "qkv": with "v" on the corrupted base, queries and keys, so the
    attention, stay corrupted, and only the values are clean at every one of the prompts'
    ``positions`` (section 3.2). With "qkv" the heads are what they are in the partial circuit.
    Raises ValueError for other letters.
    """
    if not inputs or set(inputs) - set("qkv"):
        raise ValueError(f"inputs is {inputs!r}; give some of the letters q, k and v, e.g. 'v'.")
    sources = [f"all@{position}" for position in positions]
    keys_and_values = [f"{head}.{part}" for head in parts.heads for part in inputs if part != "q"]
    queries = [f"{head}.q" for head in parts.heads if "q" in inputs]
    entering = connect(sources, keys_and_values) | connect(["all@END"], queries)
    edges = (*entering.edges, *partial_circuit(parts).edges)
    return Circuit(edges, f"partial circuit through {', '.join(inputs)}")


def shifted_heads(parts: CircuitParts, n_heads: int) -> CircuitParts:
    """The circuit with the next head in the place of every head at END, the last's being head 0."""
    heads = [replace(n, head=(n.head + 1) % n_heads) for n in map(component, parts.heads)]
    return replace(parts, heads=tuple(head.label for head in heads), source="heads shifted by one")
