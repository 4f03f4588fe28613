"""Mistakes that are easy to make, planted in correct prompts for `diagnose` to find."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...dataset.year_dataset import YearDataset
from .given import BOS


def _other_YY(text: str, YY: int) -> str:
    return re.sub(r"(\d\d)\d\d to", rf"\g<1>{YY:02d} to", text)


def _drawn_YY(texts: Sequence[str]) -> list[str]:
    rng = random.Random(0)
    return [_other_YY(text, rng.randrange(11, 90)) for text in texts]


def _other_nouns(dataset: YearDataset) -> list[str]:
    nouns = [*dataset.nouns[1:], dataset.nouns[0]]
    pairs = zip(dataset.corrupted_text, dataset.nouns, nouns, strict=True)
    return [text.replace(f" {old} ", f" {new} ") for text, old, new in pairs]


def _given(
    own: YearDataset, corrupted: Sequence[str] | None = None, **labels: Any
) -> dict[str, Any]:
    return {"data": (own.clean_text, corrupted or own.corrupted_text), **labels}


# What `diagnose` is given, made of a correct dataset.
MISTAKES: dict[str, Callable[[YearDataset], dict[str, Any]]] = {
    "no start token": lambda own: {
        "data": [
            [text.removeprefix(f"{BOS} ") for text in side]
            for side in (own.clean_text, own.corrupted_text)
        ]
    },
    "corrupted with 00": lambda own: _given(own, [_other_YY(text, 0) for text in own.clean_text]),
    "corrupted with any YY": lambda own: _given(own, _drawn_YY(own.clean_text)),
    "the noun changes too": lambda own: _given(own, _other_nouns(own)),
    "pairs shifted by one": lambda own: _given(
        own, own.corrupted_text[1:] + own.corrupted_text[:1]
    ),
    "clean and corrupted swapped": lambda own: {"data": (own.corrupted_text, own.clean_text)},
    "YY counted as right": lambda own: _given(own, mask=torch.arange(100) >= own.YY[:, None]),
    "labels one year off": lambda own: _given(own, years=own.years + 1),
}
