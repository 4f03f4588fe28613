"""Unit: the mistakes that notebook 8 plants are all found, each by its own check."""

from __future__ import annotations

import pytest
from explorers import drawn, state

from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.differences.diagnosis import MISTAKES, diagnose
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
def dataset(mini: Transformer) -> YearDataset:
    return YearDataset(mini.tokenizer, 97)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_found(mini: Transformer, dataset: YearDataset, mistake: str) -> None:
    findings = diagnose(model=mini, **MISTAKES[mistake](dataset)).findings
    assert FOUND[mistake] in [finding.check for finding in findings]


def test_the_explorer_shows_findings_and_scores(mini: Transformer, dataset: YearDataset) -> None:
    explorer = mistake_explorer(mini, dataset)
    assert state(explorer) == "done" and "no start token" in explorer.text.value
    assert "mended alone" in explorer.text.value
    reported, measured = drawn(explorer).data
    assert reported.x != measured.x
    explorer.controls["mistake"].value = "no mistake"
    assert "nothing differs from the paper" in explorer.text.value
    assert "mended alone" not in explorer.text.value
    reported, measured = drawn(explorer).data
    assert reported.x == measured.x
