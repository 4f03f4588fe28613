"""Rerun: a base run computed anew, from a changed input or a changed embedding on.

By causality nothing changes before the cache's start; there, heads read the base run's keys and
values. Streams and changes have their positions from the start on, and any axes in front.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..model.cache import ActivationCache
from ..model.components import Component, Input


class Rerun:
    """The layers of a model over the base run of a few prompts, whose streams may be others."""

    def __init__(self, base: ActivationCache) -> None:
        self.base, self.blocks = base, base.model.blocks
        self.positions = slice(base.start, base.stream.shape[2])
        self._before: dict[int, list[Tensor]] = {}  # by layer: see `_earlier`

    def base_stream(self, layer: int) -> Float[Tensor, "prompt position d_model"]:
        """The base run's stream before a layer, or after the last."""
        return self.base.stream[layer][:, self.positions]

    def final_stream(
        self, receiver: Input, change: Float[Tensor, "*edge prompt position d_model"]
    ) -> Float[Tensor, "*edge prompt d_model"]:
        """The last stream at END when one input reads a change, and all above it is run anew."""
        node = receiver.component
        if node.kind == "logits":
            return self.base_stream(-1)[:, -1] + change[..., -1, :]
        change = self.output_change(node, {receiver.part: change})
        if node.kind == "head" and not self.blocks[node.layer].parallel:
            # Its own layer's MLP reads the head; the layers' loop begins above.
            change = change + self.output_change(Component("mlp", node.layer), {"": change})
        return self.run(node.layer + 1, self.base_stream(node.layer + 1) + change)

    def run(
        self, first: int, stream: Float[Tensor, "*edge prompt position d_model"]
    ) -> Float[Tensor, "*edge prompt d_model"]:
        """The last stream at END, given the stream before the first layer that is run."""
        for layer in range(first, len(self.blocks)):
            block, heads = self.blocks[layer], self.heads(layer, stream)
            stream = stream[..., -heads.shape[-2] :, :]  # of the last layer, END may be all
            after_heads = stream + heads + block.b_O
            mlp = self.mlp(layer, stream if block.parallel else after_heads)
            stream = after_heads + mlp + block.b_out
        return stream[..., -1, :]

    def heads(
        self, layer: int, stream: Float[Tensor, "*edge prompt position d_model"]
    ) -> Float[Tensor, "*edge prompt query d_model"]:
        """What the heads of a layer write together, of its stream; the last layer's at END only."""
        query, key, value = self.blocks[layer].qkv(stream, self.positions)
        if layer == len(self.blocks) - 1:
            query = query[..., -1:, :, :]  # the logits read nothing else
        return self.written(layer, self._mixed(layer, slice(None), query, key, value))

    def mlp(
        self, layer: int, stream: Float[Tensor, "*edge prompt position d_model"]
    ) -> Float[Tensor, "*edge prompt position d_model"]:
        """What a layer's MLP writes, of the stream that it reads."""
        return self.blocks[layer].mlp(stream)

    def written(
        self, layer: int, z: Float[Tensor, "*edge prompt query head d_head"]
    ) -> Float[Tensor, "*edge prompt query d_model"]:
        """What a layer's heads write together, of what they mixed."""
        return z.flatten(-2) @ self.blocks[layer].W_O.flatten(0, 1)

    def head(
        self,
        layer: int,
        head: int,
        streams: Sequence[Float[Tensor, "*edge prompt position d_model"]],
    ) -> Float[Tensor, "*edge prompt position d_head"]:
        """What one head mixes; its q, k and v read a stream each."""
        block, here = self.blocks[layer], self.positions
        query, key = block.query(head, streams[0], here), block.key(head, streams[1], here)
        projected = (query, key, block.value(head, streams[2]))
        one_head = (one.unsqueeze(-2) for one in projected)
        return self._mixed(layer, slice(head, head + 1), *one_head).squeeze(-2)

    def output_change(
        self, node: Component, changes: dict[str, Float[Tensor, "*edge prompt position d_model"]]
    ) -> Float[Tensor, "*edge prompt position d_model"]:
        """How a component's output changes when its inputs "q", "k", "v" (an MLP's: "") do."""
        base, block = self.base, self.blocks[node.layer]
        if node.kind == "mlp":
            positions = range(self.positions.start, self.positions.stop)
            stream = torch.stack([base.before_mlp(node.layer, at) for at in positions], dim=1)
            return block.mlp(stream + changes[""]) - base.mlp[node.layer]
        stream = self.base_stream(node.layer)
        streams = [stream + changes[part] if part in changes else stream for part in "qkv"]
        z = self.head(node.layer, node.head, streams) - base.z[node.layer, :, :, node.head]
        return z @ block.W_O[node.head]

    def _mixed(
        self, layer: int, heads: slice, query: Tensor, key: Tensor, value: Tensor
    ) -> Float[Tensor, "*edge prompt query head d_head"]:
        """What heads mix, of their queries, keys and values; earlier positions are read too."""
        joined = (
            torch.cat([before[..., heads, :].expand(*now.shape[:-3], -1, -1, -1), now], dim=-3)
            for before, now in zip(self._earlier(layer), (key, value), strict=True)
        )
        return self.blocks[layer].mix(query, *joined)

    def _earlier(self, layer: int) -> list[Float[Tensor, "prompt position head d_head"]]:
        """Keys and values of a layer's heads before the start; computed once."""
        if layer not in self._before:
            before = slice(self.positions.start)
            stream = self.base.stream[layer][:, before]
            _, *self._before[layer] = self.blocks[layer].qkv(stream, before)
        return self._before[layer]


def sender_changes(
    base: ActivationCache, patch: ActivationCache
) -> Float[Tensor, "sender prompt position d_model"]:
    """Patch less base output of the embedding, then layer by layer of the heads and the MLP."""
    changes = [(patch.stream[:1] - base.stream[:1])[:, :, base.start :]]
    for block, z, mlp in zip(
        base.model.blocks, patch.z - base.z, patch.mlp - base.mlp, strict=True
    ):
        changes += [torch.einsum("nphe,hed->hnpd", z, block.W_O), mlp[None]]
    return torch.cat(changes)
