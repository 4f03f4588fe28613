"""Unit: what is measured on prompt families, and what a model answers at all."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from gt_helpers.analysis.generalization import (
    compare_effects,
    family_summary,
    study_family,
    top_numbers,
    year_masses,
)
from gt_helpers.dataset.families import FAMILIES, PromptFamily
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import prob_diff, prob_diff_below
from gt_helpers.model.cache import end_logits
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import CircuitParts, partial_circuit

PARTS = CircuitParts(("a5.h1", "a7.h10", "a9.h1"), ("m8", "m9", "m10"), ("m0",), ("embed",))


@pytest.fixture(scope="module")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, FAMILIES["ended"].dataset(mini.tokenizer, 12))


def test_study_and_summary_use_the_familys_own_metric(patching: PathPatching) -> None:
    family, YY = FAMILIES["ended"], patching.dataset.YY
    found = study_family(family, patching, PARTS)
    assert list(found.log_probs) == ["clean", "corrupted", "partial", "reverse"]
    torch.testing.assert_close(found.log_probs["corrupted"].exp(), patching.patch_probs)
    expected = prob_diff_below(patching.base_probs, YY)
    torch.testing.assert_close(found.score("clean"), expected)
    alone = patching.reversed().evaluate(partial_circuit(PARTS)).probs
    torch.testing.assert_close(found.score("partial"), prob_diff_below(alone, YY))
    torch.testing.assert_close(
        found.sweep.values, patching.sweep("logits", metric=prob_diff_below).values
    )
    (row,) = family_summary([found]).to_dict("records")
    assert row["clean"] == pytest.approx(float(expected.mean()), abs=1e-6)
    ratio = float(found.score("partial").mean() / expected.mean())
    assert row["recovered"] == pytest.approx(ratio, abs=1e-5)
    assert row["recovered_low"] <= row["recovered"] <= row["recovered_high"]
    gap = expected - found.score("corrupted")
    above = float((found.score("partial") - found.score("corrupted")).mean() / gap.mean())
    assert row["above_corrupted"] == pytest.approx(above, abs=1e-5)
    assert row["change"] == pytest.approx(row["reverse"] - row["clean"], abs=1e-6)
    top = patching.base_probs.argmax(-1)
    assert row["top_right"] == float((top < YY).double().mean())
    assert row["top_YY"] == float((top == YY).double().mean())


def test_study_refuses_what_it_cannot_do(patching: PathPatching) -> None:
    with pytest.raises(ValueError, match="corrupted.*e.g. PathPatching"):
        study_family(FAMILIES["ended"], patching.reversed(), PARTS)
    with pytest.raises(ValueError, match="no heads"):
        study_family(FAMILIES["ended"], patching, CircuitParts((), ("m8",), (), ()))


def test_no_ratio_without_a_behaviour(mini: Transformer) -> None:
    # mini answers no year at all after "BC": nothing to recover.
    patching = PathPatching(mini, FAMILIES["BC"].dataset(mini.tokenizer, 12))
    (row,) = family_summary([study_family(FAMILIES["BC"], patching, PARTS)]).to_dict("records")
    assert abs(row["clean"]) < 0.01
    if row["clean_low"] <= 0 <= row["clean_high"]:
        assert row["recovered"] != row["recovered"]


def test_effects_of_several_sweeps_beside_each_other(patching: PathPatching) -> None:
    sweeps = {"one": patching.sweep("logits"), "two": patching.sweep("m9", via=["m10"])}
    frame = compare_effects(sweeps, ["m10", "a9.h1"], others=1)
    assert list(frame.index) == ["one", "two"]
    assert {"m10", "a9.h1"} < set(frame.columns) and len(frame.columns) in (3, 4)
    for name, sweep in sweeps.items():
        values = dict(zip(sweep.senders, sweep.values.mean(-1).tolist(), strict=True))
        strongest = max(values, key=lambda sender: abs(values[sender])).split("@")[0]
        assert strongest in frame.columns
        assert frame.loc[name, "a9.h1"] == pytest.approx(values["a9.h1@END"])
    with pytest.raises(ValueError, match="no sender 'm12'"):
        compare_effects(sweeps, ["m12"])
    with pytest.raises(ValueError, match="one or more sweeps"):
        compare_effects({})


def test_a_family_of_ones_own_in_five_lines(patching: PathPatching, tokenizer: Tokenizer) -> None:
    mine = PromptFamily("mine", "<|endoftext|> The {noun} began in {XX}{YY} and ended in {XX}")
    dataset = mine.dataset(tokenizer, 4)
    table = family_summary([study_family(mine, PathPatching(patching.model, dataset), PARTS)])
    assert table.loc[0, "expects"] == "not in the paper"
    assert isinstance(dataset, YearDataset) and dataset.changed_positions == ["YY"]


@pytest.fixture(scope="module")
def main(patching: PathPatching) -> PathPatching:
    """The prompts of section 2."""
    return PathPatching(patching.model, YearDataset(patching.model.tokenizer, 12))


def test_top_numbers_by_hand(main: PathPatching) -> None:
    model, dataset = main.model, main.dataset[:3]
    (logits,) = end_logits(model, dataset.clean)
    table = top_numbers(model, dataset.clean, dataset.YY, k=7)
    for i, row in enumerate(table.to_dict("records")):
        probs, YY = logits[i].softmax(-1), int(dataset.YY[i])
        expected = dict.fromkeys(row, 0.0)
        for token in probs.topk(7).indices.tolist():
            text, mass = model.tokenizer.decode([token]).strip(), float(probs[token])
            if text.isdecimal():
                place = "above" if int(text) > YY else "equal" if int(text) == YY else "below"
                expected["numbers"] += mass
                expected[place] += mass
                expected["count_above"] += int(text) > YY
        assert row == pytest.approx(expected, abs=1e-6)
    everything = top_numbers(model, dataset.clean, dataset.YY, k=model.W_U.shape[1])
    year_mass = main.base_probs[:3].sum(-1)
    assert bool((torch.tensor(everything["numbers"]) > year_mass - 1e-5).all())
    with pytest.raises(ValueError, match="do not fit"):
        top_numbers(model, dataset.clean, dataset.YY[:2], k=5)


def test_the_century_is_asked_for_without_the_last_token(main: PathPatching) -> None:
    model, dataset = main.model, main.dataset[:3]
    table = top_numbers(model, dataset.clean[:, :-1], dataset.XX)
    with torch.no_grad():
        probs = model.bridge(dataset.clean)[:, -2].softmax(-1)
    (century,) = model.tokenizer(" 17", add_special_tokens=False)["input_ids"]
    for i in (dataset.XX == 17).nonzero().flatten().tolist():
        assert table.loc[i, "equal"] >= float(probs[i, century]) - 1e-6


def test_year_masses_add_up(main: PathPatching) -> None:
    probs, YY = main.base_probs, main.dataset.YY
    masses = year_masses(probs, YY)
    torch.testing.assert_close(masses["above YY"] + masses["up to YY"], probs.sum(-1))
    torch.testing.assert_close(masses["above YY"] - masses["up to YY"], prob_diff(probs, YY))
    assert float(masses["YY + 1"][3]) == float(probs[3, int(YY[3]) + 1])
