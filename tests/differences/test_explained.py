"""Unit: how much each difference makes: planted ones make all of it, and two of them add up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import pytest
import torch

from gt_helpers import views
from gt_helpers.dataset.prompts import NO_BOS_TEMPLATE, tokenize
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.differences.diagnosis import MISTAKES, Diagnosis, diagnose
from gt_helpers.metrics import bootstrap_ci, prob_diff
from gt_helpers.model.cache import end_logits
from gt_helpers.model.transformer import Transformer

SIDES = ("clean", "corrupted")
REST = ["nouns and centuries", "how often each YY"]
# The difference that a mistake plants, and the sides that it moves on mini.
PLANTED = {
    "no start token": ("start token", SIDES),
    "corrupted with 00": ("corrupted YY", ("corrupted",)),
    "corrupted with any YY": ("corrupted YY", ("corrupted",)),
    "the noun changes too": ("noun", ()),
    "pairs shifted by one": ("order of the pairs", ()),
    "clean and corrupted swapped": ("clean and corrupted swapped", SIDES),
    "YY counted as right": ("mask or labels", SIDES),
    "labels one year off": ("mask or labels", SIDES),
}


@pytest.fixture(scope="module")
def dataset(mini: Transformer) -> YearDataset:
    """Other prompts than the 97 balanced ones, of equal YYs."""
    return YearDataset(mini.tokenizer, 97, seed=1)


def has_0(row: pd.Series, side: str) -> bool:
    return row[f"{side}_low"] <= 0 <= row[f"{side}_high"]


def adds_up(table: pd.DataFrame) -> None:
    for side in SIDES:
        assert table[side].iloc[1:].sum() == pytest.approx(table[side]["all"], abs=1e-6)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_makes_all_of_it(mini, dataset: YearDataset, mistake: str) -> None:
    name, moved = PLANTED[mistake]
    table = diagnose(model=mini, **MISTAKES[mistake](dataset)).explained
    assert list(table.index) == ["all", name, *REST]
    adds_up(table)
    for side in SIDES:
        assert all(has_0(table.loc[other], side) for other in REST)
        assert has_0(table.loc[name], side) == (side not in moved)
        if side in moved:
            assert table[side][name] == pytest.approx(table[side]["all"], rel=0.02, abs=0.002)
        assert table[f"{side}_alone"][name] == pytest.approx(table[side][name])


# What changes (texts, corrupted texts, labels), and the difference that it is.
def without_bos(data: dict[str, Any]) -> None:
    for side in SIDES:
        data[side] = [text.removeprefix("<|endoftext|> ") for text in data[side]]


def other_words(data: dict[str, Any]) -> None:
    for side in SIDES:
        data[side] = [text.replace("the year", "year", 1) for text in data[side]]


def larger_YY(data: dict[str, Any]) -> None:
    data["corrupted"] = [re.sub(r"01 to", "54 to", text) for text in data["corrupted"]]


def swapped(data: dict[str, Any]) -> None:
    data["clean"], data["corrupted"] = data["corrupted"], data["clean"]


def shifted(data: dict[str, Any]) -> None:
    data["corrupted"] = [*data["corrupted"][1:], data["corrupted"][0]]


def labels_off(data: dict[str, Any]) -> None:
    data["years"] = [year + 1 for year in data["years"]]


def found(
    model: Transformer, dataset: YearDataset, plants: Iterable[Callable[[dict[str, Any]], None]]
) -> Diagnosis:
    data: dict[str, Any] = {
        "clean": dataset.clean_text,
        "corrupted": dataset.corrupted_text,
        "years": dataset.years.tolist(),
    }
    for plant in plants:
        plant(data)
    return diagnose((data["clean"], data["corrupted"]), model, years=data["years"])


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        (without_bos, labels_off, ["start token", "mask or labels"]),
        (without_bos, other_words, ["start token", "words"]),
        (other_words, larger_YY, ["words", "corrupted YY"]),
        (other_words, swapped, ["words", "clean and corrupted swapped"]),
        (without_bos, shifted, ["start token", "order of the pairs"]),
    ],
)
def test_two_planted_together_add_up(mini, dataset: YearDataset, a: Any, b: Any, names) -> None:
    """Each made and mended by itself, as sets of their own, whose scores `diagnose` gives."""
    few = dataset.take(range(0, 97, 4))
    none, only_a, only_b, both = (found(mini, few, plants) for plants in ((), (a,), (b,), (a, b)))
    table = both.explained
    assert {*table.index} == {"all", *names, *REST}
    adds_up(table)
    for side in SIDES:
        n, in_a, in_b, in_both = (one.scores[side].iloc[0] for one in (none, only_a, only_b, both))
        changes = [(in_b - in_both + n - in_a) / 2, (in_a - in_both + n - in_b) / 2]
        assert table[side][names].tolist() == pytest.approx(changes, abs=1e-6)
        alone = [in_b - in_both, in_a - in_both]
        assert table[f"{side}_alone"][names].tolist() == pytest.approx(alone, abs=1e-6)
    largest = table.loc[table.index[1]].abs() >= table.loc[table.index[2]].abs()
    assert largest["clean"] or largest["corrupted"]


def test_intervals_are_paired_by_prompt(mini, dataset: YearDataset) -> None:
    bare = YearDataset(mini.tokenizer, 97, seed=1, template=NO_BOS_TEMPLATE)
    row = diagnose(bare, mini).explained.loc["start token"]
    for side in SIDES:
        own, mended = (
            prob_diff(
                torch.cat(list(end_logits(mini, getattr(one, side), 97)))
                .softmax(-1)[:, one.year_tokens]
                .double(),
                one.YY,
            )
            for one in (bare, dataset)
        )
        expected = [float(value) for value in bootstrap_ci(mended - own)]
        cells = [row[f"{side}{end}"] for end in ("", "_low", "_high")]
        assert cells == pytest.approx(expected, abs=1e-5)


def test_a_correct_set_has_nothing_to_explain(mini, dataset: YearDataset) -> None:
    diagnosis = diagnose(dataset, mini)
    assert diagnosis.explained.empty
    assert "From your" not in str(diagnosis) and views.explained_table(diagnosis) == ""


def test_late_years_are_explained_by_the_YYs(mini, dataset: YearDataset) -> None:
    table = diagnose(dataset.take(dataset.YY > 40), mini).explained
    assert list(table.index) == ["all", *REST]
    adds_up(table)
    YYs = table.loc["how often each YY"]
    assert YYs["corrupted"] == pytest.approx(table["corrupted"]["all"], rel=0.02)
    assert has_0(table.loc["nouns and centuries"], "corrupted") and not has_0(YYs, "corrupted")


def test_tokens_that_no_text_gives_are_mended_whole(mini, dataset: YearDataset) -> None:
    digits = dict(zip("0123456789", tokenize(mini.tokenizer, list("0123456789")), strict=True))
    ids = []
    for side in (dataset.clean, dataset.corrupted):
        place = dataset.position("YY")
        split = [digits[digit][0] for digit in "32"]
        ids.append([[*row[:place], *split, *row[place + 1 :]] for row in side.tolist()])
    table = diagnose((ids[0], ids[1]), mini).explained
    assert list(table.index) == ["all", "tokens", *REST]
    adds_up(table)


def test_what_cannot_be_mended_is_a_row(mini, dataset: YearDataset) -> None:
    texts = [list(dataset.clean_text), list(dataset.corrupted_text)]
    for side, year in zip(texts, (1699, 1601), strict=True):
        side[-1] = f"<|endoftext|> The trial lasted from the year {year} to the year 16"
    bare = [[text.removeprefix("<|endoftext|> ") for text in side] for side in texts]
    diagnosis = diagnose((bare[0], bare[1]), mini)
    table = diagnosis.explained
    assert list(table.index) == ["all", "start token", *REST, "prompts that cannot be mended"]
    adds_up(table)
    given, paper = (diagnosis.scores.iloc[i] for i in range(2))
    assert (given["prompts"], paper["prompts"]) == (97, 96)
    left = table.loc["prompts that cannot be mended"]
    mean_of_kept = paper["clean"] - table["clean"]["start token"]
    assert left["clean"] == pytest.approx(mean_of_kept - given["clean"]) != 0


def test_what_is_shown(mini, dataset: YearDataset) -> None:
    diagnosis = found(mini, dataset, (without_bos, labels_off))
    table = diagnosis.explained
    start, total = table["clean"]["start token"], table["clean"]["all"]
    text = str(diagnosis)
    assert f"From your clean score to the balanced prompts' it is +{100 * total:.1f} pp: +" in text
    assert f"+{100 * start:.1f} pp (" in text and ") start token" in text
    html = views.explained_table(diagnosis)
    assert html.count("<tr") == 1 + len(table) and f"+{100 * start:.1f} pp" in html
