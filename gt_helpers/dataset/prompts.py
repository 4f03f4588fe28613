"""How a greater-than prompt is written and split: tokens, valid years, nouns, templates, positions.

A prompt reads `<|endoftext|> The war lasted from the year 1732 to the year 17`; a model should
continue it with a two-digit year above 32. Its tokens are, for every noun and every year of the
pool, at the same named positions:

    eos The NOUN lasted from the year XX1 YY to the2 year2 END
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import LongTensor
from transformers import PreTrainedTokenizerBase

PAPER_TEMPLATE = "<|endoftext|> The {noun} lasted from the year {XX}{YY} to the year {XX}"
NO_SPACE_TEMPLATE = PAPER_TEMPLATE.replace("|> ", "|>")  # BOS and `The`, not ` The`
NO_BOS_TEMPLATE = PAPER_TEMPLATE.replace("<|endoftext|> ", "")
ACDC_TEMPLATE = "The {noun} lasted from the year {XX}{YY} to {XX}"
# fmt: off
PAPER_POSITIONS = (
    "eos", "The", "NOUN", "lasted", "from", "the", "year", "XX1", "YY", "to", "the2", "year2", "END"
)
# fmt: on
PUNCTUATION = {"": "blank", ",": "comma", ".": "dot", ":": "colon", ";": "semicolon", "$": "dollar"}
YEAR_STRINGS = tuple(f"{y:02d}" for y in range(100))


NOUNS_FILE = Path(__file__).parents[1] / "data" / "nouns.txt"

Span = tuple[int, int]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids [prompt][position] of the literal texts: no token is added, none is padded."""
    if not getattr(tokenizer, "is_fast", False):
        # Slow tokenizers strip the space after <|endoftext|>: " The" would become "The".
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast Hugging Face tokenizer; "
            'load one with transformers.AutoTokenizer.from_pretrained("gpt2")'
        )
    if not len(texts):
        return []
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def year_tokens(tokenizer: PreTrainedTokenizerBase) -> LongTensor:
    """Ids [year] of the 100 tokens "00" to "99", without a leading space (section 2).

    Raises ValueError where the tokenizer has no single token for one of them.
    """
    ids = tokenize(tokenizer, YEAR_STRINGS)
    for string, tokens in zip(YEAR_STRINGS, ids, strict=True):
        if len(tokens) != 1 or token_text(tokenizer, tokens[0]) != string:
            raise ValueError(
                f'the tokenizer has no single token for the year "{string}" (it gives '
                f"{token_texts(tokenizer, tokens)}); use one that splits years as GPT-2's does"
            )
    return torch.tensor(ids).squeeze(1)  # type: ignore[return-value]


