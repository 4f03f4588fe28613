"""Explorers driven from Python; in a browser they are driven by test_browser.py."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from html import unescape
from typing import Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import pytest
from ipywidgets import IntSlider

from gt_helpers import environment, widgets
from gt_helpers.circuits import PAPER, CircuitParts, circuit_parts
from gt_helpers.dataset import YearDataset
from gt_helpers.models import load_model
from gt_helpers.path_patching import PathPatching
from gt_helpers.transformer import Transformer
from gt_helpers.widgets import Explorer, View


def state(explorer: Explorer) -> str:
    found = re.search('data-state="(.*?)"', explorer.state.value)
    assert found
    return found[1]


def drawn(explorer: Explorer) -> go.Figure:
    """The figure that the browser is sent."""
    page = unescape(re.search('srcdoc="(.*?)"', explorer.figure._message.value, re.DOTALL)[1])
    text = re.search(r'gtFigures\["[\w-]+"\] = (.*?);\nfor', page, re.DOTALL)[1]
    return go.Figure(json.loads(text.replace("<\\/", "</")))


def numbers(sent: Any) -> np.ndarray:
    """An array of a figure as it was sent: plotly 6 and later pack it, plotly 5 does not."""
    if not isinstance(sent, dict):
        return np.array(sent, dtype=float)
    flat = np.frombuffer(base64.b64decode(sent["bdata"]), sent["dtype"])
    return flat.reshape([int(n) for n in sent["shape"].split(",")])


def line(value: int) -> View:
    if value == 13:
        raise ValueError("13 is unlucky; choose another, e.g. 12.")
    if value == 14:
        raise KeyError("a bug")
    figure = go.Figure(go.Scatter(y=[value, 2]), layout={"width": 300, "height": 200})
    return View(figure, f"<b>{value}</b>")


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(line, {"value": IntSlider(3)})


def test_a_change_draws_anew(explorer: Explorer) -> None:
    assert state(explorer) == "done"
    assert drawn(explorer).data[0].y == (3, 2)
    explorer.controls["value"].value = 5
    assert drawn(explorer).data[0].y == (5, 2)
    assert explorer.text.value == "<b>5</b>"


def test_a_mistake_is_one_sentence_and_keeps_what_was_drawn(explorer: Explorer) -> None:
    explorer.controls["value"].value = 13
    assert state(explorer) == "error"
    assert "13 is unlucky; choose another, e.g. 12." in explorer.state.value
    assert drawn(explorer).data[0].y == (3, 2)
    explorer.controls["value"].value = 4
    assert state(explorer) == "done"


def test_a_bug_is_shown_with_its_traceback(explorer: Explorer) -> None:
    explorer.controls["value"].value = 14
    assert state(explorer) == "error"
    assert "KeyError" in explorer.state.value and "test_widgets.py" in explorer.state.value


def test_quick_changes_are_answered_once_with_the_newest_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def draw(value: int) -> View:
        calls.append(value)
        return View(None, str(value))

    async def drive() -> str:
        explorer = Explorer(draw, {"value": IntSlider(0)})
        for value in range(1, 6):
            explorer.controls["value"].value = value
            await asyncio.sleep(0)
        assert state(explorer) == "working" and calls == [0]
        await asyncio.sleep(4 * widgets._DELAY)
        return explorer.text.value

    assert asyncio.run(drive()) == "5"
    assert calls == [0, 5]


def test_the_frame_is_self_contained_and_loads_plotly_once(explorer: Explorer) -> None:
    page = explorer.figure._page.value
    assert "script src" not in page and len(page) > 1e6
    assert "its numbers stand below" in page  # what is seen where scripts do not run
    explorer.controls["value"].value = 7
    assert explorer.figure._page.value is page
    assert len(explorer.figure._message.value) < 20_000


def test_in_colab_plotly_comes_from_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "in_colab", lambda: True)
    page = Explorer(line, {"value": IntSlider(3)}).figure._page.value
    assert "cdn.plot.ly/plotly-" in page and len(page) < 5000
    assert environment.in_colab() is False


def test_only_core_widgets(explorer: Explorer) -> None:
    def all_widgets(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
        children = getattr(widget, "children", ())
        return [widget, *(w for child in children for w in all_widgets(child))]

    names = {widget._model_module for widget in all_widgets(explorer)}
    assert names == {"@jupyter-widgets/controls"}


# ---- the notebooks' explorers -----------------------------------------------------------------


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
    np.testing.assert_allclose(numbers(shown)[:9], sweep.effect[:9], atol=1e-7)
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
