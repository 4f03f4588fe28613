"""Unit: every verdict can be won and lost, by made-up results of which one thing is changed."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from html import escape
from pathlib import Path

import pandas as pd
import pytest
import torch
from made_results import (
    AGREEING,
    ALL,
    EAP,
    HEADS,
    LATE,
    NINETEEN,
    OTHERS,
    SEVEN,
    SHAPE,
    YY,
    N,
    a_sweep,
    constant,
    evaluation,
    grid,
    lenses,
    log_probs,
    recovered,
)
from torch import Tensor

from gt_helpers.formatting import in_words, interval_in_words
from gt_helpers.metrics import bootstrap_ci
from gt_helpers.model.components import Shape, component
from gt_helpers.patching.engine import Evaluation, Sweep
from gt_helpers.report import write_scorecard
from gt_helpers.scorecard.claims import (
    COLUMNS,
    EXPERIMENTS,
    MEASURES,
    THEMES,
    TOPICS,
    VERDICTS,
    certainty_in_words,
    claims,
    headline_numbers,
    measurable,
    sample_of,
    scorecard,
    to_text,
)
from gt_helpers.scorecard.registry import Topic
from gt_helpers.scorecard.results import Results, load_results

Change = Callable[[Results], None]


def effect(sweep: str, sender: str, value: float) -> Change:
    def change(results: Results) -> None:
        found = results.sweeps[sweep]
        found.values[found.senders.index(sender)] = value

    return change


def answered(
    name: str, diff: float | Tensor, sharpness: float = 0.0, mass: float = 0.999
) -> Change:
    def change(results: Results) -> None:
        results.evaluations[name] = evaluation(name, diff, sharpness, mass)

    return change


def in_all_years(fill: float, at_YY_plus_5: float) -> Change:
    def change(results: Results) -> None:
        probs = torch.full((N, 100), fill, dtype=torch.float64)
        probs[torch.arange(N), YY + 5] = at_YY_plus_5
        results.evaluations["clean"] = Evaluation("clean", probs.log(), YY)

    return change


def looks(layer: int, head: int, low: float, high: float) -> Change:
    def change(results: Results) -> None:
        results.attention[layer, head] = torch.where(YY < 10, low, high)

    return change


def writes(name: str, like: str) -> Change:
    def change(results: Results) -> None:
        results.lens[name] = -lenses()["m11"] if like == "later" else lenses()[like]

    return change


def sets(experiment: str, name: str, value: Tensor) -> Change:
    def change(results: Results) -> None:
        results.experiments[experiment].tensors[name] = value

    return change


def score(experiment: str, name: str, value: float) -> Change:
    return sets(experiment, name, constant(value)[0])


def answer(experiment: str, run: str, diff: float | Tensor, sharpness: float = 0.0) -> Change:
    return sets(experiment, run, log_probs(diff, sharpness))


def site(name: str, index: int, share: float) -> Change:
    def change(results: Results) -> None:
        results.experiments["activation"].tensors[name][index] = recovered(share)[0]

    return change


def head(name: str, share: float) -> Change:
    node = component(name)
    return site("heads@END", 12 * node.layer + node.head, share)


ALTERNATING = torch.tensor([0.7, -0.7]).repeat(N // 2)

# For every claim one change of the results that makes it fail.
BREAKING: dict[str, Change] = {
    "year_mass": answered("corrupted", -0.457, -0.001, 0.99),
    "top_year_valid": answered("clean", ALTERNATING),
    "top_year_valid_corrupted": answered("corrupted", ALTERNATING),
    "prob_diff_positive": answered("clean", ALTERNATING),
    "prob_diff_positive_corrupted": answered("corrupted", ALTERNATING),
    "invalid_mass": answered("clean", 0.70),
    "heatmap_maximum": in_all_years(0.001, 0.9),
    "step_at_YY": in_all_years(0.00999, 0.00999),
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
    "values_first": effect("v", "m1@YY", -0.4),
    "values_senders": effect("v", "a0.h4@YY", -0.025),
    "values_over_keys": effect("k", "m0@YY", -0.5),
    "queries_zero": effect("q", "m0@YY", 1e-9),
    "m0_reads_embedding": effect("m0@YY", "a0.h5@YY", 0.1),
    "early_top_mlp": effect("m2@YY", "m1@YY", -0.3),
    "early_top_head": effect("m3@YY", "a1.h1@YY", -0.06),
    "attention_to_YY": looks(8, 11, 0.4, 0.4),
    "attention_a7h10_dip": looks(7, 10, 0.9, 0.8),
    "lens_heads_diagonal": writes("a8.h11", like="m9"),
    "lens_mlps_triangle": writes("m10", like="m8"),
    "lens_m8_peak": writes("m8", like="later"),
    "lens_m8_no_step": writes("m8", like="m9"),
    "lens_m11_band": writes("m11", like="later"),
    "clean_prob_diff": answer("large", "clean", 0.79),
    "clean_prob_diff_sd": answer("large", "clean", 0.817),
    "clean_cutoff_sharpness": answer("large", "clean", 0.817, 0.05),
    "clean_cutoff_sharpness_sd": answer("large", "clean", 0.817, 0.06),
    "partial_prob_diff": answer("large", "partial", 0.76),
    "partial_recovered": answer("large", "partial", 0.77),
    "partial_cutoff_sharpness": answer("large", "partial", 0.727, 0.095),
    "partial_sharper": answer("large", "partial", 0.727, 0.05),
    "reverse_prob_diff": answer("large", "reverse", -0.3),
    "reverse_sign": answer("large", "reverse", 0.1),
    "full_prob_diff": answer("large", "full", 0.66),
    "full_below_partial": answer("large", "full", 0.74),
    "clean_prob_diff_balanced": answer("bos", "clean", 0.83),
    "corrupted_prob_diff": answer("bos", "corrupted", -0.5),
    "values_only": score("controls", "values_only", 0.7),
    "m8_indirect": score("controls", "indirect_m8", 0.75),
    "m9_balanced": score("controls", "indirect_m9", 0.75),
    "shifted_heads": score("controls", "shifted", 0.7),
    "one_mlp": score("controls", "one_mlp", 0.7),
    "random_circuits": score("controls", "random_1", 0.7),
    "last_mlp_alike": score("activation", "last_mlp", 0.51),
    "century_clean_prob_diff": score("activation", "clean", 0.75),
    "century_corrupted_prob_diff": score("activation", "corrupted", -0.4),
    **{f"denoise_{name}": head(name, share + 0.03) for name, share in HEADS.items()},
    "denoise_order": head("a4.h4", 0.03),
    "denoise_circuit": sets("activation", "together", recovered(0.9)),
    "denoise_m0@YY": site("mlps@YY", 0, 0.8),
    "denoise_m10": site("mlps@END", 10, 0.6),
    "denoise_m9": site("mlps@END", 9, 0.6),
    "denoise_m8": site("mlps@END", 8, 0.1),
    "denoise_m11": site("mlps@END", 11, 0.0),
    "denoise_other_mlps": site("mlps@YY", 5, -0.08),
    "stream8_YY": site("stream@YY", 8, 0.7),
    "stream8_END": site("stream@END", 8, 0.3),
    "stream10_END": site("stream@END", 10, 0.9),
    "best_receiver": site("q@END", 3, 0.06),
    "acdc_clean": answer("acdc", "clean", 0.80),
    "acdc_corrupted": answer("acdc", "corrupted", -0.5),
    "acdc_circuit": answer("acdc", "circuit", 0.6),
    "acdc_kl": answer("acdc", "circuit", 0.3, 0.1),
    "started_recovered": answer("families", "started_partial", 0.7),
    "price_recovered": answer("families", "price_partial", 0.59),
    "sequence_recovered": answer("families", "sequence_partial", 0.7),
    "sequence_gain": answer("families", "sequence_extended", 0.7),
    "ended_negative": answer("families", "ended_clean", -0.5),
    "ended_impaired": answer("families", "ended_reverse", 0.7),
    "BC_negative": answer("families", "BC_clean", -0.5),
    "BC_impaired": answer("families", "BC_reverse", 0.7),
    "smaller_repeats": answer("families", "smaller_clean", 0.8),
    "neurons_near_zero": sets("neurons", "effects", constant(*[-0.01] * 20, *[0.0] * 80)),
    "neurons_joint": sets("neurons", "ten_added", torch.full((97, 100), 1.4)),
    "neurons_single": sets("neurons", "lens_single", torch.stack([lenses()["m9"]] * 10)),
    "neurons_sum": sets("neurons", "lens_sum", torch.stack([lenses()["m8"]] * 2)),
    **{f"eap_{n}": score("attribution", f"eap_{n}", share + 0.07) for n, share in EAP.items()},
    **{f"eap_ig_{n}": score("attribution", f"eap_ig_{n}", EAP[n] - 0.1) for n in EAP},
    "eap_ig_better": score("attribution", "eap_300", 0.76),
    "eap_precision": sets("attribution", "eap_top", grid(*NINETEEN[2:])),
    "eap_recall": sets("attribution", "eap_top", grid(*NINETEEN[5:])),
    "eap_ig_precision": sets("attribution", "eap_ig_top", grid(*NINETEEN[1:])),
    "eap_ig_recall": sets("attribution", "eap_ig_top", grid(*NINETEEN[3:])),
    "edges_heads": sets("edges", "found@END", grid(*SEVEN[3:], *LATE)),
    "edges_late_mlps": sets("edges", "found@END", grid(*SEVEN, "m8", "m9", "m10")),
    "edges_early": sets("edges", "found@YY", grid("m0", "m1", "a0.h1")),
    "edges_precision": sets("edges", "found@the2", grid(*OTHERS, value=2.0)),
    "edges_recovered": score("edges", "found", 0.3),
    "edges_above_corrupted": score("edges", "found", 0.1),
}
MISSING = {claim["id"] for claim in claims() if "missing" in claim}


def card(results: Results) -> pd.DataFrame:
    return scorecard(results).set_index("id")


def changed(change: Change, results: Results = ALL) -> Results:
    results = copy.deepcopy(results)
    change(results)
    return results


def unmeasured(table: pd.DataFrame) -> set[str]:
    return set(table.index[table["verdict"] == "not measured"]) - MISSING


# ---- claims and verdicts ----------------------------------------------------------------------


def test_claims_are_whole_and_each_can_be_broken() -> None:
    ids = [claim["id"] for claim in claims()]
    assert len(ids) == len(set(ids)) == 116
    assert set(ids) - MISSING == set(MEASURES) == set(BREAKING)
    assert list(dict.fromkeys(claim["theme"] for claim in claims())) == list(THEMES)
    for claim in claims():
        assert claim["experiment"] in EXPERIMENTS or claim["id"] in MISSING
        assert {"claim", "section", "unit"} <= claim.keys()
        assert "value" in claim or "paper" in claim
        assert ("value" in claim) == (claim["kind"] in ("value", "above", "below"))
        assert ("tolerance" in claim) == (claim["kind"] == "value")
        assert ("range" in claim) == (claim["kind"] == "between")
        assert certainty_in_words(claim["certainty"])


@pytest.mark.parametrize("less", ["a measure", "a claim"])
def test_a_claim_without_a_measure_is_refused_and_the_reverse(less: str) -> None:
    topic = Topic("controls")
    topic.measures = dict(TOPICS[2].measures)
    topic.check()
    if less == "a measure":
        del topic.measures["one_mlp"]
    else:
        topic.claims = [claim for claim in topic.claims if claim["id"] != "one_mlp"]
    with pytest.raises(ValueError, match=r"controls.toml .*one_mlp.*e\.g\. @topic"):
        topic.check()


@pytest.mark.parametrize("results", [AGREEING, ALL], ids=["discovery", "all"])
def test_results_like_the_papers_agree_everywhere(results: Results) -> None:
    table = scorecard(results, measurable(results))
    assert tuple(table.columns) == COLUMNS
    assert len(table) == (47 if results is AGREEING else 114)
    wrong = table[table["verdict"] != "agrees"]
    assert wrong.empty, wrong[["id", "measured", "detail"]].to_string()
    bounded = table.dropna(subset=["low"])
    assert (bounded["low"] <= bounded["measured"] + 1e-12).all()
    assert (bounded["high"] >= bounded["measured"] - 1e-12).all()


@pytest.mark.parametrize("claim", BREAKING)
def test_every_verdict_can_fail(claim: str) -> None:
    row = scorecard(changed(BREAKING[claim]), [claim]).iloc[0]
    assert row["verdict"] == "disagrees", row["measured"]


def test_without_the_large_sample_the_discovery_counts() -> None:
    table = card(changed(answered("partial", 0.76, 0.08), AGREEING))
    assert table.loc["partial_prob_diff", "verdict"] == "disagrees"
    assert "; reported on 10,000 prompts" in table.loc["partial_prob_diff", "detail"]


def test_another_model_is_not_comparable_but_measured() -> None:
    table = card(changed(lambda results: results.settings.update(gpt2_small=False), AGREEING))
    assert set(table["verdict"]) == {"not comparable"}
    assert table.loc["clean_prob_diff", "measured"] == pytest.approx(0.8155, abs=1e-3)
    assert table.loc["clean_prob_diff", "paper"] == "81.7 %"


def test_another_corruption_gets_no_verdict() -> None:
    table = card(changed(lambda results: results.settings.update(corruption="smaller"), AGREEING))
    assert table.loc["partial_prob_diff", "verdict"] == "not comparable"
    assert "corrupted by 'smaller'" in table.loc["partial_prob_diff", "detail"]
    assert math.isfinite(table.loc["partial_prob_diff", "measured"])


def test_values_of_other_data_are_not_compared_where_that_matters() -> None:
    table = card(changed(lambda results: results.settings.update(years=[1000, 1900]), AGREEING))
    assert table.loc["corrupted_prob_diff", "verdict"] == "not measured"
    assert "years 1100-1799, which this run has not" in table.loc["corrupted_prob_diff", "detail"]
    assert table.loc["clean_prob_diff", "verdict"] == "agrees"
    assert "10,000 prompts, unbalanced" in table.loc["clean_prob_diff", "detail"]


@pytest.mark.parametrize(
    ("diff", "verdict"), [(0.707, "agrees"), (0.747, "agrees"), (0.7065, "disagrees")]
)
def test_the_rule_for_values_is_the_tolerance(diff: float, verdict: str) -> None:
    table = card(changed(answer("large", "partial", diff, 0.08)))
    assert table.loc["partial_prob_diff", "verdict"] == verdict


def test_an_interval_over_the_limit_leaves_the_verdict_open() -> None:
    spread = torch.linspace(-0.2, 0.2, N)
    row = card(changed(answer("large", "partial", 0.75 + spread, 0.08))).loc["partial_prob_diff"]
    assert row["verdict"] == "disagrees" and "open" in row["detail"]
    assert "open" not in card(ALL).loc["partial_prob_diff", "detail"]


# ---- what is missing --------------------------------------------------------------------------


def test_what_was_not_measured_is_said() -> None:
    table = scorecard(Results(AGREEING.settings, torch.zeros(0, dtype=torch.int64)))
    assert set(table["verdict"]) == {"not measured"}
    assert table["measured"].isna().all() and table["detail"].str.len().min() > 5


@pytest.mark.parametrize(
    ("kind", "name", "gone"),
    [
        ("sweeps", "m9", {"m9_top_head", "m9_top_mlp"}),
        ("sweeps", "m0@YY", {"m0_reads_embedding"}),
        (
            "evaluations",
            "corrupted",
            {"year_mass", "top_year_valid_corrupted", "prob_diff_positive_corrupted"},
        ),
        *(
            ("experiments", name, {c["id"] for c in claims() if c["experiment"] == name})
            for name in sorted(set(EXPERIMENTS) - {"discovery", "large", "bos"})
        ),
        ("attention", None, {"attention_to_YY", "attention_a7h10_dip"}),
        ("lens", None, {claim for claim in MEASURES if claim.startswith("lens")}),
    ],
)
def test_missing_results_cost_only_their_own_claims(
    kind: str, name: str | None, gone: set[str]
) -> None:
    results = copy.deepcopy(ALL)
    if name:
        del getattr(results, kind)[name]
    else:
        setattr(results, kind, {} if kind == "lens" else None)
    table = card(results)
    assert unmeasured(table) == gone
    words = name or {"lens": "logit lens of"}.get(kind, kind)
    assert table.loc[list(gone), "detail"].str.contains(f"{words.split('@')[0]}.* is missing").all()


def test_an_mlp_received_at_END_is_not_taken_for_the_one_at_YY() -> None:
    results = copy.deepcopy(AGREEING)
    del results.sweeps["m3@YY"]
    results.sweeps["m3"] = a_sweep(["m3"], "END", {}, ())
    assert card(results).loc["early_top_head", "verdict"] == "not measured"


def test_a_smaller_model_has_no_a9h1() -> None:
    small = Shape(2, 4, SHAPE.positions)
    senders = small.senders("END")
    values = torch.rand(len(senders), N)
    sweep = Sweep(("logits",), (), tuple(s.name for s in senders), values, small)
    table = card(Results({"gpt2_small": True}, YY, None, {"logits": sweep}))
    assert table.loc["logits_senders", "verdict"] == "not measured"
    assert "no m8" in table.loc["logits_senders", "detail"]

    results = copy.deepcopy(ALL)
    for name in ("mlps@END", "heads@END"):
        tensors = results.experiments["activation"].tensors
        tensors[name] = tensors[name][:6]
    del results.experiments["controls"].tensors["random_0"]
    table = card(results)
    assert "the model has no a9.h1" in table.loc["denoise_a9.h1", "detail"]
    assert "not defined for this model" in table.loc["random_circuits", "detail"]


def test_claims_about_low_YYs_need_some() -> None:
    results = copy.deepcopy(AGREEING)
    results.YY = results.YY.clamp(min=10)
    results.lens["m11"][:47] = math.nan  # only YYs without a year after YY + 50 are left
    table = card(results)
    assert table.loc["attention_a7h10_dip", "verdict"] == "not measured"
    assert table.loc["lens_m11_band", "verdict"] == "not measured"
    assert table.loc["lens_mlps_triangle", "verdict"] == "agrees"


@pytest.mark.parametrize(
    ("experiment", "name", "claim"),
    [
        ("families", "price_clean", "price_recovered"),
        ("large", "clean", "partial_recovered"),
    ],
)
def test_a_circuit_recovers_nothing_of_no_score(experiment: str, name: str, claim: str) -> None:
    sign = torch.tensor([0.5, -0.5]).repeat(N // 2)
    row = card(changed(answer(experiment, name, sign))).loc[claim]
    assert row["verdict"] == "not measured" and "cannot be told from 0" in row["detail"]


# ---- numbers and words ------------------------------------------------------------------------


def test_a_verdict_rests_on_the_numbers_beside_it() -> None:
    table = card(AGREEING)
    row = table.loc["m9_top_head"]
    assert row["measured"] == pytest.approx(0.1)  # heads above it have no effect
    assert "a9.h1 −10.00 pp" in row["detail"]
    row = table.loc["clean_prob_diff"]
    mean, low, high = bootstrap_ci(AGREEING.evaluations["clean"].prob_diff)
    assert [row["measured"], row["low"], row["high"]] == [float(mean), float(low), float(high)]


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


def test_a_neuron_without_any_preference_makes_no_step() -> None:
    rows = -torch.arange(97.0)[:, None].expand(97, 100)  # the same for all years, by YY
    row = card(changed(sets("neurons", "lens_single", torch.stack([rows] * 10)))).loc[
        "neurons_single"
    ]
    assert abs(row["measured"]) < 1e-9 and row["verdict"] == "agrees"


def test_the_sample_is_named() -> None:
    table = card(ALL)
    detail = table.loc["clean_prob_diff", "detail"]
    assert detail.endswith("; measured on 10,000 prompts, unbalanced, years 1000-1899")
    assert table.loc["corrupted_prob_diff", "detail"].endswith("years 1100-1799, written so")
    assert sample_of(table[table["theme"] == "Neurons"]) == f"{N} prompts"
    assert sample_of(table) == ""  # they differ


@pytest.mark.parametrize(
    ("claim", "paper", "limits"),
    [
        ("clean_prob_diff", "81.7 %", "agrees from 80.7 % to 82.7 %"),
        ("price_recovered", "88.9 %", "agrees from 80.0 % to 95.0 %"),
        ("acdc_kl", "0.078", "agrees from 0.058 to 0.098"),
        ("one_mlp", "worse", "agrees above +10.00 pp"),
        ("neurons_single", "none does", "agrees below 90.0 %"),
    ],
)
def test_limits_stand_apart_from_what_is_reported(claim: str, paper: str, limits: str) -> None:
    row = card(ALL).loc[claim]
    assert row["paper"] == paper and limits in row["detail"]


def test_what_was_found_edge_by_edge_is_said() -> None:
    table = card(ALL)
    detail = table.loc["edges_heads", "detail"]
    assert detail.startswith("12 heads and MLPs were found at END; not a5.h1")
    # 17 of the circuit's 18 are the strongest of 20
    assert table.loc["edges_precision", "measured"] == pytest.approx(17 / 18)
    assert "17 of 18, and 17 of all 20 that were found" in table.loc["edges_precision", "detail"]
    assert "the full circuit: 88.8 %" in table.loc["edges_recovered", "detail"]
    row = table.loc["edges_above_corrupted"]
    assert row["measured"] == pytest.approx(1.15 / 1.25) and "92.8 %" in row["detail"]


def test_the_edges_of_attribution_are_counted() -> None:
    table = card(ALL)
    row = table.loc["eap_ig_200"]
    assert row["detail"].startswith("190 of the edges are on a path to the logits; 94.6 % of the")
    assert "80 % of the way" in row["detail"] and "reported on 1,000 prompts" in row["detail"]
    assert "way" not in table.loc["eap_200", "detail"]
    assert table.loc["eap_recall", "detail"].startswith("17 of 19")
    assert table.loc["eap_ig_better", "detail"] == "narrowest: 300 edges"


# ---- the table --------------------------------------------------------------------------------


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
    text = to_text(scorecard(changed(BREAKING["m9_top_head"], AGREEING)))
    assert "Into m9, a9.h1 is the top head" in text
    assert re.search(r"81\.6 %  agrees\n +75\.\d to 86\.\d\n", text)  # the interval below it
    assert text.endswith("agrees: 46, disagrees: 1, not measured: 69")
    assert all(theme.upper() in text for theme in THEMES)
    assert max(map(len, text.splitlines())) <= 100


def test_tables_and_results_survive_the_folder(tmp_path: Path) -> None:
    table = scorecard(ALL)
    table.to_csv(tmp_path / "scorecard.csv", index=False)
    read = pd.read_csv(tmp_path / "scorecard.csv", keep_default_na=False, na_values={"low": ""})
    assert list(read["verdict"]) == list(table["verdict"])
    assert set(read["verdict"]) <= set(VERDICTS)
    ALL.save(tmp_path)
    loaded = load_results(tmp_path)
    assert loaded.experiments.keys() == ALL.experiments.keys()
    pd.testing.assert_frame_equal(scorecard(loaded), table)
    loaded.drop("neurons", tmp_path)
    loaded.save(tmp_path)
    assert "neurons" not in load_results(tmp_path).experiments


def test_the_files_of_a_scorecard_name_the_model(tmp_path: Path) -> None:
    for model, is_gpt2_small in (("gpt2-small", True), ("<b>", False)):
        results = copy.deepcopy(ALL)
        results.settings |= {"model": model, "gpt2_small": is_gpt2_small}
        write_scorecard(results, scorecard(results), tmp_path)
        page, text = ((tmp_path / f"scorecard.{end}").read_text() for end in ("html", "txt"))
        assert f"<h1>{escape(model)}</h1>" in page and "Activation patching" in page
        assert all(("not GPT-2 small" in one) != is_gpt2_small for one in (page, text))


def test_numbers_in_words() -> None:
    assert in_words(0.817) == "81.7 %"
    assert in_words(-0.1234, "points") == "−12.34 pp"
    assert in_words(0.05, "points") == "+5.00 pp"
    assert in_words(-0.00001) == "0.0 %"
    assert in_words(math.nan) == "–"
    assert in_words(-0.0784, "number") == "−0.078"
    assert interval_in_words(-0.01, 0.02, "points") == "−1.00 to +2.00"
    assert interval_in_words(math.nan, 0.0, "share") == "–"
