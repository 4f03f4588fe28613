"""The ten prompt families: tokens, what is changed, masks, and what is measured on them."""

from __future__ import annotations

import random
from itertools import pairwise

import pandas as pd
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from gt_helpers import views
from gt_helpers.analysis.generalization import compare_effects, family_summary, study_family
from gt_helpers.dataset import families
from gt_helpers.dataset.families import FAMILIES, ITEMS, PromptFamily, arithmetic_step
from gt_helpers.dataset.prompts import tokenize
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import prob_diff, prob_diff_below
from gt_helpers.model.load import load_model
from gt_helpers.patching import paper
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, CircuitParts, full_circuit, partial_circuit

Tokenizer = PreTrainedTokenizerBase

HAPPENED = "The {} happened in 17{}. Some years later, it is now the year 17"
# The paper's options in order: tokens, prompts, right end years, the clean text after eos.
OPTIONS = {
    "started": (15, 97, "> YY", "The {} started in the year 17{} and ended in the year 17"),
    "happened": (18, 97, "> YY", HAPPENED),
    "sequence": (17, 97, "> YY", "1599, 1607, 1633, 1679, 17{1}, 17"),
    "descending": (17, 97, "< YY", "1799, 1753, 1733, 1701, 16{1}, 16"),
    "arithmetic": (17, 97, "> YY", ""),
    "smaller": (7, 97, "> YY", "17{1} is smaller than 17"),
    "ended": (15, 97, "< YY", "The {} ended in the year 17{} and started in the year 17"),
    "BC": (14, 87, "< YY", "The {} lasted from the year 7{} BC to the year 7"),
    "price": (14, 97, "> YY", "The price of that {} ranges from $ 17{} to $ 17"),
    "random": (16, 97, "> YY", ""),
}
ONE_TOKEN_BC = {2, 20, 37, 47, 50, 60, 68, 70, 77, 80}
EOS = "<|endoftext|> "


@pytest.mark.parametrize("name", OPTIONS)
def test_length_mask_text_and_the_one_change(name: str, gpt2_tokenizer: Tokenizer) -> None:
    length, prompts, asks, text = OPTIONS[name]
    task = FAMILIES[name]
    dataset = task.dataset(gpt2_tokenizer)
    assert (dataset.clean.shape, task.asks) == ((prompts, length), asks)
    assert dataset.YY.unique().tolist() == dataset.YY.tolist()  # one of every YY
    YYs = set(range(2, 99)) - (ONE_TOKEN_BC if name == "BC" else set())
    assert set(dataset.YY.tolist()) == YYs
    if text:
        nouns, YYs = dataset.nouns, dataset.YY.tolist()
        expected = [EOS + text.format(n, f"{YY:02d}") for n, YY in zip(nouns, YYs, strict=True)]
        assert dataset.clean_text == expected
    if name != "arithmetic":
        assert dataset.changed_positions == ["YY"]
        wrong = "99" if asks == "< YY" else "01"
        column = dataset.corrupted[:, dataset.position("YY")]
        assert {gpt2_tokenizer.decode([token]) for token in column.tolist()} == {wrong}


def test_the_families_are_in_the_papers_order_and_miss_no_family() -> None:
    assert list(FAMILIES) == list(OPTIONS)
    assert all(FAMILIES[name].name == name for name in FAMILIES)


def test_mini_splits_every_family_as_gpt2_does(
    tokenizer: Tokenizer, gpt2_tokenizer: Tokenizer
) -> None:
    for task in FAMILIES.values():
        ours, theirs = task.dataset(tokenizer, seed=3), task.dataset(gpt2_tokenizer, seed=3)
        assert ours.clean_text == theirs.clean_text
        assert ours.positions == theirs.positions
        assert ours.changed_positions == theirs.changed_positions


def test_ten_years_BC_are_one_token_and_are_left_out_with_their_labels(
    gpt2_tokenizer: Tokenizer,
) -> None:
    ids = tokenize(gpt2_tokenizer, [f" {700 + YY}" for YY in range(2, 99)])
    assert {YY for YY, tokens in zip(range(2, 99), ids, strict=True) if len(tokens) == 1} == (
        ONE_TOKEN_BC
    )
    dataset = FAMILIES["BC"].dataset(gpt2_tokenizer, 200)
    for text, YY in zip(dataset.clean_text, dataset.YY.tolist(), strict=True):
        assert f" 7{YY:02d} BC" in text  # the YY that scores a prompt is the YY in it


def test_happened_changes_only_the_year(gpt2_tokenizer: Tokenizer) -> None:
    dataset = FAMILIES["happened"].dataset(gpt2_tokenizer)
    for clean, corrupted in zip(dataset.clean_text, dataset.corrupted_text, strict=True):
        assert ", it is now" in corrupted
        assert sum(a != b for a, b in zip(clean.split(), corrupted.split(), strict=True)) == 1


