"""publish: the repository's address, written into the notebooks and the README.

The address stands in one place, the first assignment of tools/setup_cell.py; every notebook carries
a copy of that file as its setup cell, and a badge that opens it in Colab.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_SETUP_CELL = "tools/setup_cell.py"
_ADDRESS = re.compile(r'^REPOSITORY, BRANCH = "(.*)", "(.*)"', re.MULTILINE)
_COLAB = "https://colab.research.google.com"
_NO_ADDRESS = (
    "*In Colab: open this notebook there, upload a zip of the project (the folder symbol on the "
    "left), then run the cells.*"
)
_BADGE_LINE = re.compile(r"\[!\[Open In Colab\]|\*In Colab: ")
_README_LIST = re.compile(r"(<!-- notebooks -->\n).*(<!-- end of notebooks -->)", re.DOTALL)

Notebook = dict[str, Any]


def publish(repository: str | None, branch: str = "main", root: Path = ROOT) -> list[Path]:
    """Write a GitHub address into the notebooks and the README; returns the files that changed.

    ``repository`` is OWNER/NAME, or None to ask git for its remote "origin". Raises ValueError for
    what is no address or no branch, or if git names none.
    """
    repository = repository or _remote(root)
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repository):
        raise ValueError(f"{repository!r} is no address; give OWNER/NAME, e.g. jane/greater-than.")
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", branch):
        raise ValueError(f"{branch!r} is no name of a branch; give one, e.g. main.")
    file = root / _SETUP_CELL
    cell = _ADDRESS.sub(
        f'REPOSITORY, BRANCH = "{repository}", "{branch}"', file.read_text(encoding="utf-8")
    )
    changed = [file] if _write(file, cell) else []
    return changed + stamp_all(root)


def stamp_all(root: Path = ROOT) -> list[Path]:
    """Write the badge and the setup cell into every notebook, and the README's table of notebooks.

    Returns the files that changed.
    """
    changed = []
    rows = ["| notebook | question | |", "|---|---|---|"]
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = read_notebook(path)
        stamp(notebook, path.name, root)
        if _write(path, notebook_text(notebook)):
            changed.append(path)
        rows.append(_row(path, source(notebook["cells"][0]), root))
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    if not _README_LIST.search(text):
        raise ValueError("README.md has no lines <!-- notebooks --> and <!-- end of notebooks -->.")
    listed = "\n".join(rows) + "\n"
    if _write(readme, _README_LIST.sub(lambda m: m[1] + listed + m[2], text)):
        changed.append(readme)
    return changed


def _row(path: Path, opening: str, root: Path) -> str:
    """The README's row: title and badge, the opening's question in bold, the picture if any."""
    title, question = title_and_question(opening)
    name = "<br>".join(filter(None, [f"[{title}](notebooks/{path.name})", _badge(path.name, root)]))
    pictures = sorted((root / "docs").glob(f"{path.stem}.*"))
    alt = escape(title)
    shown = "".join(f'<img src="docs/{p.name}" width="280" alt="{alt}">' for p in pictures)
    return f"| {name} | {question} | {shown} |"


def title_and_question(opening: str) -> tuple[str, str]:
    """What the first cell of a notebook begins with, and what it says in bold, if anything."""
    bold = re.search(r"\*\*(.+?)\*\*", opening)
    return opening.split("\n")[0].removeprefix("# "), bold[1] if bold else ""


def stamp(notebook: Notebook, name: str, root: Path = ROOT) -> None:
    """Set line 3 of the first cell (the badge) and the cell tagged "setup" of one notebook."""
    cells = notebook["cells"]
    if not cells or not source(cells[0]).startswith("# "):
        raise ValueError(
            f"{name}: the first cell must begin with a title, e.g. '# 1. The dataset'."
        )
    title, *rest = source(cells[0]).split("\n")
    text = "\n".join(line for line in rest if not _BADGE_LINE.match(line)).strip("\n")
    badge = _badge(name, root) or _NO_ADDRESS
    set_source(cells[0], "\n\n".join(filter(None, [title, badge, text])))
    setup = [cell for cell in cells if "setup" in cell["metadata"].get("tags", ())]
    if not setup:
        setup = [{"cell_type": "code", "metadata": {"tags": ["setup"]}, "id": "setup"}]
        setup[0].update(execution_count=None, outputs=[])
        cells.insert(1, setup[0])
    set_source(setup[0], (root / _SETUP_CELL).read_text(encoding="utf-8").rstrip("\n"))


def source(cell: dict[str, Any]) -> str:
    """The text of a cell, which a file may hold as one string or as a list of lines."""
    return "".join(cell["source"])


def set_source(cell: dict[str, Any], text: str) -> None:
    """Write the text of a cell as a list of lines, so that changes can be reviewed."""
    cell["source"] = text.splitlines(keepends=True)


def read_notebook(path: Path) -> Notebook:
    """The content of a notebook file."""
    return json.loads(path.read_text(encoding="utf-8"))


def notebook_text(notebook: Notebook) -> str:
    """A notebook as Jupyter writes it: sorted keys, indented by one, a newline at the end."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _badge(name: str, root: Path) -> str:
    """The badge that opens a notebook in Colab, empty as long as there is no address."""
    address = _ADDRESS.search((root / _SETUP_CELL).read_text(encoding="utf-8"))
    if not address or not address[1]:
        return ""
    link = f"{_COLAB}/github/{address[1]}/blob/{address[2]}/notebooks/{name}"
    return f"[![Open In Colab]({_COLAB}/assets/colab-badge.svg)]({link})"


def _remote(root: Path) -> str:
    """OWNER/NAME of git's remote "origin"; ValueError if there is none on GitHub."""
    try:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        url = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git
        url = ""
    found = re.search(r"github\.com[:/]+([^/]+/[^/]+?)(\.git)?/?$", url)
    if not found:
        raise ValueError(
            "git names no GitHub remote 'origin' here; give the address, "
            "e.g. python tools/publish.py OWNER/NAME."
        )
    return found[1]


def _write(path: Path, text: str) -> bool:
    """Write a file if that changes it."""
    if path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8")
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Stamp the address and say which files changed; mistakes get one sentence."""
    parser = argparse.ArgumentParser(prog="python tools/publish.py", description=main.__doc__)
    parser.add_argument("repository", nargs="?", help="OWNER/NAME (default: git's origin)")
    parser.add_argument("--branch", default="main", help="default: main")
    options = parser.parse_args(argv)
    try:
        changed = publish(options.repository, options.branch)
    except (ValueError, OSError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    for path in changed:
        print(f"stamped {path.relative_to(ROOT)}")
    print(f"{len(changed)} files changed." if changed else "Everything was up to date.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
