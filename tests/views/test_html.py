"""Unit: tables of cells and of data frames, as HTML."""

from __future__ import annotations

import pandas as pd
from explorers import rows

from gt_helpers import views


def test_html_shows_itself() -> None:
    html = views.html_table(("a",), [("<b>1</b>",)], "a note")
    assert html._repr_html_() == html and "a note" in html


def test_a_frame_shows_numbers_rounded_and_texts_whole() -> None:
    long = "a sentence that is longer than what pandas shows of a cell in a notebook"
    frame = pd.DataFrame({"an_edge": ["a0.h1 -> <m1>"], "x": [-0.0004], "n": [3], "why": [long]})
    found = views.frame_table(frame, "a note", digits=4)
    assert rows(found) == [["a0.h1 -> <m1>", "−0.0004", "3", long]]
    assert ">an edge<" in found and "a note" in found and "&lt;m1&gt;" in found
    assert rows(views.frame_table(frame))[0][1] == "0.000"
