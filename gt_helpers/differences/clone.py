"""load_without: a Python file of somebody's clone, without the packages that are not at hand.

While the file is loaded, a finder answers its imports: a missing package becomes a `Stub`, other
files of the clone are loaded in the same way. Statements run one by one, and the names of one that
fails become stubs too.
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
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pandas as pd

# Two small files that stand for somebody's repository, with two faults of their own.
EXAMPLE_CLONE = Path(__file__).parents[1] / "data" / "example_clone"
_Row = tuple[str, int, str, str, str]  # the columns of the report


def load_without(
    path: str | Path, skip: str | Sequence[str] = "rust"
) -> tuple[ModuleType, pd.DataFrame]:
    """Run one Python file of a clone, leaving out some packages and what cannot do without them.

    This executes the clone's code, with your rights: only for code that you have and trust.

    Left out are packages whose name starts with ``skip``, or with one of several such words:
    "rust" stands for rust_circuit. A package that is not installed is treated alike. A top-level
    statement that needs one of them, or fails for another reason, for example a file that is not
    in the current folder, is skipped, and so are its names. Annotations are not evaluated, and
    `if __name__ == "__main__":` does not run. Nothing is written into the clone, unless its own
    code does so, and `sys.path` and `sys.modules` are left without its files.

    Returns the module and a report of what the file, and then the others, define: file, line,
    name, status, why. "kept": it is there, though its code may still use something skipped.
    "skipped": it can be passed on, but its use raises SkippedError, which says what is missing.
    Raises ValueError for a path that is no Python file, and SyntaxError as Python does.

    >>> theirs, report = load_without("clone/dataset.py")
    >>> report[report["status"] != "kept"]
    """
    words = (skip,) if isinstance(skip, str) else tuple(skip)
    if not all(isinstance(word, str) and word for word in words):
        raise ValueError(
            f"skip is {skip!r}; give the first letters of a package's name, or a list of such "
            'words, for example "rust" or ["rust", "interp"]'
        )
    file = Path(path).expanduser().resolve()
    if not file.is_file() or file.suffix != ".py":
        example = next(iter(sorted(file.glob("*.py"))), "clone/dataset.py")
        raise ValueError(f"{path} is no Python file; give one, for example {str(example)!r}")
    folder = file.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    parts = file.relative_to(folder).with_suffix("").parts
    name = ".".join(parts[:-1] if file.name == "__init__.py" else parts)
    clone = _Clone(folder, file, words)
    with clone.importing(name):
        module = importlib.import_module(name)
    rows = [row for found in clone.report.values() for row in found.values()]
    return module, pd.DataFrame(rows, columns=["file", "line", "name", "status", "why"])


class SkippedError(ImportError):
    """Code used a name that was skipped; the message says which, and what is missing."""

    def __init__(self, skipped: str, why: str) -> None:
        super().__init__(skipped, why)
        self.skipped, self.why = skipped, why

    def __str__(self) -> str:
        return f"{self.skipped} {self.why}"


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


for _method in """call getitem setitem delitem len iter next reversed contains bool int float
    complex index round neg pos abs invert eq ne lt le gt ge add radd iadd sub rsub isub mul rmul
    imul truediv rtruediv itruediv floordiv rfloordiv ifloordiv mod rmod imod divmod rdivmod pow
    rpow ipow matmul rmatmul imatmul and rand iand or ror ior xor rxor ixor lshift rlshift ilshift
    rshift rrshift irshift enter exit aenter aexit aiter anext await mro_entries instancecheck
    subclasscheck fspath array array_function array_ufunc""".split():
    setattr(Stub, f"__{_method}__", _use)
# torch warns of a method of this name, but not of a property.
Stub.__torch_function__ = property(lambda stub: lambda *_, **__: _use(stub))  # type: ignore[attr-defined]


class _Clone(MetaPathFinder, Loader):
    """Finds and loads what the clone's files import; all other code imports as ever."""

    def __init__(self, folder: Path, file: Path, skip: tuple[str, ...]) -> None:
        self.folder, self.file, self.skip = folder, file, skip
        self.sys_path = list(sys.path)
        self.loaded: set[str] = set()
        self.report: dict[str, dict[str, _Row]] = {}  # by file and name

    @contextmanager
    def importing(self, name: str) -> Iterator[None]:
        """Answer the clone's imports; afterwards `sys.path` and `sys.modules` are as before."""
        # Imported before, another file called utils would be taken for the clone's.
        own = {path.stem for path in self.folder.glob("*.py")}
        own |= {path.parent.name for path in self.folder.glob("*/__init__.py")}
        own = (own - sys.stdlib_module_names) | {_package(name)}

        def taken_out() -> dict[str, ModuleType]:
            names = [
                name
                for name in sys.modules
                if name in self.loaded or _package(name) in own or name.startswith(self.skip)
            ]
            return {name: sys.modules.pop(name) for name in names}

        importlib.invalidate_caches()
        before = taken_out()
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            sys.path[:] = self.sys_path
            taken_out()
            sys.modules.update(before)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where an import of a clone's file leads; None leaves it to Python's own finders."""
        importer = _importer()
        asked_for = importer == __file__  # the file itself, whatever its name begins with
        if not asked_for and not self._is_ours(importer):
            return None
        left_out = name.startswith(self.skip) and not asked_for
        spec = ModuleSpec(name, self, is_package=True) if left_out else self._spec(name, path)
        if spec:
            self.loaded.add(name)
        return spec

    def _spec(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        if isinstance(sys.modules.get(_package(name)), Stub):  # "nowhere.part" of "nowhere"
            return ModuleSpec(name, self, is_package=True)
        spec = PathFinder.find_spec(name, self._places() if path is None else path)
        if spec and spec.origin and self._is_ours(spec.origin):
            spec.loader = self
            return spec
        if path is not None or find_spec(name):
            return None
        # A mere folder, perhaps of logs, counts only if nothing else has this name.
        folders = spec.submodule_search_locations if spec else None
        if any(file for folder in folders or () for file in Path(folder).glob("**/*.py")):
            return spec
        return ModuleSpec(name, self, is_package=True)

    def _places(self) -> list[str]:
        """The folders of the clone: that of its packages, what its code added, the file's own."""
        added = [entry for entry in sys.path if entry not in self.sys_path]
        return [str(self.folder), *added, str(self.file.parent)]

    def _is_ours(self, file: str) -> bool:
        inside = any(Path(file).is_relative_to(place) for place in self._places())
        return inside and "site-packages" not in file

    def create_module(self, spec: ModuleSpec) -> Any:
        """A stub for a package that is missing; Python's own kind of module for a file."""
        if spec.origin:
            return None
        left_out = spec.name.startswith(self.skip)
        return Stub(spec.name, "was left out" if left_out else "is not installed")

    def exec_module(self, module: ModuleType) -> None:
        """Run a file's statements one by one, and note what becomes of their names."""
        if isinstance(module, Stub):
            return
        path = Path(str(module.__file__))
        inside = path.is_relative_to(self.folder)
        shown = str(path.relative_to(self.folder) if inside else path.name)
        report = self.report.setdefault(shown, {})
        tree = ast.parse(path.read_bytes(), str(path))
        module.__doc__ = ast.get_docstring(tree)
        for statement in tree.body:
            # Compiled alone, any text would become the module's __doc__.
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue
            for name, why in _run(statement, path, vars(module)).items():
                status = "skipped" if why else "kept"
                report[name] = (shown, statement.lineno, name, status, why)


