"""Unit: publish, and the setup cell that it writes into the notebooks, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import publish
import pytest
from publish import notebook_text, read_notebook, source

TEXT = "**Why é?** Because."
CELL = Path(publish.__file__).parent / "setup_cell.py"


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, "-C", str(folder), *arguments], check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of two notebooks, not published."""
    for folder in ("notebooks", "tools", "docs"):
        (tmp_path / folder).mkdir()
    shutil.copy(CELL, tmp_path / "tools")
    for name, title in (("01_a.ipynb", "1. First"), ("02_b.ipynb", '2. "Second"')):
        cells = [
            {"cell_type": "markdown", "id": "t", "metadata": {}, "source": f"# {title}\n\n{TEXT}"},
            {"cell_type": "code", "id": "c", "metadata": {}, "source": "print(1)", "outputs": []},
        ]
        notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / "notebooks" / name).write_text(notebook_text(notebook), encoding="utf-8")
    (tmp_path / "README.md").write_text(
        "<!-- notebooks -->\nold\n<!-- end of notebooks -->\nEnd.\n"
    )
    (tmp_path / "docs" / "02_b.png").touch()
    publish.stamp_all(tmp_path)
    return tmp_path


def cells(root: Path) -> list[str]:
    return [source(cell) for cell in read_notebook(root / "notebooks" / "02_b.ipynb")["cells"]]


def test_before_an_address_is_known_a_notebook_says_how_to_use_it(root: Path) -> None:
    title, setup, code = cells(root)
    assert title == f'# 2. "Second"\n\n{publish._NO_ADDRESS}\n\n{TEXT}'
    assert (setup, code) == (CELL.read_text().rstrip("\n"), "print(1)")
    assert (root / "README.md").read_text() == (
        "<!-- notebooks -->\n| notebook | question | |\n|---|---|---|\n"
        "| [1. First](notebooks/01_a.ipynb) | Why é? |  |\n"
        '| [2. "Second"](notebooks/02_b.ipynb) | Why é? '
        '| <img src="docs/02_b.png" width="280" alt="2. &quot;Second&quot;"> |\n'
        "<!-- end of notebooks -->\nEnd.\n"
    )
    assert publish.stamp_all(root) == []


def test_publish_writes_the_address_everywhere_and_once(root: Path) -> None:
    changed = publish.publish("jane/greater-than", "dev", root)
    assert (
        " ".join(path.name for path in changed) == "setup_cell.py 01_a.ipynb 02_b.ipynb README.md"
    )
    title, setup, _ = cells(root)
    badge = title.split("\n")[2]
    link = "colab.research.google.com/github/jane/greater-than/blob/dev/notebooks/02_b.ipynb"
    assert badge.startswith("[![Open In Colab](") and badge.endswith(f"](https://{link})")
    assert title == f'# 2. "Second"\n\n{badge}\n\n{TEXT}'
    assert 'REPOSITORY, BRANCH = "jane/greater-than", "dev"' in setup
    assert f"(notebooks/02_b.ipynb)<br>{badge} |" in (root / "README.md").read_text()

    assert publish.publish("jane/greater-than", "dev", root) == []
    assert len(publish.publish("joe/other", "main", root)) == 4
    assert "jane" not in "".join(cells(root))


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/jane/greater.than.git",
        "https://user@github.com/jane/greater.than/",
        "git@github.com:jane/greater.than.git",
    ],
)
def test_publish_asks_git(url: str, root: Path) -> None:
    git(root, "init")
    git(root, "remote", "add", "origin", url)
    publish.publish(None, root=root)
    assert 'REPOSITORY, BRANCH = "jane/greater.than", "main"' in cells(root)[1]


@pytest.mark.parametrize(
    ("repository", "branch", "message"),
    [
        ("jane", "main", "'jane'.*OWNER/NAME"),
        ('jane/x"', "main", "'jane/x\"'"),
        ("https://github.com/jane/x", "main", "https://.*OWNER/NAME"),
        ("jane/x", "a b", "'a b'.*e.g. main"),
        (None, "main", "'origin'.*OWNER/NAME"),
    ],
)
def test_publish_refuses(repository: str | None, branch: str, message: str, root: Path) -> None:
    git(root, "init")
    before = cells(root)
    with pytest.raises(ValueError, match=message):
        publish.publish(repository, branch, root)
    assert cells(root) == before


def test_the_command_says_what_was_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main(["jane"]) == 2
    assert capsys.readouterr().err.startswith("publish: 'jane'")


# --- the setup cell ------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that only says where it is set up."""
    folder = tmp_path / "elsewhere" / "project"
    (folder / "gt_helpers").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "gt_helpers" / "environment.py").write_text(
        "def set_up():\n    print('set up in', __file__)\n"
    )
    return folder


def run_cell(folder: Path, repository: str = "", **variables: str) -> str:
    """Run the setup cell twice in one Python; returns the last line of what it says."""
    cell = CELL.read_text().replace('BRANCH = ""', f'BRANCH = "{repository}"')
    command = [sys.executable, "-c", f"for _ in range(2):\n    exec({cell!r}, {{}})\n"]
    environment = {**os.environ, "PYTHONPATH": "", **variables}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    said = result.stderr if result.returncode else result.stdout
    return said.splitlines()[-1]


def pack(project: Path, file: Path, top: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for path in project.rglob("*.py"):
            archive.write(path, Path(top) / path.relative_to(project))


@pytest.mark.parametrize("place", [".", "notebooks", "..", "../.."])
def test_setup_finds_the_project_around(place: str, project: Path) -> None:
    said = run_cell((project / place).resolve())
    assert said == f"set up in {project / 'gt_helpers' / 'environment.py'}"


@pytest.mark.parametrize("top", ["", "gpt2-greater-than-main"])
def test_setup_unpacks_an_uploaded_copy(top: str, project: Path, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "half-uploaded.zip").write_bytes(b"PK")
    pack(project / "notebooks", content / "another.zip", "")
    pack(project, content / "old-copy.zip", top)
    os.utime(content / "old-copy.zip", (0, 0))
    pack(project, content / "copy.zip", top)
    said = run_cell(content)
    assert said == f"set up in {content / 'copy' / top / 'gt_helpers' / 'environment.py'}"
    assert sorted(path.name for path in content.iterdir() if path.is_dir()) == ["copy"]


def test_setup_clones_a_published_project(project: Path, tmp_path: Path) -> None:
    origin = tmp_path / "jane" / "greater-than"
    shutil.copytree(project, origin)
    git(origin, "init")
    git(origin, "add", ".")
    git(origin, "commit", "-m", "x")
    content = tmp_path / "content"
    content.mkdir()
    instead = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{tmp_path}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }
    said = run_cell(content, repository="jane/greater-than", **instead)
    assert said == f"set up in {content / 'greater-than' / 'gt_helpers' / 'environment.py'}"
    shutil.rmtree(content / "greater-than")
    assert "Upload a zip" in run_cell(content, repository="jane/no-such", **instead)
    said = run_cell(content)
    assert said.startswith("RuntimeError: No project") and "Upload a zip" in said
