"""Mistakes of pairs: order, alignment, and what the corrupted prompt changes and spoils."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator

from .check import BREAKS, CHANGES, Finding, count_of, findings, shown
from .given import BOS, ReadPrompt
from .prompt_set import PromptSet


def swapped(prompts: PromptSet) -> Iterator[Finding]:
    """Clean and corrupted that are named the other way round."""
    clean, bad = prompts.pairs[0]
    yield from findings(
        prompts,
        range(len(prompts)) if prompts.swapped else (),
        "swapped",
        BREAKS,
        "Clean and corrupted are swapped: the clean prompts start in 01. Everything else is "
        "checked after changing them back.",
        "Exchange the two: the clean prompt has the year that end years are compared with.",
        f"given as clean {bad.body!r}, as corrupted {clean.body!r}",
    )


# What a corrupted prompt has in common with its clean one.
_KEPT: dict[str, Callable[[ReadPrompt], object]] = {
    "noun": lambda prompt: prompt.noun.casefold(),
    "start century": lambda prompt: prompt.XX,
    "end": lambda prompt: prompt.end,
    "words": lambda prompt: prompt.sentence.casefold(),
}


def more_than_YY(prompts: PromptSet) -> Iterator[Finding]:
    """Corrupted prompts that belong to another clean one, or change more of their own than YY."""
    if where := prompts.reordered:
        yield from findings(
            prompts,
            where,
            "not in the same order",
            BREAKS,
            f"In {count_of(where, prompts)} the corrupted prompt belongs to another clean one: "
            "both lists hold the same nouns and centuries, in different orders.",
            "Build each corrupted prompt from its clean one, and shuffle both lists alike.",
        )
        return  # of which other words and nouns only follow
    readable = [(i, *pair) for i, pair in enumerate(prompts.pairs) if all(p.start for p in pair)]
    for what, part in _KEPT.items():
        where = [i for i, clean, bad in readable if part(clean) != part(bad)]
        yield from findings(
            prompts,
            where,
            f"other {what}",
            BREAKS,
            f"In {count_of(where, prompts)} the corrupted prompt has another {what} than the clean "
            "one, which is patched along.",
            "Build the corrupted prompt from the clean one, and replace YY only.",
        )


def lengths(prompts: PromptSet) -> Iterator[Finding]:
    """Prompts of unequal numbers of tokens."""
    [(usual, _)] = Counter(len(prompt.ids) for prompt in prompts.clean).most_common(1)
    where = [i for i, pair in enumerate(prompts.pairs) if {len(p.ids) for p in pair} != {usual}]
    if where:
        clean, bad = (shown(prompt.pieces) for prompt in prompts.pairs[where[0]])
        yield from findings(
            prompts,
            where,
            "lengths",
            BREAKS,
            f"In {count_of(where, prompts)} not both prompts have {usual} tokens, as most have, so "
            "one index cannot name YY or END in all.",
            "Mend or leave out what splits into more or fewer tokens; corrupt by two digits that "
            "are one.",
            f"clean {clean}; corrupted {bad}",
        )


def start_tokens(prompts: PromptSet) -> Iterator[Finding]:
    """Pairs with more than one start token; worse if their number differs."""
    counts = [(clean.bos, bad.bos) for clean, bad in prompts.pairs]
    numbers = {count for pair in counts for count in pair}
    where = [i for i, pair in enumerate(counts) if max(pair) > 1]
    if where:
        longest = max(prompts.pairs[where[0]], key=lambda prompt: prompt.bos)
        yield from findings(
            prompts,
            where,
            "several start tokens",
            BREAKS if len(numbers) > 1 else CHANGES,  # words stand at different positions
            f"In {count_of(where, prompts)} there is more than one {BOS} in front (from "
            f"{min(numbers)} to {max(numbers)} in all), as padding, or because the text has one "
            "and the tokenizer adds another.",
            "Tokenize prompts of equal length with add_special_tokens=False (TransformerLens: "
            "prepend_bos=False).",
            f"{shown(longest.pieces[:4])} ...",
        )


_WRONG_YY: dict[str, tuple[str, Callable[..., bool], str]] = {
    "nothing corrupted": (BREAKS, operator.eq, "the clean one, so patching it shows nothing"),
    "corrupted YY above": (
        BREAKS,
        operator.lt,
        "above the clean one, so what is right after it is right after both",
    ),
    "corrupted YY not 01": (
        CHANGES,
        lambda clean, bad: 1 != bad < clean,
        "below the clean one, but spoils the answer to another degree than 01",
    ),
}


def corrupted_YY(prompts: PromptSet) -> Iterator[Finding]:
    """Corrupted YYs that are not 01, by how they stand to the clean ones."""
    YYs = [(i, clean.YY, bad.YY) for i, (clean, bad) in enumerate(prompts.pairs)]
    for name, (severity, wrong, how) in _WRONG_YY.items():
        where = [i for i, *pair in YYs if None not in pair and wrong(*pair)]
        problem = f"In {count_of(where, prompts)} the corrupted YY is {how}."
        fix = "Replace YY by 01 in the corrupted prompt, for example 1732 by 1701."
        yield from findings(prompts, where, name, severity, problem, fix)


PAIR_CHECKS = (swapped, more_than_YY, lengths, start_tokens, corrupted_YY)
