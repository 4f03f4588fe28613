"""Mistakes that one prompt can have by itself, clean or corrupted: a table of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...dataset.prompts import PAPER_TEMPLATE
from .findings import BREAKS, CHANGES, NOTE, Finding, count_of, shown
from .given import SIDES
from .prompts import Prompts
from .reading import BOS, Row

PAPER_WORDS = PAPER_TEMPLATE.removeprefix(BOS).removesuffix("{XX}").strip()
NO_SPECIAL_TOKENS = "model.tokenizer(texts, add_special_tokens=False)"


class RowCheck(NamedTuple):
    """A mistake's name and severity, how to see it, and in words, where {who} becomes a count."""

    check: str
    severity: str
    wrong: Callable[[Row], bool]
    problem: str
    fix: str
    show: Callable[[Row], str]
    sides: tuple[str, ...] = SIDES


def row_findings(prompts: Prompts) -> Iterator[Finding]:
    """At most one finding per check of the table, about both sides together.

    Of ids alone that the model does not have only this is told, because nothing can be read.
    """
    for check in ROWS[:1] if prompts.only_unknown_ids else ROWS:
        found = {
            side: [i for i, row in enumerate(getattr(prompts, side)) if check.wrong(row)]
            for side in check.sides
        }
        having = [side for side in check.sides if found[side]]
        if not having:
            continue
        where = sorted({i for many in found.values() for i in many})
        who = count_of(where, len(prompts), having[0] if len(having) == 1 else "")
        first, side = where[0], next(side for side in having if where[0] in found[side])
        example = f"prompt {first}, {side}: {check.show(getattr(prompts, side)[first])}"
        problem = check.problem.replace("{who}", who)
        yield Finding(check.check, check.severity, problem, example, check.fix, tuple(where))


def _tokens(row: Row) -> str:
    return shown(row.pieces)


def _first_tokens(row: Row) -> str:
    return f"{shown(row.pieces[:3])} ..."


def _last_tokens(row: Row) -> str:
    return f"... {shown(row.pieces[-3:])}"


def _text(row: Row) -> str:
    return repr(row.body)


def _year(row: Row) -> str:
    return f"{row.start} is {shown(row.year_pieces)}"


def _other_words(row: Row) -> bool:
    return bool(row.start) and row.words.casefold() != PAPER_WORDS.casefold()


def _other_capitals(row: Row) -> bool:
    same_words = bool(row.start) and not _other_words(row)
    return same_words and (row.words != PAPER_WORDS or row.noun != row.noun.lower())


