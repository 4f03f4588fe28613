"""What the user handed over: texts, token ids, labels and mask, one of each per prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...dataset.prompts import listed
from ...dataset.year_dataset import YearDataset

SIDES = ("clean", "corrupted")
LABEL_COLUMNS = ("YY", "year", "years")
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Given:
    """Texts and token ids by side ("clean", "corrupted"; at least one of both), labels and mask."""

    texts: dict[str, list[str]]
    ids: dict[str, list[Ids]]
    labels: dict[str, list[Any]]
    mask: Tensor | None


def given_by(data: Any, years: Any, ids: Any, mask: Any) -> Given:
    """Sort out the arguments of `diagnose`.

    Raises ValueError for input that cannot be used: nothing given, unequal numbers, no columns.
    """
    sides, labels, own_ids = _unpack(data, ids)
    own_ids = _pair(own_ids if ids is None else ids, "ids")
    if years is not None:
        labels = {"years": years}
    texts, tokens = {}, {}
    for i, side in enumerate(SIDES):
        items = None if sides is None else _items(sides[i], side)
        if own_ids is not None:
            tokens[side] = [_ids(one) for one in _items(own_ids[i], f"ids, {side}")]
        if items and all(isinstance(item, list | tuple | np.ndarray | Tensor) for item in items):
            tokens.setdefault(side, [_ids(one) for one in items])
        elif items is not None:
            texts[side] = [_text(item) for item in items]
    columns = {name: _items(values, name) for name, values in labels.items()}
    _check_counts(
        {f"{side} texts": len(many) for side, many in texts.items()}
        | {f"{side} lists of ids": len(many) for side, many in tokens.items()}
        | {name: len(values) for name, values in columns.items()}
    )
    return Given(texts, tokens, columns, _mask(mask))


def number(value: Any) -> int | None:
    """The whole number that a label stands for, also one written as text; None if there is none."""
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return int(found) if found.is_integer() else None


def _unpack(data: Any, ids: Any) -> tuple[Any, dict[str, Any], Any]:
    """The two sides, the columns of labels and the token ids that ``data`` holds."""
    if isinstance(data, YearDataset):
        texts, tokens = (data.clean_text, data.corrupted_text), (data.clean, data.corrupted)
        return texts, {"years": data.years}, tokens
    if isinstance(data, str | Path):
        try:
            # Texts as they are; years as numbers, which a CSV cannot tell from text.
            data = pd.read_csv(
                data, dtype=dict.fromkeys(SIDES, str), keep_default_na=False, encoding="utf-8"
            )
        except (OSError, UnicodeError, pd.errors.EmptyDataError, pd.errors.ParserError) as error:
            reason = str(getattr(error, "strerror", None) or error).strip()
            raise ValueError(
                f"{data} cannot be read as a table ({reason}); give a CSV file in UTF-8 with the "
                "columns clean and corrupted"
            ) from error
    if isinstance(data, pd.DataFrame):
        if missing := [side for side in SIDES if side not in data]:
            raise ValueError(
                f"the table has no column {listed(missing)}; it needs the columns clean and "
                "corrupted, and may have year or YY"
            )
        columns = {name: data[name].tolist() for name in LABEL_COLUMNS if name in data}
        return (data["clean"], data["corrupted"]), columns, None
    if data is None and ids is None:
        raise ValueError(
            "no prompt was given; give a YearDataset, a data frame or CSV with the columns clean "
            "and corrupted, or a pair of lists: diagnose((clean, corrupted), model)"
        )
    return _pair(data, "data"), {}, None


def _pair(value: Any, name: str) -> Any:
    if value is None or (isinstance(value, tuple | list) and len(value) == 2):
        return value
    raise ValueError(
        f"{name} is no pair of clean and corrupted; give two lists of one entry per prompt, for "
        f"example {name}=(clean, corrupted)"
    )


def _items(values: Any, name: str) -> list[Any]:
    if isinstance(values, str) or not hasattr(values, "__iter__") or not getattr(values, "ndim", 1):
        raise ValueError(f"{name}: {values!r} is no list; give a list with one entry per prompt")
    return values.tolist() if isinstance(values, Tensor | np.ndarray) else list(values)


def _text(item: Any) -> str:
    """An entry as text; a missing one is empty, and what cannot be encoded becomes a ?."""
    if not isinstance(item, str):
        missing = item is None or item is pd.NA or (isinstance(item, float) and item != item)
        return "" if missing else str(item)
    return item.encode("utf-8", "replace").decode()


def _ids(item: Any) -> Ids:
    try:
        return tuple(int(token) for token in item)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"the token ids {item!r} are no list of whole numbers; give one such list per prompt"
        ) from error


def _mask(mask: Any) -> Tensor | None:
    if mask is None:
        return None
    try:
        values = mask.detach().cpu() if isinstance(mask, Tensor) else np.asarray(mask, dtype=float)
        return torch.as_tensor(values) > 0
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the mask is no table of numbers; give True or False [prompt, year] for the 100 years"
        ) from error


def _check_counts(counts: dict[str, int]) -> None:
    if not any(counts.values()):
        raise ValueError("no prompt was given: the lists are empty; give 1 prompt or more")
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"the numbers of prompts differ ({found}); give one of each per prompt")
