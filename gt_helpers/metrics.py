"""Scores of end-year probabilities (section 2), averages per YY, and bootstrap intervals.

`probs` are always softmax probabilities over the full vocabulary, restricted to the 100 year tokens
and not renormalised: [..., prompt, year]. `YY` [prompt] is always the clean prompt's, also when
a corrupted or patched run is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """One number with its 95 % interval, and what it consists of in words."""

    value: float
    low: float = math.nan
    high: float = math.nan
    detail: str = ""


def average(values: Tensor, detail: str = "") -> Measurement:
    """Mean over prompts of values [prompt]."""
    mean, low, high = bootstrap_ci(values)
    return Measurement(float(mean), float(low), float(high), detail)


def ratio(numerator: Tensor, denominator: Tensor) -> Measurement:
    """Ratio of two means over the same prompts; the interval is that of its linearisation."""
    bottom = denominator.mean()
    if bottom == 0:
        return Measurement(math.nan)
    value = numerator.mean() / bottom
    return average(value + (numerator - value * denominator) / bottom)


def recovered(circuit: Tensor, clean: Tensor, corrupted: Tensor | None = None) -> Measurement:
    """How much of the model's score [prompt] a circuit brings back, with its interval.

    Without ``corrupted`` the paper's circuit / clean; with it what later work calls faithfulness,
    (circuit - corrupted) / (clean - corrupted). NaN where the denominator's interval includes 0:
    there is nothing to recover then.
    """
    if corrupted is not None:
        circuit, clean = circuit - corrupted, clean - corrupted
    whole = average(clean)
    return ratio(circuit, clean) if whole.low > 0 or whole.high < 0 else Measurement(math.nan)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation [...] over the last axis, NaN where one side is constant."""
    a, b = (x.double() - x.double().mean(-1, keepdim=True) for x in (a, b))
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


FIRST_YY, LAST_YY = 2, 98  # the YYs of valid years: rows of every per-YY table
Metric = Callable[[Tensor, Tensor], Tensor]

# Bootstrap resamples and softmaxes go through memory in pieces of about this many numbers.
CHUNK_NUMBERS = 2**22


def prob_diff(probs: Tensor, YY: Tensor) -> Tensor:
    """Probability difference [..., prompt] in [-1, 1]: mass above YY minus mass up to YY.

    An end year equal to YY counts as wrong (section 2). Raises ValueError for other shapes than
    probs [..., prompt, year] with 100 years and YY [prompt] in 0..99.
    """
    YY = _check(probs, YY, 0, 99)
    sign = torch.where(torch.arange(100, device=probs.device) > YY[:, None], 1.0, -1.0)
    return (probs * sign.to(probs.dtype)).sum(-1)


def prob_diff_below(probs: Tensor, YY: Tensor) -> Tensor:
    """The less-than counterpart [..., prompt] of `prob_diff`: mass below YY minus mass from YY on.

    An end year equal to YY counts as wrong (section 5). Raises ValueError as `prob_diff` does.
    """
    YY = _check(probs, YY, 0, 99)
    sign = torch.where(torch.arange(100, device=probs.device) < YY[:, None], 1.0, -1.0)
    return (probs * sign.to(probs.dtype)).sum(-1)


def cutoff_sharpness(probs: Tensor, YY: Tensor) -> Tensor:
    """Cutoff sharpness [..., prompt] in [-1, 1]: p(YY + 1) minus p(YY - 1) (section 2).

    Raises ValueError as `prob_diff` does, and for a YY outside 1..98, which lacks a neighbour.
    """
    YY = _check(probs, YY, 1, 98)
    prompt = torch.arange(len(YY), device=probs.device)
    return probs[..., prompt, YY + 1] - probs[..., prompt, YY - 1]


def prob_diff_renormalised(probs: Tensor, YY: Tensor) -> Tensor:
    """`prob_diff` [..., prompt] after the 100 years are scaled to add up to 1.

    Not the paper's, which keeps the full softmax. Raises ValueError as `prob_diff` does.
    """
    return prob_diff(probs / probs.sum(-1, keepdim=True), YY)


