"""What tests read off explorers and tables."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from typing import Any
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go

from gt_helpers.views import Explorer


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
    shape = sent.get("shape", str(len(flat)))  # one axis needs none
    return flat.reshape([int(n) for n in shape.split(",")])


def rows(table: str) -> list[list[str]]:
    """The texts of a table's cells, without its head; a line break is a space."""
    text = table[: table.index("</table>") + 8].replace("<br>", " ")
    body = ElementTree.fromstring(text).find("tbody")
    assert body is not None
    return [["".join(cell.itertext()) for cell in row] for row in body]