def valid_years(
    tokenizer: PreTrainedTokenizerBase, start: int = 1100, end: int = 1800, *, trim: bool = True
) -> list[int]:
    """Years in [start, end) that split into a century and a two-digit token, as ` 17` + `32`.

    As in the paper's code the first and the last such year of every century are left out
    (`trim=False` keeps them); in GPT-2's vocabulary YY then runs from 02 to 98. The paper's text
    (section 2) names centuries 11 to 17, the default: 617 years. Its code uses 1000 to 1899: 768
    years, whose century 10 is irregular (see the corruption "01"). Raises ValueError for no range.
    """
    if not 100 <= start < end <= 10_000:
        raise ValueError(
            f"the years {start} to {end} are no range between 100 and 10000, "
            "start below end, for example (1100, 1800)"
        )
    years = range(start, end)
    splits = tokenize(tokenizer, [f" {year}" for year in years])
    raw = [y for y, ids in zip(years, splits, strict=True) if is_two_digit(tokenizer, ids)]
    if not trim:
        return raw
    centuries: dict[int, list[int]] = {}
    for year in raw:
        centuries.setdefault(year // 100, []).append(year)
    return [year for century in centuries.values() for year in century[1:-1]]


def year_range(text: str) -> tuple[int, int]:
    """The first year and the excluded end of a range as one types it, "1100-1800".

    Raises ValueError for anything else.
    """
    first, _, end = text.replace(" ", "").partition("-")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise ValueError(f"{text!r} is no range, FIRST below END, e.g. 1100-1800")
    return int(first), int(end)


def year_pool(
    tokenizer: PreTrainedTokenizerBase, start: int = 1100, end: int = 1800
) -> pd.DataFrame:
    """Every year of [start, end): year, century, YY, its tokens, and why it is in the pool or not.

    ``status`` is "kept", "first or last" (splits well, but left out as `valid_years` says), "one
    token", or "other split", for which no two-digit token is changed or asked for.
    """
    kept, raw = (set(valid_years(tokenizer, start, end, trim=trim)) for trim in (True, False))
    years = range(start, end)
    rows = []
    for year, ids in zip(years, tokenize(tokenizer, [f" {y}" for y in years]), strict=True):
        odd = "one token" if len(ids) == 1 else "other split"
        status = "kept" if year in kept else "first or last" if year in raw else odd
        rows.append((year, year // 100, year % 100, token_texts(tokenizer, ids), status))
    return pd.DataFrame(rows, columns=["year", "century", "YY", "tokens", "status"])


def is_two_digit(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> bool:
    """Whether a year's tokens are two, the second of two characters (the paper's code's rule)."""
    return len(ids) == 2 and len(token_text(tokenizer, ids[1])) == 2


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The text of one token."""
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))


def token_texts(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The texts of tokens as an error shows them: ' 17' + '32'."""
    return " + ".join(repr(token_text(tokenizer, token)) for token in tokens)


def load_nouns() -> tuple[str, ...]:
    """The paper's 120 nouns (section 2), each one token after a space in GPT-2's vocabulary."""
    return tuple(NOUNS_FILE.read_text(encoding="utf-8").split())


class Prompt(NamedTuple):
    """What fills a template: a noun, the start year, and the century that ends the prompt."""

    noun: str
    year: int
    end_century: int

    @property
    def XX(self) -> int:
        """The start year's century."""
        return self.year // 100

    @property
    def YY(self) -> int:
        """The start year's last two digits."""
        return self.year % 100


@dataclass(frozen=True)
class Template:
    """A sentence with {noun}, a start year {XX}{YY} and a last word {XX} that asks for the end.

    `{XX}{YY}` is filled with the start year, every other `{XX}` with the century of the end year.
    Raises ValueError for a text that does not fit.
    """

    text: str = PAPER_TEMPLATE

    def __post_init__(self) -> None:
        fields = re.findall(r"\{(.*?)\}", self.text)
        problem = None
        if unknown := sorted(set(fields) - {"noun", "XX", "YY"}):
            problem = f"has the unknown field {{{unknown[0]}}}"
        elif missing := [name for name in ("noun", "XX", "YY") if name not in fields]:
            problem = f"lacks {' and '.join(f'{{{name}}}' for name in missing)}"
        elif fields.count("noun") > 1 or fields.count("YY") > 1:
            problem = "has {noun} or {YY} more than once"
        elif "{XX}{YY}" not in self.text:
            problem = "does not write its start year as {XX}{YY}"
        elif not self.text.endswith("{XX}"):
            problem = "does not end with {XX}, after which the end year is predicted"
        if problem:
            raise ValueError(
                f"the template {self.text!r} {problem}; "
                f"a template has {{noun}}, {{XX}}{{YY}} and a last {{XX}}, "
                f"for example {PAPER_TEMPLATE!r}"
            )

    def fill(self, prompt: Prompt) -> str:
        """The prompt's text."""
        return self.render(prompt)[0]

    def render(self, prompt: Prompt) -> tuple[str, dict[str, Span]]:
        """The prompt's text, and where in it (first and last+1 character) the fields lie."""
        text, spans = "", {}
        for part in re.split(r"(\{noun\}|\{XX\}\{YY\}|\{XX\})", self.text):
            start = len(text)
            if part == "{noun}":
                text += prompt.noun
                spans["NOUN"] = (start, len(text))
            elif part == "{XX}{YY}":
                text += f"{prompt.XX}{YEAR_STRINGS[prompt.YY]}"
                spans["XX1"], spans["YY"] = (start, len(text) - 2), (len(text) - 2, len(text))
            elif part == "{XX}":
                text += str(prompt.end_century)
            else:
                text += part
        return text, spans


def name_positions(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: dict[str, Span]
) -> tuple[str, ...]:
    """One unique name per token: the spans' names, `eos`, `END` for the last, else its word.

    A repeated word is numbered: the, the2; punctuation is spelled out: comma. `spans` gives the
    characters of NOUN, XX1 and YY; each must be exactly one token, or ValueError says how it
    splits.
    """
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = encoding["input_ids"], encoding["offset_mapping"]
    if tokenizer.decode(tokens, clean_up_tokenization_spaces=False) != text:
        raise ValueError(
            f"the tokenizer does not know all of {text!r} (it reads "
            f"{tokenizer.decode(tokens, clean_up_tokenization_spaces=False)!r}); "
            "use words of its vocabulary, or GPT-2's own tokenizer"
        )
    names: list[str | None] = [None] * len(tokens)
    for name, (start, end) in spans.items():
        inside = [i for i, (s, e) in enumerate(offsets) if s < end and e > start]
        split = [tokens[i] for i in inside]
        if len(inside) != 1 or token_text(tokenizer, split[0]).strip() != text[start:end]:
            raise ValueError(
                f"{text[start:end]!r} ({name}) is not one token in {text!r}: it is split as "
                f"{token_texts(tokenizer, split)}; choose a word or year that is one token there"
            )
        names[inside[0]] = name
    names[-1] = "END"
    used = {name for name in names if name} | {"NOUN", "XX1", "YY", "eos"}
    for i, (start, end) in enumerate(offsets):
        if names[i]:
            continue
        if tokens[i] == tokenizer.eos_token_id and "eos" not in names:
            names[i] = "eos"
            continue
        piece = text[start:end].strip()
        word = re.sub(r"\W", "", piece) or PUNCTUATION.get(piece, "mark")
        number = 1
        while (numbered := word if number == 1 else f"{word}{number}") in used:
            number += 1
        names[i] = numbered
        used.add(numbered)
    return tuple(name for name in names if name)


def listed(names: Iterable[str]) -> str:
    """The names, quoted and with commas, for an error's sentence."""
    return ", ".join(repr(name) for name in names)
