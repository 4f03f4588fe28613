"""Unit: what choices change, on outcomes made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from made_comparison import LENS, PARTS, SHAPE, SPREAD, USUAL, compared, made

from gt_helpers.differences.choices import REFERENCE, Outcome
from gt_helpers.differences.comparison import Comparison
from gt_helpers.metrics import bootstrap_ci


def row(comparison: Comparison, name: str) -> dict:
    return comparison.summary().set_index("choice").loc[name].to_dict()


def test_what_is_alike_makes_no_difference() -> None:
    comparison = compared(renormalised=made(), another_noun=made([2 * e for e in USUAL]))
    for name in ("renormalised", "another noun"):
        found = row(comparison, name)
        assert found["change"] == pytest.approx(0, abs=1e-9)
        assert found["words"] == "Makes next to no difference."
        assert found["lost"] == found["new"] == []


def test_correlations() -> None:
    opposite, silent = made([-e for e in USUAL]), made([0.0] * 7)
    comparison = compared(another_noun=opposite, another_century=silent, no_BOS=made(lens=-LENS))
    r = comparison.correlations().set_index(["choice", "map"])["r"]
    assert r["another noun", "logits"] == pytest.approx(-1)
    assert r["another century", "logits"] == 0
    assert r["another noun", "lens"] == pytest.approx(1)
    assert r["no BOS", "lens"] == pytest.approx(-1)
    # Only senders with an effect in either count: two of two points always lie on a line.
    few = [0.0, 0.1, 0.0, 0.0, 0.0, 0.4, 0.0]
    a = torch.tensor([-0.5, 0.1, -0.3, -0.9]), torch.tensor([0.1, 0.0, 0.0, 0.4])
    expected = float(torch.corrcoef(torch.stack(a))[0, 1])
    found = compared(another_noun=made(few)).correlations()["r"][0]
    assert found == pytest.approx(expected, abs=1e-6)


def test_seeds_give_a_mean_and_the_ends() -> None:
    seeds = [made(), made([-e for e in USUAL], (0.7, -0.4, 0.35))]
    comparison = compared(no_BOS=seeds)
    scores = comparison.scores().loc["no BOS"]
    assert (scores["clean"], scores["clean_low"], scores["clean_high"]) == pytest.approx(
        (0.75, 0.7, 0.8)
    )
    assert scores["recovered"] == pytest.approx((0.6 / 0.8 + 0.35 / 0.7) / 2)
    assert scores["above_corrupted"] == pytest.approx((1.0 / 1.2 + 0.75 / 1.1) / 2)
    found = comparison.correlations().set_index("map")
    for name in ("logits", "values", "all sweeps"):
        assert found.loc[name, ["r", "low", "high"]].tolist() == pytest.approx([0, -1, 1])
    assert comparison.matrix()[2]["logits"]["no BOS"].startswith("seeds: −1.00 to 1.00")


def test_changes_are_paired_with_the_reference_s_prompts() -> None:
    other, few, logits = made(scores=(0.6, -0.4, 0.45)), made(), made(scores=(5.0, -2.0, 3.75))
    other.per_prompt["corrupted"] -= 2 * SPREAD
    few.per_prompt.update({name: values[:3] for name, values in few.per_prompt.items()})
    seeds = [other, made()]
    found = compared(
        no_BOS=seeds, **{"20_prompts": [few] * 2}, logit_difference=[logits] * 2
    ).changes()
    columns = [f"{score}{end}" for score in ("clean", "corrupted") for end in ("", "_low", "_high")]
    clean = torch.tensor([-0.2] * 7 + [0.0] * 7, dtype=torch.float64)
    corrupted = torch.cat([-2 * SPREAD, 0 * SPREAD])
    expected = [float(end) for some in (clean, corrupted) for end in bootstrap_ci(some)]
    assert found.loc["no BOS", columns].tolist() == pytest.approx(expected)
    # Prompts differ much, but all by the same: what a choice leaves alone is no error.
    assert found["recovered_high"]["no BOS"] == pytest.approx(0, abs=1e-9)
    assert found.loc["20 prompts"].isna().all()  # no pairs
    assert found.loc["logit difference"].notna().tolist() == [False] * 6 + [True] * 3


def test_a_gap_that_is_too_small_is_not_divided_by() -> None:
    scores = compared(another_noun=made(scores=(0.8, 0.79, 0.8))).scores()
    assert math.isnan(scores["above_corrupted"]["another noun"])
    assert scores["recovered"]["another noun"] == pytest.approx(1)


def test_a_mean_over_sweeps_that_exist() -> None:
    half = made(sweeps=["logits"])
    half.effects["logits"] = -half.effects["logits"]
    r = compared(MLPs_free=half).correlations().set_index("map")["r"]
    assert r["all sweeps"] == r["logits"] == pytest.approx(-1) and "values" not in r


def test_a_yy_without_prompts_is_left_out_of_the_lenses() -> None:
    some, wrong = LENS.clone(), -LENS
    some[5:], wrong[5:] = math.nan, math.nan
    r = compared(no_BOS=made(lens=some), another_noun=made(lens=wrong)).correlations()
    assert r[r["map"] == "lens"]["r"].tolist() == pytest.approx([1, -1])


def test_what_other_prompts_do_as_well_is_not_spoken_of() -> None:
    def words(**others: Outcome) -> str:
        return row(compared(no_BOS=made(scores=(0.8, -0.4, 0.7)), **others), "no BOS")["words"]

    assert "recover" in words() and "recover" in words(other_prompts=made())
    assert words(other_prompts=made(scores=(0.8, -0.4, 0.45))) == "Makes next to no difference."


def test_lists_name_what_is_lost_and_what_is_new() -> None:
    # The three strongest at END were m1, a0.h1, a1.h0; now a0.h0 stands in the place of a1.h0.
    now = [0.7, -0.5, 0.1, -0.01, 0.0, -0.9, 0.0]
    comparison = compared(another_noun=made(now))
    lists = comparison.lists().set_index("sweep")
    assert lists["lost"]["logits"] == ["a1.h0"] and lists["new"]["logits"] == ["a0.h0"]
    # At YY the circuit has one, m0, which is not the strongest of the reference either.
    assert lists["lost"]["values"] == [] and lists["new"]["values"] == []
    found = row(comparison, "another noun")
    assert found["lost"] == ["a1.h0"] and found["new"] == ["a0.h0"]
    assert "lost from the top lists: a1.h0; new in them: a0.h0" in found["words"]
    detail = comparison.matrix()[2]["logits"]["another noun"]
    assert detail.endswith("; lost: a1.h0; new: a0.h0")
    # A sender of the circuit that comes in is no false one.
    usual = [0.7, -0.5, 0.1, -0.01, 0.0, -0.9, 0.0]
    swapped = Comparison(
        {REFERENCE.name: [made(usual)], "another noun": [made()]}, PARTS, SHAPE
    ).lists()
    assert swapped["new"][0] == [] and swapped["lost"][0] == []


def test_words_say_what_is_wrong() -> None:
    noun = made([0.0, 0.3, -0.3, 0.2, 0.0, 0.3, 0.0], (0.8, 0.8, 0.8), -LENS)
    found = row(compared(another_noun=noun), "another noun")
    assert found["words"].startswith("The patched-in run still scores 80.0 % (reference −40.0 %)")
    for part in (
        "the sweeps are other ones (mean correlation −0.",
        "the circuit seems to recover 100.0 % instead of 75.0 %",
        "the logit lens shows something else (correlation −1.00)",
    ):
        assert part in found["words"]
    clean = row(compared(no_BOS=made(scores=(0.6, -0.4, 0.45))), "no BOS")
    assert clean["words"] == "The clean score is 60.0 % instead of 80.0 %."
    # Another unit's scores are not compared.
    logits = row(compared(logit_difference=made(scores=(5.0, 4.0, 3.75))), "logit difference")
    assert logits["words"] == "Makes next to no difference."


def test_the_worst_comes_first() -> None:
    comparison = compared(
        renormalised=made(),
        no_BOS=made(scores=(0.8, -0.4, 0.7)),
        another_noun=made([-e for e in USUAL]),
    )
    summary = comparison.summary()
    assert list(summary["choice"]) == ["another noun", "no BOS", "renormalised"]
    assert summary["change"].tolist() == pytest.approx([2, 0.125, 0])


def test_the_matrix_shows_values_and_how_far_they_moved() -> None:
    activation = made(scores=(0.8, -0.4, 0.4), sweeps=["logits"])
    logits = made(scores=(5.0, -2.0, 3.75))
    comparison = compared(activation_patching=activation, logit_difference=logits)
    words, moved, details = comparison.matrix()
    order = [REFERENCE.name, "activation patching", "logit difference"]
    assert list(words.index) == list(moved.index) == order
    assert list(words.columns) == ["clean", "corrupted", "recovered", "logits", "values", "lens"]
    assert words["corrupted"][REFERENCE.name] == "−40 %"
    assert words["clean"]["logit difference"] == "5.0"
    assert math.isnan(moved["clean"]["logit difference"])
    assert words["values"]["activation patching"] == "–"
    assert math.isnan(moved["values"]["activation patching"])
    assert details["clean"]["activation patching"] == "seeds: 80.0 to 80.0"
    assert details["logits"]["activation patching"] == "seeds: 1.00 to 1.00"
    assert details["values"]["activation patching"] == details["logits"][REFERENCE.name] == ""
    assert moved["recovered"]["activation patching"] == pytest.approx(0.25)
    assert float(moved.loc[REFERENCE.name].abs().max()) == 0
