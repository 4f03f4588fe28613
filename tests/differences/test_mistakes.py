"""Unit: the mistakes that notebook 8 plants are all found, each by its own check."""

from __future__ import annotations

import pytest
from explorers import drawn, state

from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.differences.diagnosis import MISTAKES, diagnose
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.views import mistake_explorer

FOUND = {
    "no start token": "no start token",
    "corrupted with 00": "corrupted YY not 01",
    "corrupted with any YY": "corrupted YY above",
    "the noun changes too": "other noun",
    "pairs shifted by one": "not in the same order",
    "clean and corrupted swapped": "swapped",
    "YY counted as right": "mask",
    "labels one year off": "labels",
}


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model("mini", "cpu")


@pytest.fixture(scope="module")
def dataset(model: Transformer) -> YearDataset:
    return YearDataset(model.tokenizer, 97)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_found(model: Transformer, dataset: YearDataset, mistake: str) -> None:
    checks = [
        finding.check for finding in diagnose(model=model, **MISTAKES[mistake](dataset)).findings
    ]
    assert FOUND[mistake] in checks


def test_the_explorer_shows_findings_and_scores(model: Transformer, dataset: YearDataset) -> None:
    explorer = mistake_explorer(model, dataset)
    assert state(explorer) == "done" and "no start token" in explorer.text.value
    reported, measured = drawn(explorer).data
    assert reported.x != measured.x
    explorer.controls["mistake"].value = "no mistake"
    assert "nothing differs from the paper" in explorer.text.value
    reported, measured = drawn(explorer).data
    assert reported.x == measured.x
