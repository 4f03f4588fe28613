"""Activation cache: what every component wrote in one forward pass over one batch of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .components import Component
from .transformer import Transformer

# Whose two activation caches lie in memory together, 130 MB each for GPT-2 small. The one size of
# a chunk of prompts: rooms that keep more of each prompt take a half, a quarter ... of it.
PROMPTS_AT_ONCE = 256
_BATCH = 64  # prompts in one forward pass


@dataclass(frozen=True)
class ActivationCache:
    """Cached outputs of one forward pass; heads and MLPs before position ``start`` are not kept.

    As in the paper's code, heads are kept without b_O and MLPs without b_out: output biases belong
    to no component.
    """

    model: Transformer
    start: int
    # Before each layer and after the last, at every position: heads read keys and values there.
    stream: Float[Tensor, "layer+1 prompt position d_model"]
    z: Float[Tensor, "layer prompt position head d_head"]
    mlp: Float[Tensor, "layer prompt position d_model"]

    @property
    def nbytes(self) -> int:
        """Memory that the cached tensors take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.stream, self.z, self.mlp))

    def take(self, prompts: slice = slice(None), start: int | None = None) -> ActivationCache:
        """The same run over some of its prompts, or from a later start; nothing is copied."""
        start = self.start if start is None else start
        kept = slice(start - self.start, None)
        z, mlp = self.z[:, prompts, kept], self.mlp[:, prompts, kept]
        return ActivationCache(self.model, start, self.stream[:, prompts], z, mlp)

    def at_layer(self, layer: int, position: int) -> Float[Tensor, "prompt d_model"]:
        """Residual stream before a layer (or after the last) at one position."""
        return self.stream[layer, :, position]

    def before_mlp(self, layer: int, position: int) -> Float[Tensor, "prompt d_model"]:
        """Residual stream that the layer's MLP reads at one position."""
        if self.model.blocks[layer].parallel:
            return self.at_layer(layer, position)
        return self.after_heads(layer, position)

    def after_heads(self, layer: int, position: int) -> Float[Tensor, "prompt d_model"]:
        """Residual stream before a layer with what its heads add to it."""
        z = self.z[layer, :, position - self.start]
        return self.model.blocks[layer].after_heads(self.at_layer(layer, position), z)

    def output(self, node: Component, position: int) -> Float[Tensor, "prompt d_model"]:
        """What a component wrote, without the layer's output bias."""
        if node.kind == "embed":
            return self.at_layer(0, position)
        if node.kind == "mlp":
            return self.mlp[node.layer, :, position - self.start]
        z = self.z[node.layer, :, position - self.start, node.head]
        return z @ self.model.blocks[node.layer].W_O[node.head]


@torch.no_grad()
def cache_activations(
    model: Transformer, tokens: Int[Tensor, "prompt position"], start: int = 0
) -> ActivationCache:
    """Run the model over tokens in batches and keep what components wrote.

    ``start`` is the first position whose heads and MLPs are kept. Raises ValueError for more
    positions than the model was made for.
    """
    longest = model.bridge.cfg.n_ctx
    if tokens.shape[1] > longest:
        raise ValueError(
            f"The prompts have {tokens.shape[1]} tokens; {model.name} was made for {longest} or "
            "fewer."
        )
    batches = tokens.to(model.device).split(_BATCH)
    parts = [_forward(model, batch, start) for batch in batches]
    stream, z, mlp = (torch.cat(tensors, dim=1) for tensors in zip(*parts, strict=True))
    return ActivationCache(model, start, stream, z, mlp)


def _forward(model: Transformer, tokens: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
    layers = range(model.n_layers)
    streams = [f"blocks.{layer}.hook_in" for layer in layers] + ["ln_final.hook_in"]
    zs = [f"blocks.{layer}.attn.o.hook_in" for layer in layers]
    mlps = [f"blocks.{layer}.mlp.hook_out" for layer in layers]
    with _in_precision_of(model):
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
def end_logits(
    model: Transformer, tokens: Int[Tensor, "prompt position"], batch_size: int = _BATCH
) -> Iterator[Float[Tensor, "prompt vocab"]]:
    """Yield the model's own logits at the last position, batch by batch."""
    for batch in tokens.to(model.device).split(batch_size):
        with _in_precision_of(model):
            logits = model.bridge(batch, logits_to_keep=1)[:, -1]
        yield logits


def _in_precision_of(model: Transformer) -> AbstractContextManager:
    return _Double() if model.dtype == torch.float64 else nullcontext()


class _Double(TorchFunctionMode):
    """Leaves float64 tensors as they are where a model's code would cast them to float32.

    Hugging Face's RMSNorms, many softmaxes and GPT-J's scores are computed in float32 whatever the
    model's precision, which would round a float64 run to seven digits.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(isinstance(one, Tensor) and one.dtype == torch.float64 for one in args):
            func = Tensor.double if func is Tensor.float else func
            args = tuple(_doubled(one) for one in args)
            kwargs = {name: _doubled(one) for name, one in kwargs.items()}
        return func(*args, **kwargs)


def _doubled(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument
