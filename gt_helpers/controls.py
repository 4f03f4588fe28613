"""Small control studies: direct and indirect effects, single inputs of heads, masses on numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from .circuits import Circuit, CircuitParts, connect, partial_circuit
from .components import component
from .metrics import bootstrap_ci, prob_diff
from .path_patching import PathPatching
from .prompts import token_text
from .runs import end_logits
from .transformer import Transformer


def direct_and_indirect(patching: PathPatching, mlps: Iterable[str]) -> pd.DataFrame:
    """How MLPs at END act: straight on the logits, or through the later ones of ``mlps``.

    Clean base: an MLP's corrupted value is sent along its edge to the logits only ("direct"), only
    to the later MLPs and on ("indirect"), and along both ("total"). One row per MLP but the last
    and path; columns ``component``, ``path``, ``change`` of the probability difference, ``low`` and
    ``high`` (95 % bootstrap interval), and ``share``, the loss divided by the mean clean
    probability difference. Both paths together are not their sum, because norms and MLPs are not
    linear. Raises ValueError for another base and for names of no MLPs.
    """
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
            change = patching.evaluate(circuit).prob_diff - clean
            mean, low, high = (float(value) for value in bootstrap_ci(change))
            rows.append((name, path, mean, low, high, -mean / float(clean.mean())))
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


@torch.no_grad()
def top_numbers(model: Transformer, tokens: Tensor, values: Tensor, k: int = 100) -> pd.DataFrame:
    """What the ``k`` most probable next tokens of tokens [prompt, position] are, beside values.

    One row per prompt; of tokens that are whole numbers, with or without a space in front: columns
    ``numbers``, their mass under the full softmax, ``above``, ``equal`` and ``below``, the mass of
    those above, equal to and below the prompt's of ``values`` [prompt], and ``count_above``. Raises
    ValueError unless there is one value per prompt and ``k`` is 1 or more.
    """
    if values.shape != tokens.shape[:1] or not 1 <= k <= model.W_U.shape[1]:
        raise ValueError(
            f"{len(values)} values and k={k} do not fit {len(tokens)} prompts; give one number per "
            "prompt and k from 1 on, e.g. top_numbers(model, dataset.clean, dataset.YY, k=5)."
        )
    best = [logits.softmax(-1).topk(k) for logits in end_logits(model, tokens)]
    probs = torch.cat([top.values for top in best]).cpu()
    ids = torch.cat([top.indices for top in best]).cpu()
    texts = {token: token_text(model.tokenizer, token) for token in ids.unique().tolist()}
    number = {t: int(text) for t, text in texts.items() if re.fullmatch(r" ?[0-9]{1,9}", text)}
    read = ids.clone().apply_(lambda token: number.get(token, -1))  # [prompt, k], -1: no number
    value = values.cpu()[:, None]
    chosen = {"numbers": read >= 0, "above": read > value, "equal": read == value}
    chosen["below"] = (read >= 0) & (read < value)
    table = {name: (probs * which).sum(-1).tolist() for name, which in chosen.items()}
    return pd.DataFrame(table | {"count_above": chosen["above"].sum(-1).tolist()})


def year_masses(probs: Tensor, YY: Tensor) -> dict[str, Tensor]:
    """Masses [prompt] of probs [prompt, year]: above YY, up to YY, and on YY + 1 (YY below 99)."""
    above = torch.arange(100, device=probs.device) > YY[:, None]
    next_year = probs.gather(-1, YY[:, None] + 1).squeeze(-1)
    return {
        "above YY": (probs * above).sum(-1),
        "up to YY": (probs * ~above).sum(-1),
        "YY + 1": next_year,
    }
