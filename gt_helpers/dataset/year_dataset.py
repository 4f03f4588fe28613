"""YearDataset: clean and corrupted prompts, drawn from a seed and aligned (section 2)."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..metrics import Strata, strata_by_YY
from .alignment import aligned, check_words, position_index, template_positions, text_positions
from .corruptions import CORRUPTIONS, GIVEN, Corruption, find_corruption
from .drawing import draw_corrupted, draw_prompts
from .prompts import (
    PAPER_TEMPLATE,
    YEAR_STRINGS,
    fill,
    is_two_digit,
    listed,
    load_nouns,
    token_texts,
    tokenize,
    valid_years,
    year_tokens,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, init=False, eq=False, repr=False)
class YearDataset:
    """Clean and corrupted greater-than prompts, tokenized and aligned (section 2).

    `n` prompts; balanced, their YY runs through the pool's YYs (02, 03, ..., 98, 02, ...) and for
    each a year is drawn uniformly among the pool's years with that YY (the paper's 490 prompts);
    unbalanced, years are uniform over the pool (its 10,000). Nouns are drawn with replacement.
    `years` is a tuple (start, end), whose `valid_years` are the pool, or a list of years: the
    default is the paper's text, (1000, 1900) the paper's code. The same arguments give the same
    prompts on every machine; `corruption` does not influence the clean ones, and a smaller `n`
    gives the first ones. Nothing is written to after construction: a slice, or `take`, gives a new
    dataset. Raises ValueError for whatever does not fit.
    """

    clean: Int[Tensor, "prompt position"]  # token ids
    corrupted: Int[Tensor, "prompt position"]
    years: Int[Tensor, " prompt"]  # the clean start years
    nouns: list[str]
    clean_text: list[str]
    corrupted_text: list[str]
    positions: dict[str, int]  # {name: index}
    year_tokens: Int[Tensor, " year"]  # ids of "00" to "99"
    corruption: Corruption
    balanced: bool

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        n: int = 490,
        *,
        years: tuple[int, int] | Iterable[int] = (1100, 1800),
        nouns: Sequence[str] | None = None,
        template: str = PAPER_TEMPLATE,
        balanced: bool = True,
        corruption: str = "01",
        seed: int = 0,
    ) -> None:
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed is {seed!r}; give a whole number from 0 on, e.g. 0")
        spoiling = find_corruption(corruption)
        pool = _year_pool(tokenizer, years)
        nouns = load_nouns() if nouns is None else _checked_nouns(nouns)
        names = template_positions(tokenizer, template, nouns, pool[0])

        prompts = draw_prompts(random.Random(seed), n, pool, nouns, balanced)
        corrupted = draw_corrupted(tokenizer, template, spoiling, prompts, nouns, names, seed)
        built = YearDataset.from_prompts(
            [fill(template, prompt) for prompt in prompts],
            [fill(template, prompt) for prompt in corrupted],
            [prompt.year for prompt in prompts],
            tokenizer,
            nouns=[prompt.noun for prompt in prompts],
            positions=names,
            corruption=spoiling,
            balanced=balanced,
        )
        vars(self).update(vars(built))

    @classmethod
    def from_prompts(
        cls,
        clean_text: Sequence[str],
        corrupted_text: Sequence[str],
        years: Sequence[int],
        tokenizer: PreTrainedTokenizerBase,
        *,
        nouns: Sequence[str] | None = None,
        positions: Sequence[str] | None = None,
        corruption: Corruption = GIVEN,
        balanced: bool = False,
    ) -> YearDataset:
        """A dataset of given texts: nothing is drawn, everything is checked.

        `years` are the start years, whose last two digits are YY. Without `positions` the tokens
        are named after the first prompt: XX1 and YY where its year occurs last, NOUN where its
        noun occurs first. All prompts must have the same number of tokens and their year at
        XX1 and YY; ValueError names the first that does not. Corrupted may equal clean. Say
        ``balanced`` if the YYs were not drawn at random but chosen.
        """
        if isinstance(clean_text, str) or isinstance(corrupted_text, str):
            raise ValueError("the prompts are one text; give a list with one text per prompt")
        clean_text, corrupted_text = list(clean_text), list(corrupted_text)
        years = [int(year) for year in years]
        nouns = [""] * len(years) if nouns is None else list(nouns)
        if len({len(clean_text), len(corrupted_text), len(years), len(nouns)}) != 1:
            raise ValueError(
                f"{len(clean_text)} clean texts, {len(corrupted_text)} corrupted texts, "
                f"{len(years)} years and {len(nouns)} nouns do not match; give as many of each"
            )
        if not years:
            raise ValueError("a dataset needs 1 prompt or more")
        if positions is None:
            positions = text_positions(tokenizer, clean_text[0], years[0], nouns[0])
        index = position_index(positions)
        clean = aligned(tokenizer, "clean", clean_text, positions)
        words = {
            "YY": [YEAR_STRINGS[year % 100] for year in years],
            "XX1": [str(year // 100) for year in years],
            "NOUN": nouns,
        }
        for name, expected in words.items():
            if name in index and all(expected):  # given texts may come without nouns
                check_words(tokenizer, clean[:, index[name]], expected, clean_text)

        dataset = cls.__new__(cls)
        vars(dataset).update(
            clean=clean,
            corrupted=aligned(tokenizer, "corrupted", corrupted_text, positions),
            years=torch.tensor(years),
            nouns=nouns,
            clean_text=clean_text,
            corrupted_text=corrupted_text,
            positions=index,
            year_tokens=year_tokens(tokenizer),
            corruption=corruption,
            balanced=balanced,
        )
        return dataset

    @property
    def XX(self) -> Int[Tensor, " prompt"]:
        """Century of the clean start year."""
        return self.years // 100

    @property
    def YY(self) -> Int[Tensor, " prompt"]:
        """Last two digits of the clean start year; they score the corrupted run too."""
        return self.years % 100

    @property
    def strata(self) -> Strata | None:
        """What `bootstrap_ci` resamples these prompts within; None where YY was drawn too."""
        return strata_by_YY(self.YY) if self.balanced else None

    @property
    def valid(self) -> Bool[Tensor, "prompt year"]:
        """Whether an end year is right: strictly above YY (section 2)."""
        return torch.arange(100) > self.YY[:, None]

    @property
    def changed_positions(self) -> list[str]:
        """Positions whose token differs between clean and corrupted in some prompt."""
        changed = (self.clean != self.corrupted).any(0).tolist()
        return [name for name, differs in zip(self.positions, changed, strict=True) if differs]

    def position(self, name: str) -> int:
        """Index of a named position; ValueError lists the names."""
        if name not in self.positions:
            raise ValueError(f"there is no position {name!r}; choose {listed(self.positions)}")
        return self.positions[name]

    def __len__(self) -> int:
        return len(self.years)

    def __repr__(self) -> str:
        return (
            f"YearDataset({len(self)} prompts, corruption {self.corruption.name!r}, "
            f"positions {' '.join(self.positions)})"
        )

    def __getitem__(self, which: int | slice) -> YearDataset:
        """The dataset of one prompt, or of a slice of them."""
        chosen = range(len(self))[which]
        return self.take(chosen if isinstance(chosen, range) else [chosen])

    def take(self, which: Sequence[int] | Tensor) -> YearDataset:
        """The dataset of some prompts, in this order, by numbers or by a mask [prompt].

        Raises ValueError if none is chosen, IndexError for numbers that it does not have.
        """
        chosen = torch.arange(len(self))[which.cpu() if isinstance(which, Tensor) else list(which)]
        if not len(chosen):
            raise ValueError(f"no prompt of {len(self)} is chosen; give 1 or more, e.g. [:10]")
        part = copy.copy(self)
        for name in ("clean", "corrupted", "years"):
            vars(part)[name] = getattr(self, name)[chosen]
        for name in ("nouns", "clean_text", "corrupted_text"):
            vars(part)[name] = [getattr(self, name)[i] for i in chosen.tolist()]
        return part

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt: noun, year, XX, YY, clean and corrupted text."""
        import pandas as pd

        columns = {
            "noun": self.nouns,
            "year": self.years.tolist(),
            "XX": self.XX.tolist(),
            "YY": self.YY.tolist(),
            "clean": self.clean_text,
            "corrupted": self.corrupted_text,
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self), name="prompt"))

    def to_csv(self, path: str | Path) -> None:
        """Write the prompts and, the same in every row, what `from_csv` needs besides."""
        self.to_frame().assign(
            positions=" ".join(self.positions),
            corruption=self.corruption.name,
            description=self.corruption.description,
            balanced=self.balanced,
        ).to_csv(path, index=False, encoding="utf-8")

    @classmethod
    def from_csv(cls, path: str | Path, tokenizer: PreTrainedTokenizerBase) -> YearDataset:
        """Read a dataset that `to_csv` wrote, or any table with clean, corrupted and year.

        Raises ValueError where a column is missing or a prompt does not fit (see `from_prompts`).
        """
        import pandas as pd

        # Everything is read as text: a noun may be "null".
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        if missing := [name for name in ("clean", "corrupted", "year") if name not in frame]:
            raise ValueError(f"{path} has no column {listed(missing)}")
        for name in ("positions", "corruption", "description", "balanced"):
            # else rows would get a wrong label
            if name in frame and frame[name].nunique() > 1:
                raise ValueError(f"{path} has several {name} values; give a file for each")
        first = frame.iloc[0] if len(frame) else pd.Series(dtype=str)
        read = Corruption(first.get("corruption") or GIVEN.name, first.get("description", ""))
        known = CORRUPTIONS.get(read.name)  # a family's may have the same name
        return cls.from_prompts(
            list(frame["clean"]),
            list(frame["corrupted"]),
            list(frame["year"]),
            tokenizer,
            nouns=list(frame["noun"]) if "noun" in frame else None,
            positions=first.get("positions", "").split() or None,
            corruption=known if known == read else read,
            balanced=first.get("balanced") == "True",
        )


def _year_pool(
    tokenizer: PreTrainedTokenizerBase, years: tuple[int, int] | Iterable[int]
) -> list[int]:
    if isinstance(years, int | str):
        raise ValueError(f"years is {years!r}; give a tuple (1100, 1800) or a list of years")
    if isinstance(years, tuple) and len(years) == 2:
        pool = valid_years(tokenizer, *years)
    else:
        pool = sorted({int(year) for year in years})
        for year, ids in zip(pool, tokenize(tokenizer, [f" {y}" for y in pool]), strict=True):
            if year < 100 or not is_two_digit(tokenizer, ids):
                raise ValueError(
                    f"the year {year} does not split into a century and a two-digit token but as "
                    f"{token_texts(tokenizer, ids)}; give years of valid_years, e.g. 1732, or a "
                    "range as a tuple"
                )
    if not pool:
        raise ValueError(f"there is no valid year in {years!r}; give e.g. (1100, 1800)")
    return pool


def _checked_nouns(nouns: Sequence[str]) -> tuple[str, ...]:
    words = () if isinstance(nouns, str) else tuple(nouns)
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f'nouns is {nouns!r}; give a list of words, e.g. ["war"]')
    return words
