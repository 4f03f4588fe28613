"""Files of a clone load without the packages that are not there, and nothing else changes."""

from __future__ import annotations

import copy
import operator
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
import torch

from gt_helpers.differences.clone import Skipped, SkippedError, load_without

LEFT_OUT = "needs the package rust_graph, which was left out"


def write(folder: Path, **files: str) -> None:
    """Files by their paths without .py, "__" for a slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py".replace("/init/.py", "/__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[ModuleType, pd.DataFrame]]:
    """Write `main` and other files into a clone, and load `main` as `checked` does."""

    def run(
        main: str, skip: str | list[str] = "rust", **others: str
    ) -> tuple[ModuleType, pd.DataFrame]:
        write(tmp_path, main=main, **others)
        return checked(tmp_path, "main.py", skip)

    return run


def checked(
    clone: Path, name: str, skip: str | list[str] = "rust"
) -> tuple[ModuleType, pd.DataFrame]:
    """Load a file and check that the clone, sys.path and sys.modules stay as they were."""

    def state() -> tuple:
        files = {p: p.read_bytes() if p.is_file() else None for p in clone.rglob("*")}
        ours = {n for n, m in sys.modules.items() if str(clone) in str(vars(m).get("__file__"))}
        return files, ours, list(sys.path), sys.modules.get("helpers")

    before = state()
    loaded = load_without(clone / name, skip)
    assert state() == before
    return loaded


def statuses(report: pd.DataFrame) -> dict[str, str]:
    return dict(zip(report["name"], report["status"], strict=True))


def why(report: pd.DataFrame, name: str) -> str:
    [reason] = report.loc[report["name"] == name, "why"]
    return reason


# --------------------------------------------------------------------- what is kept, and what not


def test_what_needs_no_rust_is_kept(load) -> None:
    module, report = load(
        '''
        """Two kinds of functions."""
        import math, rust_graph as rg
        """A text is no documentation of the module here."""
        from rust_graph.parts import (
            Node,
            Edge as E,
        )

        DTYPE = rg.Dtype("float32")

        def area(radius: rg.Number, parts: Node | None = None) -> rg.Number:
            return math.pi * radius**2

        def graph(name):
            return rg.Graph(name)

        def graphs(names):
            return [graph(name) for name in names]

        def later():
            from rust_graph.more import thing
            return thing

        def default(dtype=rg.Dtype("float32")): ...

        def bare_default(dtype=DTYPE):
            return dtype

        @rg.cached
        def decorated(): ...

        @Node
        def called(): ...

        class Subclass(E): ...

        class Methods:
            field: rg.Number
            limit: int = 3

            def ok(self) -> Node:
                return self.limit

            def bad(self):
                return E(self)

        table = {"a": default}
        E = E.part
        print(rg.version)
        rg.set_up()
        if __name__ == "__main__":
            raise SystemExit("not run")
        '''
    )
    assert statuses(report) == {
        "rg": "skipped",
        "Node": "skipped",
        "DTYPE": "skipped",
        "area": "kept",
        "graph": "in part",
        "graphs": "in part",
        "later": "in part",
        "default": "skipped",
        "bare_default": "in part",
        "decorated": "skipped",
        "called": "skipped",
        "Subclass": "skipped",
        "Methods": "in part",
        "table": "kept",
        "E": "skipped",
        "print(rg.version)": "skipped",
        "rg.set_up()": "skipped",
        "if __name__ == '__main__':": "skipped",
    }
    assert set(report["file"]) == {"main.py"}
    assert report["line"].is_monotonic_increasing
    assert report.set_index("name")["line"][["rg", "Node", "DTYPE"]].tolist() == [3, 6, 10]
    assert why(report, "rg") == why(report, "E") == why(report, "later") == LEFT_OUT
    assert why(report, "DTYPE") == why(report, "graph") == f"needs rg, which {LEFT_OUT}"
    assert why(report, "graphs") == f"needs graph, which {LEFT_OUT}"
    assert why(report, "called") == f"needs Node, which {LEFT_OUT}"

    assert module.__doc__ == "Two kinds of functions."
    assert module.area(1) == pytest.approx(3.14159, abs=1e-5)
    assert module.bare_default(2) == 2 and isinstance(module.bare_default(), Skipped)
    assert module.Methods().ok() == 3
    for use in (
        lambda: module.graph("a"),
        lambda: module.graphs("a"),
        lambda: module.default(),
        lambda: module.Subclass(),
        lambda: module.Methods().bad(),
        lambda: module.table["a"](),
        module.later,
    ):
        with pytest.raises(SkippedError, match="the package rust_graph, which was left out when"):
            use()
    with pytest.raises(SkippedError) as error:
        module.default()
    assert str(error.value) == f"default needs rg, which {LEFT_OUT} when main.py was loaded"
    with pytest.raises(SkippedError, match=f"this code {LEFT_OUT} when main.py was loaded"):
        module.later()


def test_what_skip_matches(load) -> None:
    main = """
        import json
        import js_nowhere
        import rusty_nowhere.part
        from in_rust_nowhere import a
        """
    _, report = load(main, skip=["rust", "js"])
    assert why(report, "json") == "needs the package json, which was left out"
    assert why(report, "js_nowhere") == "needs the package js_nowhere, which was left out"
    assert why(report, "rusty_nowhere") == "needs the package rusty_nowhere, which was left out"
    assert why(report, "a") == "needs the package in_rust_nowhere, which was not installed"
    module, report = load(main, skip=[])
    assert module.json.dumps(1) == "1" and "json" not in statuses(report)
    assert set(report["why"].str[-13:]) == {"not installed"}
    with pytest.raises(SkippedError, match="a needs the package in_rust_nowhere, which was not"):
        module.a()
    for wrong in ("", ["rust", ""], [3]):
        with pytest.raises(ValueError, match=r'for example "rust" or \["rust", "interp"\]'):
            load("", skip=wrong)


def test_a_clones_own_fallback_runs(load) -> None:
    module, report = load(
        """
        try:
            import rust_graph as rg
            fast = True
        except ImportError as error:
            rg, fast = None, False
        try:
            from nowhere_at_all import thing
        except ModuleNotFoundError:
            thing = 1
        try:
            import rust_graph.lost
            def helper(): ...
        except ImportError:
            pass
        """
    )
    assert (module.rg, module.fast, module.thing) == (None, False, 1)
    assert statuses(report) == {
        "rg": "kept", "fast": "kept", "thing": "kept", "rust_graph": "skipped", "helper": "skipped"
    }  # fmt: skip
    with pytest.raises(SkippedError, match="rust_graph, which was left out"):
        module.helper()


def test_a_star_of_a_missing_package(load) -> None:
    module, report = load(
        """
        from rust_graph import *
        from others import *

        def f(x):
            total = Graph(x)
            return len(total)

        def g(x):
            return known + x

        known = 1
        """,
        others="import rust_graph as rg\nfive = 5\n_hidden = 6",
    )
    assert module.g(1) == 2 and module.five == 5
    assert statuses(report[report["file"] == "main.py"]) == {
        "Graph": "skipped", "rg": "skipped", "f": "in part", "g": "kept", "known": "kept"
    }  # fmt: skip
    assert not hasattr(module, "_hidden") and not hasattr(module, "total")
    with pytest.raises(SkippedError, match=f"Graph {LEFT_OUT}"):
        module.f(1)
    _, report = load("from rust_graph import *")
    assert statuses(report) == {"from rust_graph import *": "skipped"}


def test_annotations_are_never_evaluated(load) -> None:
    module, report = load(
        """
        from __future__ import annotations
        from dataclasses import dataclass, field
        from typing import ClassVar, List, NamedTuple, Optional
        import rust_graph as rg
        from rust_graph import Node

        Nodes = Optional[List[Node]]
        Dtypes = List[rg.Dtype]
        count: rg.Integer = 3

        @dataclass
        class Spec:
            kind: ClassVar[str] = "spec"
            node: rg.Node
            size: int = field(default=2)

        class Pair(NamedTuple):
            a: rg.Node
            b: Nodes = None
        """
    )
    assert module.Spec("n") == module.Spec(node="n", size=2)
    assert module.Pair(1) == (1, None) and module.count == 3
    assert statuses(report) == {
        "rg": "skipped", "Node": "skipped", "Nodes": "skipped", "Dtypes": "skipped",
        "count": "kept", "Spec": "kept", "Pair": "kept",
    }  # fmt: skip


# ------------------------------------------------------------------------- statements that fail


def test_statements_that_fail_take_along_what_needs_them(load) -> None:
    module, report = load(
        """
        import sys
        import json.nothing
        from json import dumps, no_such_name
        ids = open("cache/ids.txt").read()
        first = ids[0]

        def pick(i):
            return ids[i]

        sys.exit(3)
        raise KeyError
        after = 1
        ids = "here again"
        """
    )
    assert module.ids == "here again" and module.pick(0) == "h" and module.after == 1
    assert module.dumps(1) == "1"
    assert statuses(report) == {
        "json": "skipped", "no_such_name": "skipped", "first": "skipped", "pick": "kept",
        "sys.exit(3)": "skipped", "raise KeyError": "skipped", "after": "kept", "ids": "kept",
    }  # fmt: skip
    file = "failed (FileNotFoundError: [Errno 2] No such file or directory: 'cache/ids.txt')"
    assert why(report, "first") == f"needs ids, which {file}"
    assert why(report, "json") == "failed (ModuleNotFoundError: No module named 'json.nothing')"
    assert why(report, "no_such_name").startswith("failed (ImportError: cannot import name 'no_su")
    assert why(report, "sys.exit(3)") == "failed (SystemExit: 3)"
    with pytest.raises(SkippedError, match=r"first needs ids, which failed .*ids.txt'\) when main"):
        first = module.first
        first + "x"


def test_what_a_failed_block_changed_is_not_left_half_done(load) -> None:
    module, report = load(
        """
        import math
        import rust_graph as rg
        rows, names, config, done = [], {}, {"a": 1}, [0]

        class Log:
            lines = []
            def note(self, line): self.lines.append(line)

        log, other = Log(), Log()
        for i in range(3):
            rows.append(i)
            names[i] = i
            last = i
            if i:
                rg.op(i)
        config["b"] = rg.op()
        log.note(rg.op())
        Log.lines.append(rg.op())
        math.sqrt(rg.op())
        done.append(1)
        size = len(rows)
        count = rg.op(config.get("a"), done[0], other.note)

        def total():
            return sum(rows)
        """
    )
    for name in ("rows", "names", "config", "log", "i", "last", "size", "count"):
        assert isinstance(getattr(module, name), Skipped), name
    assert module.done == [0, 1] and module.math.pi > 3
    assert module.Log.lines == [] and isinstance(module.other, module.Log)
    assert why(report, "rows") == f"needs rg, which {LEFT_OUT}"
    assert statuses(report)["total"] == "in part"
    with pytest.raises(SkippedError, match="rows needs rg, which needs the package rust_graph"):
        module.total()


def test_blocks(load) -> None:
    module, report = load(
        """
        import contextlib
        import rust_graph as rg
        if 1 + 1 == 2:
            from rust_graph import Node
            inside = 1
            def helper(): return inside
        elif rg:
            never = 1
        else:
            other = 2
        if rg.fast:
            a = 1
        else:
            a = 2
        if not inside:
            b = rg
        with contextlib.suppress(KeyError) as quiet:
            c = 1
            raise KeyError
        with rg.block():
            d = 1
        while True:
            e = 1
            break
        """
    )
    assert module.helper() == 1 and (module.c, module.e) == (1, 1)
    assert statuses(report) == {
        "rg": "skipped", "Node": "skipped", "inside": "kept", "helper": "kept", "a": "skipped",
        "if not inside:": "skipped", "quiet": "kept", "c": "kept", "d": "skipped", "e": "kept",
    }  # fmt: skip
    assert why(report, "if not inside:") == "the condition is false"
    assert not {"never", "other", "b"} & set(vars(module))


# -------------------------------------------------------------------------------- placeholders

USES: dict[str, Callable[[Any], object]] = {
    "attribute": lambda x: x.shape,
    "set attribute": lambda x: setattr(x, "a", 1),
    "call": lambda x: x(1, key=2),
    "item": lambda x: x[0],
    "set item": lambda x: operator.setitem(x, 0, 1),
    "iteration": list,
    "unpacking": lambda x: {**x},
    "length": len,
    "bool": bool,
    "int": int,
    "index": lambda x: [1, 2][x],
    "in": lambda x: 1 in x,
    "equal": lambda x: x == 1,
    "less": lambda x: x < 1,
    "sum": lambda x: x + 1,
    "sum, right": lambda x: 1 + x,
    "sum, in place": lambda x: operator.iadd(x, 1),
    "minus": operator.neg,
    "matmul": lambda x: x @ x,
    "or": lambda x: int | x,
    "with": lambda x: x.__enter__(),
    "subclass": lambda x: _subclass(x),
    "isinstance": lambda x: isinstance(1, x),
    "issubclass": lambda x: issubclass(int, x),
    "path": open,
    "torch function": lambda x: torch.softmax(x, -1),
    "torch operator": lambda x: torch.ones(2) + x,
    "torch method": lambda x: torch.ones(2).to(x),
    "torch index": lambda x: torch.ones(2, 3)[:, x],
    "torch tensor": lambda x: torch.tensor([x]),
    "numpy array": np.asarray,
    "numpy function": np.mean,
    "numpy operator": lambda x: np.ones(2) * x,
}


def _subclass(base: Any) -> type:
    class Sub(base): ...

    return Sub


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_use_of_a_skipped_name_says_what_is_missing(load, use) -> None:
    module, _ = load("from rust_graph import Node")
    with pytest.raises(SkippedError) as error:
        use(module.Node)
    assert str(error.value) == f"Node {LEFT_OUT} when main.py was loaded"
    assert isinstance(error.value, ImportError)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_skipped_name_can_be_shown_and_passed_on(load) -> None:
    module, _ = load("from rust_graph import Node")
    node = module.Node
    assert repr(node) == str(node) == f"<Node: skipped, it {LEFT_OUT}>"
    for other in (pickle.loads(pickle.dumps(node)), copy.copy(node), copy.deepcopy([node])[0]):
        assert isinstance(other, Skipped) and repr(other) == repr(node)
    assert "__call__" in dir(node) and "Node" in dir(module)
    assert node in {node}
    with pytest.raises(AttributeError, match="rust_graph"):
        _ = node.__wrapped__
    assert not hasattr(node, "__version__")


# ------------------------------------------------------------------------------ the clone's files


def test_files_of_the_clone_are_loaded_in_the_same_way(load) -> None:
    module, report = load(
        """
        from helpers import years, graph, Base, missing
        import helpers as h
        import package.sub
        from package import CONSTANT, sub as again

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
        package__init__="from .sub import double\nfrom . import other\nCONSTANT = double(2)",
        package__sub="from ..helpers import years\ndef double(x): return x * len(years(2))",
        package__other="from .missing import a\nimport package\nname = package.__name__",
    )
    assert module.pool == [0, 1, 2] and module.CONSTANT == 4
    assert module.package.sub is module.again and module.package.other.name.endswith("/package")
    assert issubclass(module.Mine, module.h.Base) and module.h.dumps
    files = report["file"].drop_duplicates().tolist()
    assert files[0] == "main.py"
    assert set(files[1:]) == {
        "helpers.py", "package/__init__.py", "package/sub.py", "package/other.py"
    }  # fmt: skip
    main = report[report["file"] == "main.py"]
    assert statuses(main) == {
        "missing": "skipped", "Mine": "kept", "use": "in part", "pool": "kept"
    }  # fmt: skip
    assert why(main, "use") == f"needs graph, which {LEFT_OUT}"
    assert "cannot import name 'missing'" in why(main, "missing")
    assert why(report, "a") == "failed (ModuleNotFoundError: No module named 'missing')"
    with pytest.raises(SkippedError, match="rg needs .* when helpers.py was loaded"):
        module.use()


