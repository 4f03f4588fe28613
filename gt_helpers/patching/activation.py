"""Plain activation patching: overwrite activations, and let everything that comes after run anew.

Unlike path patching it singles out no path: what is overwritten changes all that reads it. Later
studies of this circuit report such numbers (denoising: clean values in the corrupted run).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..dataset.year_dataset import YearDataset
from ..metrics import Metric, prob_diff
from ..model.cache import PROMPTS_AT_ONCE, ActivationCache, cache_activations
from ..model.components import component, inputs
from ..model.transformer import Transformer
from ..processes import Tensors, chunks, is_main, over_prompts

_STREAM = re.compile(r"stream(\d+)@(\w+)")
_SITES = 64  # sites whose final streams are unembedded together


@dataclass(frozen=True)
class Site:
    """One activation at one position.

    ``kind`` is "head" (the mixed values z), "q", "k" or "v" of a head, "mlp" (the output), or
    "stream" (the residual stream before a layer). Heads that share keys and values have a copy
    each.
    """

    kind: str
    layer: int
    head: int
    position: str


def site(name: str) -> Site:
    """Parse ``a9.h1@END``, ``a9.h1.v@YY``, ``m10@END`` or ``stream8@YY``; no position means END.

    Raises ValueError for other names.
    """
    if match := _STREAM.fullmatch(str(name).strip()):
        return Site("stream", int(match[1]), -1, match[2])
    if re.search(r"\.[qkv]\b", str(name)):
        (found,) = inputs(name)
        node = found.component
        return Site(found.part, node.layer, node.head, node.position)
    node = component(name, "head", "mlp")
    return Site(node.kind, node.layer, node.head, node.position)


def activation_patching(
    model: Transformer,
    dataset: YearDataset,
    sites: Iterable[str | Sequence[str]],
    base: str = "corrupted",
    metric: Metric = prob_diff,
    progress: bool = False,
) -> Float[Tensor, "site prompt"]:
    """The metric after overwriting one site, or several together, in the base run.

    The values come from the other run at the same place. ``sites`` are names as in `site`, or
    lists of names to be overwritten together. Raises ValueError for names that the model or the
    prompts lack, and for another base than "clean" or "corrupted".
    """
    log_probs = overwritten_log_probs(model, dataset, sites, base, progress)
    return metric(log_probs.exp(), dataset.YY)


@torch.no_grad()
def overwritten_log_probs(
    model: Transformer,
    dataset: YearDataset,
    sites: Iterable[str | Sequence[str]],
    base: str = "corrupted",
    progress: bool = False,
) -> Float[Tensor, "site prompt year"]:
    """What the metric of `activation_patching` is taken of: log-probabilities of the years.

    Raises ValueError as `activation_patching` does.
    """
    if base not in ("clean", "corrupted"):
        raise ValueError(f"base must be 'clean' or 'corrupted', e.g. 'clean'; got {base!r}.")
    groups = [[site(n) for n in ([one] if isinstance(one, str) else one)] for one in sites]
    for one in (one for group in groups for one in group):
        _check(one, model, dataset)
    found = torch.empty(len(groups), len(dataset), 100, dtype=model.dtype)

    def measure(mine: slice) -> Tensors:
        bar = tqdm(
            total=len(groups) * (mine.stop - mine.start),
            desc="activation patching",
            unit="answer",
            disable=not (progress and is_main()),
            leave=False,
        )
        for prompts in chunks(mine, PROMPTS_AT_ONCE // 2):  # all heads' keys and values, too
            clean, corrupted = (
                cache_activations(model, tokens[prompts])
                for tokens in (dataset.clean, dataset.corrupted)
            )
            pair = (clean, corrupted) if base == "clean" else (corrupted, clean)
            patching = _Patching(*pair, dataset.positions)
            for some in chunks(slice(0, len(groups)), _SITES):
                streams = torch.stack([patching.final_stream(group) for group in groups[some]])
                found[some, prompts] = model.log_probs(streams, dataset.year_tokens).cpu()
                bar.update(len(streams) * streams.shape[1])
        bar.close()
        return {"log_probs": found[:, mine]}

    return over_prompts("activation patching", len(dataset), measure, dim=1)["log_probs"]


def _check(one: Site, model: Transformer, dataset: YearDataset) -> None:
    """Raise ValueError, saying what is allowed, for a site that does not exist."""
    node = f"m{one.layer}" if one.head < 0 else f"a{one.layer}.h{one.head}"
    model.shape(dataset.positions).check(component(f"{node}@{one.position}"))


class _Patching:
    """The two runs over a few prompts, and the keys and values of the base run's heads."""

    def __init__(
        self, base: ActivationCache, patch: ActivationCache, positions: dict[str, int]
    ) -> None:
        self.base, self.patch, self.positions = base, patch, positions
        self.blocks = base.model.blocks
        layers, every = zip(self.blocks, base.stream[:-1], strict=True), slice(base.stream.shape[2])
        self.keys_and_values = [block.qkv(stream, every)[1:] for block, stream in layers]

    def final_stream(self, sites: Sequence[Site]) -> Tensor:
        """The final residual stream [prompt, d_model] at END once the sites are overwritten."""
        lowest = min(one.layer for one in sites)
        first = min(self.positions[one.position] for one in sites)
        # No lower layer and, by causality, no earlier position changes.
        stream = self.base.stream[lowest][:, first:].clone()
        for layer in range(lowest, len(self.blocks)):
            here = [one for one in sites if one.layer == layer]
            stream = self._block(layer, first, stream, here)
        return stream[:, -1]

    def _block(self, layer: int, first: int, stream: Tensor, sites: Sequence[Site]) -> Tensor:
        """The stream [prompt, position, d_model] after a layer, at the positions from first on."""
        block, places = self.blocks[layer], [(one, self.positions[one.position]) for one in sites]
        for one, position in places:
            if one.kind == "stream":
                stream[:, position - first] = self.patch.stream[layer][:, position]
        query, *now = block.qkv(stream, slice(first, first + stream.shape[1]))
        before = [part[:, :first] for part in self.keys_and_values[layer]]
        key, value = (torch.cat(pair, dim=1) for pair in zip(before, now, strict=True))
        for one, position in places:
            source = self.patch.stream[layer][:, position]
            if one.kind == "q":
                query[:, position - first, one.head] = block.query(one.head, source, position)
            elif one.kind == "k":
                key[:, position, one.head] = block.key(one.head, source, position)
            elif one.kind == "v":
                value[:, position, one.head] = block.value(one.head, source)
        z = block.mix(query, key, value)
        for one, position in places:
            if one.kind == "head":
                z[:, position - first, one.head] = self.patch.z[layer, :, position, one.head]
        middle = block.after_heads(stream, z)
        mlp = block.mlp(stream if block.parallel else middle)
        for one, position in places:
            if one.kind == "mlp":
                mlp[:, position - first] = self.patch.mlp[layer, :, position]
        return middle + mlp + block.b_out
