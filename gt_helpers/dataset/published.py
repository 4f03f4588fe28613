"""Prompts as other published work draws them: EAP-IG, ACDC, activation patching."""

from __future__ import annotations

import random

from transformers import PreTrainedTokenizerBase

from ..metrics import FIRST_YY, LAST_YY
from .drawing import draw_prompts
from .prompts import NO_SPACE_TEMPLATE, fill, load_nouns, tokenize, valid_years, without_ends
from .year_dataset import YearDataset

YEARS = (1100, 1800)  # centuries 11 to 17, as in the paper's text


def eap_ig_prompts(
    tokenizer: PreTrainedTokenizerBase, n: int, seed: int = 0, years: tuple[int, int] = YEARS
) -> YearDataset:
    """EAP-IG's prompts: no space after the BOS, and only nouns that are one token without one."""
    nouns = load_nouns()
    splits = tokenize(tokenizer, nouns)
    kept = [noun for noun, ids in zip(nouns, splits, strict=True) if len(ids) == 1]
    return YearDataset(tokenizer, n, years=years, seed=seed, template=NO_SPACE_TEMPLATE, nouns=kept)


def century_prompts(tokenizer: PreTrainedTokenizerBase, n: int, seed: int = 0) -> YearDataset:
    """``n`` prompts with a uniform century 11 to 17, a uniform year of it, and `The` without space.

    The sampling of the reimplementation that reports activation patching; its own nouns are not
    known, so the paper's are used.
    """
    pool = valid_years(tokenizer, *YEARS)
    rng = random.Random(f"century prompts {seed}")
    prompts = []
    for _ in range(n):
        century = 11 + int(rng.random() * 7)
        years = [year for year in pool if year // 100 == century]
        prompts += draw_prompts(rng, 1, years, load_nouns(), balanced=False)
    corrupted = [one._replace(year=one.XX * 100 + 1) for one in prompts]
    return YearDataset.from_prompts(
        [fill(NO_SPACE_TEMPLATE, one) for one in prompts],
        [fill(NO_SPACE_TEMPLATE, one) for one in corrupted],
        [one.year for one in prompts],
        tokenizer,
        nouns=[one.noun for one in prompts],
    )


def acdc_years(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Its years: of those of each century from 02 to 98, all but the first and the last; 604."""
    raw = valid_years(tokenizer, *YEARS, trim=False)
    return without_ends(year for year in raw if FIRST_YY <= year % 100 <= LAST_YY)
