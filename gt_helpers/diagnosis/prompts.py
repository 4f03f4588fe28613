"""The user's own prompts as they are, faulty or not: what can be read in them, what is answered."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import BoolTensor, Tensor
from tqdm.auto import tqdm

from ..dataset import YearDataset
from ..metrics import FIRST_YY, LAST_YY, prob_diff
from ..prompts import (
    PAPER_POSITIONS,
    Prompt,
    Span,
    Template,
    listed,
    token_text,
    tokenize,
    year_tokens,
)
from ..runs import end_logits
from ..transformer import Transformer

BOS = "<|endoftext|>"
SIDES = ("clean", "corrupted")
LABEL_COLUMNS = ("YY", "year", "years")
Ids = tuple[int, ...]

_YEAR = re.compile(r"(?<![0-9])[0-9]{3,5}(?![0-9])")
_LASTED = re.compile(r"\s*(?:the|an?)\s+(\S+(?:\s+\S+)*?)\s+lasted\b", re.IGNORECASE)
_SECOND_WORD = re.compile(r"\s*\S+\s+([^\W\d]+)")
_BATCH = 64  # prompts that are answered together


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


@dataclass(frozen=True)
class Prompts:
    """Pairs of prompts with their labels, and the year probabilities that the model answers.

    ``answers`` [prompt, year] are kept under "clean", "corrupted", and "paper clean" and "paper
    corrupted" for the paper's prompts with the same noun and start year; a row is NaN where a
    prompt cannot be run or built. ``balanced`` [clean and corrupted, prompt] are the probability
    differences of 97 of the paper's own prompts. Where the two were ``swapped`` they are put back.
    """

    clean: tuple[Row, ...]
    corrupted: tuple[Row, ...]
    swapped: bool
    labels: dict[str, list[object]]
    mask: Tensor | None
    has_texts: bool
    answers: dict[str, Tensor]
    balanced: Tensor

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def only_unknown_ids(self) -> bool:
        """Whether nothing can be read: ids that the model does not have, and no texts."""
        return not self.has_texts and any(row.unknown for row in (*self.clean, *self.corrupted))

    @property
    def pairs(self) -> list[tuple[Row, Row]]:
        """Clean and corrupted, prompt by prompt."""
        return list(zip(self.clean, self.corrupted, strict=True))

    @property
    def right(self) -> BoolTensor:
        """Whether an end year is right [prompt, year]: above the YY that the clean text has."""
        return above([row.YY for row in self.clean])

    @property
    def their_right(self) -> BoolTensor:
        """The same as the user counts it: by the mask, else by the years given, else `right`."""
        if self.mask is not None and self.mask.shape == (len(self), 100):
            return self.mask  # type: ignore[return-value]
        for values in self.labels.values():
            numbers = [number(value) for value in values]
            if None not in numbers:
                return above([n % 100 for n in numbers if n is not None])
        return self.right

    def score(self, which: str, right: BoolTensor) -> Tensor:
        """Probability difference [prompt] of some `answers`; NaN where there is none."""
        return (self.answers[which] * torch.where(right, 1.0, -1.0)).sum(-1)

    def scores(self, *, paper: bool) -> tuple[Tensor, Tensor]:
        """Clean and corrupted probability difference [prompt], as given or as in the paper."""
        if paper:
            return self.score("paper clean", self.right), self.score("paper corrupted", self.right)
        clean, corrupted = (self.score(side, self.their_right) for side in SIDES)
        return (corrupted, clean) if self.swapped else (clean, corrupted)


def above(YYs: Sequence[int | None]) -> BoolTensor:
    """Whether a year lies above YY [prompt, year]; no year does where there is no YY."""
    bounds = torch.tensor([99 if YY is None else YY for YY in YYs])
    return torch.arange(100) > bounds[:, None]  # type: ignore[return-value]


def number(value: Any) -> int | None:
    """The whole number that a label stands for, also one written as text; None if there is none."""
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return int(found) if found.is_integer() else None


def read_prompts(
    data: Any, model: Transformer, years: Any, ids: Any, mask: Any, progress: bool
) -> Prompts:
    """Read what was given (see `diagnosis.diagnose`) and let the model answer all of it.

    Raises ValueError for input that cannot be used: nothing given, unequal numbers, no columns.
    """
    sides, labels, own_ids = _unpack(data, ids)
    given = _pair(own_ids if ids is None else ids, "ids")
    if years is not None:
        labels = {"years": years}
    texts, found_ids = [], []
    for i in range(len(SIDES)):
        items = None if sides is None else _items(sides[i], SIDES[i])
        tokens = None if given is None else _items(given[i], f"ids of the {SIDES[i]} prompts")
        if items and all(isinstance(item, list | tuple | np.ndarray | Tensor) for item in items):
            items, tokens = None, tokens or items
        texts.append(None if items is None else [_text(item) for item in items])
        found_ids.append(None if tokens is None else [_ids(item) for item in tokens])
    columns = {name: _items(values, name) for name, values in labels.items()}
    counts = {
        **{f"{side} texts": texts[i] for i, side in enumerate(SIDES)},
        **{f"{side} lists of ids": found_ids[i] for i, side in enumerate(SIDES)},
        **columns,
    }
    _check_counts({name: len(items) for name, items in counts.items() if items is not None})

    first, second = (_rows(model, texts[i], found_ids[i]) for i in range(len(SIDES)))
    swapped = _are_swapped(first, second)
    clean, corrupted = (second, first) if swapped else (first, second)
    built = _as_in_the_paper(model, clean)
    paper = YearDataset(model.tokenizer, LAST_YY - FIRST_YY + 1)
    tokens_of = {
        "clean": [row.ids for row in clean],
        "corrupted": [row.ids for row in corrupted],
        "paper clean": [pair[0] for pair in built],
        "paper corrupted": [pair[1] for pair in built],
        "balanced clean": [tuple(ids) for ids in paper.clean.tolist()],
        "balanced corrupted": [tuple(ids) for ids in paper.corrupted.tolist()],
    }
    answers = _answers(model, (one for many in tokens_of.values() for one in many), progress)
    unanswered = torch.full((100,), torch.nan, dtype=torch.float64)
    found = {k: torch.stack([answers.get(i, unanswered) for i in v]) for k, v in tokens_of.items()}
    unreadable = [i for i, row in enumerate(clean) if row.YY is None]
    for name in SIDES:
        found[name][unreadable] = torch.nan  # without YY nothing can be scored
    balanced = torch.stack([prob_diff(found.pop(f"balanced {side}"), paper.YY) for side in SIDES])
    has_texts = texts[0] is not None and texts[1] is not None
    return Prompts(clean, corrupted, swapped, columns, _mask(mask), has_texts, found, balanced)


def _unpack(data: Any, ids: Any) -> tuple[Any, dict[str, Any], Any]:
    """The two sides, the columns of labels and the token ids that ``data`` holds."""
    if isinstance(data, YearDataset):
        texts, tokens = (data.clean_text, data.corrupted_text), (data.clean, data.corrupted)
        return texts, {"years": data.years}, tokens
    if isinstance(data, str | Path):
        try:
            # Texts as they are; years as numbers, which a CSV cannot tell from text.
            data = pd.read_csv(
                data, dtype=dict.fromkeys(SIDES, str), keep_default_na=False, encoding="utf-8"
            )
        except (OSError, UnicodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
            raise ValueError(
                f"{data} cannot be read as a table ({error}); give a CSV file in UTF-8 with the "
                "columns clean and corrupted"
            ) from error
    if isinstance(data, pd.DataFrame):
        if missing := [side for side in SIDES if side not in data]:
            raise ValueError(
                f"the table has no column {listed(missing)}; it needs the columns clean and "
                "corrupted, and may have year or YY"
            )
        columns = {name: data[name].tolist() for name in LABEL_COLUMNS if name in data}
        return (data["clean"], data["corrupted"]), columns, None
    if data is None and ids is None:
        raise ValueError(
            "no prompt was given; give a YearDataset, a data frame or CSV with the columns clean "
            "and corrupted, or a pair of lists: diagnose((clean, corrupted), model)"
        )
    return _pair(data, "data"), {}, None


def _pair(value: Any, name: str) -> Any:
    if value is None or (isinstance(value, tuple | list) and len(value) == 2):
        return value
    raise ValueError(
        f"{name} is no pair of clean and corrupted; give two lists of one entry per prompt, for "
        f"example {name}=(clean, corrupted)"
    )


def _items(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise ValueError(f"{name}: {values!r} is no list; give a list with one entry per prompt")
    return list(values)


def _text(item: Any) -> str:
    """An entry as text; a missing one is empty, and what cannot be encoded becomes a ?."""
    if not isinstance(item, str):
        missing = item is None or item is pd.NA or (isinstance(item, float) and item != item)
        return "" if missing else str(item)
    return item.encode("utf-8", "replace").decode()


def _ids(item: Any) -> Ids:
    try:
        return tuple(int(token) for token in item)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the token ids {item!r} are no list of whole numbers; give one such list per prompt"
        ) from error


def _mask(mask: Any) -> Tensor | None:
    if mask is None:
        return None
    try:
        values = mask.detach().cpu() if isinstance(mask, Tensor) else np.asarray(mask, dtype=float)
        return torch.as_tensor(values) > 0
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the mask is no table of numbers; give True or False [prompt, year] for the 100 years"
        ) from error


def _check_counts(counts: dict[str, int]) -> None:
    if not any(counts.values()):
        raise ValueError("no prompt was given: the lists are empty; give 1 prompt or more")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"the numbers of prompts differ ({found}); give one of each per prompt")


def _rows(model: Transformer, texts: list[str] | None, ids: list[Ids] | None) -> tuple[Row, ...]:
    """What can be read in each prompt: in the ids where some are given, else in the text.

    Of ids that the model does not have the text is read instead, where there is one.
    """
    spelled = None if texts is None else [tuple(one) for one in tokenize(model.tokenizer, texts)]
    known: dict[int, str] = {}
    rows = []
    for i in range(len(spelled or ids or ())):
        given, text = (None if many is None else many[i] for many in (ids, spelled))
        unknown = tuple(token for token in given or () if not 0 <= token < model.W_U.shape[1])
        use = text if given is None or (unknown and text is not None) else given
        assert use is not None
        for token in set(use) - set(known):
            known[token] = "" if token in unknown else token_text(model.tokenizer, token)
        row = _read(use, tuple(known[token] for token in use))
        mismatch = ""
        if given is not None and text is not None and given != text:
            start = model.tokenizer.eos_token_id
            same = _stripped(given, start) == _stripped(text, start)
            # a text that is only padded behind is told by its padding
            padded = same and given[: len(given) - row.padding] == text
            mismatch = "" if padded else "start token" if same else "other tokens"
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


def _are_swapped(first: Sequence[Row], second: Sequence[Row]) -> bool:
    """Whether most clean prompts start in 01, and their corrupted ones do not."""
    pairs = zip(first, second, strict=True)
    swapped = sum(one.YY == 1 and two.YY not in (None, 1) for one, two in pairs)
    return 2 * swapped > len(first)


def _as_in_the_paper(model: Transformer, rows: Sequence[Row]) -> list[tuple[Ids, Ids]]:
    """The paper's clean and 01 prompt with a row's noun and year; no tokens if there is none."""
    template, place = Template(), PAPER_POSITIONS.index("YY")
    years = year_tokens(model.tokenizer).tolist()
    texts = [
        template.fill(Prompt(plain(row.noun).lower(), 100 * (row.XX or 0) + YY, row.XX or 0))
        for row in rows
        for YY in (row.YY or 0, 1)
    ]
    tokens = [tuple(one) for one in tokenize(model.tokenizer, texts)]
    built: list[tuple[Ids, Ids]] = []
    for row, clean, corrupted in zip(rows, tokens[::2], tokens[1::2], strict=True):
        fits = FIRST_YY <= (row.YY or 0) <= LAST_YY and bool(row.noun)
        if fits and len(clean) == len(corrupted) == len(PAPER_POSITIONS):
            # only the token YY differs
            fits = (clean[place], corrupted[place]) == (years[row.YY or 0], years[1])
            fits = fits and clean[:place] == corrupted[:place]
        else:
            fits = False
        built.append((clean, corrupted) if fits else ((), ()))
    return built


def _answers(model: Transformer, prompts: Iterable[Ids], progress: bool) -> dict[Ids, Tensor]:
    """Year probabilities [year] at the last token of every different prompt that can be run."""
    years = year_tokens(model.tokenizer).to(model.device)
    longest, n_vocab = model.bridge.cfg.n_ctx, model.W_U.shape[1]
    groups: dict[int, list[Ids]] = defaultdict(list)
    for ids in dict.fromkeys(prompts):
        if 0 < len(ids) <= longest and min(ids) >= 0 and max(ids) < n_vocab:
            groups[len(ids)].append(ids)
    answers: dict[Ids, Tensor] = {}
    total = sum(map(len, groups.values()))
    bar = tqdm(total=total, desc="answers", unit="prompt", disable=not progress, leave=False)
    for group in groups.values():
        parts = end_logits(model, torch.tensor(group), _BATCH)
        probs = torch.cat([_counted(logits.softmax(-1)[:, years], bar) for logits in parts])
        answers.update(zip(group, probs.double().cpu(), strict=True))
    bar.close()
    return answers


def _counted(probs: Tensor, bar: tqdm) -> Tensor:
    bar.update(len(probs))
    return probs