ROWS = (
    RowCheck(
        "unknown token ids",
        BREAKS,
        lambda row: bool(row.unknown),
        "In {who} there are token ids that the model does not have: they are another tokenizer's, "
        "or padding. Everything else is checked on the texts, where there are some.",
        f"Tokenize with the model's own tokenizer: {NO_SPECIAL_TOKENS}.",
        lambda row: f"id {row.unknown[0]}",
    ),
    RowCheck(
        "ids of another text",
        BREAKS,
        lambda row: row.mismatch == "other tokens" and not row.unknown,
        "In {who} the token ids are not the tokens of the text; everything else is checked on the "
        "ids, because the model reads these.",
        f"Tokenize the texts again, {NO_SPECIAL_TOKENS}, and keep both in the same order.",
        lambda row: f"the ids read {shown(row.pieces)}",
    ),
    RowCheck(
        "padding",
        BREAKS,
        lambda row: row.padding > 0,
        f"In {{who}} the last token is padding ({BOS}), so what is read at END is no answer.",
        "Use prompts of equal length, which need no padding.",
        _last_tokens,
    ),
    RowCheck(
        "space at the end",
        BREAKS,
        lambda row: row.body != row.body.rstrip(),
        "In {who} a blank follows the last century, so END is the blank, after which the model "
        "does not continue the year.",
        "Remove blanks at the end: text.rstrip().",
        _last_tokens,
    ),
    RowCheck(
        "end century missing",
        BREAKS,
        lambda row: bool(row.start) and not row.end,
        "In {who} no century stands at the end, so the next token is not the end year's last two "
        "digits.",
        "End every prompt with the century of its start year, as in 'to the year 17'.",
        _text,
    ),
    RowCheck(
        "answer included",
        BREAKS,
        lambda row: len(row.end) > 2,
        "In {who} the whole end year is in the prompt, so the answer is given away and the next "
        "token is another word.",
        "Stop after the century: 'to the year 17', not 'to the year 1745'.",
        _last_tokens,
    ),
    RowCheck(
        "end century",
        BREAKS,
        lambda row: row.XX is not None and 0 < len(row.end) <= 2 and int(row.end) != row.XX,
        "In {who} the prompt ends in another century than it starts in, so YY does not bound the "
        "end year.",
        "Write the start year's century at the end, 17 for 1732.",
        _text,
        ("clean",),
    ),
    RowCheck(
        "no start year",
        BREAKS,
        lambda row: not row.start,
        "In {who} no start year can be read, so there is no YY that end years are compared with.",
        "Write the start year in four digits without a blank, as in 'from the year 1732'.",
        _text,
    ),
    RowCheck(
        "start year split",
        BREAKS,
        lambda row: bool(row.start) and not row.splits_well,
        "In {who} the start year does not split into its century and YY, so there is no token YY.",
        "Draw start years from valid_years(tokenizer) of gt_helpers, which split well.",
        _year,
        ("clean",),
    ),
    RowCheck(
        "corrupted year split",
        CHANGES,
        lambda row: bool(row.start) and not row.splits_well,
        "In {who} the start year does not split into its century and YY, so the corruption changes "
        "XX1 as well as YY (in the paper's code this happens in century 10).",
        "Start in centuries 11 to 17, and corrupt with 01: 1701 is ' 17' + '01'.",
        _year,
        ("corrupted",),
    ),
    RowCheck(
        "noun of several tokens",
        BREAKS,
        lambda row: len(row.noun_pieces) > 1,
        "In {who} the noun is more than one token, which moves every later position.",
        "Use nouns that are one token after a space, such as load_nouns() of gt_helpers.",
        lambda row: f"{row.noun} is {shown(row.noun_pieces)}",
    ),
    RowCheck(
        "template",
        CHANGES,
        _other_words,
        "In {who} the sentence is not the paper's, so its numbers do not carry over.",
        f"Write {PAPER_TEMPLATE!r}.",
        lambda row: f"{row.words + ' ' + row.end!r}",
    ),
    RowCheck(
        "no start token",
        CHANGES,
        lambda row: row.bos == 0,
        f"In {{who}} there is no {BOS} in front: all positions are one lower than the paper's, and "
        "heads that rest on the first token rest on a word.",
        f"Begin every prompt with {BOS}, as in '{BOS} The plague lasted'; if your tokenizer adds "
        "it, give your token ids too (ids=), so that they are checked.",
        _first_tokens,
    ),
    RowCheck(
        "space lost",
        CHANGES,
        lambda row: row.bos > 0 and row.body[:1].isalpha(),
        f"In {{who}} the space after {BOS} is lost: the first word is the token without a space "
        "('The', GPT-2's 464), the paper's is the one with it (' The', 383).",
        f"Tokenize the whole text '{BOS} The plague lasted ...': {NO_SPECIAL_TOKENS}.",
        _first_tokens,
    ),
    RowCheck(
        "unusual characters",
        CHANGES,
        lambda row: any(not " " <= character <= "~" for character in row.body.rstrip()),
        "In {who} there are characters other than plain letters, digits and spaces (perhaps a "
        "non-breaking space or a line break), which make other tokens.",
        "Replace them; repr(text) shows them.",
        _tokens,
    ),
    RowCheck(
        "double spaces",
        CHANGES,
        lambda row: "  " in row.body.rstrip(),
        "In {who} two spaces follow each other, the first of which is a token of its own.",
        "Write one space between words.",
        _tokens,
    ),
    RowCheck(
        "capitals",
        CHANGES,
        _other_capitals,
        "In {who} the words are the paper's but not their capital letters, which makes other "
        "tokens.",
        "Write 'The' with a capital letter and every other word without.",
        _text,
    ),
    RowCheck(
        "start token added",
        NOTE,
        lambda row: row.mismatch == "start token",
        f"In {{who}} the ids begin with another number of {BOS} than the text does: the tokenizer "
        "adds or leaves out start tokens by itself.",
        f"Write {BOS} into the texts and use {NO_SPECIAL_TOKENS}, so that you read what the model "
        "reads.",
        _first_tokens,
    ),
)