def test_files_that_import_each_other(load) -> None:
    module, report = load(
        "import second\none = 1\nfrom second import two\nthree = one + two",
        second="import main\nfrom main import one\ntwo = 2\ndef ones(): return main.one",
    )
    assert module.three == 3 and module.second.ones() == 1
    lost = report[(report["file"] == "second.py") & (report["status"] == "skipped")]
    assert lost["name"].tolist() == ["one"]
    assert "cannot import name 'one'" in lost["why"].item()


def test_local_names_and_installed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, clone = tmp_path / "installed", tmp_path / "clone"
    write(installed, helpers="where = 'installed'", wandb_like="where = 'installed'")
    monkeypatch.syspath_prepend(str(installed))
    already = ModuleType("helpers")
    monkeypatch.setitem(sys.modules, "helpers", already)
    write(
        clone,
        main="""
            import helpers, wandb_like, json, namespace.part, logs_nowhere
            def later():
                import helpers, further
                return helpers.where, further.where
            """,
        helpers="where = 'clone'",
        further="where = 'further'",
        wandb_like__run="",  # a folder of logs, not a package
        namespace__part="where = 'namespace'",
        json__dump="",
    )
    (clone / "logs_nowhere").mkdir()
    module, report = checked(clone, "main.py")
    assert module.helpers.where == "clone" and module.wandb_like.where == "installed"
    assert module.json.dumps(1) == "1" and module.namespace.part.where == "namespace"
    assert why(report, "logs_nowhere").endswith("logs_nowhere, which was not installed")
    assert module.later() == ("clone", "further")
    assert sys.modules["helpers"] is already
    assert not [name for name in sys.modules if name.startswith("clone/")]
    assert not list(clone.rglob("__pycache__"))


