"""Unit: the explorer: changes, mistakes, quick changes and the frame, driven from Python."""

from __future__ import annotations

import asyncio

import ipywidgets
import plotly.graph_objects as go
import pytest
from explorers import drawn, state
from ipywidgets import IntSlider

from gt_helpers import environment
from gt_helpers.views.kit import explorer as explorer_module
from gt_helpers.views.kit.explorer import Explorer, View


def line(value: int) -> View:
    if value == 13:
        raise ValueError("13 is unlucky; choose another, e.g. 12.")
    if value == 14:
        raise KeyError("a bug")
    figure = go.Figure(go.Scatter(y=[value, 2]), layout={"width": 300, "height": 200})
    return View(figure, f"<b>{value}</b>")


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(line, value=IntSlider(3))


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
    explorer.controls["value"].value = 14  # a bug is shown with its traceback
    assert state(explorer) == "error"
    assert "KeyError" in explorer.state.value and "test_explorer.py" in explorer.state.value


def test_quick_changes_are_answered_once_with_the_newest_value() -> None:
    calls: list[int] = []

    def draw(value: int) -> View:
        calls.append(value)
        return View(None, str(value))

    async def drive() -> str:
        explorer = Explorer(draw, value=IntSlider(0))
        for value in range(1, 6):
            explorer.controls["value"].value = value
            await asyncio.sleep(0)
        assert state(explorer) == "working" and calls == [0]
        await asyncio.sleep(4 * explorer_module._DELAY)
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
    monkeypatch.setattr(explorer_module, "in_colab", lambda: True)
    page = Explorer(line, value=IntSlider(3)).figure._page.value
    assert "cdn.plot.ly/plotly-" in page and len(page) < 5000
    assert environment.in_colab() is False


def test_only_core_widgets(explorer: Explorer) -> None:
    def all_widgets(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
        children = getattr(widget, "children", ())
        return [widget, *(w for child in children for w in all_widgets(child))]

    names = {widget._model_module for widget in all_widgets(explorer)}
    assert names == {"@jupyter-widgets/controls"}
