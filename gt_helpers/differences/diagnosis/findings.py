"""A finding: one difference from the paper's construction, how bad it is, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .prompts import Prompts

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


def count_of(where: Sequence[int], n: int, side: str = "") -> str:
    """How many prompts of all: "all 97 prompts", "12 of 97 clean prompts"."""
    many = f"all {n}" if len(where) == n else f"{len(where)} of {n}"
    return " ".join(filter(None, (many if n > 1 else "the", side, f"prompt{'s' * (n > 1)}")))


def shown(pieces: Sequence[str]) -> str:
    """The texts of tokens as an example shows them: ' 17' + '32'."""
    return " + ".join(map(repr, pieces))


def finding_of(
    prompts: Prompts,
    check: str,
    severity: str,
    where: Sequence[int],
    problem: str,
    fix: str,
    example: str = "",
) -> Finding:
    """A finding about the prompts ``where``, of which by default the first pair is shown."""
    if not example:
        clean, bad = prompts.pairs[where[0]]
        example = f"{clean.body!r}, corrupted {bad.body!r}"
    problem = problem.replace("{who}", count_of(where, len(prompts)))
    return Finding(check, severity, problem, f"prompt {where[0]}: {example}", fix, tuple(where))
