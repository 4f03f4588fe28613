"""Attribution: what gradients say that every edge does.

Edge attribution patching (EAP; Syed et al. 2023) takes the metric's gradient with respect to a
receiver's input, times the change of the sender's output: the effect of the edge alone, to first
order. EAP-IG (Hanna et al. 2024) averages the gradient over runs between the base and the patch
run: its scores share out the whole change between these, and are no limit of the edge's own effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..metrics import Metric, prob_diff
from ..model.cache import PROMPTS_AT_ONCE, ActivationCache
from ..patching.engine import PathPatching
from .graph import EdgeGraph
from .rerun import Rerun, sender_changes
from .scores import Batch, EdgeScores, scored

VARIANTS = ("inputs", "clean-corrupted")


def eap(patching: PathPatching, graph: EdgeGraph, metric: Metric = prob_diff) -> EdgeScores:
    """Edge attribution patching: scores from the gradients of the base run.

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
    """EAP with gradients averaged over runs whose token embeddings lie between the two runs'.

    With the variant "inputs" these are k / steps of the way from the base to the patch run, for k
    from 0 to steps - 1, so one step is `eap` (versions of the authors' code differ in which end
    they leave out); with "clean-corrupted", they are the base and the patch run, whatever the
    steps. Raises ValueError as `eap` does, and for another variant or steps below 1.
    """
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r} is no variant; choose from {', '.join(VARIANTS)}.")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}; it is a number of points, e.g. steps=5.")
    if variant == "clean-corrupted":
        return _attribute(patching, graph, metric, "EAP-IG clean-corrupted", [0.0, 1.0])
    points = [k / steps for k in range(steps)]
    return _attribute(patching, graph, metric, f"EAP-IG inputs, {steps} steps", points)


def _attribute(
    patching: PathPatching, graph: EdgeGraph, metric: Metric, method: str, points: Sequence[float]
) -> EdgeScores:
    """Scores from the mean gradient at points on the way of the embeddings to the patch run's."""
    data = patching.dataset

    def score(batch: Batch) -> Tensor:
        def of_logits(logits: Tensor) -> Tensor:
            return metric(logits.softmax(-1)[:, data.year_tokens].cpu(), data.YY[batch.prompts])

        changes = sender_changes(batch.base, batch.patch)
        embedding, total = Rerun(batch.base).base_stream(0), torch.zeros(())
        for point in points:
            between = embedding + point * changes[0]
            total = total + _gradients(batch.base, between, of_logits)
            batch.bar.update(len(between))
        # What each receiver's gradient says of each sender's change, summed over d_model.
        rows = "s r n" if graph.summed else "p s r n"
        products = torch.einsum(f"s n p d, r n p d -> {rows}", changes, total / len(points))
        return products.reshape(len(graph.rows), *products.shape[-3:])[graph.index.unbind(1)]

    at_once = PROMPTS_AT_ONCE // 16  # a copy of the stream, and its gradient, for every input
    return scored(patching, graph, metric, method, len(points), at_once, score)


@torch.enable_grad()
def _gradients(
    base: ActivationCache,
    embedding: Float[Tensor, "prompt position d_model"],
    metric: Callable[[Tensor], Tensor],
) -> Float[Tensor, "receiver prompt position d_model"]:
    """The gradient of the metric of END logits at every input, in a run from this embedding."""
    rerun = _InputsApart(base)
    end = rerun.run(0, embedding.requires_grad_())
    total = metric(base.model.unembed(end)).sum()
    if not total.requires_grad:
        raise ValueError(
            "The metric has no gradient; give one that torch can differentiate, e.g. prob_diff."
        )
    *found, at_end = torch.autograd.grad(total, [*rerun.read, end])
    into_logits = torch.zeros_like(embedding)
    into_logits[:, -1] = at_end  # the logits are read at END only
    return torch.cat([*found, into_logits[None]])


class _InputsApart(Rerun):
    """A rerun in which every input reads a copy of the stream to itself.

    ``read`` holds these [receiver, prompt, position, d_model], in the order of the graph's inputs.
    """

    def __init__(self, base: ActivationCache) -> None:
        super().__init__(base)
        self.read: list[Tensor] = []

    def heads(
        self, layer: int, stream: Float[Tensor, "prompt position d_model"]
    ) -> Float[Tensor, "prompt position d_model"]:
        """What the heads of a layer write together, of its stream."""
        n_heads = len(self.blocks[layer].W_Q)
        # Expanded copies take no memory, yet autograd tells their gradients apart.
        copies = stream.expand(3 * n_heads, *stream.shape)
        self.read.append(copies)
        z = [self.head(layer, i, copies[3 * i : 3 * i + 3].unbind()) for i in range(n_heads)]
        return self.written(layer, torch.stack(z, dim=-2))

    def mlp(
        self, layer: int, stream: Float[Tensor, "prompt position d_model"]
    ) -> Float[Tensor, "prompt position d_model"]:
        """What a layer's MLP writes, of the stream that it reads."""
        (copy,) = copies = stream.expand(1, *stream.shape)
        self.read.append(copies)
        return super().mlp(layer, copy)
