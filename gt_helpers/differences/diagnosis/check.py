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
    ``fields`` fill the check's problem, and ``severity`` may stand in for the check's.
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
            of = f"prompt {first}, {found.side}" if found.side else f"prompt {first}"
            yield Finding(
                self.name,
                found.severity or self.severity,
                self.problem.format(**fields),
                f"{of}: {found.example or _texts(*prompts.pairs[first])}",
                self.fix,
                tuple(found.where),
            )


def check(name: str, severity: str, problem: str, fix: str) -> Callable[[Find], Check]:
    """Make a check of the function that finds its mistake."""
    return lambda find: Check(name, severity, problem, fix, find)


def in_prompts(
    wrong: Callable[[ReadPrompt], Any],
    show: Callable[[ReadPrompt], str],
    sides: Sequence[str] = SIDES,
) -> Find:
    """Finds a mistake that one prompt can have by itself, on both sides together."""

    def find(prompts: PromptSet) -> Iterator[Found]:
        read = {side: getattr(prompts, side) for side in sides}
        having = {side: {i for i, one in enumerate(read[side]) if wrong(one)} for side in sides}
        having = {side: found for side, found in having.items() if found}
        if not having:
            return
        where = sorted(set.union(*having.values()))
        side = next(side for side, found in having.items() if where[0] in found)
        who = count_of(where, len(prompts), side if len(having) == 1 else "")
        yield Found(where, show(read[side][where[0]]), side, fields={"who": who})

    return find


def count_of(where: Sequence[int], n: int, side: str = "") -> str:
    """How many prompts of all: "all 97 prompts", "12 of 97 clean prompts"."""
    many = f"all {n}" if len(where) == n else f"{len(where)} of {n}"
    return " ".join(filter(None, (many if n > 1 else "the", side, f"prompt{'s' * (n > 1)}")))


def shown(pieces: Sequence[str]) -> str:
    """The texts of tokens as an example shows them: ' 17' + '32'."""
    return " + ".join(map(repr, pieces))


def _texts(clean: ReadPrompt, corrupted: ReadPrompt) -> str:
    return f"{clean.body!r}, corrupted {corrupted.body!r}"
