"""Metrics and logit lenses that are not the paper's, though they look like its own."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..analysis.logit_lens import processed_output, unembedded, written
from ..metrics import FIRST_YY, LAST_YY, Probs, YYs, mean_by_YY, prob_diff, prob_diff_below
from ..model.cache import ActivationCache
from ..model.components import component

YearTokens = Int[Tensor, " year"]
Logits = Float[Tensor, "prompt year"]


def prob_diff_renormalised(probs: Probs, YY: YYs) -> Float[Tensor, "*batch prompt"]:
    """`prob_diff` of the 100 years scaled to add up to 1; the paper keeps the full softmax."""
    return prob_diff(probs / probs.sum(-1, keepdim=True), YY)


def prob_diff_or_equal(probs: Probs, YY: YYs) -> Float[Tensor, "*batch prompt"]:
    """`prob_diff` with the end year YY itself counted as right; the paper counts it as wrong."""
    return -prob_diff_below(probs, YY)


def prob_diff_of_mean_logits(probs: Probs, YY: YYs) -> Float[Tensor, "*batch prompt"]:
    """`prob_diff` of mean logits, averaged over the prompts of equal YY: each gets its YY's value.

    Raises ValueError as `prob_diff` does, and for a YY outside 2..98.
    """
    # What lies outside the years is averaged as one more logit: exact while it is next to nothing.
    rest = (1 - probs.sum(-1, keepdim=True)).clamp_min(1e-9)
    tiny = torch.finfo(probs.dtype).tiny
    logits = torch.cat([probs.clamp_min(tiny), rest], dim=-1).log()
    means = mean_by_YY(logits.movedim(-2, 0), YY).softmax(-1)[..., :100].movedim(0, -2)
    every_YY = torch.arange(FIRST_YY, LAST_YY + 1, device=probs.device)
    return prob_diff(means, every_YY)[..., YY - FIRST_YY]


def processed_lens(cache: ActivationCache, name: str, tokens: YearTokens) -> Logits:
    """The lens on what TransformerLens gives by default, whose weights are folded and centred."""
    return unembedded(cache.model, cache.model.ln_final(processed_output(cache, name)), tokens)


def raw_lens(cache: ActivationCache, name: str, tokens: YearTokens) -> Logits:
    """The unembedding alone, without the final norm."""
    return unembedded(cache.model, written(cache, name), tokens)


def biased_lens(cache: ActivationCache, name: str, tokens: YearTokens) -> Logits:
    """The lens of what TransformerLens gives as an MLP's output, b_out included; heads as ever."""
    node = component(name)
    output = written(cache, name)
    if node.kind == "mlp":
        output = output + cache.model.blocks[node.layer].b_out
    return unembedded(cache.model, cache.model.ln_final(output), tokens)
