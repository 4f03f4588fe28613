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
    VERDICTS,
    claims,
    headline_numbers,
    measurable,
    sample_of,
    scorecard,
    to_text,
)
from gt_helpers.scorecard.results import Results, load_results

Change = Callable[[Results], object]


def effect(sweep: str, sender: str, value: float) -> Change:
    def change(results: Results) -> None:
        found = results.sweeps[sweep]
        found.values[found.senders.index(sender)] = value

    return change


def answered(
    name: str, diff: float | Tensor, sharpness: float = 0.0, mass: float = 0.999
) -> Change:
    return lambda results: results.evaluations.update(
        {name: evaluation(name, diff, sharpness, mass)}
    )


def in_all_years(fill: float, at_YY_plus_5: float) -> Change:
    probs = torch.full((N, 100), fill, dtype=torch.float64)
    probs[torch.arange(N), YY + 5] = at_YY_plus_5
    return lambda results: results.evaluations.update(clean=Evaluation("clean", probs.log(), YY))


def looks(layer: int, head: int, low: float, high: float) -> Change:
    return lambda results: results.attention[layer, head].copy_(torch.where(YY < 10, low, high))


def writes(name: str, like: str) -> Change:
    found = -lenses()["m11"] if like == "later" else lenses()[like]
    return lambda results: results.lens.update({name: found})


def sets(experiment: str, name: str, value: Tensor) -> Change:
    return lambda results: results.experiments[experiment].tensors.update({name: value})


def score(experiment: str, name: str, value: float) -> Change:
    return sets(experiment, name, constant(value)[0])


def answer(experiment: str, run: str, diff: float | Tensor, sharpness: float = 0.0) -> Change:
    return sets(experiment, run, log_probs(diff, sharpness))


def site(name: str, index: int, share: float) -> Change:
    return lambda results: (
        results.experiments["activation"].tensors[name][index].copy_(recovered(share)[0])
    )


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
CERTAINTY = {
    *("quoted second-hand", "follows from the definitions", "measured by a later reimplementation"),
    *("inferred from the released code", "inferred"),
}
MISSING = {claim["id"] for claim in claims() if "missing" in claim}


def card(results: Results) -> pd.DataFrame:
    return scorecard(results).set_index("id")


def changed(*changes: Change, results: Results = ALL) -> Results:
    results = copy.deepcopy(results)
    for change in changes:
        change(results)
    return results


def setting(**settings: object) -> Change:
    return lambda results: results.settings.update(settings)


def without(kind: str, name: str = "") -> Change:
    def change(results: Results) -> None:
        if name:
            del getattr(results, kind)[name]
        else:
            setattr(results, kind, {} if kind == "lens" else None)

    return change


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
        assert claim["certainty"].partition(", ")[0] in CERTAINTY


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


