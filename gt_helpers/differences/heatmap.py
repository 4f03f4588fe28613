"""compare_sweep: the user's own path-patching heatmap, held against a sweep cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..formatting import in_words
from ..metrics import bootstrap_ci, correlation
from ..patching.engine import Sweep

_AGREES = 0.95  # a correlation from which on two heatmaps are called alike
_BETTER = 3  # a rearrangement is believed if it leaves this many times less unexplained
_SAME_SCALE = 0.1  # a ratio of 1 +- this is no other scale
_ROUNDING = 1e-6  # of a metric in float32
_TOP = 10


@dataclass(frozen=True)
class SweepComparison:
    """Two heatmaps cell by cell, and what explains the difference, in words.

    ``table`` has a row per component, the strongest difference first: component, theirs, ours, low
    and high (95 % bootstrap interval of ours), difference, outside (the interval).
    """

    table: pd.DataFrame
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def compare_sweep(theirs: Any, ours: Sweep) -> SweepComparison:
    """Hold a heatmap against a sweep, and name the usual causes of a difference that explain it.

    ``theirs`` [layer, n_heads + 1] has the MLPs in its last column, like ``ours.effect``; or it is
    a pair (heads [layer, head], mlps [layer]). It should be of the same model, receivers and
    senders as ``ours``; other prompts of the same kind are fine. Raises ValueError for another
    shape.
    """
    effect = ours.effect.double()
    given, undone = _heatmap(theirs, *effect.shape)
    interval = bootstrap_ci(ours.values[:-1], strata=ours.strata)[1:]
    low, high = (part.double().reshape(given.shape) for part in interval)
    read, causes = _undone(given, effect)
    undone += causes
    said = [f"As given, {_agreement(given, effect, low, high)}.", *undone]
    reasons = _zeros(read, effect, ours, (low > 0) | (high < 0))
    if _correlation(read, effect) < _AGREES:
        reasons += _reacting(read, effect, ours)
        reasons = reasons or [
            "None of the usual rearrangements, signs or scales makes the two alike: compare the "
            "prompts (diagnose), then receivers, via and the senders' position."
        ]
    elif undone:
        said.append(f"With this undone, {_agreement(read, effect, low, high)}.")
    return SweepComparison(_table(ours, given, effect, low, high), tuple(said + reasons))


def _heatmap(theirs: Any, layers: int, columns: int) -> tuple[Tensor, list[str]]:
    """Theirs as [layer, n_heads + 1], and what had to be undone for that."""
    parts = theirs if isinstance(theirs, tuple) and len(theirs) == 2 else (theirs,)
    try:
        arrays = [one.detach().cpu().numpy() if isinstance(one, Tensor) else one for one in parts]
        numbers = [np.array(one, dtype=np.float64) for one in arrays]
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the heatmap is no table of numbers; give an array, a tensor, nested lists or a data "
            "frame, or a pair (heads, mlps) of these"
        ) from error
    same_layers = len({len(one) for one in numbers if one.ndim}) == 1
    found = torch.from_numpy(np.column_stack(numbers)) if same_layers else torch.empty(0)
    if found.shape == (layers, columns):
        return found, []
    if found.shape == (columns, layers) and len(parts) == 1:
        return found.T, ["Transposed: your rows are heads and the MLPs, your columns layers."]
    raise ValueError(
        f"the heatmap has the shape {' and '.join(str(list(one.shape)) for one in numbers)}; give "
        f"[{layers}, {columns}], layers by heads with the MLPs last, or a pair of heads "
        f"[{layers}, {columns - 1}] and MLPs [{layers}]"
    )


def _undone(given: Tensor, effect: Tensor) -> tuple[Tensor, list[str]]:
    """Theirs with its order, sign and scale made like ours, and what had to be undone for that."""
    read, how = _rearranged(given, effect)
    said = [how] if how else []
    together = _correlation(read, effect)
    if together <= -_AGREES:
        read = -read
        said.append(
            "Flipped: your signs are the opposite, as of clean - patched where the paper reports "
            "patched - clean, or of clean values patched into the corrupted run."
        )
    both = read.isfinite() & effect.isfinite()
    # What ours is multiplied by to give theirs, by least squares.
    ratio = float((read * effect)[both].sum() / (effect[both] ** 2).sum())
    if abs(together) >= _AGREES and abs(ratio - 1) > _SAME_SCALE:
        read = read / ratio
        said.append(
            "In percent: your numbers are about 100 times ours, which are fractions of 1."
            if abs(ratio - 100) <= 100 * _SAME_SCALE
            else f"Scaled: your numbers are about {ratio:.3g} times ours in every cell, as if "
            f"divided by {1 / ratio:.3g}; some normalise by the clean probability difference, or "
            "by clean - corrupted (diagnose measures both)."
        )
    return read, said


def _table(ours: Sweep, given: Tensor, effect: Tensor, low: Tensor, high: Tensor) -> pd.DataFrame:
    cells = {"theirs": given, "ours": effect, "low": low, "high": high}
    cells |= {"difference": given - effect, "outside": _outside(given, low, high)}
    frame = pd.DataFrame({name: cell.flatten() for name, cell in cells.items()})
    frame.insert(0, "component", ours.senders[:-1])
    return frame.sort_values(
        "difference", key=abs, ascending=False, kind="stable", ignore_index=True
    )


def _outside(read: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether a cell lies outside the interval by more than rounding; no number does not."""
    return (read < low - _ROUNDING) | (read > high + _ROUNDING)