def prob_diff_or_equal(probs: Tensor, YY: Tensor) -> Tensor:
    """`prob_diff` [..., prompt] with the end year YY itself counted as right.

    Not the paper's, which counts it as wrong. Raises ValueError as `prob_diff` does.
    """
    return -prob_diff_below(probs, YY)


def logit_diff(probs: Tensor, YY: Tensor) -> Tensor:
    """Logit difference [..., prompt]: the mean year logit above YY less the mean up to YY.

    Taken from probabilities, whose logarithms are logits up to a constant per prompt. Raises
    ValueError as `prob_diff` does, and for YY 99, which has no year above.
    """
    YY = _check(probs, YY, 0, 98)
    above = torch.arange(100, device=probs.device) > YY[:, None]
    logits = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    means = [(logits * side).sum(-1) / side.sum(-1) for side in (above, ~above)]
    return means[0] - means[1]


def prob_diff_of_mean_logits(probs: Tensor, YY: Tensor) -> Tensor:
    """`prob_diff` [..., prompt] of mean logits, averaged over the prompts of equal YY.

    Every prompt gets its YY's value. What lies outside the years is averaged as one more logit,
    which is exact as long as it is next to nothing. Raises ValueError as `prob_diff` does.
    """
    YY = _check(probs, YY, 0, 99)
    rest = (1 - probs.sum(-1, keepdim=True)).clamp_min(1e-9)
    logits = torch.cat([probs.clamp_min(torch.finfo(probs.dtype).tiny), rest], dim=-1).log()
    own, row = YY.unique(return_inverse=True)
    sums = logits.new_zeros(*logits.shape[:-2], len(own), 101).index_add_(-2, row, logits)
    means = sums / torch.bincount(row)[:, None]
    return prob_diff(means.softmax(-1)[..., :100], own)[..., row]


def mean_by_YY(values: Tensor, YY: Tensor) -> Tensor:
    """Average over the prompts of equal YY: values [prompt, ...] -> [97, ...], rows 02 to 98.

    A row without a prompt is NaN. Raises ValueError for a YY outside 2..98.
    """
    if not values.is_floating_point():
        values = values.to(torch.get_default_dtype())
    row = _check_YY(YY, values.shape[0], FIRST_YY, LAST_YY).to(values.device) - FIRST_YY
    rows = LAST_YY - FIRST_YY + 1
    sums = values.new_zeros(rows, *values.shape[1:]).index_add_(0, row, values)
    counts = torch.bincount(row, minlength=rows).to(values.dtype)
    return sums / counts.view(-1, *[1] * (values.ndim - 1))  # 0 / 0 is NaN


