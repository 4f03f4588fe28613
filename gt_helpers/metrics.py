"""Scores of end-year probabilities (section 2), averages per YY, and what is said of such numbers.

`probs` are always softmax probabilities over the full vocabulary, restricted to the 100 year tokens
and not renormalised. `YY` is always the clean prompt's, also when a corrupted or patched run is
scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FIRST_YY, LAST_YY = 2, 98  # the YYs of valid years: rows of every per-YY table
# Bootstrap resamples go through memory in pieces of about this many numbers.
CHUNK_NUMBERS = 2**22
_RESAMPLES = 2000

Probs = Float[Tensor, "*batch prompt year"]
YYs = Int[Tensor, " prompt"]
Strata = Int[Tensor, " prompt"]  # numbers; prompts of equal number are exchangeable
Metric = Callable[[Tensor, Tensor], Tensor]

# ------------------------------------------------------------------------------------ metrics


def prob_diff(probs: Probs, YY: YYs) -> Float[Tensor, "*batch prompt"]:
    """Probability difference in [-1, 1]: mass above YY minus mass up to YY.

    An end year equal to YY counts as wrong (section 2). Raises ValueError for other shapes than
    probs [..., prompt, year] with 100 years and YY [prompt] in 0..99.
    """
    YY = _check(probs, YY, 0, 99)
    return _right_minus_wrong(probs, _years(probs) > YY[:, None])


def prob_diff_below(probs: Probs, YY: YYs) -> Float[Tensor, "*batch prompt"]:
    """The less-than counterpart of `prob_diff`: mass below YY minus mass from YY on.

    An end year equal to YY counts as wrong (section 5). Raises ValueError as `prob_diff` does.
    """
    YY = _check(probs, YY, 0, 99)
    return _right_minus_wrong(probs, _years(probs) < YY[:, None])


def cutoff_sharpness(probs: Probs, YY: YYs) -> Float[Tensor, "*batch prompt"]:
    """Cutoff sharpness in [-1, 1]: p(YY + 1) minus p(YY - 1) (section 2).

    Raises ValueError as `prob_diff` does, and for a YY outside 1..98, which lacks a neighbour.
    """
    YY = _check(probs, YY, 1, 98)
    prompt = torch.arange(len(YY), device=probs.device)
    return probs[..., prompt, YY + 1] - probs[..., prompt, YY - 1]


def logit_diff(probs: Probs, YY: YYs) -> Float[Tensor, "*batch prompt"]:
    """Logit difference: the mean year logit above YY less the mean up to YY.

    Raises ValueError as `prob_diff` does, and for YY 99, which has no year above.
    """
    YY = _check(probs, YY, 0, 98)
    above = _years(probs) > YY[:, None]
    # up to a constant per prompt, which the difference does not see
    logits = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    means = [(logits * side).sum(-1) / side.sum(-1) for side in (above, ~above)]
    return means[0] - means[1]


# ---------------------------------------------------------------------------------- means per YY


def mean_by_YY(
    values: Float[Tensor, "prompt ..."] | Iterable[Float[Tensor, "some ..."]], YY: YYs
) -> Float[Tensor, "YY ..."]:
    """Average over the prompts of equal YY, rows 02 to 98; a row without a prompt is NaN.

    What is too large to stand in memory at once, such as logits over the vocabulary, may come in
    batches of prompts. Raises ValueError for a YY outside 2..98.
    """
    batches = [values] if isinstance(values, Tensor) else values
    n = len(values) if isinstance(values, Tensor) else len(YY)
    row = _check_YY(YY, n, FIRST_YY, LAST_YY) - FIRST_YY
    counts = torch.bincount(row, minlength=LAST_YY - FIRST_YY + 1)
    sums, done = torch.zeros(()), 0
    for batch in batches:
        if not batch.is_floating_point():
            batch = batch.to(torch.get_default_dtype())
        if not done:
            sums = batch.new_zeros(len(counts), *batch.shape[1:])
        sums.index_add_(0, row[done : done + len(batch)].to(batch.device), batch)
        done += len(batch)
    return sums / counts.to(sums).view(-1, *[1] * (sums.ndim - 1))  # 0 / 0 is NaN


def per_YY_probs(log_probs: Float[Tensor, "prompt year"], YY: YYs) -> Float[Tensor, "YY year"]:
    """The paper's probability heatmap, rows YY = 02 to 98: mean probabilities of equal YY.

    The softmax comes before the mean (section 2). The paper's code also averages the other way
    round, which differs: `mean_by_YY` of the logits [prompt, vocab], then one softmax. Raises
    ValueError for what are no log-probabilities of the 100 years.
    """
    # a little above 0 is rounding, more means that logits or probabilities were given
    if log_probs.ndim != 2 or log_probs.shape[1] != 100 or bool((log_probs > 1e-4).any()):
        raise ValueError(
            "values are not year log-probabilities [prompt, 100], which are never above 0; "
            "take the log of probabilities, e.g. per_YY_probs(probs.log(), dataset.YY)"
        )
    return mean_by_YY(log_probs.exp(), YY)


# ------------------------------------------------------------------------------------ statistics


@dataclass(frozen=True)
class Measurement:
    """One number with its 95 % interval, and what it consists of in words."""

    value: float
    low: float = math.nan
    high: float = math.nan
    detail: str = ""


def average(
    values: Float[Tensor, " prompt"], detail: str = "", strata: Strata | None = None
) -> Measurement:
    """Mean over prompts, with the interval of `bootstrap_ci`."""
    mean, low, high = bootstrap_ci(values, strata=strata)
    return Measurement(float(mean), float(low), float(high), detail)


def share(hits: Bool[Tensor, " prompt"], detail: str = "") -> Measurement:
    """Share of prompts, with Wilson's interval, which stays sound next to 0 and 1."""
    n, p, z = len(hits), float(hits.double().mean()), 1.959964
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    low, high = ((middle + side) / (1 + z * z / n) for side in (-spread, spread))
    return Measurement(p, min(low, p), max(high, p), detail)  # rounding must not cut p off


