"""Stands for a file of somebody's repository that imports a Rust library; see notebook 8."""

from typing import Any

import rust_circuit as rc
import torch

ONE = rc.Scalar(1.0)


def get_valid_years(tokenizer: Any, start: int = 1000, end: int = 2150) -> torch.Tensor:
    splits = [tokenizer(f" {year}")["input_ids"] for year in range(start, end)]
    second = [tokenizer.decode(ids[1:]) if len(ids) == 2 else "" for ids in splits]
    return torch.tensor([start + i for i, text in enumerate(second) if len(text) == 2])


def patch(circuit: rc.Circuit, matcher: rc.Matcher) -> rc.Circuit:
    return rc.Updater(lambda _: ONE)(circuit, matcher)
