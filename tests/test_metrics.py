"""The metrics against their definitions, written as loops, and the bootstrap against theory."""

from __future__ import annotations

import pytest
import torch

from gt_helpers.metrics import (
    bootstrap_ci,
    cutoff_sharpness,
    logit_diff,
    mean_by_YY,
    per_YY_probs,
    prob_diff,
    prob_diff_of_mean_logits,
    prob_diff_or_equal,
    prob_diff_renormalised,
)


@pytest.fixture
def probs() -> torch.Tensor:
    """Year probabilities [sender, prompt, year] of a vocabulary of 150."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 97, 150, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)[..., :100]


@pytest.fixture
def YY() -> torch.Tensor:
    return torch.arange(2, 99)


def test_metrics_equal_their_loops(probs: torch.Tensor, YY: torch.Tensor) -> None:
    difference, sharpness = prob_diff(probs, YY), cutoff_sharpness(probs, YY)
    assert difference.shape == sharpness.shape == (3, 97)
    for sender in range(3):
        for prompt in range(97):
            p, y = probs[sender, prompt], int(YY[prompt])
            expected = sum(p[y + 1 :]) - sum(p[: y + 1])
            assert difference[sender, prompt] == pytest.approx(float(expected), abs=1e-12)
            assert sharpness[sender, prompt] == p[y + 1] - p[y - 1]
    assert torch.equal(prob_diff(probs[1], YY), difference[1])
    assert difference.abs().max() <= 1


def test_prob_diff_and_invalid_mass_make_the_year_mass(
    probs: torch.Tensor, YY: torch.Tensor
) -> None:
    invalid = (probs * (torch.arange(100) <= YY[:, None])).sum(-1)
    assert torch.allclose(prob_diff(probs, YY) + 2 * invalid, probs.sum(-1))


def test_uniform_probabilities() -> None:
    YY = torch.arange(1, 99)
    probs = torch.full((98, 100), 0.9 / 100, dtype=torch.float64)
    assert torch.allclose(prob_diff(probs, YY), 0.9 * (98 - 2 * YY.double()) / 100)
    assert (cutoff_sharpness(probs, YY) == 0).all()


def test_prob_diff_limits() -> None:
    certain = torch.eye(100)
    assert (prob_diff(certain, torch.full((100,), 40))[41:] == 1).all()
    assert (prob_diff(certain, torch.full((100,), 40))[:41] == -1).all()
    assert prob_diff(certain[:1], torch.tensor([99])).item() == -1
    assert prob_diff(certain[1:2], torch.tensor([0])).item() == 1


def test_metrics_have_gradients(probs: torch.Tensor, YY: torch.Tensor) -> None:
    probs.requires_grad_()
    (prob_diff(probs, YY).sum() + cutoff_sharpness(probs, YY).sum()).backward()
    assert probs.grad is not None
    assert probs.grad[0, 0, :5].tolist() == [-1, -2, -1, 2, 1]


def test_metric_errors(probs: torch.Tensor, YY: torch.Tensor) -> None:
    for metric in (prob_diff, cutoff_sharpness):
        with pytest.raises(ValueError, match=r"shape \[97, 99\]"):
            metric(probs[0, :, 1:], YY)
        with pytest.raises(ValueError, match="for each of the 97 prompts"):
            metric(probs, YY[1:])
        with pytest.raises(ValueError, match="one whole number"):
            metric(probs, YY.float())
        with pytest.raises(ValueError, match="YY 100 is outside"):
            metric(probs, YY + 98)
    for boundary in (0, 99):
        with pytest.raises(ValueError, match=f"YY {boundary} is outside 1..98"):
            cutoff_sharpness(probs[:, :1], torch.tensor([boundary]))


def test_mean_by_YY() -> None:
    values = torch.tensor([[1.0, 10.0], [3.0, 30.0], [7.0, 70.0]])
    table = mean_by_YY(values, torch.tensor([98, 98, 2]))
    assert table.shape == (97, 2)
    assert table[96].tolist() == [2, 20]
    assert table[0].tolist() == [7, 70]
    assert table[1:96].isnan().all()
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

    log_probs = logits.log_softmax(-1)[:, year_tokens]
    mean_of_softmax = per_YY_probs(log_probs, YY)
    assert mean_of_softmax.shape == (97, 100)
    assert mean_of_softmax[38, 50] == pytest.approx(float(sigmoid.mean()), abs=1e-5)
    same = per_YY_probs(logits, YY, "mean_of_softmax", year_tokens)
    assert torch.allclose(same, mean_of_softmax, equal_nan=True)

    softmax_of_mean = per_YY_probs(logits, YY, "softmax_of_mean", year_tokens)
    assert softmax_of_mean.shape == (97, 100)
    # the mean logits are 3 and 1
    assert softmax_of_mean[38, 50] == pytest.approx(float(torch.sigmoid(torch.tensor(2.0))), 1e-5)
    assert softmax_of_mean[0].isnan().all()


def test_averaging_errors() -> None:
    logits, YY = torch.randn(2, 110), torch.tensor([40, 40])
    with pytest.raises(ValueError, match="'mean' is no order; choose 'mean_of_softmax' or"):
        per_YY_probs(logits, YY, "mean")
    with pytest.raises(ValueError, match="needs END logits .* and year_tokens"):
        per_YY_probs(logits, YY, "softmax_of_mean")
    with pytest.raises(ValueError, match="not year log-probabilities"):
        per_YY_probs(logits, YY)
    with pytest.raises(ValueError, match="not year log-probabilities"):
        per_YY_probs(torch.full((2, 100), 0.01), YY)
    with pytest.raises(ValueError, match="1 axes"):
        per_YY_probs(logits[0], YY)


def test_bootstrap_of_a_normal_sample() -> None:
    values = torch.randn(4, 400, generator=torch.Generator().manual_seed(1))
    mean, low, high = bootstrap_ci(values, n_boot=4000)
    assert mean.shape == low.shape == high.shape == (4,)
    assert mean.dtype == values.dtype
    assert torch.allclose(mean, values.mean(-1), atol=1e-6)
    error = values.std(-1) / 20
    assert torch.allclose(low, mean - 1.96 * error, atol=0.1 * float(error.max()))
    assert torch.allclose(high, mean + 1.96 * error, atol=0.1 * float(error.max()))


def test_bootstrap_covers_the_true_mean() -> None:
    samples = torch.randn(1000, 60, generator=torch.Generator().manual_seed(2)) + 0.3
    _, low, high = bootstrap_ci(samples, level=0.9, n_boot=1000)
    covered = ((low <= 0.3) & (high >= 0.3)).float().mean()
    assert 0.86 < covered < 0.92


def test_bootstrap_equals_its_loop() -> None:
    values = torch.tensor([[0.0, 1.0, 5.0], [2.0, 2.5, 4.0]], dtype=torch.float64)
    drawn = torch.randint(3, (50, 3), generator=torch.Generator().manual_seed(7))
    means = torch.stack([values[:, row].mean(-1) for row in drawn])
    _, low, high = bootstrap_ci(values, level=0.8, n_boot=50, seed=7)
    assert torch.allclose(low, means.quantile(0.1, dim=0))
    assert torch.allclose(high, means.quantile(0.9, dim=0))


def test_bootstrap_is_exact_where_nothing_varies() -> None:
    values = torch.full((2, 3, 7), 0.1)
    values[0] = 0
    mean, low, high = bootstrap_ci(values)
    assert mean.shape == (2, 3)
    assert torch.equal(mean, values[..., 0])
    assert torch.equal(low, mean)
    assert torch.equal(high, mean)
    assert bootstrap_ci(torch.tensor([0.25]))[1].item() == 0.25


def test_bootstrap_does_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(5, 31, generator=torch.Generator().manual_seed(3))
    whole = bootstrap_ci(values, n_boot=200)
    again = bootstrap_ci(values, n_boot=200)
    other = bootstrap_ci(values, n_boot=200, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert not torch.equal(whole[1], other[1])
    monkeypatch.setattr("gt_helpers.metrics.CHUNK_NUMBERS", 100)
    pieces = bootstrap_ci(values, n_boot=200)
    assert all(torch.allclose(a, b) for a, b in zip(whole, pieces, strict=True))


def test_bootstrap_errors() -> None:
    values = torch.zeros(3)
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level is .* between 0 and 1"):
            bootstrap_ci(values, level=level)
    with pytest.raises(ValueError, match="n_boot is 0"):
        bootstrap_ci(values, n_boot=0)
    with pytest.raises(ValueError, match="1 prompt or more"):
        bootstrap_ci(values[:0])


def test_the_other_metrics_by_hand() -> None:
    probs = torch.zeros(2, 100, dtype=torch.float64)
    probs[0, [31, 32, 33, 40]] = torch.tensor([0.1, 0.2, 0.3, 0.3], dtype=torch.float64)
    probs[1] = 0.5 / 100
    YY = torch.tensor([32, 49])
    assert prob_diff(probs, YY).tolist() == pytest.approx([0.3, 0.0])
    assert prob_diff_renormalised(probs, YY).tolist() == pytest.approx([0.3 / 0.9, 0.0])
    assert prob_diff_or_equal(probs, YY).tolist() == pytest.approx([0.7, 0.01])

    logits = torch.randn(3, 2, 100, dtype=torch.float64)
    expected = [
        (logits[..., i, yy + 1 :].mean(-1) - logits[..., i, : yy + 1].mean(-1)).tolist()
        for i, yy in enumerate(YY.tolist())
    ]
    found = logit_diff((logits - 3).exp() / 1e4, YY)
    assert found.T.tolist() == [pytest.approx(column) for column in expected]
    with pytest.raises(ValueError, match="outside 0..98"):
        logit_diff(probs, torch.tensor([32, 99]))


def test_mean_logits_are_the_softmax_of_mean_order() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 120, generator=generator, dtype=torch.float64)
    logits[:, 100:] -= 60  # the years hold next to all of the mass
    YY = torch.tensor([5, 40, 5, 40])
    table = per_YY_probs(logits, YY, "softmax_of_mean", torch.arange(100))
    expected = [float(prob_diff(table[yy - 2][None], torch.tensor([yy]))) for yy in YY.tolist()]
    probs = logits.softmax(-1)[:, :100]
    assert prob_diff_of_mean_logits(probs, YY).tolist() == pytest.approx(expected, abs=1e-7)
    assert prob_diff_of_mean_logits(probs, YY).tolist() != pytest.approx(prob_diff(probs, YY))
    stacked = prob_diff_of_mean_logits(torch.stack([probs, probs.flip(0)]), YY)
    assert stacked[0].tolist() == pytest.approx(expected, abs=1e-7)
