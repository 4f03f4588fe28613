"""A check: one difference from the paper's construction, how to find it, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .given import SIDES, ReadPrompt
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


@dataclass(frozen=True)
class Found:
    """Where a check found something: the prompts' numbers, and the first of them as an example.

    By default the example is the pair of texts; ``side`` is the one shown, if it is one only.
    ``fields`` fill the check's name and problem, and ``severity`` may stand in for the check's.
    """

    where: Sequence[int]
    example: str = ""
    side: str = ""
    severity: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)


Find = Callable[[PromptSet], Iterator[Found]]


@dataclass(frozen=True)
class Check:
    """A mistake's name and severity, in words (where {who} becomes a count), and how to find it."""

    name: str
    severity: str
    problem: str
    fix: str
    find: Find

    def findings(self, prompts: PromptSet) -> Iterator[Finding]:
        """What the check finds in a set of prompts."""
        for found in self.find(prompts):
            if not found.where:
                continue
            first = found.where[0]
            fields = {"who": count_of(found.where, len(prompts)), **found.fields}
            clean, corrupted = (prompt.body for prompt in prompts.pairs[first])
            side = f", {found.side}" if found.side else ""
            example = found.example or f"{clean!r}, corrupted {corrupted!r}"
            yield Finding(
                self.name.format(**fields),
                found.severity or self.severity,
                self.problem.format(**fields),
                f"prompt {first}{side}: {example}",
                self.fix,
                tuple(found.where),
            )


def check(name: str, severity: str, problem: str, fix: str) -> Callable[[Find], Check]:
    """Make a check of the function that finds its mistake."""
    return lambda find: Check(name, severity, problem, fix, find)


def prompt_check(
    name: str,
    severity: str,
    problem: str,
    fix: str,
    wrong: Callable[[ReadPrompt], Any],
    show: Callable[[ReadPrompt], str],
    sides: Sequence[str] = SIDES,
) -> Check:
    """A mistake that one prompt can have by itself, found on both sides together."""

    def find(prompts: PromptSet) -> Iterator[Found]:
        having = {}
        for side in sides:
            if where := [i for i, one in enumerate(getattr(prompts, side)) if wrong(one)]:
                having[side] = where
        if having:
            where = sorted(set().union(*having.values()))
            side = next(side for side, found in having.items() if where[0] in found)
            who = count_of(where, len(prompts), side if len(having) == 1 else "")
            example = show(getattr(prompts, side)[where[0]])
            yield Found(where, example, side, fields={"who": who})

    return Check(name, severity, f"In {{who}} {problem}.", fix, find)


def count_of(where: Sequence[int], n: int, side: str = "") -> str:
    """How many prompts of all: "all 97 prompts", "12 of 97 clean prompts"."""
    many = f"all {n}" if len(where) == n else f"{len(where)} of {n}"
    return " ".join(filter(None, (many if n > 1 else "the", side, f"prompt{'s' * (n > 1)}")))


def shown(pieces: Sequence[str]) -> str:
    """The texts of tokens as an example shows them: ' 17' + '32'."""
    return " + ".join(map(repr, pieces))
