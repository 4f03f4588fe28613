"""One prompt as the model sees it, faulty or not, and what can be read in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from ...dataset.prompts import Span, token_text, tokenize
from .given import Ids

BOS = "<|endoftext|>"

_YEAR = re.compile(r"(?<![0-9])[0-9]{3,5}(?![0-9])")
_LASTED = re.compile(r"\s*(?:the|an?)\s+(\S+(?:\s+\S+)*?)\s+lasted\b", re.IGNORECASE)
_SECOND_WORD = re.compile(r"\s*\S+\s+([^\W\d]+)")


@dataclass(frozen=True)
class Row:
    """One prompt as the model sees it, and what can be read in it: "" where nothing can."""

    ids: Ids
    pieces: tuple[str, ...]  # the tokens' texts
    bos: int  # how many <|endoftext|> come first
    padding: int  # how many come last
    body: str  # the text between these
    words: str  # the body up to the last number, with {noun} and {XX}{YY} for noun and start year
    noun: str
    start: str  # the digits of the start year
    end: str  # the digits that the prompt ends with
    noun_pieces: tuple[str, ...]
    year_pieces: tuple[str, ...]
    unknown: Ids = ()  # given ids that the model does not have
    mismatch: str = ""  # how given ids differ from the text's: "start token" or "other tokens"

    @property
    def XX(self) -> int | None:
        """The start year's century."""
        return int(self.start[:-2]) if self.start else None

    @property
    def YY(self) -> int | None:
        """The start year's last two digits."""
        return int(self.start[-2:]) if self.start else None

    @property
    def splits_well(self) -> bool:
        """Whether the start year is two tokens, its century and YY."""
        pieces = tuple(piece.strip() for piece in self.year_pieces)
        return pieces == (self.start[:-2], self.start[-2:])


def rows_of(
    tokenizer: PreTrainedTokenizerBase,
    n_vocab: int,
    texts: Sequence[str] | None,
    ids: Sequence[Ids] | None,
) -> tuple[Row, ...]:
    """What can be read in each prompt: in its ids where they are given, else in its text.

    Of ids that the model does not have the text is read instead, where there is one.
    """
    spelled = None if texts is None else [tuple(one) for one in tokenize(tokenizer, texts)]
    known: dict[int, str] = {}
    rows = []
    for i in range(len(spelled or ids or ())):
        given, text = (None if many is None else many[i] for many in (ids, spelled))
        unknown = tuple(token for token in given or () if not 0 <= token < n_vocab)
        use = text if given is None or (unknown and text is not None) else given
        assert use is not None
        for token in set(use) - set(known):
            known[token] = "" if token in unknown else token_text(tokenizer, token)
        row = _read(use, tuple(known[token] for token in use))
        mismatch = ""
        if given is not None and text is not None and given[: len(given) - row.padding] != text:
            bos = int(tokenizer.eos_token_id)
            same = _stripped(given, bos) == _stripped(text, bos)
            mismatch = "start token" if same else "other tokens"
        rows.append(replace(row, unknown=unknown, mismatch=mismatch))
    return tuple(rows)


def _stripped(ids: Ids, token: int) -> Ids:
    """The ids without this token at their start and end."""
    first = next((i for i, one in enumerate(ids) if one != token), len(ids))
    last = next((i for i, one in enumerate(reversed(ids)) if one != token), 0)
    return ids[first : len(ids) - last]


def _read(ids: Ids, pieces: tuple[str, ...]) -> Row:
    """Noun, start year and last number of a prompt, found in the text of its tokens."""
    bos = next((i for i, piece in enumerate(pieces) if piece != BOS), len(pieces))
    rest = pieces[bos:]
    padding = next((i for i, piece in enumerate(reversed(rest)) if piece != BOS), 0)
    rest = rest[: len(rest) - padding]
    body = "".join(rest)

    last = re.search(r"[0-9]+(?=\s*$)", body)
    if last and not _YEAR.search(body[: last.start()]) and _YEAR.fullmatch(last[0]):
        last = None  # the prompt stops at its only number, which is the start year
    head = body[: last.start()] if last else body
    years, noun = list(_YEAR.finditer(head)), _LASTED.match(head) or _SECOND_WORD.match(head)
    spans = {
        "{XX}{YY}": years[-1].span() if years else (0, 0),
        "{noun}": noun.span(1) if noun else (0, 0),
    }
    words = head
    for field, (start, end) in sorted(spans.items(), key=lambda item: item[1], reverse=True):
        if end:
            words = words[:start] + field + words[end:]
    year_span, noun_span = spans.values()
    return Row(
        ids,
        pieces,
        bos,
        padding,
        body,
        plain(words),
        body[slice(*noun_span)],
        body[slice(*year_span)],
        last[0] if last else "",
        _inside_span(rest, noun_span),
        _inside_span(rest, year_span),
    )


def plain(text: str) -> str:
    """The text with one plain space for every run of blanks and unusual characters."""
    return re.sub(r"[^\x21-\x7e]+", " ", text).strip()


def _inside_span(pieces: Sequence[str], span: Span) -> tuple[str, ...]:
    """The tokens that hold some of the characters first to last+1."""
    ends = accumulate(map(len, pieces))
    placed = zip(pieces, ends, strict=True)
    return tuple(p for p, end in placed if end > span[0] and end - len(p) < span[1])