def per_YY_probs(
    values: Tensor,
    YY: Tensor,
    order: str = "mean_of_softmax",
    year_tokens: Tensor | None = None,
) -> Tensor:
    """The paper's probability heatmap [97, year], rows YY = 02 to 98 (section 2).

    The paper's code averages in two orders, which differ. "mean_of_softmax": softmax per prompt,
    then the mean probability of equal YY; `values` are year log-probabilities [prompt, year].
    "softmax_of_mean": the mean logits of equal YY, then one softmax over the full vocabulary;
    `values` are END logits [prompt, vocab] and `year_tokens` [year] must be given. With
    `year_tokens`, "mean_of_softmax" takes logits as well. Raises ValueError for anything else.
    """
    if order not in ("mean_of_softmax", "softmax_of_mean"):
        raise ValueError(f"{order!r} is no order; choose 'mean_of_softmax' or 'softmax_of_mean'")
    if values.ndim != 2:
        raise ValueError(f"values have {values.ndim} axes; give [prompt, year] or [prompt, vocab]")
    if year_tokens is None:
        if order == "softmax_of_mean":
            raise ValueError(
                "'softmax_of_mean' needs END logits [prompt, vocab] and year_tokens, "
                "for example per_YY_probs(logits, dataset.YY, order, dataset.year_tokens)"
            )
        # a little above 0 is rounding, more means that logits or probabilities were given
        if values.shape[1] != 100 or bool((values > 1e-4).any()):
            raise ValueError(
                "values are not year log-probabilities [prompt, 100], which are never above 0; "
                "take the log of probabilities, or give logits [prompt, vocab] and year_tokens"
            )
        return mean_by_YY(values.exp(), YY)
    year_tokens = year_tokens.to(values.device)
    if order == "softmax_of_mean":
        return mean_by_YY(values, YY).softmax(-1)[:, year_tokens]
    size = max(1, CHUNK_NUMBERS // values.shape[1])
    probs = [logits.softmax(-1)[:, year_tokens] for logits in values.split(size)]
    return mean_by_YY(torch.cat(probs), YY)


def bootstrap_ci(
    values: Tensor, level: float = 0.95, n_boot: int = 2000, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over prompts and its percentile bootstrap interval: (mean, low, high), each [...].

    `values` [..., prompt]; prompts are resampled with replacement, the same resamples for all rows,
    so rows stay comparable. The same seed gives the same interval. Raises ValueError for no prompt,
    a level outside (0, 1) or n_boot below 1.
    """
    if not isinstance(values, Tensor) or values.ndim < 1 or not values.shape[-1]:
        raise ValueError("values must be a tensor [..., prompt] with 1 prompt or more")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it lies between 0 and 1, for example 0.95")
    if not isinstance(n_boot, int) or n_boot < 1:
        raise ValueError(f"n_boot is {n_boot!r}; it is 1 or more, for example 2000")
    n = values.shape[-1]
    rows = values.detach().to("cpu", torch.float64).reshape(-1, n)
    # Measured from the first prompt, a constant row has no rounding: its interval is its mean.
    first = rows[:, 0]
    deviations = rows - first[:, None]

    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(n_boot, len(rows), dtype=torch.float64)
    size = max(1, CHUNK_NUMBERS // n)
    for start in range(0, n_boot, size):
        part = means[start : start + size]
        drawn = torch.randint(n, (len(part), n), generator=generator)
        counts = torch.zeros(len(part), n, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand_as(drawn))
        part[:] = counts @ deviations.T / n
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    blocks = means.split(max(1, CHUNK_NUMBERS // n_boot), dim=1)
    low, high = first + torch.cat([block.quantile(tails, dim=0) for block in blocks], dim=1)
    mean = first + deviations.mean(-1)
    shape = values.shape[:-1]
    like = values if values.is_floating_point() else rows
    return mean.reshape(shape).to(like), low.reshape(shape).to(like), high.reshape(shape).to(like)


def _check(probs: Tensor, YY: Tensor, lowest: int, highest: int) -> Tensor:
    if probs.ndim < 2 or probs.shape[-1] != 100 or not probs.is_floating_point():
        raise ValueError(
            f"probs have the shape {list(probs.shape)} ({probs.dtype}); they must be floating "
            "point [..., prompt, year] with the 100 years 00 to 99"
        )
    return _check_YY(YY, probs.shape[-2], lowest, highest).to(probs.device)


def _check_YY(YY: Tensor, n: int, lowest: int, highest: int) -> Tensor:
    YY = torch.as_tensor(YY)
    if YY.shape != (n,) or YY.is_floating_point() or YY.dtype == torch.bool:
        raise ValueError(
            f"YY has the shape {list(YY.shape)} ({YY.dtype}); it must be one whole number for each "
            f"of the {n} prompts, for example dataset.YY"
        )
    outside = (YY < lowest) | (YY > highest)
    if outside.any():
        raise ValueError(
            f"YY {int(YY[outside][0])} is outside {lowest}..{highest}, where this is defined; "
            f"choose prompts, for example dataset.take((dataset.YY >= {lowest}) & "
            f"(dataset.YY <= {highest}))"
        )
    return YY.long()
