"""PromptSet: the user's prompts as pairs, and what the model answers on them and the paper's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...dataset.prompts import PAPER_POSITIONS, PAPER_TEMPLATE, Prompt, fill, tokenize, year_tokens
from ...dataset.year_dataset import YearDataset
from ...metrics import FIRST_YY, LAST_YY, prob_diff
from ...model.cache import PROMPTS_AT_ONCE, end_logits
from ...model.transformer import Transformer
from .given import SIDES, Given, Ids, ReadPrompt, number, plain, read

K = TypeVar("K")
_BATCH = PROMPTS_AT_ONCE // 4  # of each, the logits of the whole vocabulary are held


@dataclass(frozen=True)
class PromptSet:
    """Pairs of prompts, what was given, and the year probabilities that the model answers.

    ``paper`` are the paper's prompts with the same noun and start year, without tokens where they
    cannot be built. ``answers`` are kept under "clean", "corrupted", "paper clean" and "paper
    corrupted"; a line is NaN where a prompt cannot be run or built. ``balanced`` are the clean and
    corrupted probability differences of 97 of the paper's own prompts. Where the two were
    ``swapped`` they are put back.
    """

    clean: tuple[ReadPrompt, ...]
    corrupted: tuple[ReadPrompt, ...]
    paper: dict[str, tuple[ReadPrompt, ...]]
    swapped: bool
    given: Given
    answers: dict[str, Float[Tensor, "prompt year"]]
    balanced: Float[Tensor, "side prompt"]

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def pairs(self) -> list[tuple[ReadPrompt, ReadPrompt]]:
        """Clean and corrupted, prompt by prompt."""
        return list(zip(self.clean, self.corrupted, strict=True))

    @property
    def reordered(self) -> list[int]:
        """The prompts whose corrupted one belongs to another, if both sides hold the same ones."""
        clean, bad = (
            [(p.noun.casefold(), p.XX, p.end) for p in side]
            for side in (self.clean, self.corrupted)
        )
        same = Counter(clean) == Counter(bad)
        return [i for i in range(len(self)) if clean[i] != bad[i]] if same else []

    @property
    def right(self) -> Bool[Tensor, "prompt year"]:
        """Whether an end year is right: above the YY that the clean text has."""
        return above([prompt.YY for prompt in self.clean])

    @property
    def their_right(self) -> Bool[Tensor, "prompt year"]:
        """The same as the user counts it: by the mask, else by the years given, else `right`."""
        if self.given.mask is not None and self.given.mask.shape == (len(self), 100):
            return self.given.mask
        for values in self.given.labels.values():
            numbers = [number(value) for value in values]
            if None not in numbers:
                return above([n % 100 for n in numbers if n is not None])
        return self.right

    def score(self, which: str, right: Bool[Tensor, "prompt year"]) -> Float[Tensor, " prompt"]:
        """Probability difference of some `answers`; NaN where there is none."""
        return (self.answers[which] * torch.where(right, 1.0, -1.0)).sum(-1)

    def scores(self, *, paper: bool) -> Float[Tensor, "side prompt"]:
        """Clean and corrupted probability difference, as given or as in the paper."""
        if paper:
            return torch.stack([self.score(f"paper {side}", self.right) for side in SIDES])
        pair = torch.stack([self.score(side, self.their_right) for side in SIDES])
        return pair.flip(0) if self.swapped else pair


def above(YYs: Sequence[int | None]) -> Bool[Tensor, "prompt year"]:
    """Whether a year lies above YY; no year does where there is no YY."""
    bounds = torch.tensor([99 if YY is None else YY for YY in YYs])
    return torch.arange(100) > bounds[:, None]


def read_prompts(given: Given, model: Transformer) -> PromptSet:
    """Read every prompt, and let the model answer it and the paper's prompts beside it."""
    tokenizer, n_vocab = model.tokenizer, model.W_U.shape[1]
    first, second = (
        read(tokenizer, n_vocab, given.texts.get(side), given.ids.get(side)) for side in SIDES
    )
    # Whether most clean prompts start in 01, and their corrupted ones do not.
    pairs = zip(first, second, strict=True)
    turned = sum(one.YY == 1 and two.YY not in (None, 1) for one, two in pairs)
    swapped = 2 * turned > len(first)
    clean, corrupted = (second, first) if swapped else (first, second)
    built = _as_in_the_paper(model, clean)
    paper = {
        side: read(tokenizer, n_vocab, None, [pair[i] for pair in built])
        for i, side in enumerate(SIDES)
    }
    even = YearDataset(tokenizer, LAST_YY - FIRST_YY + 1)
    asked = {
        "clean": [prompt.ids for prompt in clean],
        "corrupted": [prompt.ids for prompt in corrupted],
        "paper clean": [prompt.ids for prompt in paper["clean"]],
        "paper corrupted": [prompt.ids for prompt in paper["corrupted"]],
        "balanced clean": [tuple(ids) for ids in even.clean.tolist()],
        "balanced corrupted": [tuple(ids) for ids in even.corrupted.tolist()],
    }
    answers = ask(model, asked)
    unreadable = [i for i, prompt in enumerate(clean) if prompt.YY is None]
    for side in SIDES:
        answers[side][unreadable] = torch.nan  # without YY nothing can be scored
    balanced = [prob_diff(answers.pop(f"balanced {side}"), even.YY) for side in SIDES]
    return PromptSet(clean, corrupted, paper, swapped, given, answers, torch.stack(balanced))


