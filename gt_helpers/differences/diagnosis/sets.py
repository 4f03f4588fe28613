"""Mistakes of whole sets: which years and nouns they have, and what the model answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from ...dataset.corruptions import PAPER_CENTURIES
from ...dataset.prompts import load_nouns
from ...formatting import in_words
from ...metrics import FIRST_YY, LAST_YY, bootstrap_ci
from .findings import BREAKS, CHANGES, NOTE, Finding, finding_of
from .given import SIDES
from .prompts import Prompts

CODE_CENTURIES = range(10, 19)  # the paper's code draws from these, its text names 11 to 17
BALANCED = "YearDataset(model.tokenizer, n=490)"

_FAILS = 0.5  # a clean probability difference below this leaves little to explain
_LITTLE = 0.1  # what 01 takes off it at least, before less than half of that is called weak
_UNEVEN = 0.1  # share of the prompts that may need another YY, beyond what chance leaves
_DIFFERENT = 0.8  # share of the prompts that are different from all others, at least
_BINS = 5


def start_years(prompts: Prompts) -> Iterator[Finding]:
    """Start years outside the paper's centuries and YYs."""
    where = [i for i, row in enumerate(prompts.clean) if (row.XX or 11) not in PAPER_CENTURIES]
    if where:
        found = sorted({prompts.clean[i].XX or 0 for i in where})
        in_code = all(century in CODE_CENTURIES for century in found)
        yield finding_of(
            prompts,
            "centuries",
            NOTE if in_code else CHANGES,
            where,
            f"In {{who}} the start century is {_listed(found)}, where the paper names 11 to 17"
            f"{' (its code draws from 10 to 18)' if in_code else ''}.",
            "Start in the years 1100 to 1799.",
            prompts.clean[where[0]].start,
        )
    edge = {i: row.YY for i, row in enumerate(prompts.clean) if row.YY in (0, 1, 99)}
    if edge:
        yield finding_of(
            prompts,
            "YY at the edge",
            CHANGES,
            list(edge),
            f"In {{who}} YY is {_listed(sorted({y for y in edge.values() if y is not None}))}: "
            "after 99 no end year is right, and 00 and 01 leave nothing for 01 to corrupt.",
            f"Keep to YY {FIRST_YY:02d} to {LAST_YY}, as valid_years of gt_helpers does.",
            prompts.clean[min(edge)].start,
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(f"{one:02d}" for one in numbers)


def balance(prompts: Prompts) -> Iterator[Finding]:
    """YYs that are far from even over 02 to 98."""
    where = [i for i, row in enumerate(prompts.clean) if FIRST_YY <= (row.YY or 0) <= LAST_YY]
    if not where:
        return
    YY = torch.tensor([prompts.clean[i].YY for i in where])
    possible = torch.arange(FIRST_YY, LAST_YY + 1)
    found, even = (
        torch.bincount((some - FIRST_YY) * _BINS // len(possible), minlength=_BINS) / len(some)
        for some in (YY, possible)
    )
    moved = float((found - even).clamp(min=0).sum())
    by_chance = _BINS / 2 * (1 / _BINS * (1 - 1 / _BINS) / len(where)) ** 0.5
    if moved > _UNEVEN + by_chance:
        clean, bad = prompts.balanced.mean(-1).tolist()
        yield finding_of(
            prompts,
            "YY not balanced",
            CHANGES,
            where,
            "The start years' YY are far from even over 02 to 98: they run from "
            f"{int(YY.min()):02d} to {int(YY.max()):02d} with a mean of "
            f"{float(YY.double().mean()):.0f} (even: 50), and {in_words(moved, digits=0)} of the "
            "prompts would need another YY. It matters: for balanced prompts the probability "
            f"difference is {in_words(clean)} clean, {in_words(bad)} corrupted.",
            f"Draw every YY equally often, as {BALANCED} does.",
            prompts.clean[where[0]].start,
        )


def repeats(prompts: Prompts) -> Iterator[Finding]:
    """The same prompt over and over."""
    counts = Counter(row.body for row in prompts.clean)
    where = [i for i, row in enumerate(prompts.clean) if counts[row.body] > 1]
    if len(counts) < _DIFFERENT * len(prompts):
        most = max(counts.values())
        yield finding_of(
            prompts,
            "repeated prompts",
            CHANGES,
            where,
            f"Only {len(counts)} of the {len(prompts)} clean prompts are different, one comes "
            f"{most} times: means rest on fewer prompts than intervals assume.",
            f"Draw nouns and years anew for each prompt, as {BALANCED} does.",
            repr(prompts.clean[where[0]].body),
        )


def nouns(prompts: Prompts) -> Iterator[Finding]:
    """Few nouns, or nouns that are not the paper's."""
    paper = load_nouns()
    rows = {i: row.noun.lower() for i, row in enumerate(prompts.clean) if len(row.noun_pieces) == 1}
    different = sorted(set(rows.values()))
    expected = len(paper) * (1 - (1 - 1 / len(paper)) ** len(rows))
    if rows and len(different) < expected / 2:
        yield finding_of(
            prompts,
            "few nouns",
            NOTE,
            list(rows),
            f"There are {len(different)} different noun{'s' * (len(different) > 1)}; as many "
            f"prompts with nouns drawn from the paper's {len(paper)} have about {expected:.0f}.",
            "Draw a noun for each prompt from load_nouns() of gt_helpers.",
            next(iter(rows.values())),
        )
    if where := [i for i, noun in rows.items() if noun not in paper]:
        yield finding_of(
            prompts,
            "other nouns",
            NOTE,
            where,
            f"In {{who}} the noun is none of the paper's {len(paper)}.",
            "Take nouns from load_nouns() of gt_helpers.",
            rows[where[0]],
        )


def answers(prompts: Prompts) -> Iterator[Finding]:
    """A model that does not do the task on the clean prompts, or still does it on the corrupted."""
    clean, bad = (prompts.score(side, prompts.right) for side in SIDES)
    rows = (~clean.isnan()).nonzero().flatten().tolist()
    if not rows:
        return
    if float(bootstrap_ci(clean[rows])[2]) < _FAILS:
        mass = float(prompts.answers["clean"][rows].sum(-1).mean())
        yield finding_of(
            prompts,
            "task not done",
            BREAKS,
            rows,
            "The model hardly does the task on the clean prompts, so there is little to explain; "
            f"{in_words(mass)} of its answers are two digits.",
            "Mend the prompts first; if nothing else is wrong with them, the model is the reason.",
        )
        return
    paper_clean, paper_bad = prompts.scores(paper=True)
    own, paper = clean - bad, paper_clean - paper_bad
    both = ~(own.isnan() | paper.isnan())
    rows = (both if both.any() else ~own.isnan()).nonzero().flatten().tolist()
    possible = float(paper[rows].mean()) if both.any() else 2 * _FAILS
    if rows and possible > _LITTLE and float(own[rows].mean()) < possible / 2:
        expected = "half of what 01 does" if both.any() else in_words(_FAILS, digits=0)
        yield finding_of(
            prompts,
            "weak corruption",
            BREAKS,
            rows,
            "The corrupted prompts hardly corrupt: they lower the probability difference by less "
            f"than {expected}, so patching has little to show.",
            "Corrupt with 01, and score both runs with the clean YY.",
        )


SET_CHECKS = (start_years, balance, repeats, nouns, answers)
