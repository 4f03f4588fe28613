"""Stands for a file of somebody's repository with a dataset of its own; see notebook 8."""

import random
from typing import Any

import torch
from utils import ONE


class YearDataset:
    def __init__(
        self, years: torch.Tensor, N: int, nouns: list, tokenizer: Any, eos: bool = False
    ) -> None:
        start = "<|endoftext|>" if eos else ""
        self.nouns = random.choices(nouns, k=N)
        pool = years.tolist()
        self.years = torch.tensor([random.choice(pool) for _ in range(N)])
        pairs = list(zip(self.nouns, self.years.tolist(), strict=True))
        sentence = start + "The {} lasted from the year {} to the year {}"
        self.good_sentences = [sentence.format(noun, y, y // 100) for noun, y in pairs]
        self.bad_sentences = [sentence.format(noun, f"{y // 100}01", y // 100) for noun, y in pairs]
        self.good_toks = torch.tensor(tokenizer(self.good_sentences)["input_ids"])
        self.bad_toks = torch.tensor(tokenizer(self.bad_sentences)["input_ids"])

    def as_circuit(self) -> object:
        return ONE.mul(self.good_toks)
