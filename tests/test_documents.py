"""Unit: what README and its neighbours say is there, is there, and their code runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gt_helpers

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("gt_helpers/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\w+/|[\w.]+\.(?:pyi?|toml|md)")  # in the file tree


def blocks() -> list[str]:
    return [block for path in DOCUMENTS for block in BLOCK.findall(path.read_text("utf-8"))]


def tree() -> list[str]:
    """The paths of README's file tree: each line's indented names, before what is said of them."""
    listed, folders = [], [""]
    block = README.partition("## Where things are\n\n```\n")[2].partition("```")[0]
    for line in block.splitlines():
        text = line.lstrip()
        depth = (len(line) - len(text)) // 2
        if depth < 4:  # beyond, a line goes on with its comment
            names = re.match(rf"(?:(?:{FILE.pattern})(?:\s+|$))*", text)[0].split()
            listed += [folders[depth] + name for name in names]
            folders[depth + 1 :] = [folders[depth] + names[0]]
    return listed


@pytest.mark.parametrize("code", blocks(), ids=lambda code: code.splitlines()[0][:50])
def test_code_imports_what_there_is(code: str) -> None:
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "README", "exec"), {})


def test_five_lines_are_five_lines_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    code = BLOCK.search(README, README.index("## In five lines"))[1]
    assert len(code.splitlines()) == 5
    exec(code.replace("gpt2-small", "mini").replace("490", "97"), {})
    assert re.search(r"component .* effect (.|\n)*tensor\(", capsys.readouterr().out)


def test_the_file_tree_is_there() -> None:
    listed = tree()
    assert [path for path in listed if not (ROOT / path).exists()] == []
    wings = {f"gt_helpers/{path.parent.name}/" for path in ROOT.glob("gt_helpers/*/__init__.py")}
    assert wings < set(listed) and "gt_helpers/patching/engine.py" in listed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_names_of_files_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert [link for link in links if not (document.parent / link).exists()] == []
    named = re.findall(r"`((?:gt_helpers|tests|tools|docs|benchmarks)/[\w/.-]+)`", text)
    named += re.findall(r"\b((?:tools|benchmarks)/[\w/]+\.py)\b", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_version_stands_in_the_changelog() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == gt_helpers.__version__
