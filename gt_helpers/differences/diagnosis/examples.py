"""Mistakes that are easy to make, planted in correct prompts for `diagnose` to find."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import torch

from ...dataset.year_dataset import YearDataset

Texts = list[str]
BOS = "<|endoftext|> "


def _texts(dataset: YearDataset) -> tuple[Texts, Texts]:
    return list(dataset.clean_text), list(dataset.corrupted_text)


def _no_bos(dataset: YearDataset) -> dict[str, Any]:
    clean, corrupted = _texts(dataset)
    return {
        "data": ([t.removeprefix(BOS) for t in clean], [t.removeprefix(BOS) for t in corrupted])
    }


def _start_00(dataset: YearDataset) -> dict[str, Any]:
    clean, corrupted = _texts(dataset)
    return {"data": (clean, [re.sub(r"year (\d\d)01", r"year \g<1>00", t) for t in corrupted])}


def _random_YY(dataset: YearDataset) -> dict[str, Any]:
    clean, _ = _texts(dataset)
    rng = random.Random(0)
    return {"data": (clean, [_with_YY(text, rng.randrange(11, 90)) for text in clean])}


def _with_YY(text: str, YY: int) -> str:
    return re.sub(r"year (\d\d)\d\d to", rf"year \g<1>{YY:02d} to", text)


def _noun_too(dataset: YearDataset) -> dict[str, Any]:
    clean, corrupted = _texts(dataset)
    nouns = [*dataset.nouns[1:], dataset.nouns[0]]
    pairs = zip(corrupted, dataset.nouns, nouns, strict=True)
    return {"data": (clean, [text.replace(f" {old} ", f" {new} ") for text, old, new in pairs])}


def _shuffled(dataset: YearDataset) -> dict[str, Any]:
    clean, corrupted = _texts(dataset)
    return {"data": (clean, corrupted[1:] + corrupted[:1])}


def _swapped(dataset: YearDataset) -> dict[str, Any]:
    clean, corrupted = _texts(dataset)
    return {"data": (corrupted, clean)}


def _equal_counts(dataset: YearDataset) -> dict[str, Any]:
    return {"data": _texts(dataset), "mask": torch.arange(100) >= dataset.YY[:, None]}


def _shifted_labels(dataset: YearDataset) -> dict[str, Any]:
    return {"data": _texts(dataset), "years": (dataset.years + 1).tolist()}


# By their names: what `diagnose` is given, made of a correct dataset.
MISTAKES: dict[str, Callable[[YearDataset], dict[str, Any]]] = {
    "no start token": _no_bos,
    "corrupted with 00": _start_00,
    "corrupted with any YY": _random_YY,
    "the noun changes too": _noun_too,
    "pairs shifted by one": _shuffled,
    "clean and corrupted swapped": _swapped,
    "YY counted as right": _equal_counts,
    "labels one year off": _shifted_labels,
}