def linearised(
    numerator: Float[Tensor, " prompt"], denominator: Float[Tensor, " prompt"]
) -> Float[Tensor, " prompt"]:
    """Values whose mean is the ratio of two means, and whose spread is the ratio's."""
    bottom = denominator.mean()
    value = numerator.mean() / bottom
    return value + (numerator - value * denominator) / bottom


def ratio(
    numerator: Float[Tensor, " prompt"],
    denominator: Float[Tensor, " prompt"],
    strata: Strata | None = None,
) -> Measurement:
    """Ratio of two means over the same prompts; the interval is that of its linearisation."""
    if denominator.mean() == 0:
        return Measurement(math.nan)
    return average(linearised(numerator, denominator), strata=strata)


def recovered(
    circuit: Float[Tensor, " prompt"],
    clean: Float[Tensor, " prompt"],
    corrupted: Float[Tensor, " prompt"] | None = None,
    strata: Strata | None = None,
) -> Measurement:
    """How much of the model's score a circuit brings back, with its interval.

    Without ``corrupted`` the paper's circuit / clean; with it what later work calls faithfulness,
    (circuit - corrupted) / (clean - corrupted). NaN where the denominator's interval includes 0:
    there is nothing to recover then.
    """
    if corrupted is not None:
        circuit, clean = circuit - corrupted, clean - corrupted
    return Measurement(math.nan) if includes_0(clean, strata) else ratio(circuit, clean, strata)


def includes_0(values: Float[Tensor, " prompt"], strata: Strata | None = None) -> bool:
    """Whether the interval of the mean includes 0, so that nothing can be divided by it."""
    mean = average(values, strata=strata)
    return mean.low <= 0 <= mean.high


