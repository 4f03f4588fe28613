"""Unit: the preview against the exact engine, and that it says how far off it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from literal import random_prompts, save_random_gpt2

from gt_helpers.analysis import preview
from gt_helpers.analysis.preview import Preview
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model.components import inputs
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching

ROUTES = [("logits",), ("m11",), ("m8", ["m11"]), (["a7.h5.v", "a0.h2.v"], ["m11"], "YY")]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model("mini", "cpu")


@pytest.mark.parametrize("base", ["clean", "corrupted"])
@pytest.mark.parametrize("route", ROUTES)
def test_close_to_the_exact_sweep(model: Transformer, route: tuple, base: str) -> None:
    dataset = YearDataset(model.tokenizer, 24)
    quick, exact = Preview(model, dataset, base), PathPatching(model, dataset, base)
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


def test_the_error_is_the_largest_of_the_checked_cells(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "_SAMPLE", 500)  # so that all of 24 prompts x 12 heads are
    dataset = YearDataset(model.tokenizer, 97)
    quick, exact = Preview(model, dataset), PathPatching(model, dataset)
    found, expected = (one.sweep_log_probs("m11") for one in (quick, exact))
    assert quick.error <= float((found - expected).abs().max()) + 1e-6
    assert quick.error > 0.2 * float((found - expected).abs().max())


def test_falls_back_to_exact_where_the_error_is_not_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a random model the rest of the vocabulary holds much of the probability.
    model = load_model(save_random_gpt2(tmp_path), "cpu", torch.float64)
    prompts = random_prompts(40)
    exact = PathPatching(model, prompts).sweep("logits").values
    quick = Preview(model, prompts)
    torch.testing.assert_close(quick.sweep("logits").values, exact)
    assert quick.exact == 13 * 40 and quick.error == 0
    monkeypatch.setattr(preview, "TOLERANCE", 1e9)
    loose = Preview(model, prompts)
    found = loose.sweep("logits").values
    assert loose.exact == 0 and loose.error > 1e-3
    assert float((found - exact).abs().max()) > 1e-3


def test_the_first_order_is_the_derivative(model: Transformer) -> None:
    """The rest's log-sum-exp along a line: the error shrinks with the square of the step."""
    years = YearDataset(model.tokenizer, 4).year_tokens
    generator = torch.Generator().manual_seed(0)
    model = load_model("mini", "cpu", torch.float64)
    base = torch.randn(4, model.d_model, generator=generator, dtype=torch.float64)
    step = torch.randn(4, model.d_model, generator=generator, dtype=torch.float64)
    size, direction = preview._rest(model, base, years)

    def error(t: float) -> float:
        truth = preview._rest(model, base + t * step, years)[0]
        return float((truth - size - t * (step * direction).sum(-1)).abs().max())

    assert error(0) < 1e-12 and 0.2 < error(0.02) / error(0.01) / 4 < 5
    assert error(0.001) / error(0.01) == pytest.approx(0.01, rel=0.3)


def test_few_cells_are_computed_exactly(model: Transformer) -> None:
    dataset = YearDataset(model.tokenizer, 5)
    quick, exact = Preview(model, dataset), PathPatching(model, dataset)
    assert torch.equal(quick.sweep("m0").values, exact.sweep("m0").values)
    assert torch.equal(quick.base_log_probs, exact.base_log_probs)
    assert quick.checked == 0
