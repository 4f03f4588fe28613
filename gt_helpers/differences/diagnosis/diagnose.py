"""diagnose: the user's own greater-than prompts, held against the paper's construction."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ...dataset.year_dataset import YearDataset
from ...formatting import in_words, interval_in_words
from ...metrics import FIRST_YY, LAST_YY, Measurement, average, strata_by_YY
from ...model.transformer import Transformer
from .check import SEVERITIES, Finding
from .explained import explained, explained_in_words
from .given import SIDES, given_by
from .pair_checks import PAIR_CHECKS
from .prompt_checks import prompt_checks
from .prompt_set import PromptSet, read_prompts
from .set_checks import SET_CHECKS

# In this order; findings of equal severity are shown in it.
CHECKS = (prompt_checks, *PAIR_CHECKS, *SET_CHECKS)


@dataclass(frozen=True)
class Diagnosis:
    """What differs from the paper's construction, worst first, and what the model answers.

    ``scores`` has a row for the prompts as given, scored with the labels given; one for the
    paper's prompts with the same nouns and start years; and one for 97 balanced ones: how many
    could be measured, and the mean ``clean`` and ``corrupted`` probability difference with 95 %
    bootstrap intervals. ``explained`` says how much each difference makes of the way from the first
    row to the last, see `explained`; without a finding it is empty.
    """

    findings: tuple[Finding, ...]
    scores: pd.DataFrame
    explained: pd.DataFrame
    n_prompts: int
    model: str

    @property
    def headline(self) -> str:
        """The number of prompts and findings in one line."""
        n = self.n_prompts
        counts = {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}
        found = ", ".join(f"{count} x {name}" for name, count in counts.items() if count)
        found = found or "nothing differs from the paper's construction"
        return f"{n} prompt{'s' * (n > 1)} on {self.model}: {found}."

    @property
    def scores_in_words(self) -> list[str]:
        """One sentence per line of the scores that could be measured."""
        sentences = []
        for name, row in self.scores.iterrows():
            parts = [
                f"{side} {in_words(row[side])} "
                f"({interval_in_words(row[f'{side}_low'], row[f'{side}_high'], 'share')})"
                for side in SIDES
            ]
            if row["prompts"]:
                sentences.append(f"Probability difference of {name}: {', '.join(parts)}.")
        return sentences

    def __str__(self) -> str:
        lines = [self.headline, *self.scores_in_words, *explained_in_words(self.explained)]
        for finding in self.findings:
            lines += ["", f"[{finding.severity}] {finding.check}"]
            for part in filter(None, (finding.problem, finding.measured)):
                lines.append(textwrap.fill(part, 98, initial_indent="  ", subsequent_indent="  "))
            lines += [f"  Example: {finding.example}", f"  Fix: {finding.fix}"]
        return "\n".join(lines)


def diagnose(
    data: YearDataset | pd.DataFrame | str | Path | tuple[Any, Any] | None,
    model: Transformer,
    *,
    years: Any = None,
    ids: tuple[Any, Any] | None = None,
    mask: Any = None,
) -> Diagnosis:
    """Say what differs between these prompts and the paper's (section 2), and what it does.

    ``data`` is a YearDataset, a data frame or the path of a CSV with the columns clean and
    corrupted (and year or YY, if you score by these), or a pair (clean, corrupted) of lists of
    texts, or of token ids. To be checked along with texts: ``years``, start years or YYs [prompt];
    ``ids``, your pair of token ids, which then are what the model reads (and may be all there is,
    with ``data`` None); ``mask`` [prompt, year], your right end years. Prompts are read as they are
    and may be faulty in any way; those that cannot be run are not measured. Raises ValueError only
    for input that cannot be used, such as nothing, different numbers of prompts, missing columns.
    """
    prompts = read_prompts(given_by(data, years, ids, mask), model)
    found = [finding for check in CHECKS for finding in check(prompts)]
    unknown = [finding for finding in found if finding.check == "unknown token ids"]
    if unknown and not prompts.given.texts:  # such ids, of which nothing can be read, are all
        found = unknown
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    table = explained(prompts, model) if found else pd.DataFrame()
    return Diagnosis(tuple(found), _scores(prompts), table, len(prompts), model.name)


def _scores(prompts: PromptSet) -> pd.DataFrame:
    pairs = {
        "your prompts": prompts.scores(paper=False),
        "the paper's prompts with your nouns and start years": prompts.scores(paper=True),
        "97 balanced prompts of the paper's": prompts.balanced,
    }
    table: dict[str, dict[str, float]] = {}
    balanced = strata_by_YY(torch.arange(FIRST_YY, LAST_YY + 1))
    for name, pair in pairs.items():
        kept = pair[:, ~pair.isnan().any(0)]
        table[name] = {"prompts": kept.shape[1]}
        strata = balanced if pair is prompts.balanced and kept.shape == pair.shape else None
        for side, values in zip(SIDES, kept, strict=True):
            found = average(values, strata=strata) if len(values) else Measurement(math.nan)
            table[name] |= {side: found.value, f"{side}_low": found.low, f"{side}_high": found.high}
    return pd.DataFrame.from_dict(table, orient="index")