def _as_in_the_paper(model: Transformer, prompts: Sequence[ReadPrompt]) -> list[tuple[Ids, Ids]]:
    """The paper's clean and 01 prompt with a prompt's noun and year; no tokens if there is none."""
    place = PAPER_POSITIONS.index("YY")
    years = year_tokens(model.tokenizer).tolist()
    wanted = [(plain(one.noun).lower(), one.XX or 0, one.YY or 0) for one in prompts]
    texts = [
        fill(PAPER_TEMPLATE, Prompt(noun, 100 * XX + end, XX))
        for noun, XX, YY in wanted
        for end in (YY, 1)
    ]
    ids = map(tuple, tokenize(model.tokenizer, texts))  # clean and corrupted by turns
    built: list[tuple[Ids, Ids]] = []
    for (noun, _, YY), clean, corrupted in zip(wanted, ids, ids, strict=True):
        fits = (
            noun
            and FIRST_YY <= YY <= LAST_YY
            and len(clean) == len(corrupted) == len(PAPER_POSITIONS)
            and clean[:place] == corrupted[:place]
            and (clean[place], corrupted[place]) == (years[YY], years[1])
        )
        built.append((clean, corrupted) if fits else ((), ()))
    return built


def ask(model: Transformer, asked: Mapping[K, Sequence[Ids]]) -> dict[K, Tensor]:
    """Year probabilities [prompt, year] at the last token; NaN where a prompt cannot be run."""
    years = year_tokens(model.tokenizer).to(model.device)
    longest, n_vocab = model.bridge.cfg.n_ctx, model.W_U.shape[1]
    found: dict[Ids, Tensor] = {}
    every = dict.fromkeys(ids for many in asked.values() for ids in many)
    known = [ids for ids in every if ids and min(ids) >= 0 and max(ids) < n_vocab]
    readable = sorted((ids for ids in known if len(ids) <= longest), key=len)
    for _, same_length in groupby(readable, len):
        group = list(same_length)
        batches = end_logits(model, torch.tensor(group), _BATCH)
        probs = [logits.softmax(-1)[:, years].double().cpu() for logits in batches]
        found |= zip(group, torch.cat(probs), strict=True)
    none = torch.full((100,), torch.nan, dtype=torch.float64)
    return {k: torch.stack([found.get(ids, none) for ids in many]) for k, many in asked.items()}
