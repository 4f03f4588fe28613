"""YearDataset: clean and corrupted prompts, drawn from a seed and aligned (section 2)."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch
from torch import BoolTensor, Tensor
from transformers import PreTrainedTokenizerBase

from .corruptions import CORRUPTIONS, GIVEN, Corruption, find_corruption
from .prompts import (
    PAPER_POSITIONS,
    PAPER_TEMPLATE,
    YEAR_STRINGS,
    Prompt,
    Template,
    is_two_digit,
    listed,
    load_nouns,
    name_positions,
    token_text,
    token_texts,
    tokenize,
    valid_years,
    year_tokens,
)

T = TypeVar("T")


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

    Attributes: clean, corrupted [prompt, position] token ids; years [prompt]; nouns, clean_text,
    corrupted_text (one str per prompt); positions {name: index}; year_tokens [year]; corruption;
    template (None for given texts); and the properties XX, YY, valid, changed_positions.
    """

    clean: Tensor
    corrupted: Tensor
    years: Tensor
    nouns: list[str]
    clean_text: list[str]
    corrupted_text: list[str]
    positions: dict[str, int]
    year_tokens: Tensor
    corruption: Corruption
    template: Template | None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        n: int = 490,
        *,
        years: tuple[int, int] | Iterable[int] = (1100, 1800),
        nouns: Sequence[str] | None = None,
        template: str | Template | None = None,
        balanced: bool = True,
        corruption: str | Corruption = "01",
        seed: int = 0,
    ) -> None:
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"n is {n!r}; the number of prompts is 1 or more, for example 490")
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed is {seed!r}; it is a whole number, 0 or more, for example 0")
        if not isinstance(template, Template):
            template = Template() if template is None else Template(str(template))
        corruption = find_corruption(corruption)
        pool = _year_pool(tokenizer, years)
        nouns = load_nouns() if nouns is None else _checked_nouns(nouns)
        names = _check_template(tokenizer, template, nouns, pool[0])

        prompts = draw_prompts(random.Random(seed), n, pool, nouns, balanced)
        corrupted = _corrupt(tokenizer, template, corruption, prompts, nouns, names, seed)
        self._build(
            tokenizer,
            [template.fill(prompt) for prompt in prompts],
            [template.fill(prompt) for prompt in corrupted],
            [prompt.year for prompt in prompts],
            nouns=[prompt.noun for prompt in prompts],
            positions=names,
            corruption=corruption,
            template=template,
        )

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
        template: Template | None = None,
    ) -> YearDataset:
        """A dataset of given texts: nothing is drawn, everything is checked.

        `years` are the start years, whose last two digits are YY. Without `positions` the tokens
        are named after the first prompt: XX1 and YY where its year occurs last, NOUN where its
        noun occurs first. All prompts must have the same number of tokens and their year at
        XX1 and YY; ValueError names the first that does not. Corrupted may equal clean.
        """
        dataset = cls.__new__(cls)
        dataset._build(
            tokenizer,
            clean_text,
            corrupted_text,
            years,
            nouns=nouns,
            positions=positions,
            corruption=corruption,
            template=template,
        )
        return dataset

    def _build(
        self,
        tokenizer: PreTrainedTokenizerBase,
        clean_text: Sequence[str],
        corrupted_text: Sequence[str],
        years: Sequence[int],
        *,
        nouns: Sequence[str] | None,
        positions: Sequence[str] | None,
        corruption: Corruption,
        template: Template | None,
    ) -> None:
        if isinstance(clean_text, str) or isinstance(corrupted_text, str):
            raise ValueError("the prompts are one text; give a list with one text per prompt")
        clean_text, corrupted_text = list(clean_text), list(corrupted_text)
        years = [int(year) for year in years]
        nouns = [""] * len(years) if nouns is None else list(nouns)
        if len({len(clean_text), len(corrupted_text), len(years), len(nouns)}) != 1:
            raise ValueError(
                f"{len(clean_text)} clean texts, {len(corrupted_text)} corrupted texts, "
                f"{len(years)} years and {len(nouns)} nouns do not match: give one of each per "
                "prompt"
            )
        if not years:
            raise ValueError("a dataset needs 1 prompt or more, but no prompt was given")
        if positions is None:
            positions = _infer_positions(tokenizer, clean_text[0], years[0], nouns[0])
        _check_names(positions)
        index = {name: i for i, name in enumerate(positions)}

        clean = torch.tensor(_aligned(tokenizer, "clean", clean_text, positions))
        corrupted = torch.tensor(_aligned(tokenizer, "corrupted", corrupted_text, positions))
        year_ids = year_tokens(tokenizer)
        expected = {"YY": [YEAR_STRINGS[year % 100] for year in years]}
        if "XX1" in index:
            expected["XX1"] = [str(year // 100) for year in years]
        if "NOUN" in index and all(nouns):
            expected["NOUN"] = list(nouns)
        for name, words in expected.items():
            _check_column(tokenizer, clean[:, index[name]].tolist(), words, name, clean_text)

        vars(self).update(
            clean=clean,
            corrupted=corrupted,
            years=torch.tensor(years),
            nouns=nouns,
            clean_text=clean_text,
            corrupted_text=corrupted_text,
            positions=index,
            year_tokens=year_ids,
            corruption=corruption,
            template=template,
        )

    @property
    def XX(self) -> Tensor:
        """Century [prompt] of the clean start year."""
        return self.years // 100

    @property
    def YY(self) -> Tensor:
        """Last two digits [prompt] of the clean start year; they score the corrupted run too."""
        return self.years % 100

    @property
    def valid(self) -> BoolTensor:
        """Whether an end year is right [prompt, year]: strictly above YY (section 2)."""
        return torch.arange(100) > self.YY[:, None]  # type: ignore[return-value]

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
        if isinstance(which, slice):
            return self.take(range(len(self))[which])
        return self.take([range(len(self))[which]])

    def take(self, which: Sequence[int] | Tensor) -> YearDataset:
        """The dataset of some prompts, in this order, by numbers or by a mask [prompt]."""
        which = torch.as_tensor(which if isinstance(which, Tensor) else list(which)).cpu()
        if which.dtype == torch.bool and which.shape == (len(self),):
            which = which.nonzero().squeeze(1)
        if which.ndim != 1 or not len(which) or which.is_floating_point():
            raise ValueError(
                f"no prompt is chosen of {len(self)}; "
                "choose 1 or more, for example dataset[:10] or dataset.take(dataset.YY < 50)"
            )
        if which.dtype == torch.bool or which.min() < -len(self) or which.max() >= len(self):
            raise ValueError(
                f"the dataset has {len(self)} prompts; "
                f"choose numbers from 0 to {len(self) - 1}, or a mask with one entry per prompt"
            )
        part = copy.copy(self)
        for name in ("clean", "corrupted", "years"):
            vars(part)[name] = getattr(self, name)[which]
        for name in ("nouns", "clean_text", "corrupted_text"):
            vars(part)[name] = [getattr(self, name)[i] for i in which.tolist()]
        return part

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt: noun, year, XX, YY, clean and corrupted text."""
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
        """Write the prompts and what `from_csv` needs to read the same dataset back."""
        self.to_frame().assign(
            positions=" ".join(self.positions),
            template=self.template.text if self.template else "",
            corruption=self.corruption.name,
            description=self.corruption.description,
        ).to_csv(path, index=False, encoding="utf-8")

    @classmethod
    def from_csv(cls, path: str | Path, tokenizer: PreTrainedTokenizerBase) -> YearDataset:
        """Read a dataset that `to_csv` wrote, or any table with clean, corrupted and year.

        Raises ValueError where a column is missing or a prompt does not fit (see `from_prompts`).
        """
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        if missing := [name for name in ("clean", "corrupted", "year") if name not in frame]:
            raise ValueError(
                f"{path} has no column {listed(missing)}; "
                "a dataset's table has the columns clean, corrupted and year"
            )
        if not frame["year"].str.fullmatch(r"\d+").all():
            raise ValueError(f"{path} has a year that is no number; write it like 1732")

        def constant(column: str) -> str:
            values = frame[column].unique() if column in frame else []
            if len(values) > 1:
                raise ValueError(
                    f"{path} has {len(values)} different values in the column {column}, where all "
                    "prompts of a dataset have the same one"
                )
            return str(values[0]) if len(values) else ""

        name, description = constant("corruption"), constant("description")
        corruption = Corruption(name, description) if name else GIVEN
        if corruption == CORRUPTIONS.get(name):
            corruption = CORRUPTIONS[name]
        template = constant("template")
        return cls.from_prompts(
            frame["clean"].tolist(),
            frame["corrupted"].tolist(),
            frame["year"].astype(int).tolist(),
            tokenizer,
            nouns=frame["noun"].tolist() if "noun" in frame else None,
            positions=constant("positions").split() or None,
            corruption=corruption,
            template=Template(template) if template else None,
        )


def _pick(rng: random.Random, options: Sequence[T]) -> T:
    # Only random() is promised to give the same numbers in every Python version.
    return options[int(rng.random() * len(options))]


def draw_prompts(
    rng: random.Random, n: int, pool: Sequence[int], nouns: Sequence[str], balanced: bool
) -> list[Prompt]:
    """``n`` prompts with years of the pool and nouns; balanced, its YYs come in turn."""
    years_of: dict[int, list[int]] = {}
    for year in pool:
        years_of.setdefault(year % 100, []).append(year)
    YYs = sorted(years_of)
    prompts = []
    for i in range(n):
        year = _pick(rng, years_of[YYs[i % len(YYs)]] if balanced else pool)
        prompts.append(Prompt(_pick(rng, nouns), year, year // 100))
    return prompts


def _aligned(
    tokenizer: PreTrainedTokenizerBase, kind: str, texts: Sequence[str], names: Sequence[str]
) -> list[list[int]]:
    """Token ids [prompt][position], after checking that every text has one token per name."""
    ids = tokenize(tokenizer, texts)
    for text, tokens in zip(texts, ids, strict=True):
        if len(tokens) != len(names):
            raise ValueError(
                f"the {kind} prompt {text!r} has {len(tokens)} tokens "
                f"({token_texts(tokenizer, tokens)}) where {len(names)} are needed "
                f"({' '.join(names)}); all prompts must split alike"
            )
    return ids


def _corrupt(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    corruption: Corruption,
    prompts: Sequence[Prompt],
    nouns: Sequence[str],
    names: Sequence[str],
    seed: int,
) -> list[Prompt]:
    """Draw a replacement for each prompt; those that do not fit are drawn again, all in batches."""
    may_change = names if corruption.may_change is None else corruption.may_change
    for name in may_change:
        if name not in names:
            raise ValueError(
                f"corruption {corruption.name!r} may change the position {name!r}, which the "
                f"template does not have; choose from {listed(names)}"
            )
    allowed = "any position" if may_change is names else f"only {listed(may_change)}"
    fixed = [i for i, name in enumerate(names) if name not in may_change]
    clean = _aligned(tokenizer, "clean", [template.fill(prompt) for prompt in prompts], names)
    drawn = list(prompts)
    tried: list[set[Prompt]] = [{prompt} for prompt in prompts]
    waiting = list(range(len(prompts)))
    while waiting:
        for i in waiting:
            assert corruption.alternatives is not None
            found = corruption.alternatives(prompts[i], nouns)
            found = [found] if isinstance(found, Prompt) else list(found)
            if not all(isinstance(option, Prompt) for option in found):
                raise ValueError(
                    f"corruption {corruption.name!r} gives {found!r}; its function must give "
                    "prompts, for example [prompt._replace(noun='war')]"
                )
            options = [option for option in found if option not in tried[i]]
            if not options:
                last = template.fill(drawn[i])
                raise ValueError(
                    f"corruption {corruption.name!r} has no replacement for "
                    f"{template.fill(prompts[i])!r} that differs from it, keeps its "
                    f"{len(names)} tokens and changes {allowed}; the last one "
                    f"tried was {last!r}: {token_texts(tokenizer, tokenize(tokenizer, [last])[0])}"
                )
            # A stream of its own per prompt and attempt: no draw depends on another prompt's.
            rng = random.Random(f"corruption {seed} {i} {len(tried[i])}")
            drawn[i] = _pick(rng, options)
            tried[i].add(drawn[i])
        ids = tokenize(tokenizer, [template.fill(drawn[i]) for i in waiting])
        waiting = [
            i
            for i, tokens in zip(waiting, ids, strict=True)
            if len(tokens) != len(names) or any(tokens[p] != clean[i][p] for p in fixed)
        ]
    return drawn


def _year_pool(
    tokenizer: PreTrainedTokenizerBase, years: tuple[int, int] | Iterable[int]
) -> list[int]:
    if isinstance(years, tuple) and len(years) == 2:
        pool = valid_years(tokenizer, *years)
    elif isinstance(years, int | str):
        raise ValueError(
            f"years is {years!r}; give a range as a tuple, (1100, 1800), or a list of years"
        )
    else:
        pool = sorted({int(year) for year in years})
        for year, ids in zip(pool, tokenize(tokenizer, [f" {y}" for y in pool]), strict=True):
            if year < 100 or not is_two_digit(tokenizer, ids):
                raise ValueError(
                    f"the year {year} does not split into a century and a two-digit token but as "
                    f"{token_texts(tokenizer, ids)}; valid_years lists those that do (a range of "
                    "years is a tuple, for example (1100, 1800))"
                )
    if not pool:
        raise ValueError(
            f"there is no valid year in {years!r}; "
            "take a range with some, for example (1100, 1800), or a list of years"
        )
    return pool


def _checked_nouns(nouns: Sequence[str]) -> tuple[str, ...]:
    words = () if isinstance(nouns, str) else tuple(nouns)
    if not words or not all(isinstance(word, str) and word for word in words):
        raise ValueError(f'nouns is {nouns!r}; give a list of 1 or more words, such as ["war"]')
    return words


def _check_template(
    tokenizer: PreTrainedTokenizerBase, template: Template, nouns: Sequence[str], year: int
) -> tuple[str, ...]:
    """The template's position names, after checking that every noun is one token in it."""
    for noun in nouns:
        names = name_positions(tokenizer, *template.render(Prompt(noun, year, year // 100)))
    if template.text == PAPER_TEMPLATE and names != PAPER_POSITIONS:
        raise ValueError(
            f"the tokenizer splits the paper's prompt into {' '.join(names)} where GPT-2's gives "
            f"{' '.join(PAPER_POSITIONS)}; use a tokenizer that splits it alike"
        )
    return names


def _infer_positions(
    tokenizer: PreTrainedTokenizerBase, text: str, year: int, noun: str
) -> tuple[str, ...]:
    start = text.rfind(str(year))
    if start < 0 or year < 100:
        raise ValueError(f"the start year {year} does not occur in {text!r}; give the year in it")
    end = start + len(str(year))
    spans = {"XX1": (start, end - 2), "YY": (end - 2, end)}
    if noun:
        found = re.search(rf"\b{re.escape(noun)}\b", text)
        if not found:
            raise ValueError(f"the noun {noun!r} does not occur in {text!r}; give the noun in it")
        spans["NOUN"] = found.span()
    return name_positions(tokenizer, text, spans)


def _check_names(names: Sequence[str]) -> None:
    bad = [name for name in names if not re.fullmatch(r"\w+", name)]
    if not names or bad or len(set(names)) != len(names) or "YY" not in names or names[-1] != "END":
        raise ValueError(
            f"the positions {' '.join(names)!r} do not fit: one different name per token, of "
            f"letters and digits, YY among them and END the last, for example {PAPER_POSITIONS}"
        )


def _check_column(
    tokenizer: PreTrainedTokenizerBase,
    tokens: Sequence[int],
    words: Sequence[str],
    name: str,
    texts: Sequence[str],
) -> None:
    first = {pair: i for i, pair in reversed(list(enumerate(zip(tokens, words, strict=True))))}
    for (token, word), i in first.items():
        if token_text(tokenizer, token).strip() != word:
            raise ValueError(
                f"the token at {name} in {texts[i]!r} is {token_text(tokenizer, token)!r}, "
                f"not {word!r}; all prompts must have their words at the same positions"
            )
