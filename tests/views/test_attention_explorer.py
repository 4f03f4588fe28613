"""Unit: the attention explorer: every control draws, and the table says what the figure shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from gt_helpers.analysis.attention import attention_pattern
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model.cache import ActivationCache, cache_activations
from gt_helpers.model.load import load_model
from gt_helpers.views import widgets


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> YearDataset:
    return YearDataset(tokenizer, 30)  # YY 02 to 31


@pytest.fixture(scope="module")
def run(dataset: YearDataset) -> ActivationCache:
    return cache_activations(load_model("mini", "cpu"), dataset.clean)


def test_circuit_heads_come_first_and_all_heads_can_be_chosen(
    run: ActivationCache, dataset: YearDataset
) -> None:
    explorer = widgets.attention_explorer(run, dataset, ["a9.h1", "a7.h10"])
    options = explorer.controls["head"].options
    assert options[:2] == (("a9.h1 (circuit)", "a9.h1"), ("a7.h10 (circuit)", "a7.h10"))
    assert len({name for _, name in options}) == len(options) == 144
    years = explorer.controls["YY"].options
    assert years == ("all", "00 to 09", "10 to 19", "20 to 29", "30 to 39")


def test_explorer_draws_the_mean_over_the_chosen_years(
    run: ActivationCache, dataset: YearDataset
) -> None:
    draw = widgets.attention_explorer(run, dataset).draw
    chosen = torch.arange(10, 20) - 2  # the prompts with YY 10 to 19
    plain = draw(head="a5.h9", shown="attention", YY="10 to 19")
    expected = attention_pattern(run, "a5.h9")[chosen].mean(0)
    cells = np.array(plain.figure.data[0].z)[-1]
    np.testing.assert_allclose(cells, expected[-1].numpy(), rtol=1e-5)
    assert "mean over 10 prompts" in plain.figure.layout.title.text
    top = list(dataset.positions)[int(expected[-1].argmax())]
    assert plain.text.index(top) < plain.text.index(f"{float(expected[-1].max()):.3f}")

    weighted = draw(head="a5.h9", shown="attention × norm moved", YY="all").figure.data[0]
    expected = attention_pattern(run, "a5.h9", value_weighted=True).mean(0)
    assert weighted.zmax == pytest.approx(float(expected.max()), rel=1e-5)


def test_explorer_redraws_when_a_control_changes(
    run: ActivationCache, dataset: YearDataset
) -> None:
    explorer = widgets.attention_explorer(run, dataset)
    before = explorer.text.value
    explorer.controls["head"].value = "a11.h4"
    assert explorer.text.value != before
    assert 'data-state="done"' in explorer.state.value
