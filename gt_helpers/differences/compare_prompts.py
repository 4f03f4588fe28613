"""Somebody else's prompts beside ours: which years and which tokens differ."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import pandas as pd
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..dataset.corruptions import CORRUPTIONS
from ..dataset.prompts import (
    PAPER_TEMPLATE,
    Prompt,
    fill,
    token_text,
    token_texts,
    tokenize,
    valid_years,
)
from ..dataset.year_dataset import YearDataset


def compare_years(
    theirs: Iterable[int], tokenizer: PreTrainedTokenizerBase, start: int = 1100, end: int = 1800
) -> pd.DataFrame:
    """Years that are only in ``theirs``, or only in our `valid_years` of [start, end).

    One row per year: year, only_in ("theirs" or "ours"), and the tokens it splits into. No row
    means no difference. Raises ValueError for a year that is no whole number.
    """
    ours, found = set(valid_years(tokenizer, start, end)), list(theirs)
    if wrong := [year for year in found if not hasattr(year, "__index__")]:
        raise ValueError(f"{wrong[0]!r} is no year; give whole numbers, e.g. [1702, 1703]")
    years = sorted({operator.index(year) for year in found} ^ ours)
    splits = tokenize(tokenizer, [f" {year}" for year in years])
    return pd.DataFrame(
        {
            "year": years,
            "only_in": ["ours" if year in ours else "theirs" for year in years],
            "tokens": [token_texts(tokenizer, ids) for ids in splits],
        }
    )


def paper_prompts(
    nouns: Sequence[str], years: Iterable[int], tokenizer: PreTrainedTokenizerBase
) -> YearDataset:
    """Our dataset of the paper's clean and 01 prompts with these nouns and start years [prompt].

    Nothing is drawn. Raises ValueError for nouns or years that do not fit the sentence.
    """
    nouns, years = list(nouns), [int(year) for year in years]
    # from_prompts says so if there are more of one than of the other.
    clean = [Prompt(noun, year, year // 100) for noun, year in zip(nouns, years, strict=False)]
    corrupted = [prompt._replace(year=prompt.XX * 100 + 1) for prompt in clean]
    return YearDataset.from_prompts(
        [fill(PAPER_TEMPLATE, prompt) for prompt in clean],
        [fill(PAPER_TEMPLATE, prompt) for prompt in corrupted],
        years,
        tokenizer,
        nouns=nouns,
        corruption=CORRUPTIONS["01"],
    )


def compare_tokens(
    theirs_clean: Int[Tensor, "prompt position"],
    theirs_corrupted: Int[Tensor, "prompt position"],
    ours: YearDataset,
    tokenizer: PreTrainedTokenizerBase,
) -> pd.DataFrame:
    """In how many prompts their token ids differ from ours, by position.

    One row per position of ``ours``: position, clean and corrupted (numbers of prompts that
    differ), and the first difference as an example, "" where there is none. Prompts are compared
    in order, so ``ours`` has the same nouns and years (see `paper_prompts`). Raises ValueError for
    another shape.
    """
    pairs = {
        "clean": (theirs_clean.cpu(), ours.clean),
        "corrupted": (theirs_corrupted.cpu(), ours.corrupted),
    }
    frame = pd.DataFrame({"position": list(ours.positions)})
    examples = [""] * len(ours.positions)
    for kind, (theirs, own) in pairs.items():
        if theirs.shape != own.shape:
            raise ValueError(
                f"their {kind} tokens have the shape {list(theirs.shape)} and ours "
                f"{list(own.shape)} [prompt, position]; compare the same prompts, written alike, "
                "e.g. both with <|endoftext|>"
            )
        differs = theirs != own
        frame[kind] = differs.sum(0).tolist()
        for i, column in differs.nonzero().tolist():
            if not examples[column]:
                one, other = (token_text(tokenizer, int(ids[i, column])) for ids in (theirs, own))
                examples[column] = f"prompt {i}, {kind}: theirs {one!r}, ours {other!r}"
    return frame.assign(example=examples)
