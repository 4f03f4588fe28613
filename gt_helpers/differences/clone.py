"""load_without: a Python file of somebody's clone, without the packages that are not at hand.

While the file is loaded, a finder answers imports of what is left out by stubs, and loads other
files of the clone as the file itself: statement by statement, so that what fails, such as reading
a cache that is not there, takes along only the names that it would have bound.
"""

from __future__ import annotations
import __future__

import ast
import dis
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

# Two small files that stand for somebody's repository, with two faults of their own.
EXAMPLE_CLONE = Path(__file__).parents[1] / "data" / "example_clone"


def load_without(
    path: str | Path, skip: str | Sequence[str] = "rust"
) -> tuple[ModuleType, pd.DataFrame]:
    """Run one Python file of a clone, leaving out some packages and what cannot do without them.

    This executes the clone's code, with your rights: only for code that you have and trust.

    Left out are packages whose name starts with ``skip``, or with one of several such words:
    "rust" stands for rust_circuit. A top-level statement that needs one of them, or fails for
    another reason, is skipped, and so are its names. Annotations are not evaluated. Nothing is
    written into the clone, unless its own code does so.

    Returns the module and a report of what it and the clone's files that it imports define: file,
    line, name, status, why. "kept": it is there, though its code may still use something skipped.
    "skipped": it can be passed on, but its use raises SkippedError, which says what is missing.
    Raises ValueError for a path that is no Python file, and SyntaxError as Python does.

    >>> theirs, report = load_without("clone/dataset.py")
    >>> report[report["status"] != "kept"]
    """
    words = (skip,) if isinstance(skip, str) else tuple(skip)
    if not all(isinstance(word, str) and word for word in words):
        raise ValueError(
            f"skip is {skip!r}; give the first letters of a package's name, or a list of such "
            'words, e.g. "rust" or ["rust", "interp"]'
        )
    file = Path(path).expanduser().resolve()
    if not file.is_file() or file.suffix != ".py":
        raise ValueError(f"{path} is no Python file; give one, e.g. 'clone/dataset.py'")
    clone = _Clone(file.parent, words)
    with clone.importing():
        module = importlib.import_module(file.stem)
    columns = ["file", "line", "name", "status", "why"]
    return module, pd.DataFrame(clone.report.values(), columns=columns)


class SkippedError(ImportError):
    """Code used a name that was skipped; the message says which, and what is missing."""

    def __init__(self, skipped: str, why: str) -> None:
        super().__init__(f"{skipped} {why}")
        self.skipped, self.why = skipped, why


class Stub:
    """Stands for something that could not be loaded: it can be passed on and shown, but not used.

    Its attributes are stubs too, so that `from rust_circuit import Scalar` works.
    """

    def __init__(self, name: str, why: str) -> None:
        vars(self).update(_name=name, _why=why)

    def __repr__(self) -> str:
        return f"<skipped: {self._name} {self._why}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pickle, inspect and IPython ask for such names, and expect this
            raise AttributeError(name)
        return Stub(f"{self._name}.{name}", self._why)

    __hash__ = object.__hash__


def _use(stub: Stub, *_args: object, **_options: object) -> None:
    raise SkippedError(stub._name, stub._why)


for _method in """call getitem setitem iter next len contains bool int float index eq ne lt le gt ge
    add radd sub rsub mul rmul truediv rtruediv matmul rmatmul or ror neg enter fspath array
    mro_entries instancecheck""".split():
    setattr(Stub, f"__{_method}__", _use)


class _Clone(MetaPathFinder, Loader):
    """Finds and loads the clone's files, and stubs in the place of what is left out."""

    def __init__(self, folder: Path, skip: tuple[str, ...]) -> None:
        self.folder, self.skip = folder, skip
        self.report: dict[tuple[str, str], tuple[str, int, str, str, str]] = {}  # by file and name

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Answer imports; afterwards `sys.path` and `sys.modules` are as before."""
        # Imported before, another file called utils would be taken for the clone's.
        files = [*self.folder.glob("*.py"), *(init.parent for init in self.folder.glob("*/*.py"))]
        own = {file.stem for file in files} - sys.stdlib_module_names

        def taken_out() -> dict[str, ModuleType]:
            names = [n for n in sys.modules if n.split(".")[0] in own or n.startswith(self.skip)]
            return {name: sys.modules.pop(name) for name in names}

        importlib.invalidate_caches()
        before, path = taken_out(), list(sys.path)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            sys.path[:] = path
            taken_out()
            sys.modules.update(before)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where an import of a clone's file or of a stub leads; None leaves it to Python."""
        spec = PathFinder.find_spec(name, [str(self.folder)] if path is None else path)
        if spec and spec.origin and Path(spec.origin).is_relative_to(self.folder):
            spec.loader = self
            return spec
        return ModuleSpec(name, self, is_package=True) if name.startswith(self.skip) else None

    def create_module(self, spec: ModuleSpec) -> Any:
        """A stub for what is left out; Python's own kind of module for a file."""
        return None if spec.origin else Stub(spec.name, "was left out")

    def exec_module(self, module: ModuleType) -> None:
        """Run a file's statements one by one, and note what becomes of their names."""
        if isinstance(module, Stub):
            return
        path = Path(str(module.__file__))
        file = str(path.relative_to(self.folder))
        for statement in ast.parse(path.read_bytes(), str(path)).body:
            imports = isinstance(statement, ast.Import | ast.ImportFrom)
            for name, why in _run(statement, path, vars(module)).items():
                if why or not imports:
                    status = "skipped" if why else "kept"
                    self.report[file, name] = (file, statement.lineno, name, status, why)


def _run(statement: ast.stmt, path: Path, names: dict[str, Any]) -> dict[str, str]:
    """Run one statement; returns the names it bound, or would have, and why if they are skipped."""
    # With this flag annotations stay text, so that none needs a package.
    flag = __future__.annotations.compiler_flag
    code = compile(ast.Module([statement], []), str(path), "exec", flag, dont_inherit=True)
    stored = {step.argval: "" for step in dis.get_instructions(code) if step.opname == "STORE_NAME"}
    try:
        exec(code, names)
    except (Exception, SystemExit) as error:  # a script that exits at top level ends itself only
        text = f"failed ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
        if isinstance(error, SkippedError):
            text = f"needs {error.skipped}, which {error.why}"
        names.update({name: Stub(name, text) for name in stored})
        return dict.fromkeys(stored or [ast.unparse(statement).splitlines()[0]], text)
    for name in stored:
        value = names.get(name)
        if isinstance(value, Stub):
            stored[name] = f"{value._name} ".removeprefix(f"{name} ") + value._why
    return {name: why for name, why in stored.items() if not name.startswith("__")}