def correlation(a: Float[Tensor, "*batch x"], b: Float[Tensor, "*batch x"]) -> Tensor:
    """Pearson correlation over the last axis, NaN where one side is constant."""
    centred = []
    for x in (a.double(), b.double()):
        rest = x - x.mean(-1, keepdim=True)
        # A constant less its mean is rounding noise (up to 4 eps), which correlates with anything.
        noise = 16 * torch.finfo(x.dtype).eps * x.norm(dim=-1, keepdim=True)
        varies = rest.norm(dim=-1, keepdim=True) > noise
        centred.append(torch.where(varies, rest, torch.nan))
    a, b = centred
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def strata_by_YY(YY: YYs) -> Strata:
    """What balanced prompts are resampled within: their YY, or its decade where a YY is alone."""
    stratum = YY.clone()
    for wider in (100 + YY // 10, torch.full_like(YY, 200)):
        stratum = torch.where(_alone(stratum), wider, stratum)
    return torch.where(_alone(stratum), stratum.roll(1), stratum)


def _alone(labels: Strata) -> Bool[Tensor, " prompt"]:
    return torch.bincount(labels)[labels] == 1


def bootstrap_ci(
    values: Float[Tensor, "*batch prompt"], level: float = 0.95, strata: Strata | None = None
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Mean over prompts and its percentile bootstrap interval: mean, low, high.

    Prompts are resampled with replacement, with ``strata`` each only within its own: balanced
    prompts have their YY by design, so it is no error of the mean (`YearDataset.strata`). All rows
    share the resamples, so they stay comparable, and the seed is fixed. Raises ValueError for no
    prompt, a level outside (0, 1), or another number of strata than of prompts.
    """
    if not isinstance(values, Tensor) or values.ndim < 1 or not values.shape[-1]:
        raise ValueError("values must be a tensor [..., prompt] with 1 prompt or more")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it lies between 0 and 1, for example 0.95")
    n = values.shape[-1]
    strata = _strata(strata, n)
    rows = values.detach().to("cpu", torch.float64).reshape(-1, n)
    # Measured from the first prompt, a constant row has no rounding: its interval is its mean.
    first = rows[:, 0]
    deviations = rows - first[:, None]
    means = _resampled_means(_widened(deviations, strata), strata)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    blocks = means.split(max(1, CHUNK_NUMBERS // _RESAMPLES), dim=1)
    quantiles = torch.cat([block.quantile(tails, dim=0) for block in blocks], dim=1)
    like = values if values.is_floating_point() else rows
    found = (first + deviations.mean(-1), *(first + quantiles))
    mean, low, high = (x.reshape(values.shape[:-1]).to(like) for x in found)
    return mean, low, high


def _widened(rows: Float[Tensor, "row prompt"], strata: Strata) -> Float[Tensor, "row prompt"]:
    """Rows whose resamples in strata of m vary as m new prompts do, not (m - 1) / m of it."""
    _, which, sizes = strata.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(rows), len(sizes), dtype=rows.dtype).index_add_(1, which, rows) / sizes
    factor = (sizes / (sizes - 1).clamp_min(1)).sqrt()[which]
    return means[:, which] + factor * (rows - means[:, which])


def _resampled_means(
    rows: Float[Tensor, "row prompt"], strata: Strata
) -> Float[Tensor, "resample row"]:
    pieces = resamples(rows.shape[1], strata).split(max(1, CHUNK_NUMBERS // rows.shape[1]))
    # A resample's mean is a product with how often it holds each prompt: no copy of the rows.
    return torch.cat([piece.double() @ rows.T for piece in pieces]) / rows.shape[1]


def resamples(n: int, strata: Strata | None = None) -> Int[Tensor, "resample prompt"]:
    """How often each of 2,000 resamples holds each of n prompts, drawn within strata; read-only."""
    return _resamples(_strata(strata, n).numpy().tobytes())


def _strata(strata: Strata | None, n: int) -> Strata:
    """Those of n prompts; by default one stratum holds them all."""
    if strata is None:
        return torch.zeros(n, dtype=torch.int64)
    if strata.shape != (n,):
        raise ValueError(f"strata are {list(strata.shape)}; give one for each of the {n} prompts")
    return strata.cpu().long()


@lru_cache(maxsize=16)  # 20 MB of 10,000 prompts
def _resamples(strata: bytes) -> Int[Tensor, "resample prompt"]:
    order = torch.frombuffer(bytearray(strata), dtype=torch.int64).sort(stable=True)
    _, which, sizes = order.values.unique(return_inverse=True, return_counts=True)
    starts = (sizes.cumsum(0) - sizes)[which]
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(_RESAMPLES, len(which), dtype=torch.uint8)
    one = torch.ones(1, dtype=torch.uint8).expand(len(which))
    for row in counts:
        drawn = torch.rand(len(which), generator=generator, dtype=torch.float64) * sizes[which]
        row.scatter_add_(0, order.indices[starts + drawn.long()], one)
    return counts


def _right_minus_wrong(probs: Probs, right: Bool[Tensor, "prompt year"]) -> Tensor:
    return (probs * torch.where(right, 1.0, -1.0).to(probs.dtype)).sum(-1)


def _years(probs: Tensor) -> Int[Tensor, " year"]:
    return torch.arange(100, device=probs.device)


def _check(probs: Tensor, YY: Tensor, lowest: int, highest: int) -> YYs:
    if probs.ndim < 2 or probs.shape[-1] != 100 or not probs.is_floating_point():
        raise ValueError(
            f"probs are {probs.dtype} {list(probs.shape)}; give probabilities [..., prompt, 100]"
        )
    return _check_YY(YY, probs.shape[-2], lowest, highest).to(probs.device)


def _check_YY(YY: Tensor, n: int, lowest: int, highest: int) -> YYs:
    YY = torch.as_tensor(YY)
    if YY.shape != (n,) or YY.is_floating_point() or YY.dtype == torch.bool:
        raise ValueError(
            f"YY is {YY.dtype} {list(YY.shape)}; give one whole number for each of the {n} prompts,"
            " e.g. dataset.YY"
        )
    outside = (YY < lowest) | (YY > highest)
    if outside.any():
        raise ValueError(
            f"YY {int(YY[outside][0])} is outside {lowest}..{highest}, where this is defined; "
            f"e.g. dataset.take(dataset.YY >= {lowest})"
        )
    return YY.long()
