"""How much of the way from the user's scores to the paper's each difference makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...dataset.prompts import tokenize
from ...formatting import in_words, interval_in_words
from ...metrics import FIRST_YY, Measurement, average
from ...model.transformer import Transformer
from .given import SIDES, ReadPrompt, assembled
from .prompt_set import PromptSet, ask

# Differences of texts: the parts of a prompt, or several of these that differ for one reason.
PARTS = ("start token", "words", "noun", "start century", "corrupted YY", "end of the prompt")
ORDER, TOKENS = "order of the pairs", "tokens"
SWAPPED, SCORING = "clean and corrupted swapped", "mask or labels"
NOUNS, YYS = "nouns and centuries", "how often each YY"
ALL, LEFT = "all", "prompts that cannot be mended"

Pair = tuple[ReadPrompt, ReadPrompt]  # the user's and the paper's
Mended = frozenset[str]  # differences that are mended


def explained(prompts: PromptSet, model: Transformer) -> pd.DataFrame:
    """What mending each difference adds to the clean and the corrupted score, largest first.

    The row "all" is the way from what was given to 97 balanced prompts of the paper's, and the
    others add up to it. A difference's change is the mean over all orders in which they can be
    mended (its Shapley value), so interactions are shared out evenly; ``clean_alone`` and
    ``corrupted_alone`` are the changes where only it is mended. What then remains are other nouns
    and centuries at the same YY, how often each YY occurs, and prompts that the paper cannot have.
    Intervals are of 95 %, over prompts: each is paired with itself mended, or with the balanced one
    of its YY. That of the YYs is over the balanced prompts. No rows, if no prompt can be mended.
    """
    own, paper = prompts.scores(paper=False), prompts.scores(paper=True)
    measured, kept = ~own.isnan().any(0), ~(own + paper).isnan().any(0)
    if not kept.any():
        return pd.DataFrame()
    scores = _scores(prompts, kept, model)
    every = max(scores, key=len)
    changes = {name: _shapley(scores, name) for name in sorted(every)}
    largest_first = sorted(every, key=lambda name: -float(changes[name].mean(-1).abs().sum()))
    row_of_YY = torch.tensor([one.YY or 0 for one in prompts.clean])[kept] - FIRST_YY
    table: dict[str, dict[str, float]] = {}
    for i, (side, balanced) in enumerate(zip(SIDES, prompts.balanced, strict=True)):
        rows = {name: average(changes[name][i]) for name in largest_first}
        rows[NOUNS] = average(balanced[row_of_YY] - scores[every][i])
        often = torch.bincount(row_of_YY, minlength=len(balanced)) * len(balanced)
        too_rare = 1 - often / len(row_of_YY)  # adds up to 0, so a constant may be taken off
        rows[YYS] = average(too_rare * (balanced - balanced.mean()))
        mean = own[i, measured].mean()
        if not torch.equal(measured, kept):
            rows[LEFT] = Measurement(float(own[i, kept].mean() - mean))
        for name, row in ({ALL: Measurement(float(balanced.mean() - mean))} | rows).items():
            cells = {side: row.value, f"{side}_low": row.low, f"{side}_high": row.high}
            if name in every:
                alone = scores[Mended([name])] - scores[Mended()]
                cells[f"{side}_alone"] = float(alone[i].mean())
            table.setdefault(name, {}).update(cells)
    return pd.DataFrame.from_dict(table, orient="index")


def explained_in_words(table: pd.DataFrame) -> list[str]:
    """One sentence per side of `explained`; what does nothing to a side is left out."""
    sentences = []
    for side in SIDES if len(table) else ():
        parts = [
            f"{in_words(row[side], 'points', 1)} "
            f"({interval_in_words(row[f'{side}_low'], row[f'{side}_high'], 'points', 1)}) {name}"
            for name, row in table.iloc[1:].iterrows()
            if row[f"{side}_low"] or row[f"{side}_high"]
        ]
        whole = f"{in_words(table[side].iloc[0], 'points', 1)}{': ' * bool(parts)}"
        sentences.append(
            f"From your {side} score to the balanced prompts' it is {whole}{', '.join(parts)}."
        )
    return sentences


def _shapley(scores: dict[Mended, Tensor], name: str) -> Float[Tensor, "side prompt"]:
    n = len(max(scores, key=len))
    steps = [
        (scores[mended | {name}] - scores[mended]) / (n * comb(n - 1, len(mended)))
        for mended in scores
        if name not in mended
    ]
    return torch.stack(steps).sum(0)


def _scores(
    prompts: PromptSet, kept: Bool[Tensor, " prompt"], model: Transformer
) -> dict[Mended, Float[Tensor, "side prompt"]]:
    """Clean and corrupted score of the prompts kept, by which differences are mended."""
    pairs = {
        side: [
            (own, paper)
            for own, paper, keep in zip(
                getattr(prompts, side), prompts.paper[side], kept, strict=True
            )
            if keep
        ]
        for side in SIDES
    }
    parts = _differing(model, [*pairs["clean"], *pairs["corrupted"]], bool(prompts.reordered))
    asked = {}
    for mended in _subsets(parts)[1:-1]:  # none and all have been answered
        which = set().union(*(parts[name] for name in mended))
        for side in SIDES:
            texts = [
                assembled([pair[i in which].parts[i] for i in range(len(PARTS))])
                for pair in pairs[side]
            ]
            asked[mended, side] = [tuple(ids) for ids in tokenize(model.tokenizer, texts)]
    answers = ask(model, asked)
    for side in SIDES:
        answers[Mended(parts), side] = prompts.answers[f"paper {side}"][kept]
        answers[Mended(), side] = prompts.answers[side][kept]
    right, their_right = prompts.right[kept], prompts.their_right[kept]
    others = {SWAPPED: prompts.swapped, SCORING: not torch.equal(right, their_right)}
    scores = {}
    for mended in _subsets([*parts, *(name for name, differs in others.items() if differs)]):
        sign = torch.where(right if SCORING in mended else their_right, 1.0, -1.0)
        of_text = mended.intersection(parts)
        pair = torch.stack([(answers[of_text, side] * sign).sum(-1) for side in SIDES])
        scores[mended] = pair.flip(0) if prompts.swapped and SWAPPED not in mended else pair
    return scores


def _differing(model: Transformer, pairs: Sequence[Pair], reordered: bool) -> dict[str, set[int]]:
    """The differences between texts, and which parts of a prompt each concerns."""
    tokens = tokenize(model.tokenizer, [assembled(own.parts) for own, _ in pairs])
    if tokens != [list(own.ids) for own, _ in pairs]:
        return {TOKENS: {*range(len(PARTS))}}  # no text gives them, so no part can be mended alone
    parts = {name: {i} for i, name in enumerate(PARTS)}
    if reordered:
        parts[ORDER] = set.union(*(parts.pop(PARTS[i]) for i in (2, 3, 5)))
    return {
        name: which
        for name, which in parts.items()
        if any(own.parts[i] != paper.parts[i] for own, paper in pairs for i in which)
    }


def _subsets(names: Iterable[str]) -> list[Mended]:
    """All of them, from the empty to the whole set."""
    names = list(names)
    return [Mended(some) for n in range(len(names) + 1) for some in combinations(names, n)]
