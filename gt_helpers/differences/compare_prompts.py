"""Somebody else's prompts beside ours: which years and which tokens differ."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
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
    ours = set(valid_years(tokenizer, start, end))
    found = set()
    for year in theirs:
        try:
            found.add(operator.index(year))
        except TypeError:
            raise ValueError(
                f"{year!r} is no year; give whole numbers, for example [1702, 1703]"
            ) from None
    years = sorted(found ^ ours)
    splits = tokenize(tokenizer, [f" {year}" for year in years])
    return pd.DataFrame(
        {
            "year": years,
            "only_in": ["theirs" if year in found else "ours" for year in years],
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
    pairs = {"clean": (theirs_clean, ours.clean), "corrupted": (theirs_corrupted, ours.corrupted)}
    rows = []
    for kind, (theirs, own) in pairs.items():
        if theirs.shape != own.shape:
            raise ValueError(
                f"their {kind} tokens have the shape {list(theirs.shape)} and ours "
                f"{list(own.shape)} [prompt, position]; compare the same prompts, written alike, "
                "for example both with <|endoftext|>"
            )
    for name, column in ours.positions.items():
        row: dict[str, object] = {"position": name}
        example = ""
        for kind, (theirs, own) in pairs.items():
            differs = torch.nonzero(theirs[:, column].cpu() != own[:, column]).flatten().tolist()
            row[kind] = len(differs)
            if differs and not example:
                texts = [
                    repr(token_text(tokenizer, int(ids[differs[0], column])))
                    for ids in (theirs, own)
                ]
                example = f"prompt {differs[0]}, {kind}: theirs {texts[0]}, ours {texts[1]}"
        rows.append({**row, "example": example})
    return pd.DataFrame(rows)
