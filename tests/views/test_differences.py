"""Unit: the matrix of choices, its tables and its explorer, of outcomes made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from explorers import drawn, numbers, rows, state
from made_comparison import USUAL, compared, made

from gt_helpers import Comparison, views
from gt_helpers.views.differences import effects_against


@pytest.fixture
def comparison() -> Comparison:
    return compared(
        another_noun=made([-e for e in USUAL], (0.8, 0.79, 0.8)),
        activation_patching=made(sweeps=["logits"]),
        logit_difference=made(scores=(5.0, -2.0, 3.75)),
    )


def test_the_matrix_shows_values_coloured_by_change(comparison: Comparison) -> None:
    figure = views.choices_matrix(*comparison.matrix(), "Choices")
    (cells,) = figure.data
    assert list(cells.y)[:2] == ["the paper's setting", "another noun"]
    assert list(cells.x) == ["clean", "corrupted", "recovered", "logits", "values", "lens"]
    assert cells.text[1][3] == "−1.00" and cells.z[1][3] == pytest.approx(2)
    assert cells.customdata[1][3] == "seeds: −1.00 to −1.00"
    nothing = [math.isnan(row[4]) for row in cells.z]
    assert nothing == [False, False, True, False] and cells.text[2][4] == "–"
    assert figure.layout.yaxis.autorange == "reversed"


def test_senders_against_the_reference() -> None:
    made_up = compared(another_noun=made([0.2, -0.4, 0, -0.2, 0, -0.8, 0]))
    figure = effects_against(made_up, "another noun", "logits")
    inside, outside = figure.data
    assert list(inside.customdata) == list(inside.text) == ["a0.h1", "a1.h0", "m1"]
    assert list(outside.customdata) == ["a0.h0", "m0"]  # the others have no effect in either
    np.testing.assert_allclose([outside.x, outside.y], [[0, 10], [20, 0]], atol=1e-9)
    diagonal = figure.layout.shapes[0]
    np.testing.assert_allclose([diagonal.x0, diagonal.x1, diagonal.y0, diagonal.y1], [-80, 10] * 2)


def test_the_words_come_worst_first(comparison: Comparison) -> None:
    found = rows(views.choice_words(comparison))
    assert [row[0] for row in found] == ["another noun", "activation patching", "logit difference"]
    assert found[0][1] == "only the noun changes" and "−1.00" in found[0][2]


def test_scores_have_their_units_and_the_seeds_ends(comparison: Comparison) -> None:
    found = {row[0]: row[1:] for row in rows(views.choice_scores(comparison))}
    assert found["the paper's setting"] == ["80.0 % 80.0 to 80.0", "−40.0 % −40.0 to −40.0"] + [
        "75.0 % 75.0 to 75.0", "83.3 % 83.3 to 83.3", "1", "1"
    ]  # fmt: skip
    assert found["logit difference"][0].startswith("5.0 5.0")
    assert found["another noun"][3:] == ["–", "−1.00 −1.00 to −1.00", "1.00 1.00 to 1.00"]
    assert len(rows(views.choice_scores(comparison, ["another noun"]))) == 2


def test_changes_have_intervals_and_come_worst_first(comparison: Comparison) -> None:
    found = rows(views.choice_changes(comparison))
    assert [row[0] for row in found] == ["another noun", "activation patching", "logit difference"]
    assert found[0][1:3] == ["0.0 pp 0.0 to 0.0", "+119.0 pp +119.0 to +119.0"]
    assert found[2][1:] == ["–", "–", "0.0 pp 0.0 to 0.0"]


def test_the_explorer_shows_a_choice_s_sweep(comparison: Comparison) -> None:
    explorer = views.choice_explorer(comparison)
    choice, sweep = (explorer.controls[name] for name in ("choice", "sweep"))
    assert choice.options[0] == "another noun" and sweep.options == ("logits", "values")
    inside = drawn(explorer).data[0]
    assert list(inside["customdata"]) == ["a0.h1", "a1.h0", "m1"]
    assert numbers(inside["y"]).tolist() == pytest.approx([50, 30, 90])
    assert "another noun" in explorer.text.value and "patching has less" in explorer.text.value
    assert "correlation is −1.00 (seeds: −1.00 to −1.00)" in explorer.text.value
    choice.value = "activation patching"
    sweep.value = "values"
    assert state(explorer) == "done"
    assert "no sweep into values" in explorer.text.value
    choice.value = "logit difference"
    assert drawn(explorer).layout.yaxis.title.text == "effect with this choice (logits)"
    assert numbers(drawn(explorer).data[0]["y"]).tolist() == pytest.approx([0.1])
