"""Tables as HTML that shows itself in a notebook; nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from ...formatting import in_words, interval_in_words

_CELL = "padding:3px 10px;text-align:left;vertical-align:top;border-bottom:1px solid #8884"


class Html(str):
    """HTML text that a notebook renders when it is the last value of a cell."""

    def _repr_html_(self) -> str:
        return str(self)


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> Html:
    """A table of HTML cells under a head, and a note below it; cells are not escaped."""
    lines = ["".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) for row in rows]
    top = "".join(f'<th style="{_CELL}">{cell}</th>' for cell in head)
    below = f'<div style="margin:4px 10px;opacity:.8">{note}</div>' if note else ""
    # JupyterLab stripes rows, which hides marked cells.
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    return Html(
        '<table style="border-collapse:collapse;font-size:13px;line-height:1.4;margin:6px 0">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{below}"
    )


def table_of(
    things: Iterable[Any], columns: Mapping[str, Callable[[Any], str]], note: str = ""
) -> Html:
    """A row per thing, e.g. of a frame's records; ``columns`` are titles, and what makes a cell."""
    rows = [[cell(thing) for cell in columns.values()] for thing in things]
    return html_table(list(columns), rows, note)


def frame_table(frame: pd.DataFrame, note: str = "", digits: int = 3) -> Html:
    """A data frame as a table whose texts are shown whole, without its index."""

    def cell(value: object) -> str:
        text = in_words(value, "number", digits) if isinstance(value, float) else str(value)
        return one_line(text) if len(text) < 40 else escape(text)

    rows = [[cell(value) for value in row] for row in frame.itertuples(index=False)]
    head = [escape(str(name).replace("_", " ")) for name in frame.columns]
    return html_table(head, rows, note)


def bold(text: object) -> str:
    """A cell's text, escaped and bold."""
    return f"<b>{escape(str(text))}</b>"


def one_line(text: str) -> str:
    """A cell's text, escaped and not broken into lines."""
    return f'<span style="white-space:nowrap">{escape(text)}</span>'


def with_interval(
    row: Mapping[Any, Any], name: str, unit: str = "share", digits: int | None = 1
) -> str:
    """A row's number in words, and below it the interval from its columns _low and _high."""
    value = in_words(row[name], unit, digits)
    small = interval_in_words(row[f"{name}_low"], row[f"{name}_high"], unit, digits)
    return value if small == "–" else f"{value}<br><small>{one_line(small)}</small>"


def interval_of(name: str, unit: str = "share") -> Callable[[Any], str]:
    """What makes a cell `with_interval` of a row."""
    return lambda row: with_interval(row, name, unit)
