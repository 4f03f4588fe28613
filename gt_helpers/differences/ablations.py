"""Path patching with one thing done otherwise than in the paper, to see what depends on it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ..dataset.year_dataset import YearDataset
from ..model.cache import PROMPTS_AT_ONCE, ActivationCache, cache_activations
from ..model.transformer import Block, Transformer
from ..patching.engine import PathPatching


class Ablation(PathPatching):
    """Path patching in which the corrupted run is a constant: what `_constant` makes of clean runs.

    The corrupted prompts are not used. All positions count, since none is alike in both runs.
    """

    def __init__(
        self, model: Transformer, dataset: YearDataset, base: str = "clean", progress: bool = False
    ) -> None:
        super().__init__(model, dataset, base, progress)
        self._start = 0

    def _compute_caches(self, prompts: slice) -> tuple[ActivationCache, ActivationCache]:
        clean = cache_activations(self.model, self.dataset.clean[prompts])
        return clean, self._constant(clean)

    def _constant(self, clean: ActivationCache) -> ActivationCache:
        raise NotImplementedError


class MeanAblation(Ablation):
    """Every component writes its mean over all clean prompts, position by position."""

    def _constant(self, clean: ActivationCache) -> ActivationCache:
        n = clean.stream.shape[1]
        stream, z, mlp = (
            mean.expand(-1, n, *mean.shape[2:])
            for mean in (self._mean.stream, self._mean.z, self._mean.mlp)
        )
        return ActivationCache(self.model, 0, stream, z, mlp)

    @cached_property
    def _mean(self) -> ActivationCache:
        """A cache of one prompt [.., 1, ..]: the mean over the dataset, summed chunk by chunk."""
        sums: list[Tensor | float] = [0.0, 0.0, 0.0]
        for tokens in self.dataset.clean.split(PROMPTS_AT_ONCE):
            cache = cache_activations(self.model, tokens)
            parts = (cache.stream, cache.z, cache.mlp)
            sums = [s + part.sum(1, keepdim=True) for s, part in zip(sums, parts, strict=True)]
        stream, z, mlp = (torch.as_tensor(s) / len(self.dataset) for s in sums)
        return ActivationCache(self.model, 0, stream, z, mlp)


class ZeroAblation(Ablation):
    """Every component, the embedding too, writes nothing; output biases, nobody's, stay."""

    def _constant(self, clean: ActivationCache) -> ActivationCache:
        biases = torch.stack([block.b_O + block.b_out for block in self.model.blocks]).cumsum(0)
        stream = torch.cat([torch.zeros_like(biases[:1]), biases])[:, None, None]
        return ActivationCache(
            self.model,
            0,
            stream.expand_as(clean.stream),
            torch.zeros_like(clean.z),
            torch.zeros_like(clean.mlp),
        )


class FrozenNorms(PathPatching):
    """Every norm divides by the scale it has in the base run, whatever was patched into it."""

    def _block(self, layer: int, rows: Tensor) -> Block:
        block = self.model.blocks[layer]
        return replace(block, ln1=block.ln1.frozen_at(rows), ln2=block.ln2.frozen_at(rows))

    def _normed(self, stream: Tensor, change: Tensor | None) -> Tensor:
        frozen = self.model.ln_final.frozen_at(stream)
        return frozen(stream[None] if change is None else stream + change)
