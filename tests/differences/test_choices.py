"""Unit: every choice does what its name says, on the embedded model with few prompts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gt_helpers.analysis.logit_lens import direct_effect, logit_lens
from gt_helpers.analysis.preview import TOLERANCE
from gt_helpers.dataset.prompts import valid_years
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.differences.ablations import FrozenNorms, MeanAblation, ZeroAblation
from gt_helpers.differences.choices import (
    CHOICES,
    REFERENCE,
    Choice,
    ChoiceRun,
    measure_choices,
    outcome,
    run_choice,
)
from gt_helpers.metrics import average, prob_diff, ratio
from gt_helpers.model.cache import cache_activations
from gt_helpers.model.components import component
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.activation import activation_patching
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import CircuitParts, partial_circuit

PARTS = CircuitParts(("a0.h2", "a7.h5"), ("m10", "m11"), ("embed", "m0"), ("embed",))
N = 12


@pytest.fixture(scope="module")
def model(mini: Transformer) -> Transformer:
    return mini


def drawn(model: Transformer, name: str, n: int = N, years: tuple = (1100, 1800)) -> YearDataset:
    return CHOICES[name].draw(model.tokenizer, n, 3, years)


def usual(model: Transformer, n: int = N) -> YearDataset:
    return YearDataset(model.tokenizer, n, seed=3)


# --- prompts -------------------------------------------------------------------------------------


def test_the_reference_is_the_paper_s_setting(model: Transformer) -> None:
    dataset = REFERENCE.draw(model.tokenizer, N, 3, (1100, 1800))
    assert dataset.clean_text == usual(model).clean_text
    assert dataset.corrupted_text == usual(model).corrupted_text
    assert REFERENCE.metric is prob_diff and REFERENCE.patching is PathPatching
    assert drawn(model, "other prompts").clean_text != usual(model).clean_text


def test_every_choice_changes_one_thing() -> None:
    parts = ("draw", "patching", "nodes", "metric", "lens")
    for choice in CHOICES.values():
        changed = [part for part in parts if getattr(choice, part) != getattr(REFERENCE, part)]
        assert len(changed) == 1, choice.name


@pytest.mark.parametrize("n", [97, 194, 490])
def test_20_prompts_are_some_of_the_reference_s_with_yys_spread(model: Transformer, n: int) -> None:
    dataset = drawn(model, "20 prompts", n)
    assert len(dataset) == 20 and set(dataset.clean_text) <= set(usual(model, n).clean_text)
    gaps = dataset.YY.diff()
    assert int(gaps.min()) >= 4 and int(gaps.max()) <= 6
    assert float(dataset.YY.double().mean()) == pytest.approx(50, abs=1)
    assert drawn(model, "20 prompts", 5).clean_text == usual(model, 5).clean_text


def test_yy_not_balanced(model: Transformer) -> None:
    YY = drawn(model, "YY not balanced", 97).YY
    assert len(YY) == 97 and len(YY.unique()) < 80
    assert len(usual(model, 97).YY.unique()) == 97


def test_years_1000_to_1899_hold_century_10_whose_corruption_changes_two_tokens(model) -> None:
    dataset = drawn(model, "years 1000-1899", 97)
    pool = set(valid_years(model.tokenizer, 1000, 1900))
    assert set(dataset.years.tolist()) <= pool and int(dataset.XX.min()) == 10
    assert dataset.changed_positions == ["XX1", "YY"]
    assert usual(model, 97).changed_positions == ["YY"]


@pytest.mark.parametrize(
    ("name", "start", "length"),
    [
        ("no space after BOS", "<|endoftext|>The ", 13),
        ("no BOS", "The ", 12),
        ("ACDC's prompts", "The ", 10),
        ("EAP-IG's prompts", "<|endoftext|>The ", 13),
    ],
)
def test_how_prompts_start(model: Transformer, name: str, start: str, length: int) -> None:
    dataset = drawn(model, name)
    assert all(text.startswith(start) for text in dataset.clean_text)
    assert dataset.clean.shape == (N, length)
    the = model.tokenizer.encode("The", add_special_tokens=False)
    assert dataset.clean[:, dataset.positions["The"]].tolist() == the * N
    ends = {text.split("to")[-1][:-2] for text in dataset.clean_text}
    assert ends == ({" "} if name.startswith("ACDC") else {" the year "})
    assert dataset.changed_positions == ["YY"]


def test_eap_ig_s_nouns_are_single_tokens_without_a_space(model, gpt2_tokenizer) -> None:
    single = {
        noun
        for noun in usual(model, 400).nouns
        if len(gpt2_tokenizer.encode(noun, add_special_tokens=False)) == 1  # type: ignore[attr-defined]
    }
    found = set(drawn(model, "EAP-IG's prompts", 400).nouns)
    assert len(found) == 34 and single <= found


def test_corruptions(model: Transformer) -> None:
    for name in ("smaller YY", "any other YY"):
        dataset = drawn(model, name)
        now = torch.tensor([int(text.split()[7][2:]) for text in dataset.corrupted_text])
        change = now - dataset.YY
        assert change.all() and change.min() < 0 and len(now.unique()) > 2
        assert bool((change > 0).any()) == (name == "any other YY")
        assert dataset.changed_positions == ["YY"]
    assert drawn(model, "another noun").changed_positions == ["NOUN"]
    assert drawn(model, "another century").changed_positions == ["XX1"]


def test_shuffled_prompts_are_the_clean_ones_in_another_order(model: Transformer) -> None:
    dataset = drawn(model, "shuffled prompts")
    assert sorted(dataset.corrupted_text) == sorted(dataset.clean_text)
    assert (dataset.clean != dataset.corrupted).any(1).all()


# --- methods -------------------------------------------------------------------------------------


def measured(model: Transformer, choice: Choice) -> ChoiceRun:
    return run_choice(model, PARTS, choice, N, 3)


def effects(found: ChoiceRun, sweep: str) -> Tensor:
    values, YY = found.sweeps[sweep], found.dataset.YY
    return prob_diff(values.exp(), YY) - prob_diff(found.answers["clean"].exp(), YY)


def test_the_reference_sweeps_are_the_engine_s(model: Transformer) -> None:
    found = measured(model, REFERENCE)
    assert list(found.sweeps) == ["logits", "m11", "m10", "keys", "values", "m0@YY"]
    patching = PathPatching(model, found.dataset)
    own = {
        "logits": patching.sweep("logits"),
        "m10": patching.sweep("m10", ["m11"]),
        "values": patching.sweep(["a0.h2.v", "a7.h5.v"], ["m10", "m11"], "YY"),
        "m0@YY": patching.sweep("m0@YY", ["a0.h2.v[YY]", "a7.h5.v[YY]", "m10", "m11"], "YY"),
    }
    for name, sweep in own.items():
        torch.testing.assert_close(effects(found, name), sweep.values, rtol=0, atol=1e-6)
    circuit = patching.reversed().evaluate(partial_circuit(PARTS))
    torch.testing.assert_close(found.answers["partial"], circuit.log_probs)


def test_with_mlps_free_every_later_mlp_recomputes(model: Transformer) -> None:
    found = measured(model, CHOICES["MLPs free"])
    patching = PathPatching(model, found.dataset)
    mlps = [f"m{layer}" for layer in range(12)]
    chains = [f"{a} -> {b}" for i, a in enumerate(mlps) for b in (*mlps[i + 1 :], "logits")]
    entering = [f"a9.h1 -> {one}" for one in (*mlps[9:], "logits")]
    onward = [edge for edge in chains if int(edge.split(" ")[0][1:]) >= 9]
    expected = patching.evaluate(Circuit([*entering, *onward], sources=["a9.h1"])).log_probs
    row = [one.name for one in patching.shape.senders("END")].index("a9.h1@END")
    torch.testing.assert_close(found.sweeps["logits"][row], expected, rtol=0, atol=1e-5)
    at_YY = found.sweeps["values"]
    live = (at_YY != found.answers["clean"]).any(-1).any(-1)
    names = [one.label for one in patching.shape.senders("YY")]
    # a8 is below none of the heads; a3 reaches a7.h5, also through the MLPs between them.
    assert not live[names.index("a8.h0")] and live[names.index("a3.h0")]
    assert list(found.sweeps) == ["logits", "values"]


def test_activation_patching_overwrites_and_lets_all_run(model: Transformer) -> None:
    found = measured(model, CHOICES["activation patching"])
    one = activation_patching(model, found.dataset, ["a3.h1@YY", "m9@END"], base="clean")
    clean = prob_diff(found.answers["clean"].exp(), found.dataset.YY)
    names = [node.label for node in PathPatching(model, found.dataset).shape.senders("END")]
    for values, (sweep, name) in zip(one, [("values", "a3.h1"), ("logits", "m9")], strict=True):
        row = effects(found, sweep)[names.index(name)]
        torch.testing.assert_close(row, values - clean, rtol=0, atol=1e-6)
    # The whole stream at YY is all that differs between the prompts.
    torch.testing.assert_close(
        found.sweeps["values"][-1], found.answers["corrupted"], rtol=0, atol=1e-4
    )
    heads = activation_patching(model, found.dataset, [list(PARTS.heads)])[0]
    partial = prob_diff(found.answers["partial"].exp(), found.dataset.YY)
    torch.testing.assert_close(partial, heads)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mean ablation", MeanAblation),
        ("zero ablation", ZeroAblation),
        ("norms frozen", FrozenNorms),
    ],
)
def test_other_engines(model: Transformer, name: str, kind: type[PathPatching]) -> None:
    found, reference = measured(model, CHOICES[name]), measured(model, REFERENCE)
    patching = kind(model, found.dataset)
    expected = patching.sweep("logits").values
    torch.testing.assert_close(effects(found, "logits"), expected, rtol=0, atol=1e-6)
    assert float((expected - effects(reference, "logits")).abs().max()) > 1e-4
    back = patching.reversed()
    torch.testing.assert_close(found.answers["corrupted"], back.base_log_probs)
    circuit = back.evaluate(partial_circuit(PARTS)).log_probs
    torch.testing.assert_close(found.answers["partial"], circuit)
    assert float((circuit - reference.answers["partial"]).abs().max()) > 1e-2


# --- metrics and lenses --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CHOICES if CHOICES[name].group == "metric"])
def test_metrics_are_taken_of_the_reference_s_answers(model: Transformer, name: str) -> None:
    found = measured(model, REFERENCE)
    got, usual = (outcome(PARTS, one, found) for one in (CHOICES[name], REFERENCE))
    clean = CHOICES[name].metric(found.answers["clean"].exp(), found.dataset.YY)
    assert got.scores["clean"] == pytest.approx(float(clean.mean()))
    swept = CHOICES[name].metric(found.sweeps["m11"].exp(), found.dataset.YY)
    expected = (swept - clean).mean(-1).double()
    torch.testing.assert_close(got.effects["m11"], expected)
    # 12 balanced prompts have a YY each, so there is nothing to average.
    assert (got.scores == pytest.approx(usual.scores)) == (name == "mean logits per YY")


def test_lenses(model: Transformer) -> None:
    dataset = usual(model)
    run = cache_activations(model, dataset.clean)
    years = dataset.year_tokens

    def lens(name: str, of: str) -> Tensor:
        logits = CHOICES[name].lens(run, of, years)
        return logits - logits.mean(-1, keepdim=True)

    own = logit_lens(run, "m10", years)
    own = own - own.mean(-1, keepdim=True)
    assert CHOICES["lens: scale of the stream"].lens is direct_effect
    # An MLP's processed output is its own, centred, which its norm does anyway.
    torch.testing.assert_close(lens("lens: processed weights", "m10"), own, rtol=0, atol=1e-4)
    head = logit_lens(run, "a7.h5", years)
    head = head - head.mean(-1, keepdim=True)
    assert float((lens("lens: processed weights", "a7.h5") - head).abs().max()) > 1e-3
    torch.testing.assert_close(lens("lens: with b_out", "a7.h5"), head, rtol=0, atol=1e-5)
    assert float((lens("lens: with b_out", "m10") - own).abs().max()) > 1e-3
    raw = run.output(component("m10"), 12) @ model.W_U[:, years]
    raw = raw - raw.mean(-1, keepdim=True)
    torch.testing.assert_close(lens("lens: no norm", "m10"), raw)


# --- all of it -----------------------------------------------------------------------------------


def test_measure_choices_gives_an_outcome_per_seed(model: Transformer) -> None:
    names = ["renormalised", "smaller YY"]
    found = measure_choices(model, PARTS, names, n=N, seeds=[3, 4])
    assert list(found) == [REFERENCE.name, *names]
    assert [len(one) for one in found.values()] == [2, 2, 2]
    reference = found[REFERENCE.name]
    own = outcome(PARTS, REFERENCE, measured(model, REFERENCE))
    assert reference[0].scores == pytest.approx(own.scores)
    assert reference[0].scores != reference[1].scores
    score = own.scores
    assert score["recovered"] == pytest.approx(score["partial"] / score["clean"])
    low = score["corrupted"]
    above = (score["partial"] - low) / (score["clean"] - low)
    assert score["above_corrupted"] == pytest.approx(above)
    assert own.lenses["m10"].shape == (97, 100)
    means = {name: float(values.mean()) for name, values in own.per_prompt.items()}
    assert means == pytest.approx({name: score[name] for name in means})
    clean = prob_diff(measured(model, REFERENCE).answers["clean"].exp(), usual(model).YY)
    torch.testing.assert_close(own.per_prompt["clean"], clean)
    partial = prob_diff(measured(model, REFERENCE).answers["partial"].exp(), usual(model).YY)
    share = average(own.per_prompt["recovered"])
    expected = ratio(partial, clean)
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_previews_say_how_far_off_they_are(model: Transformer) -> None:
    for name in ("smaller YY", "norms frozen"):
        exact, quick = (
            measure_choices(model, PARTS, [name], n=24, seeds=[3], preview=preview)[name][0]
            for preview in (False, True)
        )
        assert exact.error == 0 and 0 < quick.error <= TOLERANCE
        for sweep, effects in exact.effects.items():
            torch.testing.assert_close(quick.effects[sweep], effects, rtol=0, atol=TOLERANCE)


def test_what_does_not_fit_is_refused(model: Transformer) -> None:
    with pytest.raises(ValueError, match="'noun' is no choice; known are 'other prompts', "):
        measure_choices(model, PARTS, ["noun"])
    with pytest.raises(ValueError, match="one seed or more"):
        measure_choices(model, PARTS, [], seeds=[])
    with pytest.raises(ValueError, match="a circuit with heads"):
        measure_choices(model, CircuitParts((), ("m11",), (), ()))