def test_arithmetic_sequences(gpt2_tokenizer: Tokenizer) -> None:
    dataset = FAMILIES["arithmetic"].dataset(gpt2_tokenizer)
    steps = [arithmetic_step(YY) for YY in dataset.YY.tolist()]
    assert {i: steps.count(i) for i in sorted(set(steps))} == {2: 48, 3: 33, 4: 8, 5: 7, 7: 1}
    for text, by, year in zip(dataset.clean_text, steps, dataset.years.tolist(), strict=True):
        *years, end = (int(word) for word in text.removeprefix(EOS).split(", "))
        assert years == list(range(year - 4 * by, year + 1, by)) and end == 17
    assert set(dataset.corrupted_text) == {f"{EOS}1693, 1695, 1697, 1699, 1701, 17"}
    changed = (dataset.clean != dataset.corrupted).sum(1)
    assert (int(changed.min()), int(changed.max()), int(changed.mode().values)) == (4, 9, 9)


def test_random_sequences_have_no_eos_and_one_century(gpt2_tokenizer: Tokenizer) -> None:
    dataset = FAMILIES["random"].dataset(gpt2_tokenizer, 400)
    assert dataset.clean_text[0][0].isdigit()
    centuries = {tuple(int(y) // 100 for y in t.split(", ")[:5]) for t in dataset.clean_text}
    assert {len(set(c)) for c in centuries} == {1}
    assert {c[0] for c in centuries} == set(range(11, 18))
    # Without a space in front, a year may be one token: none of ours is, 1027 of others' is.
    first = [text[:4] for text in dataset.clean_text]
    assert {len(ids) for ids in tokenize(gpt2_tokenizer, first)} == {2}
    assert len(tokenize(gpt2_tokenizer, ["1027"])[0]) == 1


def test_items_are_single_tokens(gpt2_tokenizer: Tokenizer) -> None:
    assert len(set(ITEMS)) == 20
    assert {len(ids) for ids in tokenize(gpt2_tokenizer, [f" {item}" for item in ITEMS])} == {1}


def test_positions_have_names_that_mean_the_same_in_every_prompt(tokenizer: Tokenizer) -> None:
    dataset = FAMILIES["random"].dataset(tokenizer, 20)
    assert list(dataset.positions)[-4:] == ["XX1", "YY", "comma_5", "END"]
    assert {tokenizer.decode([t]) for t in dataset.clean[:, 2].tolist()} == {","}
    price = FAMILIES["price"].dataset(tokenizer)
    nouns = [tokenizer.decode([t]).strip() for t in price.clean[:, price.position("NOUN")].tolist()]
    assert nouns == price.nouns


def test_seeds_and_sizes(tokenizer: Tokenizer) -> None:
    task = FAMILIES["started"]
    one, again, other = (task.dataset(tokenizer, 300, seed) for seed in (0, 0, 1))
    assert one.clean_text == again.clean_text != other.clean_text
    assert len(task.dataset(tokenizer, 5)) == 5
    assert torch.bincount(one.YY)[2:].tolist() == [4] * 9 + [3] * 88  # 300 = 3 * 97 + 9
    with pytest.raises(ValueError, match="has 97 different prompts, fewer than n=98"):
        FAMILIES["smaller"].dataset(tokenizer, 98)
    with pytest.raises(ValueError, match="1 or more"):
        task.dataset(tokenizer, 0)


def test_below_is_the_mirror_of_above() -> None:
    probs = torch.rand(3, 7, 100, dtype=torch.float64) / 100
    YY = torch.tensor([0, 1, 2, 50, 97, 98, 99])
    for i, year in enumerate(YY.tolist()):
        expected = probs[:, i, :year].sum(-1) - probs[:, i, year:].sum(-1)
        torch.testing.assert_close(prob_diff_below(probs, YY)[:, i], expected)
    mirrored = prob_diff_below(probs.flip(-1), 99 - YY)
    torch.testing.assert_close(mirrored, prob_diff(probs, YY))
    both = prob_diff(probs, YY) + prob_diff_below(probs, YY)  # YY itself is wrong in both
    own = probs[:, torch.arange(7), YY]
    torch.testing.assert_close(both, -2 * own)
    with pytest.raises(ValueError, match="100 years"):
        prob_diff_below(probs[..., :99], YY)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("The {noun} lasted from {XX}{YY} to 17", "does not end with {XX}"),
        ("The {noun} lasted from 17{YY} to {XX}", "start year once, as {XX}{YY}"),
        ("{XX}{YY}, {XX}{YY}, {XX}", "start year once, as {XX}{YY}"),
        ("The {city} grew from {XX}{YY} to {XX}", "unknown field {city}"),
        ("{earlier}, {XX}{YY}, {XX}", "give {earlier} and the function, or neither"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptFamily("mine", template)


def test_a_template_that_splits_unevenly_is_refused(tokenizer: Tokenizer) -> None:
    task = PromptFamily("mine", "{XX}{YY} and {XX}", nouns=("war",), years=(1000, 1100))
    with pytest.raises(ValueError, match="all prompts must split alike|one token"):
        task.dataset(tokenizer)  # without a space, 1027 is one token


# ------------------------------------------------------------------------------- what is measured

PARTS = CircuitParts(("a5.h1", "a7.h10", "a9.h1"), ("m8", "m9", "m10"), ("m0",), ("embed",))


@pytest.fixture(scope="module")
def patching(tokenizer: Tokenizer) -> PathPatching:
    return PathPatching(load_model("mini", "cpu"), FAMILIES["ended"].dataset(tokenizer, 12))


def test_study_and_summary_use_the_familys_own_metric(patching: PathPatching) -> None:
    task, YY = FAMILIES["ended"], patching.dataset.YY
    found = study_family(task, patching, PARTS)
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
    with pytest.raises(ValueError, match="clean base"):
        study_family(FAMILIES["ended"], patching.reversed(), PARTS)
    with pytest.raises(ValueError, match="no heads"):
        study_family(FAMILIES["ended"], patching, CircuitParts((), ("m8",), (), ()))


def test_no_ratio_without_a_behaviour(tokenizer: Tokenizer) -> None:
    # mini answers no year at all after "BC": nothing to recover.
    patching = PathPatching(load_model("mini", "cpu"), FAMILIES["BC"].dataset(tokenizer, 12))
    (row,) = family_summary([study_family(FAMILIES["BC"], patching, PARTS)]).to_dict("records")
    assert abs(row["clean"]) < 0.01
    if row["clean_low"] <= 0 <= row["clean_high"]:
        assert row["recovered"] != row["recovered"]


def test_the_sequence_circuit_has_every_chain_of_its_five_mlps() -> None:
    parts = paper.with_components(PAPER)
    assert parts.heads == tuple(sorted((*PAPER.heads, "a6.h1", "a7.h11"), key=_place))
    assert parts.mlps == ("m7", "m8", "m9", "m10", "m11")
    links = set(partial_circuit(parts).links)
    chain = ["a6.h1@END", *(f"{mlp}@END" for mlp in parts.mlps), "logits"]
    assert {f"{a} -> {b}" for a, b in pairwise(chain)} <= links
    assert "a7.h11@END -> m7@END" in links and "a8.h8@END -> m7@END" not in links
    assert paper.with_components(PAPER, []) == PAPER
    assert len(full_circuit(parts)) > len(full_circuit(PAPER))
    with pytest.raises(ValueError, match="no head and no MLP"):
        paper.with_components(PAPER, ["embed"])


def _place(name: str) -> tuple[int, int]:
    layer, head = name[1:].split(".h")
    return int(layer), int(head)


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


def test_random_numbers_do_not_depend_on_the_python_version() -> None:
    drawn = families._random_years(1732, range(1702, 1799), random.Random("random 0"))
    assert drawn == [1774, 1704, 1769, 1746]


# -------------------------------------------------------------------- figures, tables, explorer


def test_effects_heatmap_scales_every_row() -> None:
    effects = pd.DataFrame([[-0.2, 0.1], [0.0, 0.0]], index=["one", "two"], columns=["m8", "m9"])
    (drawn,) = views.effects_heatmap(effects, "title").data
    assert drawn.z.tolist() == [[-1.0, 0.5], [0.0, 0.0]]
    assert (drawn.zmin, drawn.zmax) == (-1, 1) and drawn.customdata[0][0] == "−20.000"
    assert drawn.colorscale[0][1] == "rgb(103,0,31)"  # red for negative


def test_tables_show_a_dash_where_there_is_no_ratio(patching: PathPatching) -> None:
    frame = family_summary([study_family(FAMILIES["ended"], patching, PARTS)])
    shown = views.family_recovery(frame.assign(recovered=float("nan")))
    assert "<b>ended</b>" in shown and "&lt; YY" in shown and ">–<" in shown
    shown = views.family_behaviour(frame)
    assert f"{100 * frame.loc[0, 'clean']:.1f} %".replace("-", "−") in shown
    assert "the circuit fires" in shown


def test_explorer_shows_every_family_and_ones_own(patching: PathPatching) -> None:
    mine = PromptFamily("mine", "<|endoftext|> {XX}{YY} to {XX}")
    explorer = views.family_explorer(patching.model, PARTS, [mine])
    assert explorer.controls["family"].options == ("mine", *FAMILIES)
    assert "into m8" in explorer.controls["shown"].options
    assert "<b>mine</b>" in explorer.text.value
    for shown in ("into the logits", "into m9"):
        explorer.controls["shown"].value = shown
        assert 'data-state="done"' in explorer.state.value, explorer.state.value
    sweep = study_family(
        mine, PathPatching(patching.model, mine.dataset(patching.model.tokenizer)), PARTS
    )
    drawn = explorer.draw(family="mine", shown="into the logits").figure
    assert drawn.data[0].zmax == pytest.approx(float(sweep.sweep.effect.abs().max()), rel=1e-4)