def _correlation(read: Tensor, effect: Tensor) -> float:
    """Correlation over the cells that both have; 0 where one of them is constant."""
    both = read.isfinite() & effect.isfinite()
    return float(correlation(read[both], effect[both]).nan_to_num(0))


def _agreement(read: Tensor, effect: Tensor, low: Tensor, high: Tensor) -> str:
    n = min(_TOP, read.numel())
    top = [set(t.nan_to_num().abs().flatten().topk(n).indices.tolist()) for t in (read, effect)]
    missing = int((~read.isfinite()).sum())
    return (
        f"the correlation is {in_words(_correlation(read, effect), 'number')}; of the {n} "
        f"strongest cells {len(top[0] & top[1])} are the same; outside our 95 % intervals: "
        f"{int(_outside(read, low, high).sum())} of {read.numel()} cells"
        + (f" (not compared: {missing})" if missing else "")
    )


def _rearranged(given: Tensor, effect: Tensor) -> tuple[Tensor, str]:
    """Theirs as it is most like ours, and in words what had to be undone, if anything."""
    grid, column = given[:, :-1], given[:, -1:]
    nothing = torch.full_like(given[:1], torch.nan)
    ways = {
        "MLPs first: your first column holds the MLPs, where ours is the last.": given.roll(-1, 1),
        "Layers reversed: your first row is the last layer.": given.flip(0),
        "One layer off: your row of a layer holds what ours has one layer below; the first layer "
        "is 0.": torch.cat([given[1:], nothing]),
        "One layer off: your row of a layer holds what ours has one layer above; the first layer "
        "is 0.": torch.cat([nothing, given[:-1]]),
    }
    if grid.shape[0] == grid.shape[1]:
        turned = "Transposed: your rows are the heads and your columns the layers."
        ways[turned] = torch.cat([grid.T, column], dim=1)
    plain = abs(_correlation(given, effect))
    how = max(ways, key=lambda name: abs(_correlation(ways[name], effect)))
    best = abs(_correlation(ways[how], effect))
    # Shares of variance, not correlations: a few strong MLPs alone can give a high correlation.
    if best >= _AGREES and _BETTER * (1 - best**2) + _ROUNDING < 1 - plain**2:
        return ways[how], how
    return given, ""


def _zeros(read: Tensor, effect: Tensor, ours: Sweep, sure: Tensor) -> list[str]:
    """Cells that are exactly 0 in one of the two heatmaps only; ``sure`` are ours beyond chance."""
    unreached = (ours.values[:-1] == 0).all(-1).reshape(read.shape)
    receivers = ", ".join(ours.receivers)
    said = []
    filled = unreached & (read.abs() > max(_ROUNDING, 1e-3 * float(read.nan_to_num().abs().max())))
    if filled.any():
        said.append(
            f"Not 0: {_cells(filled, read, ours)} cannot reach {receivers} along this route; in "
            "yours they do, perhaps because other heads and MLPs react freely to the sender, where "
            "path patching keeps these as in the base run."
        )
    empty = ~unreached & (read == 0) & sure
    if empty.any():
        said.append(
            f"0 in yours: {_cells(empty, effect, ours)} can reach {receivers} and should not be 0; "
            "an MLP reads the heads of its own layer too."
        )
    return said


def _cells(which: Tensor, values: Tensor, ours: Sweep) -> str:
    """How many cells, and the strongest of them by name."""
    strongest = int((which * values.nan_to_num().abs()).argmax())
    value = in_words(float(values.flatten()[strongest]), "points")
    n = int(which.sum())
    return f"{n} cell{'s' * (n > 1)} (strongest {ours.senders[strongest]}, {value})"


def _reacting(read: Tensor, effect: Tensor, ours: Sweep) -> list[str]:
    """Activation patching leaves the last MLP's direct effect alone, and changes all others."""
    if ours.receivers != ("logits",):
        return []
    off = (read - effect).abs()[:, -1] / effect.abs()[:, -1].clamp(min=_ROUNDING)
    if not (off[-1] < _SAME_SCALE < off[:-1].median()):
        return []
    return [
        "Everything reacts: of the MLPs only the last agrees, after which nothing comes, as in "
        "activation patching; in path patching only the sender's own edge to the logits changes."
    ]
