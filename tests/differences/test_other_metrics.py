"""Unit: the metrics that are not the paper's, by hand and as the softmax of mean logits."""

from __future__ import annotations

import pytest
import torch

from gt_helpers.differences.other_metrics import (
    prob_diff_of_mean_logits,
    prob_diff_or_equal,
    prob_diff_renormalised,
)
from gt_helpers.metrics import mean_by_YY, prob_diff

DOUBLE = torch.float64


def test_the_other_metrics_by_hand() -> None:
    probs = torch.zeros(2, 100, dtype=DOUBLE)
    probs[0, [31, 32, 33, 40]] = torch.tensor([0.1, 0.2, 0.3, 0.3], dtype=DOUBLE)
    probs[1] = 0.5 / 100
    YY = torch.tensor([32, 49])
    assert prob_diff(probs, YY).tolist() == pytest.approx([0.3, 0.0])
    assert prob_diff_renormalised(probs, YY).tolist() == pytest.approx([0.3 / 0.9, 0.0])
    assert prob_diff_or_equal(probs, YY).tolist() == pytest.approx([0.7, 0.01])


def test_mean_logits_are_the_softmax_of_mean_order() -> None:
    logits = 2 * torch.randn(4, 120, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    logits[:, 100:] -= 60  # the years hold next to all of the mass
    YY = torch.tensor([5, 40, 5, 40])
    table = mean_by_YY(logits, YY).softmax(-1)[:, :100]
    expected = [float(prob_diff(table[yy - 2][None], torch.tensor([yy]))) for yy in YY.tolist()]
    probs = logits.softmax(-1)[:, :100]
    found = prob_diff_of_mean_logits(torch.stack([probs, probs.flip(0)]), YY)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-7)
    assert found[0].tolist() != pytest.approx(prob_diff(probs, YY).tolist())
