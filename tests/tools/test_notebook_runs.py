"""Notebook: each runs top to bottom on the embedded model, with the versions that Colab ships.

With the installed versions test_browser.py runs them; where there is no browser, this file does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


def test_an_interruption_ends_the_kernel_too(tmp_path: Path) -> None:
    """In a Python of its own, which gets the signal that Ctrl-C sends."""
    says_its_id = "with open('there/pid', 'w') as file: file.write(str(os.getpid()))"
    cell = f"import os, time\n{says_its_id}\ntime.sleep(600)"
    code = f"""
import signal, sys
sys.path.insert(0, {str(Path(notebooks.__file__).parent)!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from nbformat.v4 import new_code_cell, new_notebook
from notebooks import run_cells
notebook = new_notebook(cells=[new_code_cell({cell!r})])
try:
    run_cells(notebook, links={{"there": {str(tmp_path)!r}}})
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "pid").exists() or not (pid := (tmp_path / "pid").read_text()):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


if not needs.browser():

    @each_notebook
    def test_runs(path: Path) -> None:
        notebook = notebooks.execute(path, **notebooks.quick(path))
        assert trouble(notebook) + explorer_trouble(notebook) == []
