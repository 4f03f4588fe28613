"""What tests read off an explorer."""

from __future__ import annotations

import base64
import json
import re
from html import unescape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from gt_helpers.views.kit.explorer import Explorer


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