def test_where_a_file_in_a_folder_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        top="where = 'top'",
        scripts__run="""
            import os, sys
            sys.path.append(os.path.join(os.path.dirname(__file__), "..", "lib"))
            import top, beside, deep
            """,
        scripts__beside="",
        lib__deep="where = 'lib'",
        package__init__="",
        package__main="""
            import random, only_here, top
            from package import string
            import string as standard
            """,
        package__random="wrong = True",
        package__string="right = True",
        package__only_here="where = 'beside'",
    )
    module, report = checked(tmp_path, "scripts/run.py")
    assert statuses(report) == {"top": "skipped", "where": "kept"}  # the root is not known
    (tmp_path / ".git").mkdir()
    module, report = checked(tmp_path, "scripts/run.py")
    assert set(statuses(report).values()) == {"kept"}
    assert (module.top.where, module.deep.where) == ("top", "lib")
    assert module.__name__ == f"{tmp_path.name}/scripts/run"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as in a notebook
    module, _ = checked(tmp_path, "package/main.py")
    assert module.random.random() < 1 and not hasattr(module.random, "wrong")
    assert module.string.right and module.standard.digits == "0123456789"
    assert module.only_here.where == "beside"
    package, _ = checked(tmp_path, "package/__init__.py")  # loads no file beside it
    assert package.__path__ == [str(tmp_path / "package")]


