"""Path patching with one thing done otherwise than in the paper, to see what depends on it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .components import component
from .dataset import YearDataset
from .logit_lens import written
from .path_patching import PathPatching
from .runs import Run, compute_run
from .transformer import Block, Transformer


class Ablation(PathPatching):
    """Path patching in which the corrupted run is a constant: what `_constant` makes of clean runs.

    The corrupted prompts are not used. All positions count, since none is alike in both runs.
    """

    def __init__(
        self, model: Transformer, dataset: YearDataset, base: str = "clean", progress: bool = False
    ) -> None:
        super().__init__(model, dataset, base, progress)
        self._start = 0

    def _compute_runs(self, prompts: slice) -> tuple[Run, Run]:
        clean = compute_run(self.model, self.dataset.clean[prompts])
        return clean, self._constant(clean)

    def _constant(self, clean: Run) -> Run:
        raise NotImplementedError


class MeanAblation(Ablation):
    """Every component writes its mean over all clean prompts, position by position."""

    _mean: Run | None = None

    def _constant(self, clean: Run) -> Run:
        if self._mean is None:
            self._mean = self._mean_run()
        n = clean.stream.shape[1]
        stream, z, mlp = (
            mean.expand(-1, n, *mean.shape[2:])
            for mean in (self._mean.stream, self._mean.z, self._mean.mlp)
        )
        return Run(self.model, 0, stream, z, mlp)

    def _mean_run(self) -> Run:
        """A run of one prompt [.., 1, ..]: the mean over the dataset, summed chunk by chunk."""
        sums: list[Tensor | float] = [0.0, 0.0, 0.0]
        for tokens in self.dataset.clean.split(256):
            run = compute_run(self.model, tokens)
            parts = (run.stream, run.z, run.mlp)
            sums = [s + part.sum(1, keepdim=True) for s, part in zip(sums, parts, strict=True)]
        stream, z, mlp = (torch.as_tensor(s) / len(self.dataset) for s in sums)
        return Run(self.model, 0, stream, z, mlp)


class ZeroAblation(Ablation):
    """Every component, the embedding too, writes nothing; output biases, nobody's, stay."""

    def _constant(self, clean: Run) -> Run:
        biases = torch.stack([block.b_O + block.b_out for block in self.model.blocks]).cumsum(0)
        stream = torch.cat([torch.zeros_like(biases[:1]), biases])[:, None, None]
        return Run(
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


def processed_output(run: Run, name: str) -> Tensor:
    """What a component writes at END [prompt, d_model] once weights are processed.

    As TransformerLens does by default: what heads write whatever they attend to (the norm's and
    their own value bias, since attention sums to 1) moves to the layer's output bias, and every
    write is centred. The model's probabilities stay the same; what single components write does
    not. Raises ValueError as `written` does.
    """
    node, output = component(name), written(run, name)
    if node.kind == "head":
        block = run.model.blocks[node.layer]
        constant = block.b_V[node.head] + block.ln1.bias @ block.W_V[node.head]
        output = output - constant @ block.W_O[node.head]
    return run.model.ln_final.centre(output)
