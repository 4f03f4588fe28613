"""Mistakes of pairs: order, alignment, and what the corrupted prompt changes and spoils."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from ...dataset.prompts import YEAR_STRINGS
from ...formatting import in_words
from .findings import BREAKS, CHANGES, Finding, finding_of, shown
from .prompts import Prompts
from .reading import BOS, Row


class Difference(NamedTuple):
    """What a corrupted prompt may not change, in words where {who} is a count."""

    check: str
    wrong: Callable[[Row, Row], bool]
    problem: str
    fix: str


DIFFERENCES = (
    Difference(
        "other noun",
        lambda clean, bad: clean.noun.casefold() != bad.noun.casefold(),
        "In {who} the corrupted noun is another one (drawn anew?), so the noun is patched along.",
        "Draw each noun once, and use it in both prompts.",
    ),
    Difference(
        "other start century",
        lambda clean, bad: None not in (clean.XX, bad.XX) and clean.XX != bad.XX,
        "In {who} the corrupted prompt starts in another century, so XX1 is patched along.",
        "Keep the century, and replace the last two digits of the start year only.",
    ),
    Difference(
        "other end",
        lambda clean, bad: clean.end != bad.end,
        "In {who} the corrupted prompt ends otherwise than the clean one, so END changes too.",
        "End the corrupted prompt as the clean one.",
    ),
    Difference(
        "other words",
        lambda clean, bad: (
            bool(clean.start and bad.start) and clean.words.casefold() != bad.words.casefold()
        ),
        "In {who} the corrupted sentence has other words than the clean one.",
        "Keep the sentence, and replace YY only.",
    ),
)


def swapped(prompts: Prompts) -> Iterator[Finding]:
    """Clean and corrupted that are named the other way round."""
    if prompts.swapped:
        clean, bad = prompts.pairs[0]
        yield finding_of(
            prompts,
            "swapped",
            BREAKS,
            range(len(prompts)),
            "Clean and corrupted are swapped: the clean prompts start in 01. Everything else is "
            "checked after changing them back.",
            "Exchange the two: the clean prompt has the year that end years are compared with.",
            f"given as clean {bad.body!r}, as corrupted {clean.body!r}",
        )


def pairing(prompts: Prompts) -> Iterator[Finding]:
    """Rows that are no pairs, or whose corrupted prompt differs in more than YY."""

    def key(row: Row) -> tuple[object, ...]:
        return row.noun.casefold(), row.XX, row.end

    where = [i for i, (clean, bad) in enumerate(prompts.pairs) if key(clean) != key(bad)]
    if where and Counter(map(key, prompts.clean)) == Counter(map(key, prompts.corrupted)):
        yield finding_of(
            prompts,
            "not in the same order",
            BREAKS,
            where,
            "In {who} the corrupted prompt belongs to another clean one: both lists hold the same "
            "nouns and centuries, in different orders.",
            "Build each corrupted prompt from its clean one, and shuffle both lists alike.",
        )
        return
    for check in DIFFERENCES:
        where = [i for i, pair in enumerate(prompts.pairs) if check.wrong(*pair)]
        if where:
            yield finding_of(prompts, check.check, BREAKS, where, check.problem, check.fix)


def lengths(prompts: Prompts) -> Iterator[Finding]:
    """Prompts of unequal numbers of tokens, and pairs of unequal numbers."""
    counts = Counter(len(row.ids) for row in prompts.clean)
    usual = counts.most_common(1)[0][0]
    where = [i for i, row in enumerate(prompts.clean) if len(row.ids) != usual]
    if where:
        found = ", ".join(f"{n} tokens in {counts[n]}" for n in sorted(counts))
        yield finding_of(
            prompts,
            "lengths",
            BREAKS,
            where,
            f"The clean prompts have different lengths ({found}), so YY and END are at different "
            "positions and one index cannot name them.",
            "Mend or leave out the prompts whose words or years split into more or fewer tokens.",
            shown(prompts.clean[where[0]].pieces),
        )
    where = [i for i, (clean, bad) in enumerate(prompts.pairs) if len(clean.ids) != len(bad.ids)]
    if where:
        clean, bad = prompts.pairs[where[0]]
        yield finding_of(
            prompts,
            "lengths of pairs",
            BREAKS,
            where,
            "In {who} clean and corrupted have different numbers of tokens, so values are patched "
            "from one position into another.",
            "Corrupt only YY, by two digits that are one token too (01).",
            f"clean {shown(clean.pieces)}; corrupted {shown(bad.pieces)}",
        )


def start_tokens(prompts: Prompts) -> Iterator[Finding]:
    """Several start tokens in front of all prompts, or padding in front of some."""
    counts = [max(clean.bos, bad.bos) for clean, bad in prompts.pairs]
    where = [i for i, count in enumerate(counts) if count > 1]
    if not where:
        return
    pieces = max((row.pieces for row in prompts.pairs[where[0]]), key=lambda row: row.count(BOS))
    example = f"{shown(pieces[:4])} ..."
    numbers = {row.bos for pair in prompts.pairs for row in pair}
    if len(numbers) > 1:
        yield finding_of(
            prompts,
            "padding in front",
            BREAKS,
            where,
            f"Prompts have different numbers of {BOS} in front ({min(numbers)} to {max(numbers)}), "
            "as padding does it: heads read it, and equal words stand at different positions.",
            f"Use prompts of equal length with one {BOS} in front, which need no padding.",
            example,
        )
    else:
        yield finding_of(
            prompts,
            "several start tokens",
            CHANGES,
            where,
            f"In {{who}} there is more than one {BOS} in front, as when the text has one and "
            "the tokenizer adds another.",
            "Tokenize with add_special_tokens=False (TransformerLens: prepend_bos=False).",
            example,
        )


def corrupted_YY(prompts: Prompts) -> Iterator[Finding]:
    """A corrupted YY that is the clean one, above it, or smaller but not 01."""
    known = [
        (i, clean.YY, bad.YY)
        for i, (clean, bad) in enumerate(prompts.pairs)
        if clean.YY is not None and bad.YY is not None
    ]
    if where := [i for i, clean, bad in known if clean == bad]:
        yield finding_of(
            prompts,
            "nothing corrupted",
            BREAKS,
            where,
            "In {who} the corrupted prompt has the clean YY and so the same right answers: "
            "patching it shows nothing about YY.",
            "Replace YY by 01 in the corrupted prompt, for example 1732 by 1701.",
        )
    if where := [i for i, clean, bad in known if clean < bad]:
        yield finding_of(
            prompts,
            "corrupted YY above",
            BREAKS,
            where,
            "In {who} the corrupted YY is above the clean one, so what is right after it is right "
            f"after the clean one too{_still_right(prompts, where)}.",
            "Corrupt with 01, below every YY, so that end years up to YY become likely."
            + (" Are clean and corrupted swapped?" if len(where) == len(prompts) else ""),
        )
    if where := [i for i, clean, bad in known if 1 != bad < clean]:
        values = sorted({YEAR_STRINGS[bad] for _, clean, bad in known if 1 != bad < clean})
        named = values[0] if len(values) == 1 else f"{values[0]} to {values[-1]}"
        yield finding_of(
            prompts,
            "corrupted YY not 01",
            CHANGES,
            where,
            f"In {{who}} the corrupted YY is not 01 but {named}, so it spoils the answer to "
            f"another degree than the paper's{_still_right(prompts, where)}.",
            "For the paper's numbers corrupt with 01.",
        )


def _still_right(prompts: Prompts, where: Sequence[int]) -> str:
    """How much of the corrupted answers is right for the clean YY, beside the clean answers."""
    rows = torch.as_tensor(where)
    masses = {}
    for name in ("corrupted", "clean", "paper corrupted"):
        answers = prompts.answers[name][rows]
        mass = (answers * prompts.right[rows]).sum(-1) / answers.sum(-1)
        masses[name] = in_words(float(mass[~mass.isnan()].mean()), digits=0)
    if masses["corrupted"] == "–":
        return ""
    return (
        f" ({masses['corrupted']} of the corrupted answers are still above the clean YY; clean "
        f"{masses['clean']}, with 01 {masses['paper corrupted']})"
    )


PAIR_CHECKS = (swapped, pairing, lengths, start_tokens, corrupted_YY)
