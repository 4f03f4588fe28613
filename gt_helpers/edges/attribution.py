"""Attribution: what gradients say that every edge does, and how far that is from the exact effects.

Edge attribution patching (EAP; Syed et al. 2023) takes the metric's gradient with respect to a
receiver's input, times the change of the sender's output: the effect of the edge alone, to first
order. EAP-IG (Hanna et al. 2024) averages the gradient over runs between the base and the patch
run: its scores share out the whole change between these, and are no limit of the edge's own effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Metric, prob_diff
from ..model.cache import ActivationCache
from ..patching.engine import PathPatching
from ..processes import Tensors, over_prompts
from .effects import EdgeScores, score_settings, sender_changes
from .graph import EdgeGraph, after, check_graph

VARIANTS = ("inputs", "activations", "clean-corrupted")

_PROMPTS = 16  # prompts that every receiver's gradient is kept of at once
_CPU_RUNS, _GPU_RUNS = 16, 64  # the same, counted for each sender that is moved alone


def eap(patching: PathPatching, graph: EdgeGraph, metric: Metric = prob_diff) -> EdgeScores:
    """Edge attribution patching: scores [edge, prompt] from the gradients of the base run.

    A score is the patch less the base output of the sender, times the gradient of the metric with
    respect to the receiver's input, summed over positions and the stream. Raises ValueError for a
    graph of another model or other prompts, and for a metric without a gradient.
    """
    return _attribute(patching, graph, metric, "EAP", [0.0])


def eap_ig(
    patching: PathPatching,
    graph: EdgeGraph,
    steps: int = 5,
    variant: str = "inputs",
    metric: Metric = prob_diff,
) -> EdgeScores:
    """EAP with gradients averaged over several runs: scores [edge, prompt].

    The points are k / steps of the way from the base to the patch run, for k from 0 to steps - 1,
    so one step is `eap` (versions of the authors' code differ in which end they leave out). What
    is interpolated is, with the variant

    - "inputs", the token embeddings;
    - "activations", the output of the edge's own sender, at every position, and nothing else: as
      many gradients for each sender (the authors' code interpolates all heads of a layer at once,
      and gives every edge the mean over the runs of all senders);
    - "clean-corrupted", the token embeddings, but the points are the base and the patch run,
      whatever the steps.

    Raises ValueError as `eap` does, and for another variant or steps below 1.
    """
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose from {', '.join(VARIANTS)}.")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; it is a number of points, e.g. steps=5.")
    if variant == "clean-corrupted":
        return _attribute(patching, graph, metric, "EAP-IG clean-corrupted", [0.0, 1.0])
    shares = [k / steps for k in range(steps)]
    name = f"EAP-IG {variant}, {steps} steps"
    return _attribute(patching, graph, metric, name, shares, variant == "activations")


def compare_scores(
    reference: EdgeScores, others: Sequence[EdgeScores], k: Sequence[int] = (10, 50, 200, 1000)
) -> pd.DataFrame:
    """How well methods rank the edges, one row each, on the edges that both have measured.

    Columns: ``method``; ``edges``, how many these are; ``spearman``, the rank correlation of the
    sizes of the mean scores; ``sign``, the share of edges with the reference's sign; ``top_10``,
    ..., the share of the reference's strongest edges that are among as many strongest of the
    method, NaN where there are not more edges than that. Raises ValueError for scores of another
    graph.
    """
    rows = []
    for other in others:
        numbers = _measured_by_both(reference, other)
        ours, theirs = reference.mean[numbers].double(), other.mean[numbers].double()
        ranks = [pd.Series(scores.abs().numpy()).rank() for scores in (ours, theirs)]
        row = {
            "method": other.method,
            "edges": len(numbers),
            "spearman": ranks[0].corr(ranks[1]),
            "sign": float((ours.sign() == theirs.sign()).double().mean()),
        }
        for size in k:
            top = [set(strongest_first(scores)[:size].tolist()) for scores in (ours, theirs)]
            row[f"top_{size}"] = len(top[0] & top[1]) / size if size < len(numbers) else math.nan
        rows.append(row)
    columns = ["method", "edges", "spearman", "sign", *(f"top_{size}" for size in k)]
    return pd.DataFrame(rows, columns=columns)


def worst_edges(reference: EdgeScores, other: EdgeScores, n: int = 20) -> pd.DataFrame:
    """The edges that a method gets most wrong, of those that both have measured.

    Columns: ``edge``, the mean scores ``reference`` and ``other``, ``error`` (other less
    reference), and the edge's place in both orders by size, ``reference_rank`` and ``other_rank``
    (1 is the strongest). Raises ValueError for scores of another graph.
    """
    numbers = _measured_by_both(reference, other)
    ours, theirs = reference.mean[numbers], other.mean[numbers]
    columns = {
        "edge": [reference.graph.names[number] for number in numbers.tolist()],
        "reference": ours,
        "other": theirs,
        "error": theirs - ours,
        "reference_rank": strongest_first(ours).argsort() + 1,
        "other_rank": strongest_first(theirs).argsort() + 1,
    }
    order = (theirs - ours).abs().argsort(descending=True, stable=True)[:n]
    return pd.DataFrame(columns).loc[order.tolist()].reset_index(drop=True)


def _measured_by_both(reference: EdgeScores, other: EdgeScores) -> Tensor:
    if other.graph != reference.graph:
        raise ValueError(
            f"The scores of {other.method} are of another graph; compare scores of the same model "
            "and positions, e.g. all with EdgeGraph.of(patching)."
        )
    return (reference.measured & other.measured).nonzero().flatten()


def strongest_first(scores: Tensor) -> Tensor:
    """The numbers of scores [edge], that of the largest size first."""
    return scores.abs().argsort(descending=True, stable=True)


def _attribute(
    patching: PathPatching,
    graph: EdgeGraph,
    metric: Metric,
    method: str,
    shares: Sequence[float],
    of_senders: bool = False,
) -> EdgeScores:
    """Scores from gradients at shares of the change of the embeddings, or of each sender."""
    check_graph(patching, graph)
    settings = score_settings(patching, graph, metric)
    data = patching.dataset
    per_prompt = 1 + (len(shares) - 1) * (len(graph.nodes) if of_senders else 1)

    def measure(some: slice) -> Tensors:
        bar = tqdm(
            total=per_prompt * (some.stop - some.start),
            desc=method,
            unit="gradient",
            disable=not patching.progress,
            leave=False,
        )
        values = torch.empty(len(graph), some.stop - some.start, dtype=patching.model.dtype)
        for base, patch, prompts in patching.caches(_PROMPTS, some):

            def of_logits(logits: Tensor, YY: Tensor = data.YY[prompts]) -> Tensor:
                return metric(logits.softmax(-1)[..., data.year_tokens].cpu(), YY)

            batch = _Batch(graph, base, patch, of_logits, bar)
            along = batch.along_activations if of_senders else batch.along_inputs
            here = slice(prompts.start - some.start, prompts.stop - some.start)
            values[:, here] = along(shares).cpu()
        bar.close()
        return {"values": values}

    values = over_prompts(method, len(data), measure, dim=1)["values"]
    return EdgeScores(method, graph, values, settings)


class _Batch:
    """The two runs over a few prompts, and the gradients of runs that lie between them."""

    def __init__(
        self,
        graph: EdgeGraph,
        base: ActivationCache,
        patch: ActivationCache,
        metric: Callable[[Tensor], Tensor],
        bar: tqdm,
    ) -> None:
        self.graph, self.base, self.metric, self.bar = graph, base, metric, bar
        self.changes = sender_changes(base, patch, graph.nodes)
        layers = zip(base.model.blocks, base.stream[:-1], strict=True)
        earlier = slice(base.start)
        self.before = [block.qkv(stream[:, earlier], earlier)[1:] for block, stream in layers]

    def along_inputs(self, shares: Sequence[float]) -> Tensor:
        """Scores [edge, prompt] from the mean gradient at shares of the embeddings' change."""
        total = self._gradients([0], shares[0])[:, 0]
        for share in shares[1:]:
            total += self._gradients([0], share)[:, 0]
        scores = self._products(self.changes, total) / len(shares)
        return scores[self.graph.index.unbind(1)]

    def along_activations(self, shares: Sequence[float]) -> Tensor:
        """Scores [edge, prompt] from the mean gradient at shares of the sender's own change."""
        at_base, *others = shares
        scores = self._products(self.changes, self._gradients([0], at_base)[:, 0])
        on_cpu, n_prompts = self.changes.device.type == "cpu", self.changes.shape[1]
        size = max(1, (_CPU_RUNS if on_cpu else _GPU_RUNS) // n_prompts)
        nodes = enumerate(self.graph.nodes)
        for _, layer in groupby(nodes, key=lambda one: one[1].depth):
            numbers = [number for number, _ in layer]
            for some in (numbers[i : i + size] for i in range(0, len(numbers), size)):
                for share in others:
                    gradients = self._gradients(some, share)
                    for number, gradient in zip(some, gradients.unbind(1), strict=True):
                        products = self._products(self.changes[[number]], gradient)[:, 0]
                        scores[:, number, -len(gradient) :] += products
        return scores[self.graph.index.unbind(1)] / len(shares)

    def _products(self, changes: Tensor, gradients: Tensor) -> Tensor:
        """Changes [sender, ...] times gradients [receiver, ...]: [row, sender, receiver, prompt].

        Both are [..., prompt, position, d_model].
        """
        if self.graph.summed:
            return torch.einsum("snpd,rnpd->srn", changes, gradients)[None]
        return torch.einsum("snpd,rnpd->psrn", changes, gradients)

    @torch.enable_grad()
    def _gradients(self, senders: Sequence[int], share: float) -> Tensor:
        """The metric's gradient at every input, each sender in a run of its own moved by a share.

        [receiver, sender, prompt, position, d_model]; the senders are of one layer and kind, and
        the receivers of lower layers are left out.
        """
        node = self.graph.nodes[senders[0]]
        moved = share * self.changes[list(senders)]
        lowest = max(node.layer, 0)
        rows = self.base.stream[lowest][:, self.base.start :] + torch.zeros_like(moved)
        if node.kind == "embed":
            rows = rows + moved
        rows.requires_grad_()
        read: list[Tensor] = []
        for layer in range(lowest, len(self.before)):
            block, here = self.base.model.blocks[layer], node.kind if layer == node.layer else ""
            copies = rows.expand(3 * len(block.W_Q), *rows.shape)
            middle = rows + self._mixed(layer, copies).flatten(-2) @ block.W_O.flatten(0, 1)
            middle = middle + block.b_O + (moved if here == "head" else 0)
            into_mlp = (middle if self.graph.mlp_reads_heads(layer) else rows).clone()
            rows = middle + block.mlp(into_mlp) + block.b_out + (moved if here == "mlp" else 0)
            read += [copies, into_mlp]
        total = self.metric(self.base.model.unembed(rows[..., -1, :])).sum()
        if not total.requires_grad:
            raise ValueError(
                "The metric has no gradient; give one that torch can differentiate, e.g. prob_diff."
            )
        found = torch.autograd.grad(total, [*read, rows])
        self.bar.update(moved.shape[0] * moved.shape[1])
        return torch.cat([one if one.ndim > moved.ndim else one[None] for one in found])

    def _mixed(self, layer: int, copies: Tensor) -> Tensor:
        """The heads' mixed values; every q, k and v input has a copy of the stream to itself.

        Copies are [3 x head, ..., prompt, position, d_model] in the order of the graph's inputs,
        mixed values [..., prompt, position, head, d_head].
        """
        block, start = self.base.model.blocks[layer], self.base.start
        later = slice(start, start + copies.shape[-2])
        of_part = [list(enumerate(copies[part::3])) for part in range(3)]
        query = torch.stack([block.query(head, copy, later) for head, copy in of_part[0]], dim=-2)
        key = torch.stack([block.key(head, copy, later) for head, copy in of_part[1]], dim=-2)
        value = torch.stack([block.value(head, copy) for head, copy in of_part[2]], dim=-2)
        keys, values = self.before[layer]
        return block.mix(query, after(keys, key, dim=-3), after(values, value, dim=-3))