# Not importlib.util: it asks where a package is, and imports nothing.
_IMPORT_SYSTEM = ("<frozen importlib._bootstrap", importlib.__file__)


def _package(name: str) -> str:
    return name.partition(".")[0]


def _importer() -> str:
    """The file whose code imports: the first one on the stack that is not the import system's."""
    frame: FrameType | None = sys._getframe(2)
    while frame and frame.f_code.co_filename.startswith(_IMPORT_SYSTEM):
        frame = frame.f_back
    return frame.f_code.co_filename if frame else ""


def _run(statement: ast.stmt, path: Path, names: dict[str, Any]) -> dict[str, str]:
    """Run one statement; returns the names it bound, or would have, and why if they are skipped."""
    # With this flag annotations stay text, so that none needs a package.
    flag = __future__.annotations.compiler_flag
    code = compile(ast.Module([statement], []), str(path), "exec", flag, dont_inherit=True)
    before = dict(names)
    try:
        exec(code, names)
    except (Exception, SystemExit) as error:  # a script that exits at top level ends itself only
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        why = (
            f"needs {error.skipped}, which {error.why}"
            if isinstance(error, SkippedError)
            else f"failed ({text})"
        )
        stored = [step for step in dis.get_instructions(code) if step.opname == "STORE_NAME"]
        lost = dict.fromkeys((step.argval for step in stored), why)
        names.update({name: Stub(name, why) for name in lost})
        return lost or {ast.unparse(statement).splitlines()[0]: why}
    new = [name for name, value in names.items() if value is not before.get(name, names)]
    bound = {name: _why(name, names[name]) for name in new if not name.startswith("__")}
    imports = isinstance(statement, ast.Import | ast.ImportFrom)
    return {name: why for name, why in bound.items() if why or not imports}


def _why(name: str, value: object) -> str:
    """Why a name is skipped; "" if it is not."""
    if not isinstance(value, Stub):
        return ""
    return value._why if value._name == name else f"{value._name} {value._why}"