def test_a_clone_on_the_path_and_an_environment_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        scripts__run="import in_source, in_environment",
        source__in_source="import rust_graph",
        env__in_environment="",
    )
    (tmp_path / ".git").mkdir()
    environment = (tmp_path / "env").rename(tmp_path / "site-packages")
    for folder in (tmp_path / "source", environment):
        monkeypatch.syspath_prepend(str(folder))
    module, report = load_without(tmp_path / "scripts" / "run.py")
    assert module.in_source.__name__ == f"{tmp_path.name}/source/in_source"
    assert statuses(report) == {"rust_graph": "skipped"}
    assert sys.modules.pop("in_environment") is module.in_environment
    assert "in_source" not in sys.modules and not (tmp_path / "source" / "__pycache__").exists()


# ------------------------------------------------------------------------------------- errors


def test_errors(tmp_path: Path, load) -> None:
    write(tmp_path, broken="x = 1\nif x\n    y = 2", late="def f(): pass\nreturn 3")
    (tmp_path / "notes.txt").write_text("text")
    for name in ("no_such.py", "no_such"):
        with pytest.raises(ValueError, match=f"{name} is not there; give one Python file, for"):
            load_without(tmp_path / name)
    with pytest.raises(ValueError, match=r"is a folder; give one Python file, .*broken.py'$"):
        load_without(tmp_path)
    with pytest.raises(ValueError, match="notes.txt is no Python file"):
        load_without(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"broken.py, line 2 is not Python .* expected ':'"):
        load_without(tmp_path / "broken.py")
    with pytest.raises(ValueError, match=r"late.py, line 2 is not Python .* outside function"):
        load_without(tmp_path / "late.py")
    module, report = load("import broken\nfrom broken import x\ny = 1")
    assert module.y == 1 and statuses(report) == {"broken": "skipped", "x": "skipped", "y": "kept"}
    assert "broken.py, line 2 is not Python" in why(report, "x")
