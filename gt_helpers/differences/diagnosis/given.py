"""What the user handed over, one of each per prompt, and what can be read in a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...dataset.prompts import Span, listed, token_text, tokenize
from ...dataset.year_dataset import YearDataset

SIDES = ("clean", "corrupted")
Ids = tuple[int, ...]
BOS = "<|endoftext|>"

_YEAR = re.compile(r"(?<![0-9])[0-9]{3,5}(?![0-9])")
_LASTED = re.compile(r"\s*(?:the|an?)\s+(\S+(?:\s+\S+)*?)\s+lasted\b", re.IGNORECASE)
_SECOND_WORD = re.compile(r"\s*\S+\s+([^\W\d]+)")


@dataclass(frozen=True)
class Given:
    """Texts and token ids by side ("clean", "corrupted"; at least one of both), labels and mask."""

    texts: dict[str, list[str]]
    ids: dict[str, list[Ids]]
    labels: dict[str, list[Any]]
    mask: Tensor | None


def given_by(data: Any, years: Any, ids: Any, mask: Any) -> Given:
    """Sort out the arguments of `diagnose`.

    Raises ValueError for input that cannot be used, such as nothing, unequal numbers, no columns.
    """
    if data is None and ids is None:
        raise ValueError(
            "no prompt was given; give a YearDataset, a data frame or CSV with the columns clean "
            "and corrupted, or a pair of lists: diagnose((clean, corrupted), model)"
        )
    pair, labels, own_ids = _unpack(data)
    own_ids = own_ids if ids is None else _pair(ids, "ids")
    labels = labels if years is None else {"years": years}
    texts, tokens = {}, {}
    for side, items in zip(SIDES, pair or (), strict=False):
        items = _items(items, side)
        if items and all(isinstance(item, list | tuple | np.ndarray | Tensor) for item in items):
            tokens[side] = [_ids(one) for one in items]
        else:
            texts[side] = [_text(item) for item in items]
    for side, items in zip(SIDES, own_ids or (), strict=False):
        tokens[side] = [_ids(one) for one in _items(items, f"ids, {side}")]
    columns = {name: _items(values, name) for name, values in labels.items()}
    counts = {
        **{f"{side} texts": len(many) for side, many in texts.items()},
        **{f"{side} lists of ids": len(many) for side, many in tokens.items()},
        **{name: len(values) for name, values in columns.items()},
    }
    if not any(counts.values()):
        raise ValueError("no prompt was given: the lists are empty; give 1 prompt or more")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"the numbers of prompts differ ({found}); give one of each per prompt")
    return Given(texts, tokens, columns, _mask(mask))


def number(value: Any) -> int | None:
    """The whole number that a label stands for, also one written as text; None if there is none."""
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return int(found) if found.is_integer() else None


def _unpack(data: Any) -> tuple[Any, dict[str, Any], Any]:
    """The two sides, the columns of labels and the token ids that ``data`` holds."""
    if isinstance(data, YearDataset):
        texts, tokens = (data.clean_text, data.corrupted_text), (data.clean, data.corrupted)
        return texts, {"years": data.years}, tokens
    if isinstance(data, str | Path):
        try:
            # Texts as they are; years as numbers, which a CSV cannot tell from text.
            texts_only = dict.fromkeys(SIDES, str)
            data = pd.read_csv(data, dtype=texts_only, keep_default_na=False, encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "strerror", None) or error).strip()
            raise ValueError(
                f"{data} cannot be read as a table ({reason}); give a CSV file in UTF-8 with the "
                "columns clean and corrupted"
            ) from error
    if isinstance(data, pd.DataFrame):
        if missing := [side for side in SIDES if side not in data]:
            raise ValueError(
                f"the table has no column {listed(missing)}; it needs the columns clean and "
                "corrupted, and may have year or YY"
            )
        columns = {name: data[name].tolist() for name in ("YY", "year", "years") if name in data}
        return (data["clean"], data["corrupted"]), columns, None
    return _pair(data, "data"), {}, None


def _pair(value: Any, name: str) -> Any:
    if value is None or (isinstance(value, tuple | list) and len(value) == 2):
        return value
    raise ValueError(
        f"{name} is no pair of clean and corrupted; give two lists of one entry per prompt, for "
        f"example {name}=(clean, corrupted)"
    )


def _items(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__") or not getattr(values, "ndim", 1):
        raise ValueError(f"{name}: {values!r} is no list; give a list with one entry per prompt")
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)


def _text(item: Any) -> str:
    """An entry as text; a missing one is empty, and what cannot be encoded becomes a ?."""
    missing = pd.api.types.is_scalar(item) and pd.isna(item)
    return "" if missing else str(item).encode("utf-8", "replace").decode()


def _ids(item: Any) -> Ids:
    try:
        return tuple(int(token) for token in item)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the token ids {item!r} are no list of whole numbers; give one such list per prompt"
        ) from error


def _mask(mask: Any) -> Tensor | None:
    if mask is None:
        return None
    try:
        numbers = mask.cpu() if isinstance(mask, Tensor) else np.asarray(mask, dtype=float)
        return torch.as_tensor(numbers) > 0
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the mask is no table of numbers; give True or False [prompt, year] for the 100 years"
        ) from error


# ---- one prompt as the model sees it ---------------------------------------------------------


@dataclass(frozen=True)
class ReadPrompt:
    """One prompt as the model sees it, and what can be read in it: "" where nothing can."""

    ids: Ids
    pieces: tuple[str, ...]  # the tokens' texts
    bos: int  # how many <|endoftext|> come first
    padding: int  # how many come last
    body: str  # the text between these
    sentence: str  # the body up to the last number, with {noun} and {XX}{YY} for these
    noun: str
    start: str  # the digits of the start year
    end: str  # the digits that the prompt ends with
    noun_pieces: tuple[str, ...]
    year_pieces: tuple[str, ...]
    parts: tuple[str, ...]  # start token, words, noun, century, YY, end: what `assembled` joins
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


def read(
    tokenizer: PreTrainedTokenizerBase,
    n_vocab: int,
    texts: Sequence[str] | None,
    ids: Sequence[Ids] | None,
) -> tuple[ReadPrompt, ...]:
    """What can be read in each prompt: in its ids where they are given, else in its text.

    Of ids that the model does not have the text is read instead, where there is one.
    """
    spelled = None if texts is None else [tuple(one) for one in tokenize(tokenizer, texts)]
    prompts = []
    for own, of_text in zip_longest(ids or (), spelled or ()):  # None where there are none
        unknown = tuple(token for token in own or () if not 0 <= token < n_vocab)
        use = of_text if own is None or (unknown and of_text is not None) else own
        assert use is not None  # one of the two is there
        pieces = tuple("" if one in unknown else token_text(tokenizer, one) for one in use)
        prompt = _read(use, pieces)
        mismatch = ""
        if own is not None and of_text is not None:
            if own[: len(own) - prompt.padding] != of_text:
                without_bos = [
                    [t for t in x if t != tokenizer.eos_token_id] for x in (own, of_text)
                ]
                same = without_bos[0] == without_bos[1]
                mismatch = "start token" if same else "other tokens"
        prompts.append(replace(prompt, unknown=unknown, mismatch=mismatch))
    return tuple(prompts)


def _read(ids: Ids, pieces: tuple[str, ...]) -> ReadPrompt:
    """Noun, start year and last number of a prompt, found in the text of its tokens."""
    bos = len([*takewhile(BOS.__eq__, pieces)])
    padding = len([*takewhile(BOS.__eq__, reversed(pieces[bos:]))])
    rest = pieces[bos : len(pieces) - padding]
    body = "".join(rest)
    last = re.search(r"[0-9]+(?=\s*$)", body)
    if last and not _YEAR.search(body[: last.start()]) and _YEAR.fullmatch(last[0]):
        last = None  # the prompt stops at its only number, which is the start year
    head = body[: last.start()] if last else body
    years, noun = list(_YEAR.finditer(head)), _LASTED.match(head) or _SECOND_WORD.match(head)
    year_span = years[-1].span() if years else (0, 0)
    noun_span = noun.span(1) if noun else (0, 0)
    sentence = head
    # The later one first, before which nothing moves.
    for (start, end), field in sorted([(year_span, "{XX}{YY}"), (noun_span, "{noun}")])[::-1]:
        if end:
            sentence = sentence[:start] + field + sentence[end:]
    noun_text, year = body[slice(*noun_span)], body[slice(*year_span)]
    return ReadPrompt(
        ids,
        pieces,
        bos,
        padding,
        body,
        plain(sentence),
        noun_text,
        year,
        last[0] if last else "",
        _inside_span(rest, noun_span),
        _inside_span(rest, year_span),
        (
            BOS * bos + sentence[: len(sentence) - len(sentence.lstrip())],
            sentence.strip(),
            noun_text,
            year[:-2],
            year[-2:],
            sentence[len(sentence.rstrip()) :] + body[len(head) :] + BOS * padding,
        ),
    )


def assembled(parts: Sequence[str]) -> str:
    """The text of a prompt from its parts, as `ReadPrompt` has them."""
    start, words, noun, XX, YY, end = parts
    return start + words.replace("{XX}{YY}", XX + YY).replace("{noun}", noun) + end


def plain(text: str) -> str:
    """The text with one plain space for every run of blanks and unusual characters."""
    return re.sub(r"[^\x21-\x7e]+", " ", text).strip()


def _inside_span(pieces: Sequence[str], span: Span) -> tuple[str, ...]:
    """The tokens that hold some of the characters first to last+1."""
    ends = accumulate(map(len, pieces))
    placed = zip(pieces, ends, strict=True)
    return tuple(p for p, end in placed if end > span[0] and end - len(p) < span[1])
