"""Alignment: every position of a prompt has a name, and all prompts have their words there."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import chain, count

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .prompts import (
    PAPER_POSITIONS,
    PAPER_TEMPLATE,
    Prompt,
    Span,
    check_template,
    fill,
    token_text,
    token_texts,
    tokenize,
)

PUNCTUATION = {"": "blank", ",": "comma", ".": "dot", ":": "colon", ";": "semicolon", "$": "dollar"}


def template_positions(
    tokenizer: PreTrainedTokenizerBase, template: str, nouns: Sequence[str], year: int
) -> tuple[str, ...]:
    """The template's position names, after checking it, and that every noun is one token in it."""
    check_template(template, required=("noun",))
    for noun in nouns:
        text = fill(template, Prompt(noun, year, year // 100))
        names = text_positions(tokenizer, text, year, noun)
    if template == PAPER_TEMPLATE and names != PAPER_POSITIONS:
        raise ValueError(
            f"the tokenizer splits the paper's prompt into {' '.join(names)}; use one that splits "
            f"it as GPT-2's does, {' '.join(PAPER_POSITIONS)}"
        )
    return names


def text_positions(
    tokenizer: PreTrainedTokenizerBase, text: str, year: int, noun: str
) -> tuple[str, ...]:
    """Position names of a given text: XX1 and YY where its year occurs last, NOUN where its noun
    occurs first. ValueError says what does not occur."""
    start = text.rfind(str(year))
    if start < 0 or year < 100:
        raise ValueError(f"the start year {year} does not occur in {text!r}; give the year in it")
    middle = start + len(str(year)) - 2
    spans = {"XX1": (start, middle), "YY": (middle, middle + 2)}
    if noun:
        found = re.search(rf"\b{re.escape(noun)}\b", text)
        if not found:
            raise ValueError(f"the noun {noun!r} does not occur in {text!r}; give the noun in it")
        spans["NOUN"] = found.span()
    return name_positions(tokenizer, text, spans)


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
    read = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    if read != text:
        raise ValueError(f"the tokenizer reads {text!r} as {read!r}; use words that it knows")
    names = [""] * len(tokens)
    for name, (start, end) in spans.items():
        inside = [i for i, (s, e) in enumerate(offsets) if s < end and e > start]
        split = [tokens[i] for i in inside]
        if len(inside) != 1 or token_text(tokenizer, split[0]).strip() != text[start:end]:
            raise ValueError(
                f"{text[start:end]!r} ({name}) is not one token in {text!r}: it is split as "
                f"{token_texts(tokenizer, split)}"
            )
        names[inside[0]] = name
    names[-1] = "END"
    for i, (start, end) in enumerate(offsets):
        if tokens[i] == tokenizer.eos_token_id and not names[i] and "eos" not in names:
            names[i] = "eos"
        elif not names[i]:
            names[i] = _unused(text[start:end].strip(), {*names, "NOUN", "XX1", "YY", "eos"})
    return tuple(names)


def _unused(piece: str, used: Collection[str]) -> str:
    word = re.sub(r"\W", "", piece) or PUNCTUATION.get(piece, "mark")
    numbered = chain([word], (f"{word}{number}" for number in count(2)))
    return next(name for name in numbered if name not in used)


def position_index(names: Sequence[str]) -> dict[str, int]:
    """{name: index}; ValueError for names that cannot be used in a component's, `a9.h1@END`."""
    bad = [name for name in names if not re.fullmatch(r"\w+", name)]
    if not names or bad or len(set(names)) != len(names) or "YY" not in names or names[-1] != "END":
        raise ValueError(
            f"the positions {' '.join(names)!r} do not fit: one different name per token, of "
            f"letters and digits, YY among them and END the last, for example {PAPER_POSITIONS}"
        )
    return {name: i for i, name in enumerate(names)}


def aligned(
    tokenizer: PreTrainedTokenizerBase, kind: str, texts: Sequence[str], names: Sequence[str]
) -> Int[Tensor, "prompt position"]:
    """Token ids, after checking that every text has one token per name."""
    ids = tokenize(tokenizer, texts)
    for text, tokens in zip(texts, ids, strict=True):
        if len(tokens) != len(names):
            raise ValueError(
                f"the {kind} prompt {text!r} has {len(tokens)} tokens "
                f"({token_texts(tokenizer, tokens)}) where {len(names)} are needed "
                f"({' '.join(names)}); all prompts must split alike"
            )
    return torch.tensor(ids)


def check_words(
    tokenizer: PreTrainedTokenizerBase,
    tokens: Int[Tensor, " prompt"],
    words: Sequence[str],
    texts: Sequence[str],
) -> None:
    """Raise ValueError unless every prompt's token at a position is its word."""
    found = {token: token_text(tokenizer, token) for token in tokens.unique().tolist()}
    for token, word, text in zip(tokens.tolist(), words, texts, strict=True):
        if found[token].strip() != word:
            raise ValueError(
                f"{text!r} has {found[token]!r} where {word!r} is needed; all prompts must have "
                "their year and their noun at the same positions"
            )
