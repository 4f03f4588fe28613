"""Explorer: ipywidgets controls over a function that draws, with figures in frames of their own.

Only core widgets are used, of ipywidgets 7.7 (Colab) and 8. A plotly figure inside a widget is
drawn in a frame of its own, because widget managers strip or isolate the scripts of outputs.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import torch
from plotly.offline import get_plotlyjs, get_plotlyjs_version

from ...dataset.year_dataset import YearDataset
from ...environment import in_colab

FEW = 32  # prompts that are enough to look at without a GPU
_DELAY = 0.15  # seconds without a further change before a figure is drawn anew
_numbers = count(1)


@dataclass(frozen=True)
class View:
    """What an explorer shows: a figure, and HTML that needs no scripts and is always visible."""

    figure: go.Figure | None
    text: str = ""


class Explorer(widgets.VBox):
    """Controls, a line that says what is going on, a figure and a text, redrawn on every change.

    ``draw`` takes the controls' values by name and returns a `View`. A list of options stands for a
    dropdown, a tuple for buttons; what has no description is called by its name; sliders and texts
    answer when they are let go. An exception is shown as one sentence, and what was drawn last
    stays. Changes that arrive while a figure is computed are answered once, with the newest values.
    """

    def __init__(self, draw: Callable[..., View], **controls: Any) -> None:
        self.draw = draw
        self.controls = {name: _control(name, given) for name, given in controls.items()}
        self.state, self.text, self.figure = widgets.HTML(), widgets.HTML(), FigureFrame()
        self._waiting: asyncio.TimerHandle | None = None
        row = widgets.Box(
            list(self.controls.values()),
            layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
        )
        super().__init__([row, self.state, self.figure, self.text])
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        self.refresh()

    def refresh(self) -> None:
        """Draw with the controls' present values."""
        self._waiting = None
        self._say("working", "working …")
        started = time.perf_counter()
        try:
            view = self.draw(**{name: control.value for name, control in self.controls.items()})
            self.figure.show(view.figure)
            self.text.value = view.text
        except Exception as error:  # whatever it is, the user is to see it
            before = " <i>Below is what was drawn before.</i>" if self.text.value else ""
            self._say("error", _error_html(error) + before)
        else:
            self._say("done", f"done in {time.perf_counter() - started:.1f} s")

    def _changed(self, change: object) -> None:
        self._say("working", "working …")
        if self._waiting:
            self._waiting.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no kernel, as in a plain script
            self.refresh()
        else:
            self._waiting = loop.call_later(_DELAY, self.refresh)

    def _say(self, state: str, text: str) -> None:
        colour = {"working": "#b06a00", "error": "#c0392b", "done": "#5b6570"}[state]
        self.state.value = (
            f'<div class="gt-state" data-state="{state}" style="color:{colour};'
            f'line-height:1.4;margin:2px 0">{text}</div>'
        )


def _control(name: str, given: Any) -> widgets.Widget:
    if isinstance(given, (list, tuple)):
        kind = widgets.Dropdown if isinstance(given, list) else widgets.ToggleButtons
        given = kind(options=given)
    given.description = given.description or name.replace("_", " ")
    if hasattr(given, "continuous_update"):
        given.continuous_update = False
    return given


def circuit_first(circuit: Sequence[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """A dropdown's labels and values: the circuit's names, marked so, then the others."""
    marked = [(f"{name} (circuit)", name) for name in circuit]
    return [*marked, *((name, name) for name in others if name not in circuit)]


def typed_names(text: str) -> list[str]:
    """The names that a text control lists between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def some_prompts(dataset: YearDataset, some: int) -> YearDataset:
    """Some of the prompts, evenly spread, so that they cover all YY."""
    return dataset.take(torch.linspace(0, len(dataset) - 1, some).round().long())


class FigureFrame(widgets.VBox):
    """A plotly figure in a frame that loads plotly once and is then only sent figures.

    The figure travels in a second, invisible frame, whose script hands it to the first; both belong
    to the notebook's page, so this needs neither a widget extension nor plotly in the page.
    """

    def __init__(self) -> None:
        self._name = f"gt-figure-{next(_numbers)}-{time.time_ns()}"
        wide = widgets.Layout(width="100%")  # the page shrinks a figure that is wider than this
        self._page, self._message = widgets.HTML(layout=wide), widgets.HTML()
        super().__init__([self._page, self._message])

    def show(self, figure: go.Figure | None) -> None:
        """Draw a figure in the place of the last one; None leaves the place empty."""
        self.layout.display = None if figure is not None else "none"
        if figure is None:
            return
        if not self._page.value:
            size = f"width:{figure.layout.width}px;height:{figure.layout.height}px"
            page = _PAGE.replace("NAME", self._name).replace("PLOTLY", _plotly_script())
            self._page.value = _frame(page, f"{size};border:0;max-width:100%", self._name)
        json = figure.to_json().replace("</", "<\\/")
        message = _MESSAGE.replace("NAME", self._name).replace("FIGURE", json)
        self._message.value = _frame(message, "display:none")


def _frame(page: str, style: str, name: str = "") -> str:
    return f'<iframe name="{name}" style="{style}" srcdoc="{escape(page)}"></iframe>'


def _plotly_script() -> str:
    if in_colab():  # Colab is always online, and keeps what is sent to it in the notebook
        return f'<script src="https://cdn.plot.ly/plotly-{get_plotlyjs_version()}.min.js"></script>'
    return f"<script>{get_plotlyjs()}</script>"


# Whichever frame is ready last draws: the message leaves the figure with the page around both.
_PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8">PLOTLY</head>
<body style="margin:0;background:white;font-family:sans-serif">
<p id="hint" style="margin:8px;color:#5b6570">The figure is drawn by scripts, which do not run here;
its numbers stand below.</p><div id="figure"></div>
<script>
function draw() {
  const figure = (parent.gtFigures || {})["NAME"];
  if (!figure || !window.Plotly) return;
  document.getElementById("hint").style.display = "none";
  const room = frameElement.parentElement.clientWidth || figure.layout.width;
  const layout = {...figure.layout, width: Math.min(figure.layout.width, room)};
  frameElement.style.height = layout.height + "px";
  frameElement.style.width = layout.width + "px";
  Plotly.react("figure", figure.data, layout, {
    displaylogo: false, toImageButtonOptions: {format: "svg"}});
}
draw();
</script></body></html>"""
_MESSAGE = """<!DOCTYPE html><script>
parent.gtFigures = parent.gtFigures || {};
parent.gtFigures["NAME"] = FIGURE;
for (const frame of parent.document.getElementsByName("NAME"))
  if (frame.contentWindow.draw) frame.contentWindow.draw();
</script>"""


def _error_html(error: Exception) -> str:
    """A mistake in the values as its own sentence; a bug with its traceback folded away."""
    sentence = escape(str(error).strip() or type(error).__name__)
    if isinstance(error, (ValueError, OSError)):
        return sentence
    trace = escape("".join(traceback.format_exception(error)))
    return (
        f"{type(error).__name__}: {sentence}<details><summary>where it happened</summary>"
        f"<pre>{trace}</pre></details>"
    )
