"""Unit: another dataset beside ours: no difference where there is none, planted ones found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from gt_helpers.dataset.prompts import PAPER_POSITIONS, valid_years
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.differences.compare_prompts import compare_tokens, compare_years, paper_prompts

PAPER_CODE = (1000, 1900)


@pytest.fixture(scope="module")
def dataset(tokenizer: Tokenizer) -> YearDataset:
    return YearDataset(tokenizer, 120, years=PAPER_CODE)


def test_the_same_years_have_no_difference(tokenizer: Tokenizer) -> None:
    ours = valid_years(tokenizer, *PAPER_CODE)
    for theirs in (ours, reversed(ours), torch.tensor(ours), np.array(ours)):
        assert compare_years(theirs, tokenizer, *PAPER_CODE).empty


def test_years_in_one_list_only(tokenizer: Tokenizer) -> None:
    theirs = [*valid_years(tokenizer)[1:], 1800, 1502]
    found = compare_years(theirs, tokenizer)
    assert found.to_dict("list") == {
        "year": [1110, 1502, 1800],
        "only_in": ["ours", "theirs", "theirs"],
        "tokens": ["' 11' + '10'", "' 150' + '2'", "' 1800'"],
    }
    for wrong in ([1702.5], ["1702"], [[1702, 1703]]):
        with pytest.raises(ValueError, match="is no year; give whole numbers"):
            compare_years(wrong, tokenizer)  # type: ignore[arg-type]


def test_paper_prompts_are_the_datasets(tokenizer: Tokenizer, dataset: YearDataset) -> None:
    ours = paper_prompts(dataset.nouns, dataset.years, tokenizer)
    assert ours.clean_text == dataset.clean_text
    assert torch.equal(ours.clean, dataset.clean)
    assert torch.equal(ours.corrupted, dataset.corrupted)
    assert ours.corruption is dataset.corruption
    with pytest.raises(ValueError, match="1 years and 2 nouns do not match"):
        paper_prompts(["war", "plague"], [1732], tokenizer)


def test_compare_tokens_finds_what_was_planted(tokenizer: Tokenizer, dataset: YearDataset) -> None:
    clean, corrupted = dataset.clean.clone(), dataset.corrupted.clone()
    same = compare_tokens(clean, corrupted, dataset, tokenizer)
    assert same["position"].tolist() == list(PAPER_POSITIONS)
    assert not same[["clean", "corrupted"]].any(axis=None) and set(same["example"]) == {""}

    clean[[3, 5], dataset.position("YY")] = dataset.year_tokens[0]
    corrupted[7, dataset.position("YY")] = dataset.year_tokens[0]
    corrupted[8, dataset.position("END")] = dataset.year_tokens[0]
    found = compare_tokens(clean, corrupted, dataset, tokenizer).set_index("position")
    assert found.loc["YY", ["clean", "corrupted"]].tolist() == [2, 1]
    assert found.loc["END", ["clean", "corrupted"]].tolist() == [0, 1]
    assert found.loc["YY", "example"] == f"prompt 3, clean: theirs '00', ours '{dataset.YY[3]:02d}'"
    assert found.loc["END", "example"] == (
        f"prompt 8, corrupted: theirs '00', ours ' {dataset.XX[8]}'"
    )
    assert not found.drop(["YY", "END"])[["clean", "corrupted"]].any(axis=None)


def test_compare_tokens_refuses_other_shapes(tokenizer: Tokenizer, dataset: YearDataset) -> None:
    for wrong in (dataset.clean[1:], dataset.clean[:, 1:]):
        with pytest.raises(ValueError, match=r"clean tokens have the shape .*<\|endoftext\|>"):
            compare_tokens(wrong, dataset.corrupted, dataset, tokenizer)
    with pytest.raises(ValueError, match="their corrupted tokens have the shape"):
        compare_tokens(dataset.clean, dataset.clean[1:], dataset, tokenizer)
