"""Unit: the notebooks' explorers driven from Python; test_browser.py drives them in a browser."""

from __future__ import annotations

import numpy as np
import pytest
from explorers import drawn, numbers, state

from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, CircuitParts, circuit_parts
from gt_helpers.views import widgets


@pytest.fixture(scope="module")
def mini() -> Transformer:
    return load_model("mini", device="cpu")


@pytest.fixture(scope="module")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, YearDataset(mini.tokenizer, 20))


def test_prompt_tracer(mini: Transformer) -> None:
    explorer = widgets.prompt_tracer(mini)
    before = drawn(explorer)
    explorer.controls["year"].value = 1766
    assert "1766" in explorer.text.value and state(explorer) == "done"
    assert drawn(explorer).data[0].y != before.data[0].y
    for corruption in explorer.controls["corruption"].options:
        explorer.controls["corruption"].value = corruption
        assert state(explorer) == "done", corruption
        assert "The plague lasted from the year 1766" in explorer.text.value
    explorer.controls["year"].value = 1800  # one token
    assert state(explorer) == "error" and "1800" in explorer.state.value


def test_path_explorer_follows_route_direction_and_metric(patching: PathPatching) -> None:
    explorer = widgets.path_explorer(patching, PAPER)
    route, controls = explorer.children[0], explorer.controls
    assert route.options[:5] == ("to the logits", "to m11", "to m10", "to m9", "to m8")
    for option in route.options:
        route.value = option
        assert state(explorer) == "done", option
    route.value = "to m9"
    assert (controls["receivers"].value, controls["via"].value) == ("m9", "m10, m11")
    sweep = patching.sweep("m9", via=["m10", "m11"])
    shown = drawn(explorer).data[0].z
    np.testing.assert_allclose(numbers(shown)[:9], sweep.effect[:9], atol=1e-3)
    assert "Preview: of " in explorer.text.value
    controls["receivers"].value = "m8"
    assert route.value == "(as typed below)"
    route.value = "to m9"  # can be chosen again
    assert controls["receivers"].value == "m9"
    controls["direction"].value = "denoising"
    assert drawn(explorer).data[0].z != shown
    controls["metric"].value = "cutoff sharpness"
    controls["prompts"].value = 7
    assert state(explorer) == "done"


def test_path_explorer_names_a_mistake(patching: PathPatching) -> None:
    explorer = widgets.path_explorer(patching, PAPER)
    explorer.controls["receivers"].value = "m99"
    assert "m99 does not exist" in explorer.state.value
    explorer.controls["receivers"].value = " m9 , logits,"
    assert state(explorer) == "done"


def test_path_explorer_without_heads(patching: PathPatching) -> None:
    explorer = widgets.path_explorer(patching, CircuitParts((), ("m11",), (), ()))
    assert explorer.children[0].options[:-1] == ("to the logits", "to m11")


def test_circuit_parts_of_another_model_are_found(
    patching: PathPatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="clean base"):
        circuit_parts(patching.reversed())
    found = circuit_parts(patching)
    assert found.heads and "found" in found.source
    monkeypatch.setattr(patching.model, "name", "gpt2-small")
    assert circuit_parts(patching) == PAPER
