"""Mistakes of pairs: order, alignment, and what the corrupted prompt changes and spoils."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator

from .check import BREAKS, CHANGES, Found, check, shown
from .given import BOS, ReadPrompt
from .prompt_set import PromptSet


@check(
    "swapped",
    BREAKS,
    "Clean and corrupted are swapped: the clean prompts start in 01. Everything else is checked "
    "after changing them back.",
    "Exchange the two: the clean prompt has the year that end years are compared with.",
)
def swapped(prompts: PromptSet) -> Iterator[Found]:
    """Clean and corrupted that are named the other way round."""
    if prompts.swapped:
        clean, bad = prompts.pairs[0]
        example = f"given as clean {bad.body!r}, as corrupted {clean.body!r}"
        yield Found(range(len(prompts)), example)


def _in_another_order(prompts: PromptSet) -> list[int]:
    """Prompts with another one's corrupted prompt, where both lists hold the same."""

    def key(prompt: ReadPrompt) -> tuple[object, ...]:
        return prompt.noun.casefold(), prompt.XX, prompt.end

    same = Counter(map(key, prompts.clean)) == Counter(map(key, prompts.corrupted))
    return [i for i, pair in enumerate(prompts.pairs) if same and key(pair[0]) != key(pair[1])]


@check(
    "not in the same order",
    BREAKS,
    "In {who} the corrupted prompt belongs to another clean one: both lists hold the same nouns "
    "and centuries, in different orders.",
    "Build each corrupted prompt from its clean one, and shuffle both lists alike.",
)
def order(prompts: PromptSet) -> Iterator[Found]:
    """The corrupted prompts in another order than the clean ones."""
    yield Found(_in_another_order(prompts))


# What a corrupted prompt has in common with its clean one.
_KEPT: dict[str, Callable[[ReadPrompt], object]] = {
    "noun": lambda prompt: prompt.noun.casefold(),
    "start century": lambda prompt: prompt.XX,
    "end": lambda prompt: prompt.end,
    "words": lambda prompt: prompt.sentence.casefold(),
}


@check(
    "other {what}",
    BREAKS,
    "In {who} the corrupted prompt has another {what} than the clean one, which is patched along.",
    "Build the corrupted prompt from the clean one, and replace YY only.",
)
def more_than_YY(prompts: PromptSet) -> Iterator[Found]:
    """Corrupted prompts that change more of their clean one than YY."""
    if _in_another_order(prompts):  # of which this would only follow
        return
    readable = [(i, *pair) for i, pair in enumerate(prompts.pairs) if all(p.start for p in pair)]
    for what, part in _KEPT.items():
        where = [i for i, clean, bad in readable if part(clean) != part(bad)]
        yield Found(where, fields={"what": what})


@check(
    "lengths",
    BREAKS,
    "In {who} not both prompts have {usual} tokens, as most have, so one index cannot name YY or "
    "END in all.",
    "Mend or leave out what splits into more or fewer tokens; corrupt by two digits that are one.",
)
def lengths(prompts: PromptSet) -> Iterator[Found]:
    """Prompts of unequal numbers of tokens."""
    [(usual, _)] = Counter(len(prompt.ids) for prompt in prompts.clean).most_common(1)
    where = [i for i, pair in enumerate(prompts.pairs) if {len(p.ids) for p in pair} != {usual}]
    if where:
        clean, bad = (shown(prompt.pieces) for prompt in prompts.pairs[where[0]])
        yield Found(where, f"clean {clean}; corrupted {bad}", fields={"usual": usual})


@check(
    "several start tokens",
    CHANGES,
    f"In {{who}} there is more than one {BOS} in front (from {{least}} to {{most}} in all), as "
    "padding, or because the text has one and the tokenizer adds another.",
    "Tokenize prompts of equal length with add_special_tokens=False (TransformerLens: "
    "prepend_bos=False).",
)
def start_tokens(prompts: PromptSet) -> Iterator[Found]:
    """Pairs with more than one start token; worse if their number differs."""
    counts = [(clean.bos, bad.bos) for clean, bad in prompts.pairs]
    numbers = {count for pair in counts for count in pair}
    where = [i for i, pair in enumerate(counts) if max(pair) > 1]
    if where:
        longest = max(prompts.pairs[where[0]], key=lambda prompt: prompt.bos)
        fields = {"least": min(numbers), "most": max(numbers)}
        severity = BREAKS if len(numbers) > 1 else CHANGES  # words stand at different positions
        yield Found(where, f"{shown(longest.pieces[:4])} ...", severity=severity, fields=fields)


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


@check(
    "{name}",
    BREAKS,
    "In {who} the corrupted YY is {how}.",
    "Replace YY by 01 in the corrupted prompt, for example 1732 by 1701.",
)
def corrupted_YY(prompts: PromptSet) -> Iterator[Found]:
    """Corrupted YYs that are not 01, by how they stand to the clean ones."""
    YYs = [(i, clean.YY, bad.YY) for i, (clean, bad) in enumerate(prompts.pairs)]
    for name, (severity, wrong, how) in _WRONG_YY.items():
        where = [i for i, *pair in YYs if None not in pair and wrong(*pair)]
        yield Found(where, severity=severity, fields={"name": name, "how": how})


PAIR_CHECKS = (swapped, order, more_than_YY, lengths, start_tokens, corrupted_YY)
