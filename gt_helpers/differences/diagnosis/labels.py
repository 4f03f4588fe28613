"""Mistakes of labels: years and YYs that are not the texts', and a mask of wrong end years."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch

from .findings import BREAKS, CHANGES, NOTE, Finding, finding_of
from .given import number
from .prompts import Prompts, above
from .reading import Row


def labels(prompts: Prompts) -> Iterator[Finding]:
    """Years or YYs that were given and are not those of the clean texts."""
    for name, values in prompts.labels.items():
        given = [number(value) for value in values]
        whole = any(one is not None and one > 99 for one in given)
        kind = f"{'start years' if whole else 'YYs'} given ({name})"
        true, false = (
            [_label(row, whole) for row in rows] for rows in (prompts.clean, prompts.corrupted)
        )
        rows = [i for i, one in enumerate(true) if one is not None]
        if where := [i for i in rows if given[i] != true[i]]:
            same = Counter(given[i] for i in rows) == Counter(true[i] for i in rows)
            causes: dict[str, list[int | None]] = {
                "no whole numbers": [None] * len(given),
                "the corrupted prompts'": false,
                "centuries": [row.XX for row in prompts.clean],
                "one too high": [(one or 0) + 1 for one in true],
                "one too low": [(one or 0) - 1 for one in true],
                "in another order than the prompts": given if same else [],
                "not those of the texts": given,
            }
            cause = next(
                cause for cause, c in causes.items() if c and all(given[i] == c[i] for i in where)
            )
            yield finding_of(
                prompts,
                "labels",
                BREAKS,
                where,
                f"In {{who}} the {kind} are {cause}, so answers are scored against a wrong year.",
                "Take the years from the clean texts, in their order: YY is year % 100.",
                f"{values[where[0]]!r} is given, the clean text has {true[where[0]]}",
            )
        if text := [i for i, value in enumerate(values) if isinstance(value, str)]:
            yield finding_of(
                prompts,
                "labels as text",
                NOTE,
                text,
                f"In {{who}} the {kind} are text: they never equal a number, and among texts '9' "
                "comes after '10'.",
                "Turn them into numbers: int(year).",
                repr(values[text[0]]),
            )


def _label(row: Row, whole: bool) -> int | None:
    """A prompt's start year, or its YY."""
    return int(row.start) if whole and row.start else row.YY


def mask(prompts: Prompts) -> Iterator[Finding]:
    """A mask of right end years that is not "above the clean YY"."""
    given, n = prompts.mask, len(prompts)
    if given is None:
        return
    if given.shape != (n, 100):
        yield finding_of(
            prompts,
            "mask shape",
            BREAKS,
            range(n),
            f"The mask has the shape {list(given.shape)}; it needs a row for each of the {n} "
            "prompts and a column for each of the 100 years 00 to 99.",
            "mask = torch.arange(100) > YY[:, None], whose columns are the years in order.",
        )
        return
    rows = [i for i, row in enumerate(prompts.clean) if row.YY is not None]
    where = [i for i in rows if not torch.equal(given[i], prompts.right[i])]
    if not where:
        return
    YY, years = torch.tensor([row.YY or 0 for row in prompts.clean])[:, None], torch.arange(100)
    causes = {
        "counts YY itself as right": (years >= YY, CHANGES),
        "leaves out the first right year, YY + 1": (years > YY + 1, CHANGES),
        "is the wrong way round: it holds the years up to YY": (years <= YY, BREAKS),
        "is the wrong way round: it holds the years below YY": (years < YY, BREAKS),
        "goes by the corrupted YY": (above([row.YY for row in prompts.corrupted]), BREAKS),
        "is another one than the years above YY": (given, BREAKS),
    }
    cause, severity = next(
        (cause, severity)
        for cause, (candidate, severity) in causes.items()
        if torch.equal(given[where], candidate[where])
    )
    held = given[where[0]].nonzero().flatten().tolist()
    from_to = f"{held[0]:02d} to {held[-1]:02d}" if held else "no year"
    yield finding_of(
        prompts,
        "mask",
        severity,
        where,
        f"In {{who}} the mask {cause}.",
        "Right is what is strictly above the clean YY: torch.arange(100) > YY[:, None].",
        f"the start year is {prompts.clean[where[0]].start}, the mask holds {from_to}",
    )


LABEL_CHECKS = (labels, mask)
