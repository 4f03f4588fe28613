"""Mistakes of whole sets: labels and mask, years and nouns, and what the model answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch

from ...dataset.prompts import load_nouns
from ...formatting import in_words
from ...metrics import FIRST_YY, LAST_YY, bootstrap_ci
from .check import BREAKS, CHANGES, NOTE, Finding, count_of, findings
from .given import SIDES, number
from .prompt_set import PromptSet, above

BALANCED = "YearDataset(model.tokenizer, n=490)"

# Set by hand: a correct set of 25 prompts gives no finding, each planted mistake gives its own.
_FAILS = 0.5  # a clean probability difference below this leaves little to explain
_LITTLE = 0.1  # what 01 takes off it at least, before less than half of that is called weak
_UNEVEN = 0.1  # share of the prompts that may need another YY, beyond what chance leaves
_BINS = 5
_DIFFERENT = 0.8  # share of the prompts that must differ
_NOUNS = 0.5  # of so many nouns as drawing gives


# ---- labels and mask --------------------------------------------------------------------------


def labels(prompts: PromptSet) -> Iterator[Finding]:
    """Years or YYs that were given and are not those of the clean texts, or no numbers."""
    fix = "Take the years from the clean texts, in their order, as numbers: YY is year % 100."
    for column, values in prompts.given.labels.items():
        given = [number(value) for value in values]
        whole = any(one is not None and one > 99 for one in given)
        kind = f"the {'start years' if whole else 'YYs'} given ({column}) are"
        wrongly = "what is scored by them is scored wrongly."
        if where := [i for i, value in enumerate(values) if isinstance(value, str)]:
            text = (
                f"In {count_of(where, prompts)} {kind} text, which never equals a number: {wrongly}"
            )
            yield from findings(prompts, where, "labels", NOTE, text, fix, repr(values[where[0]]))
        true, false = (
            [int(one.start) if whole and one.start else one.YY for one in side]
            for side in (prompts.clean, prompts.corrupted)
        )
        known = [i for i, one in enumerate(true) if one is not None]
        where = [i for i in known if given[i] != true[i]]
        if not where:
            continue
        same = Counter(given[i] for i in known) == Counter(true[i] for i in known)
        causes: dict[str, list[int | None]] = {
            "no whole numbers": [None] * len(given),
            "the corrupted prompts'": false,
            "centuries": [prompt.XX for prompt in prompts.clean],
            "one too high": [(one or 0) + 1 for one in true],
            "one too low": [(one or 0) - 1 for one in true],
            "in another order than the prompts": given if same else [],
            "not those of the texts": given,
        }
        cause = next(
            cause for cause, c in causes.items() if c and all(given[i] == c[i] for i in where)
        )
        problem = f"In {count_of(where, prompts)} {kind} {cause}: {wrongly}"
        example = f"{values[where[0]]!r} is given, the clean text has {true[where[0]]}"
        yield from findings(prompts, where, "labels", BREAKS, problem, fix, example)


def mask(prompts: PromptSet) -> Iterator[Finding]:
    """A mask of right end years that is not "above the clean YY"."""
    given, n = prompts.given.mask, len(prompts)
    if given is None:
        return
    fix = "Right is what is strictly above the clean YY: torch.arange(100) > YY[:, None]."
    if given.shape != (n, 100):
        problem = (
            f"In {count_of(range(n), prompts)} the mask has the shape {list(given.shape)} instead "
            f"of {[n, 100]}, prompts by years."
        )
        yield from findings(prompts, range(n), "mask", BREAKS, problem, fix)
        return
    known = [i for i, prompt in enumerate(prompts.clean) if prompt.YY is not None]
    where = [i for i in known if not torch.equal(given[i], prompts.right[i])]
    if not where:
        return
    YY = torch.tensor([prompt.YY or 0 for prompt in prompts.clean])[:, None]
    years = torch.arange(100)
    causes = {
        "counts YY itself as right": (years >= YY, CHANGES),
        "leaves out the first right year, YY + 1": (years > YY + 1, CHANGES),
        "is the wrong way round: it holds the years up to YY": (years <= YY, BREAKS),
        "is the wrong way round: it holds the years below YY": (years < YY, BREAKS),
        "goes by the corrupted YY": (above([prompt.YY for prompt in prompts.corrupted]), BREAKS),
        "is another one than the years above YY": (given, BREAKS),
    }
    cause, severity = next(
        (cause, severity)
        for cause, (candidate, severity) in causes.items()
        if torch.equal(given[where], candidate[where])
    )
    held = given[where[0]].nonzero().flatten().tolist()
    from_to = f"{held[0]:02d} to {held[-1]:02d}" if held else "no year"
    example = f"the start year is {prompts.clean[where[0]].start}, the mask holds {from_to}"
    problem = f"In {count_of(where, prompts)} the mask {cause}."
    yield from findings(prompts, where, "mask", severity, problem, fix, example)


# ---- years and nouns --------------------------------------------------------------------------


def balance(prompts: PromptSet) -> Iterator[Finding]:
    """YYs that are far from even over 02 to 98."""
    where = [i for i, one in enumerate(prompts.clean) if FIRST_YY <= (one.YY or 0) <= LAST_YY]
    if not where:
        return
    YY = torch.tensor([prompts.clean[i].YY for i in where])
    possible = torch.arange(FIRST_YY, LAST_YY + 1)
    found, even = (
        torch.bincount((some - FIRST_YY) * _BINS // len(possible), minlength=_BINS) / len(some)
        for some in (YY, possible)
    )
    moved = float((found - even).clamp(min=0).sum())
    # Half the sum of the bins' standard deviations: what a fair draw of so many is off.
    by_chance = _BINS / 2 * (1 / _BINS * (1 - 1 / _BINS) / len(where)) ** 0.5
    if moved > _UNEVEN + by_chance:
        clean, corrupted = map(in_words, prompts.balanced.mean(-1).tolist())
        yield from findings(
            prompts,
            where,
            "YY not balanced",
            CHANGES,
            f"The start years' YY run from {int(YY.min()):02d} to {int(YY.max()):02d} with a mean "
            f"of {float(YY.double().mean()):.0f} (even over 02 to 98: 50), and "
            f"{in_words(moved, digits=0)} of the prompts would need another YY; balanced prompts "
            f"have a probability difference of {clean} clean, {corrupted} corrupted.",
            f"Draw every YY equally often, as {BALANCED} does.",
            prompts.clean[where[0]].start,
        )


def repeats(prompts: PromptSet) -> Iterator[Finding]:
    """Fewer than 80 % different prompts, or less than half as many nouns as drawing gives."""
    bodies = {i: prompt.body for i, prompt in enumerate(prompts.clean)}
    nouns = {i: prompt.noun.lower() for i, prompt in enumerate(prompts.clean) if prompt.noun}
    pool = len(load_nouns())
    drawn = pool * (1 - (1 - 1 / pool) ** len(nouns))  # so many of the pool, on average
    sets = {
        "prompts": (CHANGES, bodies, _DIFFERENT * len(bodies)),
        "nouns": (NOTE, nouns, _NOUNS * drawn),
    }
    for what, (severity, items, least) in sets.items():
        counts = Counter(items.values())
        if len(counts) < least:
            where = [i for i, item in items.items() if counts[item] > 1]
            yield from findings(
                prompts,
                where,
                f"repeated {what}",
                severity,
                f"Only {len(counts)} of the {len(items)} clean {what} are different: means rest on "
                "fewer prompts than intervals assume.",
                f"Draw nouns (of load_nouns()) and years anew for each prompt, as {BALANCED} does.",
                repr(items[where[0]]),
            )


# ---- what the model answers -------------------------------------------------------------------


def answers(prompts: PromptSet) -> Iterator[Finding]:
    """A model that does not do the task on the clean prompts, or still does on the corrupted."""
    clean, bad = (prompts.score(side, prompts.right) for side in SIDES)
    where = (~clean.isnan()).nonzero().flatten().tolist()
    if where and float(bootstrap_ci(clean[where])[2]) < _FAILS:
        mass = in_words(float(prompts.answers["clean"][where].sum(-1).mean()))
        yield from findings(
            prompts,
            where,
            "task not done",
            BREAKS,
            "The model hardly does the task on the clean prompts, so there is little to explain; "
            f"{mass} of its answers are two digits.",
            "Mend the prompts first; if nothing else is wrong with them, the model is the reason.",
        )
        return
    lowered, by_01 = clean - bad, -prompts.scores(paper=True).diff(dim=0)[0]
    where = (~(lowered + by_01).isnan()).nonzero().flatten().tolist()
    possible = float(by_01[where].mean())  # NaN of none, which is not above anything
    if possible > _LITTLE and float(lowered[where].mean()) < possible / 2:
        yield from findings(
            prompts,
            where,
            "weak corruption",
            BREAKS,
            "The corrupted prompts hardly corrupt: they lower the probability difference by less "
            "than half of what 01 does, so patching has little to show.",
            "Corrupt with 01, and score both runs with the clean YY.",
        )


SET_CHECKS = (labels, mask, balance, repeats, answers)