SPREAD = torch.linspace(-0.2, 0.2, N)
NO_SCORE = torch.tensor([0.5, -0.5]).repeat(N // 2)
BY_YY = -torch.arange(97.0)[:, None].expand(10, 97, 100)  # ten lenses without a step
OTHER_YEARS = setting(years=[1000, 1900])


def few_layers(results: Results) -> None:
    tensors = results.experiments["activation"].tensors
    tensors |= {name: tensors[name][:6] for name in ("mlps@END", "heads@END")}


def no_random_circuits(results: Results) -> None:
    for name in ("random_0", "random_1"):
        del results.experiments["controls"].tensors[name]


def rises(results: Results) -> None:  # with the year, for every YY alike
    results.lens["m9"] = torch.arange(100.0).expand(97, 100)


def no_low_YY(results: Results) -> None:
    results.YY = results.YY.clamp(min=10)
    results.lens["m11"][:47] = math.nan  # only YYs without a year after YY + 50 are left


def m3_at_END(results: Results) -> None:
    del results.sweeps["m3@YY"]
    results.sweeps["m3"] = a_sweep(["m3"], "END", {}, ())


Row = tuple[str, Results, str, str]


def row(
    claim: str, words: str, *changes: Change, verdict: str = "agrees", of: Results = ALL
) -> Row:
    return claim, changed(*changes, results=of), verdict, words


def no(claim: str, words: str, *changes: Change, of: Results = ALL) -> Row:
    return row(claim, words, *changes, verdict="not measured", of=of)


def partial(diff: float | Tensor) -> Change:
    return answer("large", "partial", diff, 0.08)


@pytest.mark.parametrize(
    ("claim", "results", "verdict", "words"),
    [
        # which verdict
        row("partial_prob_diff", "", partial(0.707)),
        row("partial_prob_diff", "", partial(0.747)),
        row("partial_prob_diff", "", partial(0.706), verdict="disagrees"),
        row("partial_prob_diff", "verdict is open", partial(0.75 + SPREAD), verdict="disagrees"),
        row("clean_prob_diff", "10,000 prompts, unbalanced", OTHER_YEARS, of=AGREEING),
        no("corrupted_prob_diff", "1100-1799, which this run has not", OTHER_YEARS, of=AGREEING),
        row(
            *("partial_prob_diff", "corrupted by 'smaller'", setting(corruption="smaller")),
            **{"verdict": "not comparable", "of": AGREEING},
        ),
        row(  # without the large sample the discovery counts
            *("partial_prob_diff", "; reported on 10,000 prompts", answered("partial", 0.76, 0.08)),
            **{"verdict": "disagrees", "of": AGREEING},
        ),
        # what cannot be measured
        no("early_top_head", "'m3' with senders at YY is missing", m3_at_END),
        no("denoise_a9.h1", "the model has no a9.h1", few_layers),
        no("denoise_order", "the model has no a9.h1", few_layers),
        no("random_circuits", "not defined for this model", no_random_circuits),
        no("best_receiver", "not been chosen", without("parts")),  # its experiment was kept
        no("attention_a7h10_dip", "no YYs below 10", no_low_YY),
        no("lens_m11_band", "no prompt has a YY", no_low_YY),
        row("lens_mlps_triangle", "", no_low_YY),
        no("price_recovered", "told from 0", answer("families", "price_clean", NO_SCORE)),
        no("partial_recovered", "told from 0", answer("large", "clean", NO_SCORE)),
        # limits, which stand apart from what is reported, the sample, and what was found
        row("clean_prob_diff", "agrees from 80.7 % to 82.7 %"),
        row("clean_prob_diff", "; measured on 10,000 prompts, unbalanced, years 1000-1899"),
        row("corrupted_prob_diff", "years 1100-1799, written so"),
        row("price_recovered", "agrees from 80.0 % to 95.0 %"),
        row("acdc_kl", "agrees from 0.058 to 0.098"),
        row("one_mlp", "agrees above +10.00 pp"),
        row("neurons_single", "agrees below 90.0 %"),
        row("neurons_single", "200: 0.00", sets("neurons", "lens_single", BY_YY)),
        row("m9_top_head", "a9.h1 −10.00 pp"),
        row("lens_mlps_triangle", "mean rows: 0.0 % and 100.0 %", rises),
        row("eap_ig_200", "190 of the edges are on a path to the logits; 94.6 % of"),
        row("eap_ig_200", "80 % of the way"),
        row("eap_ig_200", "reported on 1,000 prompts"),
        row("eap_recall", "17 of 19"),
        row("eap_ig_better", "narrowest: 300 edges"),
        row("edges_heads", "12 heads and MLPs were found at END; not a5.h1"),
        # 17 of the circuit's 18 are the strongest of 20
        row("edges_precision", "17 of 18, and 17 of all 20 that were found"),
        row("edges_recovered", "the full circuit: 88.8 %"),
        row("edges_above_corrupted", "92.8 %"),
    ],
)
def test_a_row_says_what_its_verdict_rests_on(
    claim: str, results: Results, verdict: str, words: str
) -> None:
    row = scorecard(results, [claim]).iloc[0]
    assert row["verdict"] == verdict and words in row["detail"]


def test_measured_numbers_and_what_is_reported() -> None:
    table = card(ALL)
    papers = {"price_recovered": "88.9 %", "acdc_kl": "0.078", "one_mlp": "worse"}
    values = {"m9_top_head": 0.1, "edges_precision": 17 / 18, "edges_above_corrupted": 1.15 / 1.25}
    assert table.loc[list(papers), "paper"].to_dict() == papers
    assert table.loc[list(values), "measured"].to_dict() == pytest.approx(values)
    assert "open" not in table.loc["partial_prob_diff", "detail"]
    assert "way" not in table.loc["eap_200", "detail"]
    assert sample_of(table[table["theme"] == "Neurons"]) == f"{N} prompts"
    assert sample_of(table) == ""  # they differ
    row = card(AGREEING).loc["clean_prob_diff"]
    mean, low, high = bootstrap_ci(AGREEING.evaluations["clean"].prob_diff)
    assert [row["measured"], row["low"], row["high"]] == [float(mean), float(low), float(high)]


def test_another_model_is_not_comparable_but_measured() -> None:
    table = card(changed(setting(gpt2_small=False), results=AGREEING))
    assert set(table["verdict"]) == {"not comparable"}
    assert table.loc["clean_prob_diff", "measured"] == pytest.approx(0.8155, abs=1e-3)
    assert table.loc["clean_prob_diff", "paper"] == "81.7 %"


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
            *("evaluations", "corrupted"),
            {"year_mass", "top_year_valid_corrupted", "prob_diff_positive_corrupted"},
        ),
        *(
            ("experiments", name, {c["id"] for c in claims() if c["experiment"] == name})
            for name in sorted(set(EXPERIMENTS) - {"discovery", "large", "bos"})
        ),
        ("attention", "", {"attention_to_YY", "attention_a7h10_dip"}),
        ("lens", "", {claim for claim in MEASURES if claim.startswith("lens")}),
    ],
)
def test_missing_results_cost_only_their_own_claims(kind: str, name: str, gone: set[str]) -> None:
    table = card(changed(without(kind, name)))
    assert set(table.index[table["verdict"] == "not measured"]) - MISSING == gone
    words = name or {"lens": "logit lens of"}.get(kind, kind)
    assert table.loc[list(gone), "detail"].str.contains(f"{words.split('@')[0]}.* is missing").all()


