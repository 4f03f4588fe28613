"""Verdicts beyond the discovery: made-up results that meet all claims, then break one each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from scorecard.test_claims import AGREEING, LATE, SEVEN, YY, N, evaluation, lenses
from torch import Tensor

from gt_helpers.model.components import component
from gt_helpers.report import scorecard_html, write_scorecard
from gt_helpers.scorecard import measures
from gt_helpers.scorecard.claims import _row, claims, measurable, sample_of, scorecard
from gt_helpers.scorecard.results import Outcome, Results, load_results

CLEAN, CORRUPTED = 0.822, -0.556
HEADS = {
    **{"a9.h1": 0.252, "a7.h10": 0.135, "a8.h11": 0.083, "a6.h9": 0.076},
    **{"a5.h1": 0.056, "a5.h5": 0.052, "a8.h8": 0.029, "a10.h7": -0.040},
}


def constant(*values: float) -> Tensor:
    """The same score for every prompt, one row per value."""
    return torch.tensor(values, dtype=torch.float64)[:, None].expand(len(values), N).clone()


def recovered(*shares: float) -> Tensor:
    return CORRUPTED + constant(*shares) * (CLEAN - CORRUPTED)


def log_probs(diff: float | Tensor, sharpness: float | Tensor = 0.0) -> Tensor:
    return evaluation("", diff, sharpness).log_probs


def activation() -> dict[str, Tensor]:
    heads = [HEADS.get(f"a{i // 12}.h{i % 12}", 0.001) for i in range(144)]
    mlps = {"YY": [0.862, 0.065, *[0.0] * 10], "END": [0.02] * 8 + [0.186, 0.486, 0.535, 0.131]}
    streams = {"YY": [1.0] * 8 + [0.519, 0.2, 0.0, 0.0], "END": [0.0] * 8 + [0.534, 0.7, 0.98, 1]}
    found = {"heads@END": recovered(*heads), "together": recovered(0.978)}
    found |= {f"mlps@{place}": recovered(*shares) for place, shares in mlps.items()}
    found |= {f"stream@{place}": recovered(*shares) for place, shares in streams.items()}
    found |= {
        f"{part}@{place}": recovered(*[0.01] * 7) for part in "qkv" for place in ("YY", "END")
    }
    found["k@YY"] = recovered(*[0.02] * 7)
    found["v@YY"] = recovered(*[0.05] * 7)
    found |= {"clean": constant(CLEAN)[0], "corrupted": constant(CORRUPTED)[0]}
    return found | {"last_mlp": constant(0.5)[0], "last_mlp_path": constant(0.5 + 1e-7)[0]}


def controls() -> dict[str, Tensor]:
    scores = {"clean": 0.81, "partial": 0.727, "values_only": 0.62, "shifted": -0.3, "one_mlp": 0.3}
    scores |= {"direct_m8": 0.71, "indirect_m8": 0.51, "direct_m9": 0.53, "indirect_m9": 0.49}
    scores |= {"random_0": -0.4, "random_1": 0.1}
    return {name: constant(score)[0] for name, score in scores.items()}


def families() -> dict[str, Tensor]:
    scores = {
        **{"started_clean": 0.8, "started_partial": 0.79, "price_clean": 0.6},
        **{"price_partial": 0.533, "sequence_clean": 0.9, "sequence_partial": 0.6},
        **{"sequence_extended": 0.82, "ended_clean": 0.6, "ended_reverse": -0.3},
        **{"BC_clean": 0.5, "BC_reverse": -0.2},
    }
    found = {name: log_probs(score) for name, score in scores.items()}
    repeated = torch.full((N, 100), 0.001, dtype=torch.float64)
    repeated[torch.arange(N), YY] = 0.9
    found["smaller_clean"] = repeated.log()
    return found | {f"{name.split('_')[0]}_YY": YY for name in found}


def neurons() -> dict[str, Tensor]:
    effects = constant(*[-0.02] * 10, *[0.0] * 390)
    single = torch.stack([lenses()["m8"]] * 10)
    found = {"effects": effects, "all": constant(-0.2)[0]}
    found |= {"ten_joint": torch.ones(97, 100), "ten_added": torch.full((97, 100), 1.1)}
    return found | {"lens_single": single, "lens_sum": torch.stack([lenses()["m9"]] * 2)}


EAP = {100: 0.436, 200: 0.66, 300: 0.719, 500: 0.757, 1000: 0.769}
EAP_IG = {100: 0.6, 200: 0.746, 300: 0.758, 500: 0.777, 1000: 0.777}
NINETEEN = (*SEVEN, "a6.h1", *LATE, "a0.h1", "a0.h3", "a0.h5", "m0", "m1", "m2", "m3")
OTHERS = [f"a{layer}.h0" for layer in range(1, 11)]


def grid(*names: str, value: float = 1.0) -> Tensor:
    """A value for the named heads and MLPs [layer, n_heads + 1]; the last column is MLPs."""
    found = torch.zeros(12, 13)
    for node in map(component, names):
        found[node.layer, node.head] = value
    return found


def attribution() -> dict[str, Tensor]:
    found = {"clean": constant(0.814)[0], "corrupted": constant(-0.457)[0]}
    for method, scores in (("eap", EAP), ("eap_ig", EAP_IG)):
        found |= {f"{method}_{n}": constant(score)[0] for n, score in scores.items()}
        found |= {f"{method}_{n}_edges": torch.arange(n - 10) for n in scores}
    found["eap_top"] = grid(*NINETEEN[2:], *OTHERS)
    return found | {"eap_ig_top": grid(*NINETEEN[1:], *OTHERS[:4])}


def found_edges() -> dict[str, Tensor]:
    scores = {"clean": 0.8, "corrupted": -0.45, "found": 0.7, "full": 0.71}
    found = {name: constant(score)[0] for name, score in scores.items()}
    found["found@END"] = grid(*SEVEN[1:], *LATE) + grid("a10.h2", "m7", value=0.1)
    found["found@YY"] = grid(*NINETEEN[12:]) + grid("m4", value=0.1)
    return found | {"edges": torch.arange(120)}


def agreeing() -> Results:
    """Results that meet every claim, as a whole scorecard of GPT-2 small would."""
    results = copy.deepcopy(AGREEING)
    answers = {"large": {name: e.log_probs for name, e in results.evaluations.items()}}
    answers["bos"] = {"clean": log_probs(0.814), "corrupted": log_probs(-0.457)}
    answers["acdc"] = {"clean": log_probs(0.84), "corrupted": log_probs(-0.564)}
    answers["acdc"]["circuit"] = log_probs(0.72, 0.08)
    tensors = {name: runs | {"YY": YY} for name, runs in answers.items()}
    tensors |= {"controls": controls(), "activation": activation(), "families": families()}
    tensors |= {"neurons": neurons(), "attribution": attribution(), "edges": found_edges()}
    settings = {
        "large": {"prompts": 10_000, "balanced": False, "years": [1000, 1900]},
        "bos": {"prompts": 1000, "balanced": True, "years": [1100, 1800], "note": "written so"},
    }
    results.experiments = {
        name: Outcome(settings.get(name, {"prompts": N}), found) for name, found in tensors.items()
    }
    return results


ALL = agreeing()
Change = Callable[[dict[str, Tensor]], None]


def sets(name: str, value: Tensor) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = value

    return change


def row(name: str, index: int, share: float) -> Change:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][index] = recovered(share)[0]

    return change


def head(name: str, share: float) -> tuple[str, Change]:
    layer, number = (int(part) for part in name[1:].split(".h"))
    return "activation", row("heads@END", 12 * layer + number, share)


def score(experiment: str, name: str, value: float) -> tuple[str, Change]:
    return experiment, sets(name, constant(value)[0])


def family(name: str, value: float) -> tuple[str, Change]:
    return "families", sets(name, log_probs(value))


def answer(experiment: str, run: str, diff: float, sharpness: float = 0.0) -> tuple[str, Change]:
    return experiment, sets(run, log_probs(diff, sharpness))


# For every claim the experiment that it needs, and one change of it that makes the claim fail.
BREAKING: dict[str, tuple[str, Change]] = {
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
    "last_mlp_alike": ("activation", sets("last_mlp", constant(0.51)[0])),
    "century_clean_prob_diff": ("activation", sets("clean", constant(0.75)[0])),
    "century_corrupted_prob_diff": ("activation", sets("corrupted", constant(-0.4)[0])),
    **{f"denoise_{name}": head(name, share + 0.03) for name, share in HEADS.items()},
    "denoise_order": head("a4.h4", 0.03),
    "denoise_circuit": ("activation", sets("together", recovered(0.9))),
    "denoise_m0@YY": ("activation", row("mlps@YY", 0, 0.8)),
    "denoise_m10": ("activation", row("mlps@END", 10, 0.6)),
    "denoise_m9": ("activation", row("mlps@END", 9, 0.6)),
    "denoise_m8": ("activation", row("mlps@END", 8, 0.1)),
    "denoise_m11": ("activation", row("mlps@END", 11, 0.0)),
    "denoise_other_mlps": ("activation", row("mlps@YY", 5, -0.08)),
    "stream8_YY": ("activation", row("stream@YY", 8, 0.7)),
    "stream8_END": ("activation", row("stream@END", 8, 0.3)),
    "stream10_END": ("activation", row("stream@END", 10, 0.9)),
    "best_receiver": ("activation", row("q@END", 3, 0.06)),
    "acdc_clean": answer("acdc", "clean", 0.80),
    "acdc_corrupted": answer("acdc", "corrupted", -0.5),
    "acdc_circuit": answer("acdc", "circuit", 0.6),
    "acdc_kl": answer("acdc", "circuit", 0.3, 0.1),
    "started_recovered": family("started_partial", 0.7),
    "price_recovered": family("price_partial", 0.59),
    "sequence_recovered": family("sequence_partial", 0.7),
    "sequence_gain": family("sequence_extended", 0.7),
    "ended_negative": family("ended_clean", -0.5),
    "ended_impaired": family("ended_reverse", 0.7),
    "BC_negative": family("BC_clean", -0.5),
    "BC_impaired": family("BC_reverse", 0.7),
    "smaller_repeats": family("smaller_clean", 0.8),
    "neurons_near_zero": ("neurons", sets("effects", constant(*[-0.01] * 20, *[0.0] * 80))),
    "neurons_joint": ("neurons", sets("ten_added", torch.full((97, 100), 1.4))),
    "neurons_single": ("neurons", sets("lens_single", torch.stack([lenses()["m9"]] * 10))),
    "neurons_sum": ("neurons", sets("lens_sum", torch.stack([lenses()["m8"]] * 2))),
    **{f"eap_{n}": score("attribution", f"eap_{n}", share + 0.07) for n, share in EAP.items()},
    **{f"eap_ig_{n}": score("attribution", f"eap_ig_{n}", EAP[n] - 0.1) for n in EAP},
    "eap_ig_better": score("attribution", "eap_300", 0.76),
    "eap_precision": ("attribution", sets("eap_top", grid(*NINETEEN[2:]))),
    "eap_recall": ("attribution", sets("eap_top", grid(*NINETEEN[5:]))),
    "eap_ig_precision": ("attribution", sets("eap_ig_top", grid(*NINETEEN[1:]))),
    "eap_ig_recall": ("attribution", sets("eap_ig_top", grid(*NINETEEN[3:]))),
    "edges_heads": ("edges", sets("found@END", grid(*SEVEN[3:], *LATE))),
    "edges_late_mlps": ("edges", sets("found@END", grid(*SEVEN, "m8", "m9", "m10"))),
    "edges_early": ("edges", sets("found@YY", grid("m0", "m1", "a0.h1"))),
    "edges_precision": ("edges", sets("found@the2", grid(*OTHERS, value=2.0))),
    "edges_recovered": score("edges", "found", 0.3),
    "edges_above_corrupted": score("edges", "found", 0.1),
}


def test_all_agree() -> None:
    table = scorecard(ALL, measurable(ALL))
    wrong = table[table["verdict"] != "agrees"]
    assert wrong.empty, wrong[["id", "measured", "detail"]].to_string()
    rest = set(scorecard(ALL)["id"]) - set(table["id"])
    assert rest == {claim["id"] for claim in claims() if "missing" in claim}


def test_a_breaking_change_for_every_claim_beyond_the_discovery() -> None:
    assert set(BREAKING) == {
        claim["id"]
        for claim in claims()
        if claim["experiment"] != "discovery" and "missing" not in claim
    }


@pytest.mark.parametrize("claim", BREAKING)
def test_every_verdict_can_fail(claim: str) -> None:
    experiment, change = BREAKING[claim]
    results = copy.deepcopy(ALL)
    change(results.experiments[experiment].tensors)
    row = _row(next(c for c in claims() if c["id"] == claim), results)
    assert row["verdict"] == "disagrees", (claim, row["measured"])


def test_the_large_sample_is_preferred_and_named() -> None:
    table = scorecard(ALL).set_index("id")
    detail = table.loc["clean_prob_diff", "detail"]
    assert detail.endswith("; measured on 10,000 prompts, unbalanced, years 1000-1899")
    assert table.loc["corrupted_prob_diff", "detail"].endswith("years 1100-1799, written so")
    assert table.loc["acdc_kl", "sample"] == f"{N} prompts"
    assert sample_of(table[table["theme"] == "Neurons"]) == f"{N} prompts"
    assert sample_of(table) == ""  # they differ
    fewer = copy.deepcopy(ALL)
    del fewer.experiments["large"]
    detail = scorecard(fewer).set_index("id").loc["clean_prob_diff", "detail"]
    assert "; reported on 10,000 prompts" in detail


@pytest.mark.parametrize(
    "name", ["activation", "controls", "families", "neurons", "acdc", "attribution", "edges"]
)
def test_a_missing_experiment_costs_its_own_claims(name: str) -> None:
    results = copy.deepcopy(ALL)
    del results.experiments[name]
    table = scorecard(results)
    gone = table[table["verdict"] == "not measured"]
    expected = {c["id"] for c in claims() if c["experiment"] == name or "missing" in c}
    assert set(gone["id"]) == expected
    assert gone["detail"].str.contains("scorecard runs it|notebook 6").all()


def test_what_a_model_lacks_is_said() -> None:
    results = copy.deepcopy(ALL)
    for name in ("mlps@END", "heads@END"):
        tensors = results.experiments["activation"].tensors
        tensors[name] = tensors[name][:6]
    del results.experiments["controls"].tensors["random_0"]
    table = scorecard(results).set_index("id")
    assert "the model has no a9.h1" in table.loc["denoise_a9.h1", "detail"]
    assert "not defined for this model" in table.loc["random_circuits", "detail"]


def test_a_circuit_recovers_nothing_of_no_score() -> None:
    results = copy.deepcopy(ALL)
    sign = torch.tensor([0.5, -0.5]).repeat(N // 2)
    results.experiments["families"].tensors["price_clean"] = log_probs(sign)
    detail = scorecard(results).set_index("id").loc["price_recovered", "detail"]
    assert "cannot be told from 0" in detail


def test_limits_are_said_apart_from_what_is_reported() -> None:
    table = scorecard(ALL).set_index("id")
    assert table.loc["price_recovered", "paper"] == "88.9 %"
    assert "agrees from 80.0 % to 95.0 %" in table.loc["price_recovered", "detail"]
    assert table.loc["acdc_kl", "paper"] == "0.078"
    assert "agrees from 0.058 to 0.098" in table.loc["acdc_kl", "detail"]


def test_experiments_survive_the_folder(tmp_path: Path) -> None:
    ALL.save(tmp_path)
    loaded = load_results(tmp_path)
    assert loaded.experiments.keys() == ALL.experiments.keys()
    pd.testing.assert_frame_equal(scorecard(loaded), scorecard(ALL))
    loaded.drop("neurons", tmp_path)
    loaded.save(tmp_path)
    assert "neurons" not in load_results(tmp_path).experiments


def test_the_files_of_a_scorecard(tmp_path: Path) -> None:
    table = scorecard(ALL)
    write_scorecard(ALL, table, tmp_path)
    page = (tmp_path / "scorecard.html").read_text()
    assert "<h1>gpt2-small</h1>" in page and scorecard_html(table) in page
    assert "not comparable" not in page and "Activation patching" in page
    other = copy.deepcopy(ALL)
    other.settings |= {"model": "<b>", "gpt2_small": False}
    write_scorecard(other, scorecard(other), tmp_path)
    page, text = ((tmp_path / f"scorecard.{end}").read_text() for end in ("html", "txt"))
    assert "<h1>&lt;b&gt;</h1>" in page and "not GPT-2 small" in page and "not GPT-2 small" in text
    assert set(measures.MEASURES) < set(scorecard(other)["id"])


def test_a_neuron_without_any_preference_makes_no_step() -> None:
    flat = copy.deepcopy(ALL)
    rows = -torch.arange(97.0)[:, None].expand(97, 100)  # the same for all years, by YY
    flat.experiments["neurons"].tensors["lens_single"] = torch.stack([rows] * 10)
    row = scorecard(flat, ["neurons_single"]).iloc[0]
    assert abs(row["measured"]) < 1e-9 and row["verdict"] == "agrees"


def test_what_was_found_edge_by_edge_is_said() -> None:
    table = scorecard(ALL).set_index("id")
    detail = table.loc["edges_heads", "detail"]
    assert detail.startswith("12 heads and MLPs were found at END; not a5.h1")
    # 17 of the circuit's 18 are the strongest of 20
    assert table.loc["edges_precision", "measured"] == pytest.approx(17 / 18)
    assert "17 of 18, and 17 of all 20 that were found" in table.loc["edges_precision", "detail"]
    assert "the full circuit: 88.8 %" in table.loc["edges_recovered", "detail"]
    row = table.loc["edges_above_corrupted"]
    assert row["measured"] == pytest.approx(1.15 / 1.25) and "92.8 %" in row["detail"]


def test_the_edges_of_attribution_are_counted() -> None:
    table = scorecard(ALL).set_index("id")
    row = table.loc["eap_ig_200"]
    assert row["detail"].startswith("190 of the edges are on a path to the logits; 94.6 % of the")
    assert "80 % of the way" in row["detail"] and "reported on 1,000 prompts" in row["detail"]
    assert "way" not in table.loc["eap_200", "detail"]
    assert table.loc["eap_recall", "detail"].startswith("17 of 19")
    assert table.loc["eap_ig_better", "detail"] == "narrowest: 300 edges"
