"""Unit: the folder of everything about one model, with made-up measurements and notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
import pytest
import run_all
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook, new_output

import notebooks

SETTINGS = {
    "model": "gpt2-small",
    "gpt2_small": True,
    "prompts": 12,
    "seed": 3,
    "years": [1100, 1800],
    "device": "cpu",
    "versions": {"python": "3.12.1"},
    "started": "2026-01-01",
}
PATHS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))


class Commands:
    """In the place of commands and kernels: what was run, what each returns, who dies."""

    def __init__(self, out: Path) -> None:
        self.out, self.ran, self.status = out, list[str](), {"reproduce": 0, "scorecard": 0}
        self.dies = ""

    def command(self, name: str, *arguments: str) -> int:
        self.ran.append(name)
        assert arguments[arguments.index("--prompts") + 1] == "12"
        if not self.status[name]:
            self.out.mkdir(exist_ok=True)
            (self.out / "results.json").write_text(json.dumps({"settings": SETTINGS}))
            (self.out / "scorecard.csv").write_text("id,verdict\na,agrees\nb,disagrees\nc,agrees\n")
        return self.status[name]

    def run_cells(self, notebook: Any, variables: Any, links: Any) -> None:
        title = notebook.cells[0].source.splitlines()[0]
        self.ran.append(title)
        assert links == {"results": self.out.resolve()}
        if self.dies and self.dies in title:
            raise DeadKernelError("Kernel died")
        notebook.cells[3].outputs = [new_output("stream", text=f"output of {title}")]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands(tmp_path / "out")
    monkeypatch.setattr(run_all, "command", made.command)
    monkeypatch.setattr(run_all, "run_cells", made.run_cells)
    monkeypatch.setattr(run_all, "plotly_script", lambda: "plotly")
    return made


def run(commands: Commands, *more: str) -> int:
    commands.ran.clear()
    return run_all.main(["--prompts", "12", "--seed", "3", "--out", str(commands.out), *more])


FIRST, SECOND = "# 1. Dataset inspection", "# 2. Path patching"
BOTH = ["reproduce", "scorecard", FIRST, SECOND]


def test_what_was_finished_is_not_done_again(commands: Commands, capsys) -> None:
    assert run(commands, "--only", "01", "02") == 0
    assert commands.ran == BOTH
    index = (commands.out / "index.html").read_text()
    assert "agrees: <b>2</b>, disagrees: <b>1</b>" in index
    assert "not GPT-2 small" not in index and index.count("not run") == len(PATHS) - 2
    assert (
        f"output of {FIRST}" in (commands.out / "notebooks" / f"{PATHS[0].stem}.html").read_text()
    )
    said = capsys.readouterr().out
    assert f"Results: {commands.out}/index.html" in said and "Machine: " in said

    assert run(commands, "--only", "01", "02") == 0
    assert commands.ran == ["reproduce", "scorecard"]
    assert run(commands, "--only", "01", "--seed", "4") == 0  # other parameters
    assert commands.ran == BOTH[:3]


def test_a_notebook_that_fails_and_a_scorecard_that_contradicts_stop_nothing(
    commands, capsys
) -> None:
    commands.status["scorecard"] = 1
    assert run(commands, "--only", "02") == 1
    commands.status["scorecard"], commands.dies = 0, "1. Dataset"
    assert run(commands, "--only", "01", "02") == 1
    assert commands.ran == BOTH[:3]  # the second was finished by the run before
    assert "stopped at an error: Kernel died" in capsys.readouterr().out
    assert "stopped at an error after" in (commands.out / "index.html").read_text()

    commands.dies = ""
    assert run(commands, "--only", "01", "02") == 0
    assert commands.ran == BOTH[:3]
    assert "stopped" not in (commands.out / "index.html").read_text()


def test_wrong_arguments_end_it(commands: Commands, capsys) -> None:
    commands.status["reproduce"] = 2
    assert run(commands) == 2
    assert commands.ran == ["reproduce"] and not commands.out.exists()
    assert run(commands, "--only", "x") == 2
    assert commands.ran == []
    assert (
        capsys.readouterr().out == "No notebook begins with 'x'; give numbers, e.g. --only 01 04.\n"
    )


def test_an_interruption_is_one_sentence(commands: Commands, monkeypatch, capsys) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_all, "run_cells", interrupted)
    assert run(commands) == 130
    assert capsys.readouterr().out.endswith("the same command continues.\n")
    assert not list(commands.out.rglob("*.ipynb*")) and (commands.out / "index.html").exists()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_parameters_fit_every_notebook(path: Path) -> None:
    own = {"08": 194, "09": 97}.get(path.name[:2], 2000)
    for prompts in (12, 2000):
        values = run_all.parameters(path, "mini", prompts, 3)
        assert values["N_PROMPTS"] == min(own, prompts)
        cell = notebooks.prepare(path, **values).cells[2].source
        assert "MODEL = 'mini' " in cell and "SEED = 3 " in cell
    assert ("FOLDER" in values) == (path.stem == "10_scorecard")


def widgets(**states: dict[str, Any]) -> dict[str, Any]:
    return {"state": {name: {"state": state} for name, state in states.items()}}


def children(*names: str) -> list[str]:
    return [f"IPY_MODEL_{name}" for name in names]


def test_a_page_shows_figures_and_explorers_and_loads_nothing_else() -> None:
    inlined = f"&lt;script&gt;{run_all.escape(run_all.plotly_script())}&lt;/script&gt;"
    states = widgets(
        explorer={"_model_name": "VBoxModel", "children": children("row", "frame")},
        row={"_model_name": "BoxModel", "children": children("choice", "many", "slider")},
        choice={
            "_model_name": "DropdownModel",
            "description": "head",
            "_options_labels": ["a1.h1", "a<2"],
            "index": 1,
        },
        many={
            "_model_name": "SelectMultipleModel",
            "description": "MLPs",
            "_options_labels": ["m1", "m2", "m3"],
            "index": [0, 2],
        },
        slider={"_model_name": "IntSliderModel", "description": "prompts", "value": 32},
        frame={"_model_name": "HTMLModel", "value": f'<iframe srcdoc="{inlined}"></iframe>'},
        bar={"_model_name": "HBoxModel", "children": children("progress")},
        progress={"_model_name": "FloatProgressModel", "description": "sweep to m11", "value": 1},
    )
    figure = json.loads(go.Figure(go.Bar(y=[1234567])).to_json())
    shown = [{run_all.PLOTLY: figure}]
    shown += [{run_all.WIDGET: {"model_id": name}} for name in ("bar", "explorer")]
    cell = new_code_cell("x", outputs=[new_output("display_data", data) for data in shown])
    setup = new_code_cell("the setup", metadata={"tags": ["setup"]})
    notebook = new_notebook(cells=[setup, cell], metadata={"widgets": {"mime": states}})
    before = nbformat.writes(notebook)
    page = run_all.notebook_page(notebook, "01_x")
    assert nbformat.writes(notebook) == before
    for text in ("1234567", "head: <b>a&lt;2</b>", "MLPs: <b>m1, m3</b>", "prompts: <b>32</b>"):
        assert text in page
    for text in ("the setup", "sweep to m11", "https://unpkg", "https://cdn"):
        assert text not in page
    assert page.count("plotly.min.js") == 2 and len(page) < 10**6  # its own, and the frame's
