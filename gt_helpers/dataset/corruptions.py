"""Corruptions: named ways to spoil a clean prompt, for the run that patches are taken from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .prompts import Prompt, listed

PAPER_CENTURIES = range(11, 18)
Alternatives = Callable[[Prompt, Sequence[str]], list[Prompt]]


@dataclass(frozen=True)
class Corruption:
    """A named way to spoil a prompt.

    `alternatives(prompt, nouns)` lists what may replace a prompt; `nouns` are the dataset's. The
    dataset draws uniformly among those that keep the number of tokens and change no other position
    than `may_change`. Without alternatives a corruption only names texts that were given.
    """

    name: str
    description: str
    alternatives: Alternatives = field(default=lambda prompt, nouns: [], compare=False)
    may_change: tuple[str, ...] = field(default=(), compare=False)


def _with_years(prompt: Prompt, years: Iterable[int]) -> list[Prompt]:
    return [prompt._replace(year=year) for year in years if year != prompt.year]


CORRUPTIONS: dict[str, Corruption] = {
    c.name: c
    for c in (
        Corruption(
            "01",
            "the paper's: YY becomes 01 (a start year 10YY also changes XX1: 1001 is 100 + 1)",
            lambda prompt, nouns: _with_years(prompt, [100 * prompt.XX + 1]),
            may_change=("XX1", "YY"),
        ),
        Corruption(
            "smaller",
            "YY becomes a random smaller one",
            lambda prompt, nouns: _with_years(prompt, range(100 * prompt.XX, prompt.year)),
            may_change=("YY",),
        ),
        Corruption(
            "random",
            "YY becomes a random other one, smaller or larger",
            lambda prompt, nouns: _with_years(
                prompt, range(100 * prompt.XX, 100 * prompt.XX + 100)
            ),
            may_change=("YY",),
        ),
        Corruption(
            "noun",
            "another noun of the dataset's; the years stay, so the task is unchanged",
            lambda prompt, nouns: [
                prompt._replace(noun=noun) for noun in nouns if noun != prompt.noun
            ],
            may_change=("NOUN",),
        ),
        # END keeps its token: clean and corrupted runs are then read at the same END input, and the
        # same YY scores both. Changing END too would give just another greater-than prompt.
        Corruption(
            "century",
            "the start year's century XX1 becomes another of 11 to 17; END keeps the clean one, "
            "so that YY no longer bounds the end year",
            lambda prompt, nouns: _with_years(
                prompt, (100 * XX + prompt.YY for XX in PAPER_CENTURIES)
            ),
            may_change=("XX1",),
        ),
    )
}
GIVEN = Corruption("given", "the corrupted prompts were given as text")


def find_corruption(name: str) -> Corruption:
    """The corruption of a name; ValueError lists the names."""
    if name not in CORRUPTIONS:
        raise ValueError(f"{name!r} is no corruption; choose one of {listed(CORRUPTIONS)}")
    return CORRUPTIONS[name]
