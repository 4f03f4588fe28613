"""Unit: the preview against the exact engine, and that it says how far off it is."""

from __future__ import annotations

import pytest
import torch
from literal import random_prompts

from gt_helpers.analysis import preview
from gt_helpers.analysis.preview import Preview
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model.components import inputs
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching

ROUTES = [("logits",), ("m11",), ("m8", ["m11"]), (["a7.h5.v", "a0.h2.v"], ["m11"], "YY")]


@pytest.mark.parametrize("base", ["clean", "corrupted"])
@pytest.mark.parametrize("route", ROUTES)
def test_close_to_the_exact_sweep(mini: Transformer, route: tuple, base: str) -> None:
    dataset = YearDataset(mini.tokenizer, 24)
    quick, exact = Preview(mini, dataset, base), PathPatching(mini, dataset, base)
    found, expected = quick.sweep(*route), exact.sweep(*route)
    difference = (found.values - expected.values).abs()
    assert float(difference.max()) < 2e-3
    receivers = inputs(route[0])
    senders = quick.shape.senders("END" if len(route) < 3 else route[2])
    silent = [not any(quick.shape.reaches(one, r) for r in receivers) for one in senders]
    assert bool((found.values[silent] == 0).all())
    assert quick.checked > 0 and 0 < quick.error <= preview.TOLERANCE
    assert quick.exact == 0
    # Not by being exact: the cells in which nothing was left out would agree to rounding.
    assert float(difference.max()) > 1e-8


def test_the_error_is_the_largest_of_the_checked_cells(mini: Transformer, monkeypatch) -> None:
    monkeypatch.setattr(preview, "_SAMPLE", 500)  # so that all of 24 prompts x 12 heads are
    dataset = YearDataset(mini.tokenizer, 97)
    quick, exact = Preview(mini, dataset), PathPatching(mini, dataset)
    found, expected = (one.sweep_log_probs("m11") for one in (quick, exact))
    assert quick.error <= float((found - expected).abs().max()) + 1e-6
    assert quick.error > 0.2 * float((found - expected).abs().max())


def test_falls_back_to_exact_where_the_error_is_not_small(random_model, monkeypatch) -> None:
    # In a random model the rest of the vocabulary holds much of the probability.
    prompts = random_prompts(40)
    exact = PathPatching(random_model, prompts).sweep("logits").values
    quick = Preview(random_model, prompts)
    torch.testing.assert_close(quick.sweep("logits").values, exact)
    assert quick.exact == 13 * 40 and quick.error == 0
    monkeypatch.setattr(preview, "TOLERANCE", 1e9)
    loose = Preview(random_model, prompts)
    found = loose.sweep("logits").values
    assert loose.exact == 0 and loose.error > 1e-3
    assert float((found - exact).abs().max()) > 1e-3


def test_the_first_order_is_the_derivative(mini64: Transformer) -> None:
    """The rest's log-sum-exp along a line: the error shrinks with the square of the step."""
    years = YearDataset(mini64.tokenizer, 4).year_tokens
    generator = torch.Generator().manual_seed(0)
    base, step = torch.randn(2, 4, mini64.d_model, generator=generator, dtype=torch.float64)
    size, direction = preview._rest(mini64, base, years)

    def error(t: float) -> float:
        truth = preview._rest(mini64, base + t * step, years)[0]
        return float((truth - size - t * (step * direction).sum(-1)).abs().max())

    assert error(0) < 1e-12 and 0.2 < error(0.02) / error(0.01) / 4 < 5
    assert error(0.001) / error(0.01) == pytest.approx(0.01, rel=0.3)


def test_few_cells_are_computed_exactly(mini: Transformer) -> None:
    dataset = YearDataset(mini.tokenizer, 5)
    quick, exact = Preview(mini, dataset), PathPatching(mini, dataset)
    assert torch.equal(quick.sweep("m0").values, exact.sweep("m0").values)
    assert torch.equal(quick.base_log_probs, exact.base_log_probs)
    assert quick.checked == 0
