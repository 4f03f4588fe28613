"""Unit: files of a clone load without the packages that are not there, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gt_helpers.differences.clone import SkippedError, Stub, load_without

Loaded = tuple[ModuleType, pd.DataFrame]


def write(folder: Path, **files: str) -> None:
    """Files by their paths without .py, "__" for a slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py".replace("/init/.py", "/__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Loaded]:
    """Write `main` and other files into a clone, and load `main` as `checked` does."""

    def run(main: str, skip: str | list[str] = "rust", **others: str) -> Loaded:
        write(tmp_path, main=main, **others)
        return checked(tmp_path, "main.py", skip)

    return run


def checked(clone: Path, name: str, skip: str | list[str] = "rust") -> Loaded:
    """Load a file and check that the clone, sys.path and sys.modules stay as they were."""

    def state() -> tuple:
        files = {p: p.read_bytes() if p.is_file() else None for p in clone.rglob("*")}
        ours = {n for n, m in sys.modules.items() if str(clone) in str(vars(m).get("__file__"))}
        stubs = [name for name, module in sys.modules.items() if isinstance(module, Stub)]
        return files, ours, stubs, list(sys.path), list(sys.meta_path), sys.modules.get("helpers")

    before = state()
    loaded = load_without(clone / name, skip)
    assert state() == before
    return loaded


def statuses(report: pd.DataFrame) -> dict[str, str]:
    return dict(zip(report["name"], report["status"], strict=True))


def why(report: pd.DataFrame, name: str) -> str:
    [reason] = report.loc[report["name"] == name, "why"]
    return reason


# --- what is kept, and what not ------------------------------------------------------------------


def test_what_needs_no_rust_is_kept(load) -> None:
    module, report = load(
        '''
        """Two kinds of functions."""
        from __future__ import annotations
        import math, rust_graph as rg
        from rust_graph.parts import Node, Edge as E

        DTYPE = rg.Dtype("float32")
        def area(radius: rg.Number, parts: Node | None = None) -> rg.Number:
            return math.pi * radius**2
        def graph(name):
            return rg.Graph(name)
        def default(dtype=rg.Dtype("float32")): ...
        def bare_default(dtype=DTYPE):
            return dtype
        table = {"a": default}
        if 1 + 1 == 2:
            inside = 1
        print(rg.version + 1)
        if __name__ == "__main__":
            raise SystemExit("not run")
        '''
    )
    assert statuses(report) == {
        "rg": "skipped", "Node": "skipped", "E": "skipped", "DTYPE": "skipped", "area": "kept",
        "graph": "kept", "default": "skipped", "bare_default": "kept", "table": "kept",
        "inside": "kept", "print(rg.version + 1)": "skipped",
    }  # fmt: skip
    assert set(report["file"]) == {"main.py"} and report["line"].is_monotonic_increasing
    assert report.set_index("name")["line"][["rg", "Node", "DTYPE"]].tolist() == [4, 5, 7]
    assert why(report, "rg") == "rust_graph was left out"
    assert why(report, "E") == "rust_graph.parts.Edge was left out"
    assert why(report, "DTYPE") == "needs rust_graph.Dtype, which was left out"

    assert module.area(1) == pytest.approx(3.14159, abs=1e-5)
    assert module.bare_default(2) == 2 and isinstance(module.bare_default(), Stub)
    for use, named in (
        (lambda: module.graph("a"), "rust_graph.Graph was left out"),
        (lambda: module.default(), "default needs rust_graph.Dtype, which was left out"),
        (lambda: module.table["a"](), "default needs rust_graph.Dtype, which was left out"),
    ):
        with pytest.raises(SkippedError, match=f"^{named}$"):
            use()


def test_what_skip_matches(load) -> None:
    main = """
        import json
        import js_nowhere
        import rusty_nowhere.part
        from in_rust_nowhere import a
        """
    _, report = load(main, skip=["rust", "js"])
    assert why(report, "json") == why(report, "js_nowhere") == "was left out"
    assert why(report, "rusty_nowhere") == "was left out"
    assert why(report, "a") == "failed (ModuleNotFoundError: No module named 'in_rust_nowhere')"
    module, report = load(main, skip=[])
    assert module.json.dumps(1) == "1" and "json" not in statuses(report)
    with pytest.raises(SkippedError, match="^a failed .*in_rust_nowhere"):
        module.a()
    for wrong in ("", ["rust", ""], [3]):
        with pytest.raises(ValueError, match=r'e.g. "rust" or \["rust", "interp"\]'):
            load("", skip=wrong)


def test_statements_that_fail_take_along_what_needs_them(load) -> None:
    module, report = load(
        """
        import sys
        import json.nothing
        ids = open("cache/ids.txt").read()
        first = ids[0]
        def pick(i):
            return ids[i]
        for i in range(3):
            last = first + i
        sys.exit(3)
        after = 1
        ids = "here again"
        """
    )
    assert module.ids == "here again" and module.pick(0) == "h" and module.after == 1
    assert statuses(report) == {
        "json": "skipped", "first": "skipped", "pick": "kept", "i": "skipped", "last": "skipped",
        "sys.exit(3)": "skipped", "after": "kept", "ids": "kept",
    }  # fmt: skip
    file = "failed (FileNotFoundError: [Errno 2] No such file or directory: 'cache/ids.txt')"
    assert why(report, "first") == f"needs ids, which {file}"
    assert why(report, "last") == f"needs first, which needs ids, which {file}"
    assert why(report, "json") == "failed (ModuleNotFoundError: No module named 'json.nothing')"
    assert why(report, "sys.exit(3)") == "failed (SystemExit: 3)"


