"""Mistakes that one prompt can have by itself, clean or corrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ...dataset.corruptions import PAPER_CENTURIES
from ...dataset.prompts import PAPER_TEMPLATE, load_nouns
from ...metrics import FIRST_YY, LAST_YY
from .check import BREAKS, CHANGES, NOTE, Finding, count_of, findings, shown
from .given import BOS, SIDES, ReadPrompt
from .prompt_set import PromptSet

CODE_CENTURIES = range(10, 19)
PAPER_SENTENCE = PAPER_TEMPLATE.removeprefix(BOS).removesuffix("{XX}").strip()
TOKENIZE = "model.tokenizer(texts, add_special_tokens=False)"


def _text(prompt: ReadPrompt) -> str:
    return repr(prompt.body)


def _tokens(prompt: ReadPrompt) -> str:
    return shown(prompt.pieces)


def _first_tokens(prompt: ReadPrompt) -> str:
    return f"{shown(prompt.pieces[:3])} ..."


def _year(prompt: ReadPrompt) -> str:
    return f"{prompt.start} is {shown(prompt.year_pieces)}"


class _Mistake(NamedTuple):
    """What is wrong, how to mend it, which prompts have it, and what of one is the example."""

    check: str
    severity: str
    problem: str
    fix: str
    wrong: Callable[[ReadPrompt], Any]
    show: Callable[[ReadPrompt], str] = _text
    sides: Sequence[str] = SIDES


_MISTAKES = (
    _Mistake(
        "unknown token ids",
        BREAKS,
        "there are token ids that the model does not have; texts, if given, are read instead",
        f"Tokenize with the model's own tokenizer: {TOKENIZE}.",
        lambda prompt: prompt.unknown,
        lambda prompt: f"id {prompt.unknown[0]}",
    ),
    _Mistake(
        "ids of another text",
        BREAKS,
        "the token ids are not those of the text; the ids are read, as the model does",
        f"Tokenize the texts again, {TOKENIZE}, and keep both in the same order.",
        lambda prompt: prompt.mismatch == "other tokens" and not prompt.unknown,
        _tokens,
    ),
    _Mistake(
        "after the end",
        BREAKS,
        "a blank or padding follows the last century, so what is read at END is no answer",
        "Remove it: text.rstrip(); prompts of equal length need no padding.",
        lambda prompt: prompt.padding or prompt.body != prompt.body.rstrip(),
        lambda prompt: f"... {shown(prompt.pieces[-3:])}",
    ),
    _Mistake(
        "end century",
        BREAKS,
        "the start year's century does not stand alone at the end, so YY does not bound the answer",
        "End with the start year's century, as in 'to the year 17' after 1732.",
        lambda prompt: prompt.start and prompt.end != prompt.start[:-2],
        sides=("clean",),
    ),
    _Mistake(
        "no start year",
        BREAKS,
        "no start year can be read, so there is no YY that end years are compared with",
        "Write the start year in four digits without a blank, as in 'from the year 1732'.",
        lambda prompt: not prompt.start,
    ),
    _Mistake(
        "start year split",
        BREAKS,
        "the start year does not split into its century and YY, so there is no token YY",
        "Draw start years from valid_years(tokenizer) of gt_helpers, which split well.",
        lambda prompt: prompt.start and not prompt.splits_well,
        _year,
        ("clean",),
    ),
    _Mistake(
        "corrupted year split",
        CHANGES,
        "the start year does not split into its century and YY, so XX1 changes too (in the paper's "
        "code this happens in century 10)",
        "Start in centuries 11 to 17, and corrupt with 01: 1701 is ' 17' + '01'.",
        lambda prompt: prompt.start and not prompt.splits_well,
        _year,
        ("corrupted",),
    ),
    _Mistake(
        "noun of several tokens",
        BREAKS,
        "the noun is more than one token, which moves every later position",
        "Use nouns that are one token after a space, such as load_nouns() of gt_helpers.",
        lambda prompt: len(prompt.noun_pieces) > 1,
        lambda prompt: f"{prompt.noun} is {shown(prompt.noun_pieces)}",
    ),
    _Mistake(
        "template",
        CHANGES,
        "the sentence is not the paper's to the letter, so its numbers do not carry over",
        f"Write {PAPER_TEMPLATE!r}.",
        lambda prompt: (
            prompt.start
            and (prompt.sentence != PAPER_SENTENCE or prompt.noun != prompt.noun.lower())
        ),
    ),
    _Mistake(
        "no start token",
        CHANGES,
        f"there is no {BOS} in front, on which heads rest: they rest on a word instead",
        f"Begin with '{BOS} The'; if your tokenizer adds it, give your token ids too (ids=).",
        lambda prompt: prompt.bos == 0,
        _first_tokens,
    ),
    _Mistake(
        "space lost",
        CHANGES,
        f"the space after {BOS} is lost: the first word is 'The' (GPT-2's 464), not ' The' (383)",
        f"Tokenize the whole text '{BOS} The plague lasted ...': {TOKENIZE}.",
        lambda prompt: prompt.bos > 0 and prompt.body[:1].isalpha(),
        _first_tokens,
    ),
    _Mistake(
        "unusual characters",
        CHANGES,
        "not all is letters, digits and single spaces, and the rest makes other tokens",
        "Replace double spaces, line breaks and the like; repr(text) shows them.",
        lambda prompt: (
            "  " in prompt.body.rstrip()
            or any(not " " <= character <= "~" for character in prompt.body.rstrip())
        ),
        _tokens,
    ),
    _Mistake(
        "start token added",
        NOTE,
        f"the ids begin with another number of {BOS} than the text: the tokenizer changes it",
        f"Write {BOS} into the texts, and use {TOKENIZE}.",
        lambda prompt: prompt.mismatch == "start token",
        _first_tokens,
    ),
    _Mistake(
        "centuries",
        CHANGES,
        "the start year is of a century that neither the paper's text nor its code has",
        "Start in the years 1100 to 1799.",
        lambda prompt: prompt.XX not in (None, *CODE_CENTURIES),
        sides=("clean",),
    ),
    _Mistake(
        "centuries",
        NOTE,
        "the start year is of a century that the paper's code has (10 to 18), its text (11 to 17) "
        "has not",
        "Start in the years 1100 to 1799.",
        lambda prompt: prompt.XX in CODE_CENTURIES and prompt.XX not in PAPER_CENTURIES,
        sides=("clean",),
    ),
    _Mistake(
        "YY at the edge",
        CHANGES,
        "YY is 00, 01 or 99, after which no end year is right, or which 01 does not corrupt",
        f"Keep to YY {FIRST_YY:02d} to {LAST_YY}, as valid_years of gt_helpers does.",
        lambda prompt: prompt.YY in (0, 1, 99),
        sides=("clean",),
    ),
    _Mistake(
        "other nouns",
        NOTE,
        "the noun is none of the paper's",
        "Take nouns from load_nouns() of gt_helpers.",
        lambda prompt: len(prompt.noun_pieces) == 1 and prompt.noun.lower() not in load_nouns(),
        lambda prompt: prompt.noun,
        ("clean",),
    ),
)


def prompt_checks(prompts: PromptSet) -> Iterator[Finding]:
    """Mistakes that one prompt can have by itself, found on both sides together."""
    for check, severity, problem, fix, wrong, show, sides in _MISTAKES:
        having = sorted(
            (i, side)
            for side in sides
            for i, prompt in enumerate(getattr(prompts, side))
            if wrong(prompt)
        )
        if having:
            first, side = having[0]
            where = sorted({i for i, _ in having})
            only = side if len({side for _, side in having}) == 1 else ""
            text = f"In {count_of(where, prompts, only)} {problem}."
            example = show(getattr(prompts, side)[first])
            yield from findings(prompts, where, check, severity, text, fix, example, side)
