"""Unit: the lens's table and explorer: what they show of a run of the embedded model."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import pytest
import torch
from views.test_tables import rows
from views.test_widgets import drawn, state

from gt_helpers.analysis.logit_lens import (
    beyond_mean_row,
    direct_effect,
    logit_lens,
    relative_to_00,
)
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import mean_by_YY
from gt_helpers.model.cache import ActivationCache, cache_activations
from gt_helpers.model.load import load_model
from gt_helpers.views.tables import lens_table
from gt_helpers.views.widgets import lens_explorer


@pytest.fixture(scope="module")
def run() -> ActivationCache:
    model = load_model("mini", device="cpu")
    dataset = YearDataset(model.tokenizer, 97)
    return cache_activations(model, dataset.clean, start=dataset.position("END"))


@pytest.fixture(scope="module")
def dataset(run: ActivationCache) -> YearDataset:
    return YearDataset(run.model.tokenizer, 97)


def test_lens_table_puts_chance_last() -> None:
    step = (torch.arange(100) > torch.arange(2, 99)[:, None]).double()
    found = rows(lens_table({"m10": step, "<m9>": -step}))
    assert [row[0] for row in found] == ["m10", "<m9>", "chance"]
    assert found[0][3:5] == ["100 %", "100 %"] and found[1][3:5] == ["0 %", "0 %"]
    assert found[0][5] == "0.68" and found[1][5] == "−0.68"
    assert found[2][3] == "50 %"


def sent(z: object) -> np.ndarray:
    """A heatmap's cells as sent to the browser: numbers, or in newer versions of plotly bytes."""
    if not isinstance(z, dict):
        return np.array(z)
    shape = [int(n) for n in z["shape"].split(",")]
    return np.frombuffer(b64decode(z["bdata"]), z["dtype"]).reshape(shape)


def test_lens_explorer_draws_what_is_chosen(run: ActivationCache, dataset: YearDataset) -> None:
    explorer = lens_explorer(run, dataset, ["m10", "a7.h10"])
    controls = explorer.controls
    assert controls["component"].options[0] == ("m10 (circuit)", "m10")
    assert len(controls["component"].options) == 157

    def cells(read, name: str) -> torch.Tensor:
        return mean_by_YY(read(run, name, dataset.year_tokens), dataset.YY)

    def expect(table: torch.Tensor) -> None:
        assert state(explorer) == "done"
        np.testing.assert_allclose(sent(drawn(explorer).data[0].z), table, atol=1e-4)

    expect(cells(logit_lens, "m10"))
    controls["shown"].value = "relative to 00"
    expect(relative_to_00(cells(logit_lens, "m10")))
    numbers = explorer.text.value
    controls["component"].value = "a7.h10"
    expect(relative_to_00(cells(logit_lens, "a7.h10")))
    assert explorer.text.value != numbers
    controls["lens"].value = "direct effect"
    controls["shown"].value = "without its mean row"
    expect(beyond_mean_row(cells(direct_effect, "a7.h10")))
    assert drawn(explorer).layout.title.text == "a7.h10: direct effect, without its mean row"
    controls["component"].value = "embed"
    assert state(explorer) == "done"
