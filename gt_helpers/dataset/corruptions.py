"""Corruptions: named ways to spoil a clean prompt, for the run that patches are taken from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .prompts import Prompt, listed

PAPER_CENTURIES = range(11, 18)
Alternatives = Callable[[Prompt, Sequence[str]], Iterable[Prompt] | Prompt]


@dataclass(frozen=True)
class Corruption:
    """A named way to spoil a prompt.

    `alternatives(prompt, nouns)` gives the prompt, or lists the prompts, that may replace one
    prompt; `nouns` are the dataset's. The dataset draws uniformly among those that keep the number
    of tokens and change no other position than `may_change` (None: any); the corrupted prompt is
    tokenized from its text, and `dataset.changed_positions` reports where it differs. Without
    `alternatives` a corruption only names texts that were given.

    >>> nineties = Corruption("95", "YY becomes 95", lambda prompt, nouns: [
    ...     prompt._replace(year=prompt.XX * 100 + 95)], may_change=("YY",))
    """

    name: str
    description: str
    alternatives: Alternatives | None = field(default=None, compare=False)
    may_change: tuple[str, ...] | None = field(default=None, compare=False)

    def options(self, prompt: Prompt, nouns: Sequence[str]) -> list[Prompt]:
        """What may replace the prompt; ValueError if its function gives anything else."""
        assert self.alternatives is not None
        found = self.alternatives(prompt, nouns)
        options = [found] if isinstance(found, Prompt) else list(found)
        if not all(isinstance(option, Prompt) for option in options):
            raise ValueError(
                f"corruption {self.name!r} gives {options!r}; its function must give prompts, "
                "for example [prompt._replace(noun='war')]"
            )
        return options


def _with_YY(prompt: Prompt, YYs: Iterable[int]) -> list[Prompt]:
    return [prompt._replace(year=prompt.XX * 100 + YY) for YY in YYs]


CORRUPTIONS: dict[str, Corruption] = {
    c.name: c
    for c in (
        Corruption(
            "01",
            "the paper's: YY becomes 01 (a start year 10YY also changes XX1: 1001 is 100 + 1)",
            lambda prompt, nouns: _with_YY(prompt, [1]),
            may_change=("XX1", "YY"),
        ),
        Corruption(
            "smaller",
            "YY becomes a random smaller one",
            lambda prompt, nouns: _with_YY(prompt, range(prompt.YY)),
            may_change=("YY",),
        ),
        Corruption(
            "random",
            "YY becomes a random other one, smaller or larger",
            lambda prompt, nouns: _with_YY(prompt, (y for y in range(100) if y != prompt.YY)),
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
            lambda prompt, nouns: [
                prompt._replace(year=XX * 100 + prompt.YY)
                for XX in PAPER_CENTURIES
                if XX != prompt.XX
            ],
            may_change=("XX1",),
        ),
    )
}
GIVEN = Corruption("given", "the corrupted prompts were given as text")


def find_corruption(corruption: str | Corruption) -> Corruption:
    """The corruption of a name, or the one given; ValueError lists the names."""
    if isinstance(corruption, str) and corruption in CORRUPTIONS:
        return CORRUPTIONS[corruption]
    if isinstance(corruption, Corruption) and corruption.alternatives is not None:
        return corruption
    raise ValueError(
        f"{corruption!r} is no corruption to draw from; choose one of {listed(CORRUPTIONS)}, "
        "or give a Corruption(name, description, alternatives)"
    )
