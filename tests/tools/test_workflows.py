"""Unit: the workflows of GitHub: their form, and what results.yml runs, on the embedded model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import run_all
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ("ci.yml", "results.yml")
INPUTS = {"model": "mini", "prompts": "12", "seed": "1", "only": "01 04"}
USED = re.compile(r"\$\{\{(.*?)\}\}")


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def triggers(name: str) -> Any:
    return workflow(name)[True]  # YAML reads the key "on" as a truth value


def steps(name: str, job: str) -> list[dict[str, Any]]:
    return workflow(name)["jobs"][job]["steps"]


def run_step(step: dict[str, Any], folder: Path, inputs: dict[str, str], **more: str) -> Any:
    """Run a step's command in a folder as GitHub does: bash -e, and expressions only in env."""
    given = {f"inputs.{name}": value for name, value in inputs.items()}
    env = {k: USED.sub(lambda m: given[m[1].strip()], v) for k, v in step.get("env", {}).items()}
    return subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=folder,
        env={**os.environ, **env, **more},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The project in another folder, so that what is written there stays there."""
    for path in ROOT.iterdir():
        if path.name != "results":
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_all_workflows_are_tested() -> None:
    assert tuple(sorted(path.name for path in FOLDER.iterdir())) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_form(name: str) -> None:
    assert workflow(name)["permissions"] == {"contents": "read"}
    for job in workflow(name)["jobs"].values():
        assert re.fullmatch(r"ubuntu-[\w.]+", job["runs-on"])
        assert 0 < job["timeout-minutes"] < 360  # a free runner's six hours
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"actions/[\w/-]+@v\d+", step.get("uses", "actions/any@v1"))
            # a value that somebody typed must not become a part of a command
            assert "${{" not in step.get("run", "")


def test_ci_runs_everything_on_every_python_that_is_allowed() -> None:
    assert triggers("ci.yml") == ["push", "pull_request"]
    assert workflow("ci.yml")["concurrency"]["cancel-in-progress"] is True
    (command,) = (step["run"] for step in steps("ci.yml", "test") if "run" in step)
    assert command == "bash .ci/run"
    assert "bash setup_colab.sh test --all" in (ROOT / ".ci" / "run").read_text()

    matrix = workflow("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    accepted = re.search(
        r"^ *(3\.\d+(?: \| 3\.\d+)*)\) ;;", (ROOT / "setup_colab.sh").read_text(), re.M
    )
    assert matrix == accepted[1].split(" | ")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = SpecifierSet(project["requires-python"])
    assert matrix == [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]


def test_results_asks_for_what_it_uses_and_publishes_in_any_case() -> None:
    inputs = triggers("results.yml")["workflow_dispatch"]["inputs"]
    assert inputs.keys() == INPUTS.keys()
    text = (FOLDER / "results.yml").read_text()
    assert {e.strip() for e in USED.findall(text) if "inputs." in e} == {
        f"inputs.{name}" for name in inputs
    }

    job, publish = (workflow("results.yml")["jobs"][name] for name in ("results", "publish"))
    (at,) = (i for i, step in enumerate(job["steps"]) if step.get("name") == "Run")
    assert job["steps"][at]["timeout-minutes"] < job["timeout-minutes"]
    after = [*job["steps"][at + 1 :], publish]
    assert {one["if"] for one in after} == {"${{ !cancelled() }}"}
    kept = {step["with"]["path"] for step in job["steps"] if "path" in step.get("with", {})}
    assert kept == {str(run_all.parser().get_default("out"))}
    assert publish["needs"] == "results"
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}


def test_results_by_default_are_those_of_the_command(tmp_path: Path) -> None:
    """With a script in the place of setup_colab.sh that prints its arguments."""
    (tmp_path / "setup_colab.sh").write_text('printf "%s\\n" "$@"\n')
    (step,) = (step for step in steps("results.yml", "results") if step.get("name") == "Run")
    inputs = triggers("results.yml")["workflow_dispatch"]["inputs"]
    said = run_step(step, tmp_path, {name: one["default"] for name, one in inputs.items()}).stdout
    command, *arguments = said.splitlines()
    assert command == "results"
    assert vars(run_all.parser().parse_args(arguments)) == {
        **vars(run_all.parser().parse_args([])),
        "model": "gpt2-small",  # never quietly another
    }
    _, *arguments = run_step(step, tmp_path, INPUTS).stdout.splitlines()
    chosen = run_all.parser().parse_args(arguments)
    assert (chosen.model, chosen.prompts, chosen.seed) == ("mini", 12, 1)
    assert chosen.only == ["01", "04"]


@pytest.mark.notebook
@pytest.mark.slow
def test_what_results_runs(checkout: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary"
    here = {"PYTHON": sys.executable, "GITHUB_STEP_SUMMARY": str(summary), "HF_HUB_OFFLINE": "1"}
    for step in steps("results.yml", "results"):
        if "run" in step:
            done = run_step(step, checkout, INPUTS | {"only": "01"}, **here)
            assert done.returncode == 0, done.stdout + done.stderr
    index = (checkout / "results" / "index.html").read_text()
    assert "Every number here is about mini, not GPT-2 small." in index
    linked = re.findall(r'href="([^"]+)"', index)
    assert len(linked) == 5 + 2
    assert [link for link in linked if not (checkout / "results" / link).is_file()] == []
    assert (checkout / "results" / "scorecard.txt").read_text() in summary.read_text()
