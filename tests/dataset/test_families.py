"""Unit: the ten prompt families: tokens, what is changed, masks."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from gt_helpers.dataset import families
from gt_helpers.dataset.families import FAMILIES, ITEMS, PromptFamily, arithmetic_step
from gt_helpers.dataset.prompts import tokenize

HAPPENED = "The {} happened in 17{}. Some years later, it is now the year 17"
# The paper's options in order: tokens, prompts, right end years, the clean text after eos.
OPTIONS = {
    "started": (15, 97, "> YY", "The {} started in the year 17{} and ended in the year 17"),
    "happened": (18, 97, "> YY", HAPPENED),
    "sequence": (17, 97, "> YY", "1599, 1607, 1633, 1679, 17{1}, 17"),
    "descending": (17, 97, "< YY", "1799, 1753, 1733, 1701, 16{1}, 16"),
    "arithmetic": (17, 97, "> YY", ""),
    "smaller": (7, 97, "> YY", "17{1} is smaller than 17"),
    "ended": (15, 97, "< YY", "The {} ended in the year 17{} and started in the year 17"),
    "BC": (14, 87, "< YY", "The {} lasted from the year 7{} BC to the year 7"),
    "price": (14, 97, "> YY", "The price of that {} ranges from $ 17{} to $ 17"),
    "random": (16, 97, "> YY", ""),
}
ONE_TOKEN_BC = {2, 20, 37, 47, 50, 60, 68, 70, 77, 80}
EOS = "<|endoftext|> "


@pytest.mark.parametrize("name", OPTIONS)
def test_length_mask_text_and_the_one_change(name: str, gpt2_tokenizer: Tokenizer) -> None:
    length, prompts, asks, text = OPTIONS[name]
    family = FAMILIES[name]
    dataset = family.dataset(gpt2_tokenizer)
    assert (dataset.clean.shape, family.asks) == ((prompts, length), asks)
    assert dataset.YY.unique().tolist() == dataset.YY.tolist()  # one of every YY
    YYs = set(range(2, 99)) - (ONE_TOKEN_BC if name == "BC" else set())
    assert set(dataset.YY.tolist()) == YYs
    if text:
        nouns, YYs = dataset.nouns, dataset.YY.tolist()
        expected = [EOS + text.format(n, f"{YY:02d}") for n, YY in zip(nouns, YYs, strict=True)]
        assert dataset.clean_text == expected
    if name != "arithmetic":
        assert dataset.changed_positions == ["YY"]
        wrong = "99" if asks == "< YY" else "01"
        column = dataset.corrupted[:, dataset.position("YY")]
        assert {gpt2_tokenizer.decode([token]) for token in column.tolist()} == {wrong}


def test_the_families_are_in_the_papers_order(gpt2_tokenizer: Tokenizer) -> None:
    assert list(FAMILIES) == list(OPTIONS)
    assert len(set(ITEMS)) == 20
    assert {len(ids) for ids in tokenize(gpt2_tokenizer, [f" {item}" for item in ITEMS])} == {1}


@pytest.mark.parametrize("name", OPTIONS)
def test_mini_splits_every_family_as_gpt2_does(name: str, tokenizer, gpt2_tokenizer) -> None:
    n = 970 if "{noun}" in FAMILIES[name].template else None
    ours, theirs = (FAMILIES[name].dataset(one, n, seed=3) for one in (tokenizer, gpt2_tokenizer))
    assert ours.clean_text == theirs.clean_text
    assert len(set(ours.nouns)) in (1, 20, 120)  # none or all that there are
    assert ours.positions == theirs.positions
    assert ours.changed_positions == theirs.changed_positions
    tokens = tokenizer.convert_ids_to_tokens, gpt2_tokenizer.convert_ids_to_tokens
    for side in ("clean", "corrupted"):
        for ids in zip(getattr(ours, side).tolist(), getattr(theirs, side).tolist(), strict=True):
            assert tokens[0](ids[0]) == tokens[1](ids[1])


def test_years_BC_of_one_token_are_left_out_with_their_labels(gpt2_tokenizer: Tokenizer) -> None:
    ids = tokenize(gpt2_tokenizer, [f" {700 + YY}" for YY in range(2, 99)])
    assert {YY for YY, tokens in enumerate(ids, 2) if len(tokens) == 1} == ONE_TOKEN_BC
    dataset = FAMILIES["BC"].dataset(gpt2_tokenizer, 200)
    for text, YY in zip(dataset.clean_text, dataset.YY.tolist(), strict=True):
        assert f" 7{YY:02d} BC" in text  # the YY that scores a prompt is the YY in it


def test_arithmetic_sequences(gpt2_tokenizer: Tokenizer) -> None:
    dataset = FAMILIES["arithmetic"].dataset(gpt2_tokenizer)
    steps = [arithmetic_step(YY) for YY in dataset.YY.tolist()]
    assert {i: steps.count(i) for i in sorted(set(steps))} == {2: 48, 3: 33, 4: 8, 5: 7, 7: 1}
    for text, by, year in zip(dataset.clean_text, steps, dataset.years.tolist(), strict=True):
        *years, end = (int(word) for word in text.removeprefix(EOS).split(", "))
        assert years == list(range(year - 4 * by, year + 1, by)) and end == 17
    assert set(dataset.corrupted_text) == {f"{EOS}1693, 1695, 1697, 1699, 1701, 17"}
    changed = (dataset.clean != dataset.corrupted).sum(1)
    assert (int(changed.min()), int(changed.max()), int(changed.mode().values)) == (4, 9, 9)


def test_random_sequences_have_no_eos_and_one_century(gpt2_tokenizer: Tokenizer) -> None:
    dataset = FAMILIES["random"].dataset(gpt2_tokenizer, 400)
    assert dataset.clean_text[0][0].isdigit()
    centuries = {tuple(int(y) // 100 for y in t.split(", ")[:5]) for t in dataset.clean_text}
    assert {len(set(c)) for c in centuries} == {1}
    assert {c[0] for c in centuries} == set(range(11, 18))
    # Without a space in front, a year may be one token: none of ours is, 1027 of others' is.
    first = [text[:4] for text in dataset.clean_text]
    assert {len(ids) for ids in tokenize(gpt2_tokenizer, first)} == {2}
    assert len(tokenize(gpt2_tokenizer, ["1027"])[0]) == 1


def test_positions_have_names_that_mean_the_same_in_every_prompt(tokenizer: Tokenizer) -> None:
    dataset = FAMILIES["random"].dataset(tokenizer, 20)
    assert list(dataset.positions)[-4:] == ["XX1", "YY", "comma_5", "END"]
    assert {tokenizer.decode([t]) for t in dataset.clean[:, 2].tolist()} == {","}
    price = FAMILIES["price"].dataset(tokenizer)
    nouns = [tokenizer.decode([t]).strip() for t in price.clean[:, price.position("NOUN")].tolist()]
    assert nouns == price.nouns


def test_seeds_and_sizes(tokenizer: Tokenizer) -> None:
    family = FAMILIES["started"]
    one, again, other = (family.dataset(tokenizer, 300, seed) for seed in (0, 0, 1))
    assert one.clean_text == again.clean_text != other.clean_text
    assert len(family.dataset(tokenizer, 5)) == 5
    assert torch.bincount(one.YY)[2:].tolist() == [4] * 9 + [3] * 88  # 300 = 3 * 97 + 9
    with pytest.raises(ValueError, match="has 97 different prompts, fewer than n=98"):
        FAMILIES["smaller"].dataset(tokenizer, 98)
    with pytest.raises(ValueError, match="n is 0.*e.g. 490"):
        family.dataset(tokenizer, 0)


def test_templates_that_do_not_fit_or_split_unevenly_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="unknown field {earlier}"):
        PromptFamily("mine", "{earlier}, {XX}{YY}, {XX}")
    family = PromptFamily("mine", "{XX}{YY} and {XX}", nouns=("war",), years=(1000, 1100))
    with pytest.raises(ValueError, match="all prompts must split alike|one token"):
        family.dataset(tokenizer)  # without a space, 1027 is one token


def test_random_numbers_do_not_depend_on_the_python_version() -> None:
    drawn = families._random_years(1732, range(1702, 1799), random.Random("random 0"))
    assert drawn == [1774, 1704, 1769, 1746]
