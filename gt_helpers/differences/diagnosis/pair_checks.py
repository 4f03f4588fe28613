"""Mistakes of pairs: order, alignment, and what the corrupted prompt changes and spoils."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch

from ...dataset.prompts import YEAR_STRINGS
from ...formatting import in_words
from .check import BREAKS, CHANGES, Check, Find, Found, check, shown
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


def _in_pairs(wrong: Callable[[ReadPrompt, ReadPrompt], object]) -> Find:
    """Finds what a corrupted prompt may not change in its clean one."""

    def find(prompts: PromptSet) -> Iterator[Found]:
        # Of a list in another order that is said, not what follows from it.
        if not _in_another_order(prompts):
            yield Found([i for i, pair in enumerate(prompts.pairs) if wrong(*pair)])

    return find


DIFFERENCES = (
    Check(
        "other noun",
        BREAKS,
        "In {who} the corrupted noun is another one (drawn anew?), so the noun is patched along.",
        "Draw each noun once, and use it in both prompts.",
        _in_pairs(lambda clean, bad: clean.noun.casefold() != bad.noun.casefold()),
    ),
    Check(
        "other start century",
        BREAKS,
        "In {who} the corrupted prompt starts in another century, so XX1 is patched along.",
        "Keep the century, and replace the last two digits of the start year only.",
        _in_pairs(lambda clean, bad: None not in (clean.XX, bad.XX) and clean.XX != bad.XX),
    ),
    Check(
        "other end",
        BREAKS,
        "In {who} the corrupted prompt ends otherwise than the clean one, so END changes too.",
        "End the corrupted prompt as the clean one.",
        _in_pairs(lambda clean, bad: clean.end != bad.end),
    ),
    Check(
        "other words",
        BREAKS,
        "In {who} the corrupted sentence has other words than the clean one.",
        "Keep the sentence, and replace YY only.",
        _in_pairs(
            lambda clean, bad: (
                clean.start and bad.start and clean.sentence.casefold() != bad.sentence.casefold()
            )
        ),
    ),
)


@check(
    "lengths",
    BREAKS,
    "The clean prompts have different lengths ({lengths}), so YY and END are at different "
    "positions and one index cannot name them.",
    "Mend or leave out the prompts whose words or years split into more or fewer tokens.",
)
def lengths(prompts: PromptSet) -> Iterator[Found]:
    """Clean prompts of unequal numbers of tokens."""
    counts = Counter(len(prompt.ids) for prompt in prompts.clean)
    usual = counts.most_common(1)[0][0]
    where = [i for i, prompt in enumerate(prompts.clean) if len(prompt.ids) != usual]
    if where:
        told = ", ".join(f"{n} tokens in {counts[n]}" for n in sorted(counts))
        yield Found(where, shown(prompts.clean[where[0]].pieces), fields={"lengths": told})


@check(
    "lengths of pairs",
    BREAKS,
    "In {who} clean and corrupted have different numbers of tokens, so values are patched from "
    "one position into another.",
    "Corrupt only YY, by two digits that are one token too (01).",
)
def lengths_of_pairs(prompts: PromptSet) -> Iterator[Found]:
    """Pairs of unequal numbers of tokens."""
    where = [i for i, (clean, bad) in enumerate(prompts.pairs) if len(clean.ids) != len(bad.ids)]
    if where:
        clean, bad = prompts.pairs[where[0]]
        yield Found(where, f"clean {shown(clean.pieces)}; corrupted {shown(bad.pieces)}")


def _start_tokens(prompts: PromptSet, equally_many: bool) -> Iterator[Found]:
    """Pairs with more than one start token, if all prompts have equally many (or if not)."""
    counts = [(clean.bos, bad.bos) for clean, bad in prompts.pairs]
    numbers = {count for pair in counts for count in pair}
    where = [i for i, pair in enumerate(counts) if max(pair) > 1]
    if where and equally_many == (len(numbers) == 1):
        longest = max(prompts.pairs[where[0]], key=lambda prompt: prompt.pieces.count(BOS))
        fields = {"least": min(numbers), "most": max(numbers)}
        yield Found(where, f"{shown(longest.pieces[:4])} ...", fields=fields)


START_TOKENS = (
    Check(
        "padding in front",
        BREAKS,
        f"Prompts have different numbers of {BOS} in front ({{least}} to {{most}}), as padding "
        "does it: heads read it, and equal words stand at different positions.",
        f"Use prompts of equal length with one {BOS} in front, which need no padding.",
        lambda prompts: _start_tokens(prompts, equally_many=False),
    ),
    Check(
        "several start tokens",
        CHANGES,
        f"In {{who}} there is more than one {BOS} in front, as when the text has one and the "
        "tokenizer adds another.",
        "Tokenize with add_special_tokens=False (TransformerLens: prepend_bos=False).",
        lambda prompts: _start_tokens(prompts, equally_many=True),
    ),
)


def _by_YY(prompts: PromptSet, wrong: Callable[[int, int], bool]) -> Iterator[Found]:
    """Pairs whose clean and corrupted YY are wrong together, and which corrupted YYs these are."""
    where = [
        i
        for i, (clean, bad) in enumerate(prompts.pairs)
        if clean.YY is not None and bad.YY is not None and wrong(clean.YY, bad.YY)
    ]
    if where:
        YYs = sorted({YEAR_STRINGS[prompts.corrupted[i].YY or 0] for i in where})
        fields = {
            "YYs": YYs[0] if len(YYs) == 1 else f"{YYs[0]} to {YYs[-1]}",
            "right": _still_right(prompts, where),
            "swapped": " Are clean and corrupted swapped?" if len(where) == len(prompts) else "",
        }
        yield Found(where, fields=fields)


CORRUPTED_YY = (
    Check(
        "nothing corrupted",
        BREAKS,
        "In {who} the corrupted prompt has the clean YY and so the same right answers: patching it "
        "shows nothing about YY.",
        "Replace YY by 01 in the corrupted prompt, for example 1732 by 1701.",
        lambda prompts: _by_YY(prompts, lambda clean, bad: clean == bad),
    ),
    Check(
        "corrupted YY above",
        BREAKS,
        "In {who} the corrupted YY is above the clean one, so what is right after it is right "
        "after the clean one too{right}.{swapped}",
        "Corrupt with 01, below every YY, so that end years up to YY become likely.",
        lambda prompts: _by_YY(prompts, lambda clean, bad: clean < bad),
    ),
    Check(
        "corrupted YY not 01",
        CHANGES,
        "In {who} the corrupted YY is not 01 but {YYs}, so it spoils the answer to another degree "
        "than the paper's{right}.",
        "For the paper's numbers corrupt with 01.",
        lambda prompts: _by_YY(prompts, lambda clean, bad: 1 != bad < clean),
    ),
)


def _still_right(prompts: PromptSet, where: Sequence[int]) -> str:
    """How much of the corrupted answers is right for the clean YY, beside the clean answers."""
    at = torch.as_tensor(where)
    masses = {}
    for name in ("corrupted", "clean", "paper corrupted"):
        answers = prompts.answers[name][at]
        mass = (answers * prompts.right[at]).sum(-1) / answers.sum(-1)
        masses[name] = in_words(float(mass[~mass.isnan()].mean()), digits=0)
    if masses["corrupted"] == "–":
        return ""
    return (
        f" ({masses['corrupted']} of the corrupted answers are still above the clean YY; clean "
        f"{masses['clean']}, with 01 {masses['paper corrupted']})"
    )


PAIR_CHECKS = (
    *(swapped, order, *DIFFERENCES, lengths, lengths_of_pairs),
    *(*START_TOKENS, *CORRUPTED_YY),
)