def test_a_smaller_model_has_no_m8() -> None:
    small = Shape(2, 4, SHAPE.positions)
    senders = small.senders("END")
    values = torch.rand(len(senders), N)
    sweep = Sweep(("logits",), (), tuple(s.name for s in senders), values, small)
    row = card(Results({"gpt2_small": True}, YY, None, {"logits": sweep})).loc["logits_senders"]
    assert row["verdict"] == "not measured" and "no m8" in row["detail"]


def test_the_interval_of_a_gap_between_groups_is_about_its_standard_error() -> None:
    results = copy.deepcopy(AGREEING)
    results.YY[:10] = 5
    noise = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 20
    results.attention[7, 10] = 0.8 + noise
    results.attention[7, 10, :10] -= 0.2
    row = card(results).loc["attention_a7h10_dip"]
    groups = results.attention[7, 10, 10:], results.attention[7, 10, :10]
    assert row["measured"] == pytest.approx(float(groups[0].mean() - groups[1].mean()))
    error = math.sqrt(sum(float(g.var(unbiased=False)) / len(g) for g in groups))
    assert (row["high"] - row["low"]) / (2 * 1.96) == pytest.approx(error, rel=0.1)


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
    text = to_text(scorecard(changed(BREAKING["m9_top_head"], results=AGREEING)))
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