# --- stubs ---------------------------------------------------------------------------------------


def _subclass(base: Any) -> type:
    class Sub(base): ...

    return Sub


USES: dict[str, Callable[[Any], object]] = {
    "call": lambda x: x(1, key=2),
    "item": lambda x: x[0],
    "length": len,
    "in": lambda x: 1 in x,
    "equal": lambda x: x == 1,
    "or": lambda x: int | x,
    "subclass": _subclass,
    "isinstance": lambda x: isinstance(1, x),
    "path": open,
    "numpy array": np.asarray,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_use_of_a_skipped_name_says_what_is_missing(load, use) -> None:
    module, _ = load("from rust_graph import Node\nnode = Node()")
    with pytest.raises(SkippedError) as error:
        use(module.node)
    assert str(error.value) == "node needs rust_graph.Node, which was left out"
    assert isinstance(error.value, ImportError)


def test_a_skipped_name_can_be_shown_and_passed_on(load) -> None:
    node = load("from rust_graph import Node")[0].Node
    assert repr(node) == str(node) == "<skipped: rust_graph.Node was left out>"
    for other in (pickle.loads(pickle.dumps(node)), copy.copy(node), copy.deepcopy([node])[0]):
        assert isinstance(other, Stub) and repr(other) == repr(node)
    assert node in {node} and not hasattr(node, "__wrapped__") and not hasattr(node, "_repr_html_")
    with pytest.raises(SkippedError, match="rust_graph.Node.make.it was left out"):
        node.make.it()


# --- the clone's files ---------------------------------------------------------------------------


def test_files_of_the_clone_are_loaded_in_the_same_way(load) -> None:
    module, report = load(
        """
        from helpers import years, graph, Base
        import helpers as h
        import package.sub
        from package import CONSTANT, sub as again
        from helpers import missing
        class Mine(Base): ...
        def use(): return graph()
        pool = years(3)
        """,
        helpers="""
        import rust_graph as rg
        from json import dumps
        def years(n): return list(range(n))
        def graph(): return rg.Graph()
        class Base: ...
        """,
        package__init__="from .sub import double\nCONSTANT = double(2)",
        package__sub="from helpers import years\ndef double(x): return x * len(years(2))",
    )
    assert module.pool == [0, 1, 2] and module.CONSTANT == 4
    assert module.package.sub is module.again
    assert issubclass(module.Mine, module.h.Base) and module.h.dumps
    assert set(report["file"]) == {
        "main.py", "helpers.py", "package/__init__.py", "package/sub.py"
    }  # fmt: skip
    main = report[report["file"] == "main.py"]
    assert statuses(main) == {"missing": "skipped", "Mine": "kept", "use": "kept", "pool": "kept"}
    assert "cannot import name 'missing'" in why(main, "missing")
    with pytest.raises(SkippedError, match="rust_graph.Graph was left out"):
        module.use()


def test_local_names_and_installed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, clone = tmp_path / "installed", tmp_path / "clone"
    write(installed, helpers="where = 'installed'", wandb_like="where = 'installed'")
    monkeypatch.syspath_prepend(str(installed))
    already = ModuleType("helpers")
    monkeypatch.setitem(sys.modules, "helpers", already)
    write(
        clone,
        rusty="import helpers, json, random, wandb_like, sys\nimport rust_graph\nsys.path += ['x']",
        helpers="where = 'clone'",
        wandb_like__run="",  # a folder of logs, not a package
        random="wrong = True",
    )
    module, report = checked(clone, "rusty.py")  # its own name is not skipped
    assert module.helpers.where == "clone" and module.wandb_like.where == "installed"
    assert module.json.dumps(1) == "1" and not hasattr(module.random, "wrong")
    assert sys.modules["helpers"] is already
    assert statuses(report) == {"rust_graph": "skipped", "where": "kept"}


def test_errors(tmp_path: Path, load) -> None:
    write(tmp_path, broken="x = 1\nif x\n    y = 2", late="def f(): pass\nreturn 3")
    (tmp_path / "notes.txt").write_text("text")
    for name in ("no_such.py", "notes.txt"):
        with pytest.raises(ValueError, match=f"{name} is no Python file; .*e.g. "):
            load_without(tmp_path / name)
    for name in ("broken", "late"):
        with pytest.raises(SyntaxError, match=rf"{name}.py, line 2"):
            checked(tmp_path, f"{name}.py")
    module, report = load("import broken\ny = 1")
    assert module.y == 1 and statuses(report) == {"broken": "skipped", "y": "kept"}
    assert "SyntaxError" in why(report, "broken") and "broken.py, line 2" in why(report, "broken")
