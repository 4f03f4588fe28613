"""Unit: tables: what they show, escaped, and refusing what is unknown."""

from __future__ import annotations

from xml.etree import ElementTree

import pandas as pd
import pytest
import torch

from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model.components import Shape
from gt_helpers.patching.engine import Evaluation, Sweep
from gt_helpers.patching.paper import PAPER
from gt_helpers.scorecard.results import Results
from gt_helpers.views import tables


def rows(table: tables.Html) -> list[list[str]]:
    text = table[: table.index("</table>") + 8].replace("<br>", " ")
    body = ElementTree.fromstring(text).find("tbody")
    assert body is not None
    return [["".join(cell.itertext()) for cell in row] for row in body]


def test_token_table_marks_what_changes(tokenizer) -> None:
    dataset = YearDataset(tokenizer, 1, years=[1032], nouns=["plague"])
    table = tables.token_table(dataset, 0, tokenizer)
    assert [row[1] for row in rows(table)] == list(dataset.positions)
    assert table.count("background:#c0392b") == 2  # XX1 and YY of century 10
    assert rows(table)[0][2] == "'<|endoftext|>'"


def test_top_components_are_the_strongest_and_say_what_is_in_the_circuit() -> None:
    shape = Shape(12, 12, ("YY", "END"))
    senders = tuple(component.name for component in shape.senders("END"))
    values = torch.zeros(len(senders), 4)
    values[senders.index("a9.h1@END")] = -0.2
    values[senders.index("a0.h0@END")] = 0.1
    sweep = Sweep(("logits",), (), senders, values, shape)
    found = rows(tables.top_components(sweep, PAPER))
    assert found == [
        ["a9.h1@END", "−20.00 pp", "−20.00 to −20.00", "yes"],
        ["a0.h0@END", "+10.00 pp", "+10.00 to +10.00", "no"],
    ]
    values.zero_()
    assert "exactly no effect" in tables.top_components(sweep, PAPER)


def results(gpt2_small: bool) -> Results:
    YY = torch.tensor([10, 50])
    log_probs = torch.full((2, 100), 0.01).log()
    settings = {"model": "<b>m</b>", "gpt2_small": gpt2_small}
    return Results(settings, YY, evaluations={"clean": Evaluation("clean", log_probs, YY)})


def test_beside_the_paper() -> None:
    ids = ["clean_prob_diff", "partial_prob_diff"]
    first, second = rows(tables.beside_the_paper(results(True), ids))
    assert first[1].startswith("81.7 %") and "disagrees" in first[3]
    assert "not measured" in second[3]
    other = tables.beside_the_paper(results(False), ids)
    assert "&lt;b&gt;m&lt;/b&gt;" in other and "not comparable" in rows(other)[0][3]
    with pytest.raises(ValueError, match="no claim 'nonsense'"):
        tables.beside_the_paper(results(True), ["nonsense"])


def test_html_shows_itself() -> None:
    html = tables.html_table(("a",), [("<b>1</b>",)], "a note")
    assert html._repr_html_() == html and "a note" in html
    ElementTree.fromstring(tables.one_edge_drawing())


def test_a_frame_shows_numbers_rounded_and_texts_whole() -> None:
    long = "a sentence that is longer than what pandas shows of a cell in a notebook"
    frame = pd.DataFrame({"an_edge": ["a0.h1 -> <m1>"], "x": [-0.0004], "n": [3], "why": [long]})
    found = tables.frame_table(frame, "a note", digits=4)
    assert rows(found) == [["a0.h1 -> <m1>", "−0.0004", "3", long]]
    assert ">an edge<" in found and "a note" in found and "&lt;m1&gt;" in found
    assert rows(tables.frame_table(frame))[0][1] == "0.000"
