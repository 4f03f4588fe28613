"""Every verdict can be won and lost: made-up results that meet all claims, then break one each."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from gt_helpers.formatting import in_words, interval_in_words
from gt_helpers.metrics import bootstrap_ci
from gt_helpers.model.components import Shape, component, inputs
from gt_helpers.patching.engine import Evaluation, Sweep
from gt_helpers.patching.paper import PAPER
from gt_helpers.scorecard.claims import (
    COLUMNS,
    VERDICTS,
    _row,
    certainty_in_words,
    claims,
    headline_numbers,
    measurable,
    scorecard,
    to_text,
)
from gt_helpers.scorecard.measures import MEASURES
from gt_helpers.scorecard.results import Results

N = 40
YY = torch.tensor([60] * 4 + [9, 60] + list(range(26, 60)))
SHAPE = Shape(12, 12, ("eos", "The", "NOUN", "lasted", "from", "XX1", "YY", "to", "END"))
SEVEN = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1")
LATE = ("m8", "m9", "m10", "m11")


def evaluation(
    name: str, diff: float | Tensor, sharpness: float | Tensor = 0.0, mass: float = 0.999
) -> Evaluation:
    """An evaluation with these probability differences and cutoff sharpnesses, exactly."""
    diffs, sharp = (torch.as_tensor(x, dtype=torch.float64).expand(N) for x in (diff, sharpness))
    probs = torch.zeros(N, 100, dtype=torch.float64)
    for i, y in enumerate(YY.tolist()):
        valid, invalid = (mass + diffs[i]) / 2, (mass - diffs[i]) / 2
        before = torch.clamp(invalid / (y + 1), min=0.012)
        after = before + sharp[i]
        probs[i, :y] = probs[i, y] = (invalid - before) / y
        probs[i, y - 1] = before
        probs[i, y + 1 :] = (valid - after) / (98 - y)
        probs[i, y + 1] = after
    assert (probs > 0).all()
    return Evaluation(name, probs.log(), YY)


def a_sweep(
    receivers: list[str], at: str, effects: dict[str, float], via: tuple[str, ...]
) -> Sweep:
    senders = SHAPE.senders(at)
    jitter = torch.linspace(-1e-4, 1e-4, N, dtype=torch.float64)
    values = torch.zeros(len(senders), N, dtype=torch.float64)
    targets = inputs(receivers)
    for i, sender in enumerate(senders):
        if any(SHAPE.reaches(sender, target) for target in targets):
            values[i] = effects.get(sender.label, 0.0005) + jitter
    return Sweep(tuple(receivers), via, tuple(s.name for s in senders), values, SHAPE)


def lenses() -> dict[str, Tensor]:
    """Logit lenses [YY, year] of the shapes that the paper describes."""
    after = torch.arange(100) - torch.arange(2, 99)[:, None]
    shapes = {"diagonal": after == 0, "peak": after.abs() <= 4, "step": after > 0}
    shapes["band"] = (after > 0) & (after <= 50)
    of = {"a7.h10": "diagonal", "a8.h11": "diagonal", "m8": "peak", "m9": "step", "m10": "step"}
    return {name: shapes[kind].double() for name, kind in (of | {"m11": "band"}).items()}


def agreeing_results() -> Results:
    """Results that meet every claim, as a run on GPT-2 small would."""
    rare = torch.arange(N) < 4
    clean = torch.where(rare, 0.244, 0.879)
    sharpness = 0.06 + 0.0711 * torch.tensor([1.0, -1.0]).repeat(N // 2)
    corrupted = torch.where(torch.arange(N) < 6, 0.3, -0.5906)
    evaluations = {
        "clean": evaluation("clean", clean, sharpness),
        "corrupted": evaluation("corrupted", corrupted, -0.001),
        "partial": evaluation("partial", 0.726, 0.08),
        "full": evaluation("full", 0.715, 0.07),
        "reverse": evaluation("reverse", -0.366, -0.001),
    }
    values = {f"m{i}": -0.03 for i in (1, 2, 3)} | dict.fromkeys(("a0.h1", "a0.h3", "a0.h5"), -0.02)
    early = {"m0": -0.2, "a0.h1": -0.05, "embed": -0.3}
    six = dict.fromkeys(SEVEN[:-1], -0.03)
    heads_values = tuple(f"{head}.v[YY]" for head in SEVEN)
    ends: dict[str, dict[str, float]] = {
        "logits": {
            **{"m8": -0.05, "m9": -0.2, "m10": -0.4, "m11": -0.1},
            **{"a9.h1": -0.06, "a10.h7": 0.02},
        },
        "m11": {"m8": -0.01, "m9": -0.02, "m10": -0.05, "a9.h1": -0.01},
        "m10": {"m8": -0.02, "m9": -0.05, "a9.h1": -0.03},
        "m9": {"m8": -0.08, "a9.h1": -0.1},
        "m8": six,
    }
    sweeps = {
        name: a_sweep([name], "END", effects, LATE[LATE.index(name) + 1 :] if name in LATE else ())
        for name, effects in ends.items()
    }
    sevens: dict[str, dict[str, float]] = {"q": {}, "k": {"m0": -0.01}, "v": {"m0": -0.3, **values}}
    for part, effects in sevens.items():
        sweeps[part] = a_sweep([f"{head}.{part}" for head in SEVEN], "YY", effects, LATE)
    for name in ("m3", "m2", "m1"):
        sweeps[f"{name}@YY"] = a_sweep([f"{name}@YY"], "YY", early, (*heads_values, *LATE))
    sweeps["m0@YY"] = a_sweep(["m0@YY"], "YY", {"embed": -0.5}, (*heads_values, *LATE))
    settings = {
        "model": "gpt2-small",
        "gpt2_small": True,
        "prompts": N,
        "years": [1100, 1800],
        "balanced": True,
    }
    attention = torch.full((12, 12, N), 0.1, dtype=torch.float64)
    for head in map(component, SEVEN):
        attention[head.layer, head.head] = torch.where(YY < 10, 0.6, 0.8)
    return Results(settings, YY, PAPER, sweeps, evaluations, attention=attention, lens=lenses())


AGREEING = agreeing_results()


def effect(sweep: str, sender: str, value: float) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        found = results.sweeps[sweep]
        found.values[found.senders.index(sender)] = value

    return change


def answers(
    name: str, diff: float | Tensor, sharpness: float | Tensor = 0.0, mass: float = 0.999
) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        results.evaluations[name] = evaluation(name, diff, sharpness, mass)

    return change


def flat_steps(results: Results) -> None:
    years = torch.full((N, 100), 0.00999, dtype=torch.float64)
    results.evaluations["clean"] = Evaluation("clean", years.log(), YY)


def one_year(results: Results) -> None:
    probs = torch.full((N, 100), 0.001, dtype=torch.float64)
    probs[torch.arange(N), YY + 5] = 0.9
    results.evaluations["clean"] = Evaluation("clean", probs.log(), YY)


def looks(layer: int, head: int, low: float, high: float) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        results.attention[layer, head] = torch.where(YY < 10, low, high)

    return change


def writes(name: str, like: str) -> Callable[[Results], None]:
    def change(results: Results) -> None:
        results.lens[name] = -lenses()["m11"] if like == "later" else lenses()[like]

    return change


ALTERNATING = torch.tensor([0.7, -0.7]).repeat(N // 2)

# For every claim one change of the results that makes it fail.
BREAKING: dict[str, Callable[[Results], None]] = {
    "clean_prob_diff": answers("clean", 0.79),
    "clean_prob_diff_sd": answers("clean", 0.817),
    "clean_cutoff_sharpness": answers("clean", 0.817, 0.05),
    "clean_cutoff_sharpness_sd": answers("clean", 0.817, 0.06),
    "clean_prob_diff_balanced": answers("clean", 0.83),
    "corrupted_prob_diff": answers("corrupted", -0.5),
    "year_mass": answers("corrupted", -0.457, -0.001, 0.99),
    "top_year_valid": answers("clean", ALTERNATING),
    "top_year_valid_corrupted": answers("corrupted", ALTERNATING),
    "prob_diff_positive": answers("clean", ALTERNATING),
    "prob_diff_positive_corrupted": answers("corrupted", ALTERNATING),
    "invalid_mass": answers("clean", 0.70),
    "heatmap_maximum": one_year,
    "step_at_YY": flat_steps,
    "logits_senders": effect("logits", "a3.h3@END", -0.07),
    "logits_strongest": effect("logits", "m9@END", -0.5),
    "logits_a9h1_alone": effect("logits", "a8.h8@END", 0.04),
    "logits_a10h7": effect("logits", "a10.h7@END", -0.01),
    "m10_direct": effect("m11", "m10@END", -0.5),
    "m11_senders": effect("m11", "m8@END", 0.01),
    "m10_senders": effect("m10", "a9.h1@END", 0.001),
    "m9_top_head": effect("m9", "a7.h10@END", -0.2),
    "m9_top_mlp": effect("m9", "m7@END", -0.2),
    "m8_top_heads": effect("m8", "a6.h1@END", -0.04),
    "unreachable": effect("m8", "m8@END", 1e-9),
    "partial_prob_diff": answers("partial", 0.76, 0.08),
    "partial_recovered": answers("partial", 0.77, 0.08),
    "partial_cutoff_sharpness": answers("partial", 0.727, 0.095),
    "partial_sharper": answers("partial", 0.727, 0.05),
    "reverse_prob_diff": answers("reverse", -0.30, -0.001),
    "reverse_sign": answers("reverse", 0.1, -0.001),
    "values_first": effect("v", "m1@YY", -0.4),
    "values_senders": effect("v", "a0.h4@YY", -0.025),
    "values_over_keys": effect("k", "m0@YY", -0.5),
    "queries_zero": effect("q", "m0@YY", 1e-9),
    "m0_reads_embedding": effect("m0@YY", "a0.h5@YY", 0.1),
    "early_top_mlp": effect("m2@YY", "m1@YY", -0.3),
    "early_top_head": effect("m3@YY", "a1.h1@YY", -0.06),
    "full_prob_diff": answers("full", 0.66),
    "full_below_partial": answers("full", 0.74),
    "attention_to_YY": looks(8, 11, 0.4, 0.4),
    "attention_a7h10_dip": looks(7, 10, 0.9, 0.8),
    "lens_heads_diagonal": writes("a8.h11", like="m9"),
    "lens_mlps_triangle": writes("m10", like="m8"),
    "lens_m8_peak": writes("m8", like="later"),
    "lens_m8_no_step": writes("m8", like="m9"),
    "lens_m11_band": writes("m11", like="later"),
}


def card(results: Results) -> pd.DataFrame:
    return scorecard(results, measurable(results)).set_index("id")


def changed(change: Callable[[Results], None]) -> Results:
    results = copy.deepcopy(AGREEING)
    change(results)
    return results


def test_claims_measures_and_tests_name_the_same() -> None:
    ids = [claim["id"] for claim in claims()]
    assert len(ids) == len(set(ids))
    assert {claim["id"] for claim in claims() if "missing" not in claim} == set(MEASURES)
    assert set(measurable(AGREEING)) == set(BREAKING)
    for claim in claims():
        assert {"theme", "claim", "section", "kind", "unit", "certainty", "experiment"} <= set(
            claim
        )
        assert "value" in claim or "paper" in claim
        assert ("value" in claim) == (claim["kind"] in ("value", "above", "below"))
        assert ("tolerance" in claim) == (claim["kind"] == "value")
        assert ("range" in claim) == (claim["kind"] == "between")
        assert certainty_in_words(claim["certainty"])


def test_results_like_the_papers_agree_everywhere() -> None:
    table = scorecard(AGREEING, measurable(AGREEING))
    assert tuple(table.columns) == COLUMNS
    wrong = table[table["verdict"] != "agrees"]
    assert wrong.empty, wrong[["id", "measured", "detail"]].to_string()
    bounded = table.dropna(subset=["low"])
    assert (bounded["low"] <= bounded["measured"] + 1e-12).all()
    assert (bounded["high"] >= bounded["measured"] - 1e-12).all()


@pytest.mark.parametrize("claim", BREAKING)
def test_every_verdict_can_fail(claim: str) -> None:
    row = _row(next(c for c in claims() if c["id"] == claim), changed(BREAKING[claim]))
    assert row["verdict"] == "disagrees", (claim, row["measured"])


def test_what_was_not_measured_is_said() -> None:
    empty = Results(AGREEING.settings, torch.zeros(0, dtype=torch.int64))
    table = scorecard(empty)
    assert set(table["verdict"]) == {"not measured"}
    assert table["measured"].isna().all() and table["detail"].str.len().min() > 5


@pytest.mark.parametrize("missing", ["sweep m9", "sweep m0@YY", "evaluation corrupted"])
def test_missing_experiments_cost_only_their_own_claims(missing: str) -> None:
    results = copy.deepcopy(AGREEING)
    kind, name = missing.split()
    del (results.sweeps if kind == "sweep" else results.evaluations)[name]
    table = card(results)
    gone = set(table.index[table["verdict"] == "not measured"])
    expected = {
        "sweep m9": {"m9_top_head", "m9_top_mlp"},
        "sweep m0@YY": {"m0_reads_embedding"},
        "evaluation corrupted": {
            *("corrupted_prob_diff", "year_mass"),
            *("top_year_valid_corrupted", "prob_diff_positive_corrupted"),
        },
    }
    assert gone == expected[missing]
    assert set(table.loc[~table.index.isin(gone), "verdict"]) == {"agrees"}


def test_an_mlp_received_at_END_is_not_taken_for_the_one_at_YY() -> None:
    results = copy.deepcopy(AGREEING)
    del results.sweeps["m3@YY"]
    results.sweeps["m3"] = a_sweep(["m3"], "END", {}, ())
    assert card(results).loc["early_top_head", "verdict"] == "not measured"


def test_another_model_is_not_comparable_but_measured() -> None:
    results = copy.deepcopy(AGREEING)
    results.settings["gpt2_small"] = False
    table = card(results)
    assert set(table["verdict"]) == {"not comparable"}
    assert table.loc["clean_prob_diff", "measured"] == pytest.approx(0.8155, abs=1e-3)
    assert table.loc["clean_prob_diff", "paper"] == "81.7 %"


def test_a_smaller_model_has_no_a9h1() -> None:
    small = Shape(2, 4, SHAPE.positions)
    senders = small.senders("END")
    values = torch.rand(len(senders), N)
    sweep = Sweep(("logits",), (), tuple(s.name for s in senders), values, small)
    table = card(Results({"gpt2_small": True}, YY, None, {"logits": sweep}))
    assert table.loc["logits_senders", "verdict"] == "not measured"
    assert "no m8" in table.loc["logits_senders", "detail"]


def test_values_of_other_data_are_not_compared_where_that_matters() -> None:
    results = copy.deepcopy(AGREEING)
    results.settings["years"] = [1000, 1900]
    table = card(results)
    assert table.loc["corrupted_prob_diff", "verdict"] == "not measured"
    assert "years 1100-1799, which this run has not" in table.loc["corrupted_prob_diff", "detail"]
    assert table.loc["clean_prob_diff", "verdict"] == "agrees"
    assert "10,000 prompts, unbalanced" in table.loc["clean_prob_diff", "detail"]


def test_the_rule_for_values_is_the_tolerance() -> None:
    for diff, verdict in ((0.707, "agrees"), (0.747, "agrees"), (0.7065, "disagrees")):
        table = card(changed(answers("partial", diff, 0.08)))
        assert table.loc["partial_prob_diff", "verdict"] == verdict


def test_an_interval_over_the_limit_leaves_the_verdict_open() -> None:
    spread = torch.linspace(-0.2, 0.2, N)
    table = card(changed(answers("partial", 0.75 + spread, 0.08)))
    assert table.loc["partial_prob_diff", "verdict"] == "disagrees"
    assert "open" in table.loc["partial_prob_diff", "detail"]
    assert "open" not in card(AGREEING).loc["partial_prob_diff", "detail"]


def test_a_verdict_rests_on_the_numbers_beside_it() -> None:
    row = card(AGREEING).loc["m9_top_head"]
    assert row["measured"] == pytest.approx(0.1)  # heads above it have no effect
    assert "a9.h1 −10.00 pp" in row["detail"]
    row = card(AGREEING).loc["clean_prob_diff"]
    mean, low, high = bootstrap_ci(AGREEING.evaluations["clean"].prob_diff)
    assert [row["measured"], row["low"], row["high"]] == [float(mean), float(low), float(high)]


def test_lens_and_attention_cost_only_their_own_claims() -> None:
    results = copy.deepcopy(AGREEING)
    results.attention, results.lens = None, {}
    table = card(results)
    gone = table.index[table["verdict"] == "not measured"]
    assert set(gone) == {claim for claim in table.index if claim.startswith(("attention", "lens"))}
    assert "logit lens of m8 is missing" in table.loc["lens_m8_peak", "detail"]


def test_claims_about_low_YYs_need_some() -> None:
    results = copy.deepcopy(AGREEING)
    results.YY = results.YY.clamp(min=10)
    results.lens["m11"][:47] = math.nan  # only YYs without a year after YY + 50 are left
    table = card(results)
    assert table.loc["attention_a7h10_dip", "verdict"] == "not measured"
    assert table.loc["lens_m11_band", "verdict"] == "not measured"
    assert table.loc["lens_mlps_triangle", "verdict"] == "agrees"


def test_the_interval_of_a_gap_between_groups_is_about_its_standard_error() -> None:
    results = copy.deepcopy(AGREEING)
    results.YY = YY.clone()
    results.YY[:10] = 5
    noise = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 20
    results.attention[7, 10] = 0.8 + noise
    results.attention[7, 10, :10] -= 0.2
    row = card(results).loc["attention_a7h10_dip"]
    groups = results.attention[7, 10, 10:], results.attention[7, 10, :10]
    assert row["measured"] == pytest.approx(float(groups[0].mean() - groups[1].mean()))
    error = math.sqrt(sum(float(g.var(unbiased=False)) / len(g) for g in groups))
    assert (row["high"] - row["low"]) / (2 * 1.96) == pytest.approx(error, rel=0.1)


def test_a_triangle_that_is_the_same_for_every_YY_is_told_apart() -> None:
    results = copy.deepcopy(AGREEING)
    results.lens["m9"] = torch.arange(100.0).expand(97, 100)
    row = card(results).loc["lens_mlps_triangle"]
    assert row["measured"] == 1 and "mean rows: 0.0 % and 100.0 %" in row["detail"]


def test_headline_numbers_name_both_conventions() -> None:
    table = headline_numbers(AGREEING).set_index("evaluation")
    clean, corrupted, partial = (
        float(AGREEING.evaluations[name].prob_diff.mean())
        for name in ("clean", "corrupted", "partial")
    )
    assert table.loc["partial", "recovered"] == pytest.approx(partial / clean)
    above = (partial - corrupted) / (clean - corrupted)
    assert table.loc["partial", "recovered_above_corrupted"] == pytest.approx(above)
    assert table.loc["partial", "recovered_low"] < partial / clean
    assert math.isnan(table.loc["reverse", "recovered"])
    assert list(table.index) == ["clean", "corrupted", "partial", "full", "reverse"]
    assert headline_numbers(Results({}, YY)).empty


def test_to_text_has_every_claim_and_a_count() -> None:
    text = to_text(scorecard(changed(BREAKING["m9_top_head"])))
    assert "Into m9, a9.h1 is the top head" in text
    assert re.search(r"81\.6 %  agrees\n +75\.\d to 86\.\d\n", text)  # the interval below it
    rest = len(claims()) - len(BREAKING)
    assert text.endswith(f"agrees: {len(BREAKING) - 1}, disagrees: 1, not measured: {rest}")
    assert all(claim["theme"].upper() in text for claim in claims())
    assert max(map(len, text.splitlines())) <= 100


def test_the_table_survives_csv(tmp_path: Path) -> None:
    table = scorecard(AGREEING)
    table.to_csv(tmp_path / "scorecard.csv", index=False)
    read = pd.read_csv(tmp_path / "scorecard.csv", keep_default_na=False, na_values={"low": ""})
    assert list(read["verdict"]) == list(table["verdict"])
    assert set(read["verdict"]) <= set(VERDICTS)


def test_numbers_in_words() -> None:
    assert in_words(0.817) == "81.7 %"
    assert in_words(-0.1234, "points") == "−12.34 pp"
    assert in_words(0.05, "points") == "+5.00 pp"
    assert in_words(-0.00001) == "0.0 %"
    assert in_words(math.nan) == "–"
    assert in_words(-0.0784, "number") == "−0.078"
    assert interval_in_words(-0.01, 0.02, "points") == "−1.00 to +2.00"
    assert interval_in_words(math.nan, 0.0, "share") == "–"


def test_sweeps_of_the_fabrication_are_shaped_like_real_ones() -> None:
    sweep = AGREEING.sweeps["m9"]
    assert sweep.effect.shape == (12, 13) and component(sweep.senders[-1]).kind == "embed"


def test_another_corruption_gets_no_verdict() -> None:
    results = copy.deepcopy(AGREEING)
    results.settings["corruption"] = "smaller"
    table = card(results)
    assert table.loc["partial_prob_diff", "verdict"] == "not comparable"
    assert "corrupted by 'smaller'" in table.loc["partial_prob_diff", "detail"]
    assert math.isfinite(table.loc["partial_prob_diff", "measured"])


def test_limits_stand_apart_from_what_is_reported() -> None:
    row = card(copy.deepcopy(AGREEING)).loc["clean_prob_diff"]
    assert row["paper"] == "81.7 %" and "agrees from 80.7 % to 82.7 %" in row["detail"]
