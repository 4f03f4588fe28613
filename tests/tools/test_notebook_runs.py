"""Notebook: each runs top to bottom on the embedded model, with the versions that Colab ships.

With the installed versions test_browser.py runs them; where there is no browser, this file does.
"""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import needs
import pytest
from executed import explorer_trouble, trouble
from filelock import FileLock

import notebooks

COLAB = Path(__file__).parents[1] / "colab.txt"
PATHS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def colab_versions(request: pytest.FixtureRequest) -> Path:
    """A folder with Colab's versions, to be laid over the installed ones; kept between runs."""
    key = sha256(f"{sys.version_info[:2]} {COLAB.read_text()}".encode()).hexdigest()[:12]
    folder = request.config.cache.mkdir("colab") / key
    with FileLock(folder.with_suffix(".lock")):  # tests run in several processes
        if not folder.is_dir():
            part = folder.with_suffix(".part")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"]
            command += ["--only-binary=:all:", "--target", str(part), "--requirement", str(COLAB)]
            if subprocess.run(command).returncode:
                needs.missing("pip cannot fetch the versions of tests/colab.txt")
            part.rename(folder)
    return folder


@each_notebook
def test_runs_with_the_versions_of_colab(path: Path, colab_versions: Path) -> None:
    variables = {"PYTHONPATH": str(colab_versions)}
    notebook = notebooks.execute(path, variables, **notebooks.quick(path))
    printed = "".join(o["text"] for o in notebook["cells"][1]["outputs"])
    assert "[OK] ipywidgets: 7.7.1\n" in printed and "[OK] plotly: 5.24.1," in printed
    # Plotly 5 warns of a newer kaleido, which Colab does not have.
    found = trouble(notebook) + explorer_trouble(notebook)
    assert [text for text in found if not text.startswith("stderr")] == []


if not needs.browser():

    @each_notebook
    def test_runs(path: Path) -> None:
        notebook = notebooks.execute(path, **notebooks.quick(path))
        assert trouble(notebook) + explorer_trouble(notebook) == []
