"""Findings: what a check says of a mistake, in which prompts, and what the model answers there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...formatting import in_words
from .prompt_set import PromptSet

BREAKS, CHANGES, NOTE = "breaks the comparison", "changes the numbers", "note"
SEVERITIES = (BREAKS, CHANGES, NOTE)  # worst first


@dataclass(frozen=True)
class Finding:
    """What is wrong in which prompts, the first of them as an example, and how to mend it.

    ``check`` is a short name, ``prompts`` are the numbers of the prompts concerned, and
    ``measured`` says what the model answers on them.
    """

    check: str
    severity: str
    problem: str
    example: str
    fix: str
    prompts: tuple[int, ...]
    measured: str = ""


def findings(
    prompts: PromptSet,
    where: Sequence[int],
    check: str,
    severity: str,
    problem: str,
    fix: str,
    example: str = "",
    side: str = "",
) -> Iterator[Finding]:
    """The finding of a mistake in some prompts, of which the first is the example; in none, none.

    By default the example is the pair of texts; ``side`` is the one shown, if it is one only.
    """
    if where:
        place = f"prompt {where[0]}, {side}" if side else f"prompt {where[0]}"
        clean, corrupted = (prompt.body for prompt in prompts.pairs[where[0]])
        example = f"{place}: {example or f'{clean!r}, corrupted {corrupted!r}'}"
        measured = "" if severity == NOTE else _measured(prompts, list(where))
        yield Finding(check, severity, problem, example, fix, tuple(where), measured)


def count_of(where: Sequence[int], prompts: PromptSet, side: str = "") -> str:
    """How many prompts of all: "all 97 prompts", "12 of 97 clean prompts"."""
    n = len(prompts)
    many = f"all {n}" if len(where) == n else f"{len(where)} of {n}"
    return " ".join(filter(None, (many if n > 1 else "the", side, f"prompt{'s' * (n > 1)}")))


def shown(pieces: Sequence[str]) -> str:
    """The texts of tokens as an example shows them: ' 17' + '32'."""
    return " + ".join(map(repr, pieces))


def _measured(prompts: PromptSet, where: list[int]) -> str:
    """What the model answers on these prompts, as given and as the paper builds them."""
    own, paper = (_both_in_words(prompts.scores(paper=paper)[:, where]) for paper in (False, True))
    if not own:
        return ""
    text = f"On these prompts, with all findings, the probability difference is {own}"
    return text + (f"; built and scored as in the paper {paper}." if paper else ".")


def _both_in_words(pair: Tensor) -> str:
    clean, corrupted = pair[:, ~pair.isnan().any(0)].mean(-1).tolist()
    return "" if math.isnan(clean) else f"{in_words(clean)} clean, {in_words(corrupted)} corrupted"
