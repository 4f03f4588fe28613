"""Run: what every component wrote in one forward pass over one batch of prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .components import Component
from .transformer import Transformer


@dataclass(frozen=True)
class Run:
    """Cached outputs of one forward pass; heads and MLPs before position ``start`` are not kept.

    As in the paper's code, heads are kept without b_O and MLPs without b_out: output biases belong
    to no component.
    """

    model: Transformer
    start: int
    stream: Tensor  # [layer + 1, prompt, position, d_model], before each layer and after the last
    z: Tensor  # [layer, prompt, position, head, d_head]
    mlp: Tensor  # [layer, prompt, position, d_model]

    @property
    def nbytes(self) -> int:
        """Memory that the cached tensors take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.stream, self.z, self.mlp))

    def take(self, prompts: slice = slice(None), start: int | None = None) -> Run:
        """The same run over some of its prompts, or from a later start; nothing is copied."""
        start = self.start if start is None else start
        kept = slice(start - self.start, None)
        z, mlp = self.z[:, prompts, kept], self.mlp[:, prompts, kept]
        return Run(self.model, start, self.stream[:, prompts], z, mlp)

    def at_layer(self, layer: int, position: int) -> Tensor:
        """Residual stream [prompt, d_model] before a layer (or after the last) at one position."""
        return self.stream[layer, :, position]

    def before_mlp(self, layer: int, position: int) -> Tensor:
        """Residual stream [prompt, d_model] that the layer's MLP reads at one position."""
        block = self.model.blocks[layer]
        heads = self.z[layer, :, position - self.start].flatten(1) @ block.W_O.flatten(0, 1)
        return self.at_layer(layer, position) + heads + block.b_O

    def output(self, node: Component, position: int) -> Tensor:
        """What a component wrote [prompt, d_model], without the layer's output bias."""
        if node.kind == "embed":
            return self.at_layer(0, position)
        if node.kind == "mlp":
            return self.mlp[node.layer, :, position - self.start]
        z = self.z[node.layer, :, position - self.start, node.head]
        return z @ self.model.blocks[node.layer].W_O[node.head]


@torch.no_grad()
def compute_run(model: Transformer, tokens: Tensor, start: int = 0, batch_size: int = 64) -> Run:
    """Run the model over tokens [prompt, position] in batches and keep what components wrote.

    ``start`` is the first position whose heads and MLPs are kept; the residual stream is kept at
    every position, because heads read their keys and values from it.
    """
    batches = tokens.to(model.device).split(batch_size)
    parts = [_forward(model, batch, start) for batch in batches]
    stream, z, mlp = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    return Run(model, start, stream, z, mlp)


def _forward(model: Transformer, tokens: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    layers = range(model.n_layers)
    streams = [f"blocks.{layer}.hook_in" for layer in layers] + ["ln_final.hook_in"]
    zs = [f"blocks.{layer}.attn.o.hook_in" for layer in layers]
    mlps = [f"blocks.{layer}.mlp.hook_out" for layer in layers]
    _, cache = model.bridge.run_with_cache(
        tokens, names_filter=[*streams, *zs, *mlps], logits_to_keep=1
    )
    b_out = torch.stack([block.b_out for block in model.blocks])
    z = torch.stack([cache[name][:, start:].flatten(2) for name in zs])
    return (
        torch.stack([cache[name] for name in streams]),
        z.unflatten(-1, (model.n_heads, -1)),
        torch.stack([cache[name][:, start:] for name in mlps]) - b_out[:, None, None],
    )


@torch.no_grad()
def end_logits(model: Transformer, tokens: Tensor, batch_size: int = 64) -> Iterator[Tensor]:
    """Yield the model's own logits [prompt, vocab] at the last position, batch by batch."""
    for batch in tokens.to(model.device).split(batch_size):
        yield model.bridge(batch, logits_to_keep=1)[:, -1]
