"""How a greater-than prompt is written and split: tokens, valid years, nouns, templates.

A prompt reads `<|endoftext|> The war lasted from the year 1732 to the year 17`; a model should
continue it with a two-digit year above 32. Its tokens are, for every noun and every year of the
pool, at the same named positions:

    eos The NOUN lasted from the year XX1 YY to the2 year2 END
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    import pandas as pd

PAPER_TEMPLATE = "<|endoftext|> The {noun} lasted from the year {XX}{YY} to the year {XX}"
NO_SPACE_TEMPLATE = PAPER_TEMPLATE.replace("|> ", "|>")  # BOS and `The`, not ` The`
NO_BOS_TEMPLATE = PAPER_TEMPLATE.replace("<|endoftext|> ", "")
ACDC_TEMPLATE = "The {noun} lasted from the year {XX}{YY} to {XX}"
# fmt: off
PAPER_POSITIONS = (
    "eos", "The", "NOUN", "lasted", "from", "the", "year", "XX1", "YY", "to", "the2", "year2", "END"
)
# fmt: on
YEAR_STRINGS = tuple(f"{y:02d}" for y in range(100))
NOUNS_FILE = Path(__file__).parents[1] / "data" / "nouns.txt"

Span = tuple[int, int]  # first and last + 1 character of a piece of text


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


def year_tokens(tokenizer: PreTrainedTokenizerBase) -> Int[Tensor, " year"]:
    """Ids of the 100 tokens "00" to "99", without a leading space (section 2).

    Raises ValueError where the tokenizer has no single token for one of them.
    """
    ids = tokenize(tokenizer, YEAR_STRINGS)
    for string, tokens in zip(YEAR_STRINGS, ids, strict=True):
        if len(tokens) != 1 or token_text(tokenizer, tokens[0]) != string:
            raise ValueError(
                f'the tokenizer has no single token for the year "{string}" (it gives '
                f"{token_texts(tokenizer, tokens)}); use one that splits years as GPT-2's does"
            )
    return torch.tensor(ids).squeeze(1)


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
        raise ValueError(f"{start} to {end} is no range within 100 to 10000, e.g. (1100, 1800)")
    years = range(start, end)
    splits = tokenize(tokenizer, [f" {year}" for year in years])
    raw = [y for y, ids in zip(years, splits, strict=True) if is_two_digit(tokenizer, ids)]
    return without_ends(raw) if trim else raw


def without_ends(years: Iterable[int]) -> list[int]:
    """Ascending years, less the first and the last of each century."""
    centuries = groupby(years, lambda year: year // 100)
    return [year for _, century in centuries for year in list(century)[1:-1]]


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
    import pandas as pd

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


def check_template(text: str, required: Sequence[str] = (), optional: Sequence[str] = ()) -> None:
    """Raise ValueError unless a text asks for an end year, and has the required fields once."""
    fields = re.findall(r"\{(.*?)\}", text)
    problem = None
    if unknown := sorted(set(fields) - {*required, *optional, "XX", "YY"}):
        problem = f"has the unknown field {{{unknown[0]}}}"
    elif wrong := [name for name in required if fields.count(name) != 1]:
        problem = f"does not have {{{wrong[0]}}} once"
    elif "{XX}{YY}" not in text or fields.count("YY") != 1:
        problem = "does not write its start year once, as {XX}{YY}"
    elif not text.endswith("{XX}"):
        problem = "does not end with {XX}, after which the end year is predicted"
    if problem:
        raise ValueError(f"the template {text!r} {problem}; for example {PAPER_TEMPLATE!r}")


def fill(template: str, prompt: Prompt) -> str:
    """A template's text: the start year in `{XX}{YY}`, the end's century in other `{XX}`."""
    text = template.replace("{XX}{YY}", f"{prompt.XX}{YEAR_STRINGS[prompt.YY]}")
    return text.replace("{XX}", str(prompt.end_century)).replace("{noun}", prompt.noun)


def listed(names: Iterable[str]) -> str:
    """The names, quoted and with commas, for an error's sentence."""
    return ", ".join(repr(name) for name in names)
