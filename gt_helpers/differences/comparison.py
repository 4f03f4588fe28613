"""What measured choices change: scores, correlations with the reference, lists, and words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..formatting import in_words, interval_in_words
from ..metrics import Measurement, Strata, average, correlation
from ..model.components import Shape, component
from ..patching.engine import Sweep
from ..patching.paper import CircuitParts, circuit_senders
from .choices import CHOICES, OTHER_PROMPTS, REFERENCE, Choice, Outcome

SCORES = ("clean", "corrupted", "recovered", "above_corrupted")
_CHANCE = 0.02  # changes below this, or below what other prompts do, are not spoken of
ALL_SWEEPS = "all sweeps"
Cell = tuple[str, float, str]  # a value in words, how far it moved, and details


@dataclass(frozen=True)
class Comparison:
    """The outcomes of `measure_choices` beside those of the reference with the same seed.

    ``parts`` is the circuit and ``shape`` the model's. Numbers are means over seeds; ``low`` and
    ``high`` are the smallest and the largest seed's, not a confidence interval.
    """

    outcomes: Mapping[str, list[Outcome]]
    parts: CircuitParts
    shape: Shape

    @property
    def choices(self) -> list[Choice]:
        """The choices that were measured, without the reference."""
        return [CHOICES[name] for name in self.outcomes if name != REFERENCE.name]

    @property
    def sweeps(self) -> list[str]:
        """The reference's sweeps, by their receivers."""
        return list(self.outcomes[REFERENCE.name][0].effects)

    @property
    def error(self) -> float:
        """The largest relative error of a probability among the cells that previews checked."""
        return max(one.error for found in self.outcomes.values() for one in found)

    def scores(self) -> pd.DataFrame:
        """One row per choice, the reference first, in the choice's own metric.

        Columns: clean and corrupted score, ``recovered`` (partial circuit / model), and
        ``above_corrupted`` (the same with the corrupted score taken from both; NaN where clean and
        corrupted are too close), each with ``_low`` and ``_high``.
        """
        rows = {}
        for name, found in self.outcomes.items():
            row: dict[str, float] = {}
            for score in SCORES:
                mean, low, high = _over_seeds([one.scores[score] for one in found])
                row |= {score: mean, f"{score}_low": low, f"{score}_high": high}
            rows[name] = row
        return pd.DataFrame.from_dict(rows, orient="index")

    def changes(self) -> pd.DataFrame:
        """What every choice adds to the reference's clean and corrupted score and ``recovered``.

        Each with ``_low`` and ``_high``, a 95 % interval over the prompts of all seeds, resampled
        within their YY where both are balanced. Prompts are paired: each stands against the
        reference's at its place, which has the same YY where YYs are balanced, and the same noun
        and year where the choice draws no others. NaN where the unit or the number of prompts is
        another.
        """
        rows: dict[str, dict[str, float]] = {}
        for choice in self.choices:
            row, strata = rows.setdefault(choice.name, {}), self._strata(choice.name)
            for score in ("clean", "corrupted", "recovered"):
                own, usual = (
                    torch.cat([one.per_prompt[score] for one in self.outcomes[name]])
                    for name in (choice.name, REFERENCE.name)
                )
                paired = len(own) == len(usual) and (choice.unit == "share" or score == "recovered")
                found = average(own - usual, strata=strata) if paired else Measurement(math.nan)
                row |= {score: found.value, f"{score}_low": found.low, f"{score}_high": found.high}
        return pd.DataFrame.from_dict(rows, orient="index")

    def correlations(self) -> pd.DataFrame:
        """How alike a choice's maps are to the reference's: choice, map, r, low and high.

        ``map`` is a sweep, whose effects of all senders are correlated, "all sweeps", the mean of
        these, or "lens", the mean over the circuit's components of the correlation of their logit
        lenses, every row centred. A map without any effect has r = 0.
        """
        table = []
        reference = self.outcomes[REFERENCE.name]
        for choice in self.choices:
            pairs = list(zip(self.outcomes[choice.name], reference, strict=True))
            found = {
                sweep: [_alike(a.effects[sweep], b.effects[sweep]) for a, b in pairs]
                for sweep in self.sweeps
                if sweep in pairs[0][0].effects
            }
            found[ALL_SWEEPS] = np.mean(list(found.values()), axis=0).tolist()
            found["lens"] = [_lenses_alike(a.lenses, b.lenses) for a, b in pairs]
            table += [(choice.name, name, *_over_seeds(values)) for name, values in found.items()]
        return pd.DataFrame(table, columns=["choice", "map", "r", "low", "high"])

    def _strata(self, name: str) -> Strata | None:
        """Those of the prompts of all seeds, where choice and reference have the same."""
        pairs = zip(self.outcomes[name], self.outcomes[REFERENCE.name], strict=True)
        strata = []
        for own, usual in pairs:
            if own.strata is None or usual.strata is None or not own.strata.equal(usual.strata):
                return None
            strata.append(own.strata)
        return torch.cat(strata)

    def lists(self) -> pd.DataFrame:
        """What happens to the strongest senders of every sweep: choice, sweep, lost and new.

        A sweep's list has as many senders as the circuit has in it. ``lost`` are the circuit's that
        stand in the reference's list but not in the choice's; ``new`` stand in the choice's, and
        are neither in the reference's nor in the circuit.
        """
        rows = []
        for sweep in self.sweeps:
            usual, members = self._listed(REFERENCE.name, sweep), self.members(sweep)
            for choice in self.choices:
                if sweep not in self.outcomes[choice.name][0].effects:
                    continue
                now = self._listed(choice.name, sweep)
                lost = [name for name in usual if name in members and name not in now]
                new = [name for name in now if name not in members and name not in usual]
                rows.append((choice.name, sweep, lost, new))
        return pd.DataFrame(rows, columns=["choice", "sweep", "lost", "new"])

    def summary(self) -> pd.DataFrame:
        """One row per choice, worst first: choice, what, change, mean_r, lens_r, lost, new, words.

        ``change`` is the largest of three: 1 less the mean correlation of the sweeps, 1 less the
        lens's, and the change of ``recovered``. ``lost`` and ``new`` are those of all `lists`;
        ``words`` is the short diagnosis.
        """
        scores, lists = self.scores(), self.lists()
        r = self.correlations().pivot(index="choice", columns="map", values="r")
        table = []
        for choice in self.choices:
            own = lists[lists["choice"] == choice.name]
            mean_r, lens_r = r.loc[choice.name, [ALL_SWEEPS, "lens"]]
            moved = scores["recovered"][choice.name] - scores["recovered"][REFERENCE.name]
            change = max(1 - mean_r, 1 - lens_r, abs(moved))
            lost, new = (list(dict.fromkeys(own[kind].sum())) for kind in ("lost", "new"))
            table.append((choice.name, choice.what, change, mean_r, lens_r, lost, new))
        columns = ["choice", "what", "change", "mean_r", "lens_r", "lost", "new"]
        frame = pd.DataFrame(table, columns=columns)
        chance = max([_CHANCE, *frame["change"][frame["choice"] == OTHER_PROMPTS]])
        frame["words"] = [
            _diagnosis(row, scores, r.loc[row["choice"], self.sweeps], chance)
            for row in frame.to_dict("records")
        ]
        return frame.sort_values("change", ascending=False, kind="stable", ignore_index=True)

    def matrix(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """The figure's cells, choices worst first: in words, how far they moved, and their details.

        Moved is 0 for nothing: the change of a score, or 1 less a correlation; NaN where there is
        nothing to compare. Details are the lowest and the highest seed, and what a sweep's list
        lost and what is new in it.
        """
        scores = self.scores()
        maps = self.correlations().set_index(["choice", "map"])
        lists = self.lists().set_index(["choice", "sweep"])
        cells: dict[str, dict[str, Cell]] = {}
        for choice in (REFERENCE, *(CHOICES[name] for name in self.summary()["choice"])):
            row: dict[str, Cell] = {}
            for name in ("clean", "corrupted", "recovered"):
                value, low, high = scores.loc[choice.name, [name, f"{name}_low", f"{name}_high"]]
                unit = "share" if name == "recovered" else choice.unit
                moved = abs(value - scores[name][REFERENCE.name])
                shown = in_words(value, unit, 0 if unit == "share" else 1)
                seeds = f"seeds: {interval_in_words(low, high, unit)}"
                row[name] = (shown, moved if unit == "share" else math.nan, seeds)
            for name in (*self.sweeps, "lens"):
                key = (choice.name, name)
                row[name] = (_r(1), 0.0, "") if choice is REFERENCE else ("–", math.nan, "")
                if key in maps.index:
                    r, low, high = maps.loc[key]
                    changes = dict(lists.loc[key]) if key in lists.index else {}
                    named = [f"; {kind}: {', '.join(of)}" for kind, of in changes.items() if of]
                    seeds = f"seeds: {interval_in_words(low, high, 'number', 2)}"
                    row[name] = (_r(r), 1 - r, seeds + "".join(named))
            cells[choice.name] = row
        frame = pd.DataFrame.from_dict(cells, orient="index")
        return frame.map(itemgetter(0)), frame.map(itemgetter(1)), frame.map(itemgetter(2))

    def effects(self, name: str, sweep: str) -> Float[Tensor, " sender"]:
        """Mean effects of a choice's (or the reference's) sweep over all seeds."""
        return torch.stack([one.effects[sweep] for one in self.outcomes[name]]).mean(0)

    def senders(self, sweep: str) -> list[str]:
        """The senders' labels of a sweep, in the order of its effects."""
        return [node.label for node in self.shape.senders(self.position(sweep))]

    def position(self, sweep: str) -> str:
        """Where the senders of a sweep are: END, or YY for those into the heads and early MLPs."""
        return "YY" if sweep in ("keys", "values") or sweep.endswith("@YY") else "END"

    def members(self, sweep: str) -> set[str]:
        """Labels of the sweep's senders that the circuit connects to its receivers."""
        part = {"keys": "k", "values": "v"}.get(sweep)
        receivers = [f"{head}.{part}" for head in self.parts.heads] if part else [sweep]
        names = [node.name for node in self.shape.senders(self.position(sweep))]
        values = self.effects(REFERENCE.name, sweep)[:, None]
        swept = Sweep(tuple(receivers), (), tuple(names), values, self.shape)
        return {component(name).label for name in circuit_senders(self.parts, swept)}

    def _listed(self, name: str, sweep: str) -> list[str]:
        """The strongest senders, as many as the circuit has with any effect in the reference."""
        senders = self.senders(sweep)
        usual = dict(zip(senders, self.effects(REFERENCE.name, sweep).tolist(), strict=True))
        size = max(1, sum(usual[member] != 0 for member in self.members(sweep)))
        effects = self.effects(name, sweep).abs()
        order = effects.argsort(descending=True, stable=True).tolist()[:size]
        return [senders[i] for i in order if effects[i] > 0]


def _diagnosis(
    row: Mapping[str, Any], scores: pd.DataFrame, sweeps: pd.Series, chance: float
) -> str:
    """The short diagnosis of a `Comparison.summary`'s row; changes up to ``chance`` do not count.

    ``sweeps`` are the correlations of the choice's sweeps, NaN where it has none.
    """
    own, usual = scores.loc[row["choice"]], scores.loc[REFERENCE.name]
    same_unit = CHOICES[row["choice"]].unit == REFERENCE.unit
    gap, usual_gap = (abs(one["clean"] - one["corrupted"]) for one in (own, usual))
    said = {
        f"the patched-in run still scores {in_words(own['corrupted'])} (reference "
        f"{in_words(usual['corrupted'])}), so patching has less to show": (
            same_unit and gap < 0.5 * usual_gap
        ),
        f"the clean score is {in_words(own['clean'])} instead of {in_words(usual['clean'])}": (
            same_unit and abs(own["clean"] - usual["clean"]) > chance
        ),
        f"the sweeps {'are other ones' if row['mean_r'] < 0.5 else 'shift'} (mean correlation "
        f"{_r(row['mean_r'])}, least for {sweeps.idxmin()}: {_r(sweeps.min())})": (
            row["mean_r"] < 1 - chance
        ),
        f"lost from the top lists: {_few(row['lost'])}": bool(row["lost"]),
        f"new in them: {_few(row['new'])}": bool(row["new"]),
        f"the circuit seems to recover {in_words(own['recovered'])} instead of "
        f"{in_words(usual['recovered'])}": abs(own["recovered"] - usual["recovered"]) > chance,
        f"the logit lens shows something else (correlation {_r(row['lens_r'])})": (
            row["lens_r"] < 1 - chance
        ),
    }
    text = "; ".join(words for words, holds in said.items() if holds)
    return f"{text[0].upper()}{text[1:]}." if text else "Makes next to no difference."


def _over_seeds(values: list[float]) -> tuple[float, float, float]:
    """Mean, smallest and largest."""
    return float(np.mean(values)), min(values), max(values)


def _alike(effects: Tensor, reference: Tensor) -> float:
    """Pearson correlation over the senders that have an effect in either."""
    live = (effects != 0) | (reference != 0)
    return float(correlation(effects[live], reference[live]).nan_to_num(0))  # one has no effect


def _lenses_alike(lenses: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> float:
    a, b = (torch.stack([of[name] for name in reference]).double() for of in (lenses, reference))
    present = ~(a + b).isnan().any(0).any(-1)  # a YY without a prompt has no row
    a, b = (table[:, present] - table[:, present].mean(-1, keepdim=True) for table in (a, b))
    return float(correlation(a.flatten(1), b.flatten(1)).nan_to_num(0).mean())


def _few(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _r(value: float) -> str:
    return in_words(value, "number", 2)
