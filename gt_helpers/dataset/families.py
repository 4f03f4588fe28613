"""The ten prompt families, and what each asks (section 5).

A family of one's own is a `PromptFamily` with a template:

    mine = PromptFamily("lived", "<|endoftext|> The {noun} began in {XX}{YY} and was over in {XX}")
    patching = PathPatching(model, mine.dataset(model.tokenizer))
    study_family(mine, patching, parts)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from ..metrics import FIRST_YY, LAST_YY, Metric, prob_diff, prob_diff_below
from .corruptions import Corruption
from .drawing import draw_prompts
from .prompts import check_template, fill, load_nouns, valid_years
from .year_dataset import YearDataset

Earlier = Callable[[int, Sequence[int], random.Random], Iterable[int]]
# fmt: off
ITEMS = (
    "gem", "necklace", "watch", "ring", "suitcase", "scarf", "suit", "shirt", "sweater", "dress",
    "fridge", "TV", "bed", "bike", "lamp", "table", "chair", "painting", "sculpture", "plant",
)
# fmt: on
_IN_SEQUENCE = (
    *(name for i in range(1, 5) for name in (f"XX_{i}", f"YY_{i}", f"comma_{i}")),
    *("XX1", "YY", "comma_5", "END"),
)


@dataclass(frozen=True)
class PromptFamily:
    """A family of prompts around one question: which end years, two digits, fit the start year?

    ``template`` holds the start year as {XX}{YY}, its last {XX} asks for the end year, {noun} is
    one of ``nouns``, and {earlier} stands for the years that ``earlier(start year, all years,
    random numbers)`` gives. Right are end years above YY, or with ``below`` those below it. The
    corrupted prompt is the same text with YY 01 (``below``: 99), or else the text ``corrupted``.
    ``years`` is the range of start years; ``positions`` names the tokens where their words do not.
    Raises ValueError for a template that does not fit.
    """

    name: str
    template: str
    below: bool = False
    expects: str = "not in the paper"
    years: tuple[int, int] = (1700, 1800)
    nouns: tuple[str, ...] = field(default_factory=load_nouns, repr=False)
    earlier: Earlier | None = None
    corrupted: str = ""
    positions: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        required = ("earlier",) if self.earlier else ()
        check_template(self.template, required, optional=("noun",))

    @property
    def asks(self) -> str:
        """Which end years are right, as "> YY" or "< YY"."""
        return "< YY" if self.below else "> YY"

    @property
    def metric(self) -> Metric:
        """Mass on right end years minus mass on the others, YY among these."""
        return prob_diff_below if self.below else prob_diff

    @property
    def spoiled(self) -> int:
        """The YY of the corrupted prompt, one that every end year fits."""
        return 99 if self.below else 1

    @property
    def changed(self) -> str:
        """What the corruption does, in words."""
        return "the whole sequence" if self.corrupted else f"YY → {self.spoiled:02d}"

    def dataset(
        self, tokenizer: PreTrainedTokenizerBase, n: int | None = None, seed: int = 0
    ) -> YearDataset:
        """``n`` aligned prompts whose YYs come in turn; by default one of every YY that fits.

        A YY from 02 to 98 fits if some start year with it splits into a century and a two-digit
        token. Raises ValueError for more prompts than a family without {noun} has, and where texts
        do not split alike.
        """
        every = valid_years(tokenizer, *self.years, trim=False)
        pool = [year for year in every if FIRST_YY <= year % 100 <= LAST_YY]
        n = len({year % 100 for year in pool}) if n is None else n
        rng = random.Random(f"{self.name} {seed}")
        prompts = draw_prompts(rng, n, pool, self.nouns, balanced=True)
        clean, corrupted = [], []
        for prompt in prompts:
            years = self.earlier(prompt.year, pool, rng) if self.earlier else ()
            template = self.template.replace("{earlier}", ", ".join(map(str, years)))
            spoiled = prompt._replace(year=100 * prompt.XX + self.spoiled)
            clean.append(fill(template, prompt))
            corrupted.append(fill(self.corrupted or template, spoiled))
        if "{noun}" not in self.template and len(set(clean)) < n:
            raise ValueError(
                f"the family {self.name!r} has {len(set(clean))} different prompts, fewer than "
                f"n={n}; leave n out to get one of every YY"
            )
        return YearDataset.from_prompts(
            clean,
            corrupted,
            [prompt.year for prompt in prompts],
            tokenizer,
            nouns=[prompt.noun for prompt in prompts] if "{noun}" in self.template else None,
            positions=self.positions,
            corruption=Corruption(self.name, self.changed),
            balanced=True,
        )


def arithmetic_step(YY: int) -> int:
    """The step of the arithmetic family: the smallest from 2 on that does not divide YY.

    So no year of the sequence is a full hundred, which is one token.
    """
    return next(i for i in range(2, 100) if YY % i)


def _arithmetic(year: int, pool: Sequence[int], rng: random.Random) -> list[int]:
    return [year - k * arithmetic_step(year % 100) for k in (4, 3, 2, 1)]


def _random_years(year: int, pool: Sequence[int], rng: random.Random) -> list[int]:
    same = [other for other in pool if other // 100 == year // 100]
    return [same[int(rng.random() * len(same))] for _ in range(4)]


_FAILS = "fails, or does without the circuit"
_UNTOLD = "reports no number"
_FIRES = "the circuit fires although earlier years are right"
_SEQUENCE = ("eos", *_IN_SEQUENCE)


FAMILIES: dict[str, PromptFamily] = {
    family.name: family
    for family in (
        PromptFamily(
            "started",
            "<|endoftext|> The {noun} started in the year {XX}{YY} and ended in the year {XX}",
            expects="succeeds; the circuit recovers 98.8 %",
        ),
        PromptFamily(
            "happened",
            "<|endoftext|> The {noun} happened in {XX}{YY}. Some years later, it is now the year "
            "{XX}",
            expects=_UNTOLD,
        ),
        PromptFamily(
            "sequence",
            "<|endoftext|> 1599, 1607, 1633, 1679, {XX}{YY}, {XX}",
            expects="succeeds; the circuit recovers 67.8 %, with m7, a7.h11 and a6.h1 90.3 %",
            positions=_SEQUENCE,
        ),
        PromptFamily(
            "descending",
            "<|endoftext|> 1799, 1753, 1733, 1701, {XX}{YY}, {XX}",
            below=True,
            expects=_FAILS,
            years=(1600, 1700),
            positions=_SEQUENCE,
        ),
        PromptFamily(
            "arithmetic",
            "<|endoftext|> {earlier}, {XX}{YY}, {XX}",
            expects=_FAILS,
            earlier=_arithmetic,
            corrupted="<|endoftext|> 1693, 1695, 1697, 1699, 1701, {XX}",
            positions=_SEQUENCE,
        ),
        PromptFamily(
            "smaller",
            "<|endoftext|> {XX}{YY} is smaller than {XX}",
            expects="fails: repeats YY",
        ),
        PromptFamily(
            "ended",
            "<|endoftext|> The {noun} ended in the year {XX}{YY} and started in the year {XX}",
            below=True,
            expects=_FIRES,
        ),
        PromptFamily(
            "BC",
            "<|endoftext|> The {noun} lasted from the year {XX}{YY} BC to the year {XX}",
            below=True,
            expects=_FIRES,
            years=(700, 800),
        ),
        PromptFamily(
            "price",
            "<|endoftext|> The price of that {noun} ranges from $ {XX}{YY} to $ {XX}",
            expects="succeeds; the circuit recovers 88.9 %",
            nouns=ITEMS,
        ),
        PromptFamily(
            "random",
            "{earlier}, {XX}{YY}, {XX}",
            expects=_UNTOLD,
            years=(1100, 1800),
            earlier=_random_years,
            positions=_IN_SEQUENCE,
        ),
    )
}
