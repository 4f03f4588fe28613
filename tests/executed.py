"""What a reader of an executed notebook would miss, or would rather not see."""

from __future__ import annotations

import re
from typing import Any

PLOTLY = "application/vnd.plotly.v1+json"
WIDGETS = "application/vnd.jupyter.widget-state+json"


def trouble(notebook: dict[str, Any]) -> list[str]:
    """What is wrong with a notebook's outputs, e.g. ["stderr: a warning"]."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    found = []
    for output in outputs:
        text = "".join(output.get("text", ""))
        if output.get("output_type") == "error" or "Traceback" in text:
            found.append(f"a traceback: {output.get('ename', text)}")
        elif output.get("name") == "stderr":
            found.append(f"stderr: {text}")
    return found + ([] if any(PLOTLY in o.get("data", {}) for o in outputs) else ["no figure"])


def explorer_trouble(notebook: dict[str, Any]) -> list[str]:
    """What is wrong with its explorers, whose widgets nbclient keeps in the notebook."""
    widgets = notebook["metadata"]["widgets"][WIDGETS]["state"].values()
    texts = " ".join(str(widget["state"].get("value")) for widget in widgets)
    states = re.findall(r'data-state="(\w+)"', texts) or ["missing"]
    return [f"an explorer is {state}" for state in states if state != "done"]
