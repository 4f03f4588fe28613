"""Unit: prompts as other published work draws them."""

from __future__ import annotations

import torch

from gt_helpers.dataset.published import acdc_years, century_prompts


def test_acdc_has_604_years(gpt2_tokenizer) -> None:
    years = acdc_years(gpt2_tokenizer)
    assert len(years) == 604 and {1603, 1697} <= set(years)
    assert not {1602, 1698} & set(years)


def test_centuries_are_uniform(tokenizer) -> None:
    dataset = century_prompts(tokenizer, 700, seed=1)
    counts = torch.bincount(dataset.XX)[11:]
    assert len(counts) == 7 and counts.min() > 70 and counts.max() < 130
    assert dataset.changed_positions == ["YY"]
    assert dataset.clean_text[0].startswith("<|endoftext|>The ")
    assert dataset.corrupted_text == [
        text.replace(str(year), f"{year // 100}01", 1)
        for text, year in zip(dataset.clean_text, dataset.years.tolist(), strict=True)
    ]
    assert century_prompts(tokenizer, 5, seed=1).clean_text == dataset.clean_text[:5]
