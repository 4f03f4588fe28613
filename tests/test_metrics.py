"""Unit: metrics against their definitions, written as loops, and the bootstrap against theory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gt_helpers.metrics import (
    bootstrap_ci,
    correlation,
    cutoff_sharpness,
    logit_diff,
    mean_by_YY,
    per_YY_probs,
    prob_diff,
    prob_diff_below,
    ratio,
    recovered,
    resamples,
    share,
    strata_by_YY,
)

DOUBLE = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.fixture
def probs() -> Tensor:
    """Year probabilities [sender, prompt, year] of a vocabulary of 150."""
    return (3 * random(3, 97, 150)).softmax(-1)[..., :100]


@pytest.fixture
def YY() -> Tensor:
    return torch.arange(2, 99)


def test_metrics_equal_their_loops(probs: Tensor, YY: Tensor) -> None:
    difference, sharpness, below = (
        metric(probs, YY) for metric in (prob_diff, cutoff_sharpness, prob_diff_below)
    )
    assert difference.shape == sharpness.shape == below.shape == (3, 97)
    for sender in range(3):
        for prompt in range(97):
            p, y = probs[sender, prompt], int(YY[prompt])
            expected = sum(p[y + 1 :]) - sum(p[: y + 1])
            assert difference[sender, prompt] == pytest.approx(float(expected), abs=1e-12)
            assert sharpness[sender, prompt] == p[y + 1] - p[y - 1]
            expected = sum(p[:y]) - sum(p[y:])
            assert below[sender, prompt] == pytest.approx(float(expected), abs=1e-12)
    assert torch.equal(prob_diff(probs[1], YY), difference[1])
    assert difference.abs().max() <= 1
    certain = torch.eye(100)  # at the ends there are years on one side only
    for boundary in (0, 40, 99):
        found = prob_diff(certain, torch.full((100,), boundary)).tolist()
        assert found == [-1] * (boundary + 1) + [1] * (99 - boundary)


def test_metrics_have_gradients(probs: Tensor, YY: Tensor) -> None:
    probs.requires_grad_()
    (prob_diff(probs, YY).sum() + cutoff_sharpness(probs, YY).sum()).backward()
    assert probs.grad is not None
    assert probs.grad[0, 0, :5].tolist() == [-1, -2, -1, 2, 1]


@pytest.mark.parametrize("metric", [prob_diff, prob_diff_below, cutoff_sharpness])
def test_metric_errors(metric, probs: Tensor, YY: Tensor) -> None:
    for boundary in (0, 99):
        with pytest.raises(ValueError, match=f"YY {boundary} is outside 1..98"):
            cutoff_sharpness(probs[:, :1], torch.tensor([boundary]))  # lacks a neighbour
    for wrong, YYs, message in (
        (probs[0, :, 1:], YY, r"\[97, 99\]"),
        (probs, YY[1:], "each of the 97 prompts"),
        (probs, YY.float(), "one whole number"),
        (probs, YY + 98, "YY 100 is outside"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(wrong, YYs)


def test_logit_diff() -> None:
    logits, YY = random(3, 2, 100), torch.tensor([32, 49])
    expected = [
        (logits[..., i, yy + 1 :].mean(-1) - logits[..., i, : yy + 1].mean(-1)).tolist()
        for i, yy in enumerate(YY.tolist())
    ]
    found = logit_diff((logits - 3).exp() / 1e4, YY)
    assert found.T.tolist() == [pytest.approx(column) for column in expected]
    with pytest.raises(ValueError, match="outside 0..98"):
        logit_diff(logits.exp(), torch.tensor([32, 99]))


# ---------------------------------------------------------------------------------- means per YY


def test_mean_by_YY() -> None:
    values = torch.tensor([[1.0, 10.0], [3.0, 30.0], [7.0, 70.0]])
    YY = torch.tensor([98, 98, 2])
    table = mean_by_YY(values, YY)
    assert table.shape == (97, 2)
    assert table[96].tolist() == [2, 20]
    assert table[0].tolist() == [7, 70]
    assert table[1:96].isnan().all()
    assert torch.equal(mean_by_YY(iter(values.split(2)), YY)[[0, 96]], table[[0, 96]])
    assert mean_by_YY(torch.tensor([1, 2]), torch.tensor([5, 5]))[3] == 1.5
    with pytest.raises(ValueError, match="YY 1 is outside 2..98"):
        mean_by_YY(values, torch.tensor([1, 2, 3]))


def test_both_orders_of_averaging() -> None:
    # Two prompts of YY 40: one sure of year 50, the other of year 60, by 6 and by 2 logits.
    year_tokens = torch.arange(3, 103)
    logits = torch.full((2, 110), -20.0)
    logits[0, year_tokens[50]], logits[0, year_tokens[60]] = 6.0, 0.0
    logits[1, year_tokens[50]], logits[1, year_tokens[60]] = 0.0, 2.0
    YY = torch.tensor([40, 40])
    sigmoid = torch.sigmoid(torch.tensor([6.0, -2.0]))
    mean_of_softmax = per_YY_probs(logits.log_softmax(-1)[:, year_tokens], YY)
    assert mean_of_softmax.shape == (97, 100)
    assert mean_of_softmax[38, 50] == pytest.approx(float(sigmoid.mean()), abs=1e-5)
    softmax_of_mean = mean_by_YY(logits, YY).softmax(-1)[:, year_tokens]
    # the mean logits are 3 and 1
    assert softmax_of_mean[38, 50] == pytest.approx(float(torch.sigmoid(torch.tensor(2.0))), 1e-5)


@pytest.mark.parametrize(
    "wrong", [torch.randn(2, 110), torch.full((2, 100), 0.01), torch.full((100,), -1.0)]
)
def test_a_heatmap_takes_log_probabilities_of_the_years(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"year log-probabilities.*e\.g\."):
        per_YY_probs(wrong, torch.tensor([40, 40]))


# ------------------------------------------------------------------------------------ statistics


def test_recovered_and_ratio() -> None:
    clean, corrupted = 1 + 0.1 * random(200), -0.5 + 0.1 * random(200, seed=1)
    circuit = corrupted + 0.8 * (clean - corrupted)
    share = float(circuit.mean() / clean.mean())
    assert recovered(circuit, clean).value == pytest.approx(share)
    faithfulness = recovered(circuit, clean, corrupted)
    assert faithfulness.value == pytest.approx(0.8)
    assert (faithfulness.low, faithfulness.high) == pytest.approx((0.8, 0.8))
    found = ratio(circuit, clean)
    assert found.low < found.value < found.high and found.value == pytest.approx(share)
    assert math.isnan(recovered(circuit, random(200, seed=2)).value)  # its interval includes 0
    assert math.isnan(ratio(circuit, torch.zeros(200)).value)


def test_correlation() -> None:
    a, b = random(3, 50), random(3, 50, seed=1)
    expected = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(a, b, strict=True)]
    assert correlation(a, b).tolist() == pytest.approx(expected)
    for constant, n in ((1.0, 50), (0.1, 50), (0.1, 7), (7.7, 10)):  # the mean is a little off
        repeated = torch.full((n,), constant, dtype=DOUBLE)
        assert correlation(a[:, :n], repeated).isnan().all()
    assert correlation(a, 1e6 + a).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("balanced", [False, True])
def test_bootstrap_covers_the_true_mean(balanced: bool) -> None:
    group = torch.arange(60) % 12
    values = random(1000, 60, seed=2) + 0.3 + (group - 5.5) * (1 if balanced else 0)
    _, low, high = bootstrap_ci(values, 0.9, group if balanced else None)
    covered = ((low <= 0.3) & (high >= 0.3)).float().mean()
    assert 0.87 < covered < 0.93


def test_strata_leave_out_what_the_design_fixes() -> None:
    YY = torch.arange(97).repeat(5) + 2
    values = YY.double() + random(485, seed=4)
    ends = bootstrap_ci(values, strata=strata_by_YY(YY))[1:]
    # the standard error of a mean over strata of five, and of one over prompts
    within = values.view(5, 97).var(0).mean().sqrt() / math.sqrt(485)
    assert float(ends[1] - ends[0]) / 3.92 == pytest.approx(float(within), rel=0.05)
    plain = bootstrap_ci(values)[1:]
    assert float(plain[1] - plain[0]) > 20 * float(ends[1] - ends[0])


def test_resamples_draw_each_stratum_anew() -> None:
    strata = torch.tensor([3, 1, 3, 3, 1, 7])
    counts = resamples(6, strata).long()
    for number, size in ((3, 3), (1, 2), (7, 1)):
        assert (counts[:, strata == number].sum(1) == size).all()
    twice = (counts[:, 1] == 2).double().mean()  # one of two, drawn twice: a quarter
    assert float(twice) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    ("YY", "expected"),
    [
        ([2, 2, 40, 40], [2, 2, 40, 40]),
        ([2, 3, 4, 15, 16], [100, 100, 100, 101, 101]),  # decades
        ([2, 2, 3, 4, 15, 26], [2, 2, 100, 100, 200, 200]),  # and the rest together
        ([2, 2, 15], [2, 2, 2]),
        ([15], [200]),
    ],
)
def test_no_prompt_is_alone_in_its_stratum(YY: list[int], expected: list[int]) -> None:
    assert strata_by_YY(torch.tensor(YY)).tolist() == expected


@pytest.mark.parametrize(("hits", "n"), [(0, 40), (39, 40), (40, 40), (30, 40)])
def test_the_interval_of_a_share_is_wilsons(hits: int, n: int) -> None:
    found = share(torch.arange(n) < hits)
    assert found.value == hits / n and found.low <= found.value <= found.high
    for end in (found.low, found.high):  # the shares of which the sample is 1.96 errors away
        if abs(end - found.value) > 1e-9:
            error = math.sqrt(end * (1 - end) / n)
            assert abs(hits / n - end) / error == pytest.approx(1.96, abs=1e-3)


def test_bootstrap_is_exact_where_nothing_varies() -> None:
    values = torch.full((2, 3, 7), 0.1)
    values[0] = 0
    for found in bootstrap_ci(values):
        assert torch.equal(found, values[..., 0])  # in shape and precision, too
    assert bootstrap_ci(torch.tensor([0.25]))[1].item() == 0.25


def test_bootstrap_repeats_and_does_not_depend_on_the_pieces(monkeypatch) -> None:
    values = random(5, 31, seed=3)
    whole = torch.stack(bootstrap_ci(values))
    assert torch.equal(torch.stack(bootstrap_ci(values)), whole)
    monkeypatch.setattr("gt_helpers.metrics.CHUNK_NUMBERS", 100)
    torch.testing.assert_close(torch.stack(bootstrap_ci(values)), whole)


def test_bootstrap_errors() -> None:
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match=f"level is {level}.*0.95"):
            bootstrap_ci(torch.zeros(3), level=level)
    with pytest.raises(ValueError, match="1 prompt or more"):
        bootstrap_ci(torch.zeros(0))
    with pytest.raises(ValueError, match="one for each of the 3 prompts"):
        bootstrap_ci(torch.zeros(3), strata=torch.zeros(2))
