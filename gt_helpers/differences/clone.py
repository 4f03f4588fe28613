"""load_without: a Python file of somebody's clone, without the packages that are not at hand.

The file's top-level statements run one by one. An import of a package that is left out or not
installed fails, but only its statement is lost: the names that it would have bound become
`Skipped`, and so do those of every other statement that cannot run without them.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import pandas as pd

# Two small files that stand for somebody's repository, with two faults of their own.
EXAMPLE_CLONE = Path(__file__).parents[1] / "data" / "example_clone"
_Row = tuple[str, int, str, str, str]  # the columns of the report

_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_IMPORTS = ast.Import | ast.ImportFrom
_FAILURES = (Exception, SystemExit)  # a script that exits at top level ends itself, not its caller


def load_without(
    path: str | Path, skip: str | Sequence[str] = "rust"
) -> tuple[ModuleType, pd.DataFrame]:
    """Run one Python file of a clone, leaving out some packages and what cannot do without them.

    This executes the clone's code, with your rights: only for code that you have and trust.

    Left out are packages whose name starts with ``skip``, or with one of several such words:
    "rust" stands for rust_circuit. A package that is not installed is treated alike. Other files
    of the clone that the file imports are loaded in the same way. A top-level statement that fails
    for another reason, for example a file that is not in the current folder, is skipped as well.
    Annotations are not evaluated, and `if __name__ == "__main__":` does not run. Nothing is written
    into the clone, unless its own code does so, and none of its files is left in `sys.modules`.

    Returns the module and a report of what the file, and then the others, define: file, line,
    name, status, why. "kept": it is there. "in part": it is there, but its code names something
    skipped and raises SkippedError where it uses that. "skipped": every use raises SkippedError,
    whose message names what is missing. Raises ValueError for a path that is no Python file and
    for a syntax error.

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
        what = "a folder" if file.is_dir() else "no Python file" if file.exists() else "not there"
        example = next(iter(sorted(file.glob("*.py"))), "clone/dataset.py")
        raise ValueError(f"{path} is {what}; give one Python file, for example {str(example)!r}")
    clone = _Clone(file, words)
    module = clone.load(file.parent if file.name == "__init__.py" else file)
    return module, pd.DataFrame(clone.rows, columns=["file", "line", "name", "status", "why"])


class _Reason(NamedTuple):
    """Why a name is skipped: the skipped name it needs, if any; what became of that; in which file.

    The name is empty for an import in a function's body, which binds none in the module.
    """

    name: str
    needs: str
    why: str
    file: str

    def __str__(self) -> str:
        return f"needs {self.needs}, which {self.why}" if self.needs else self.why


class SkippedError(ModuleNotFoundError):
    """Code used a name, or imported a package, that was skipped; the message says what is missing.

    The clone's own `try: import ... except ImportError:` takes it for a package not installed.
    """

    def __init__(self, reason: _Reason) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason.name or 'this code'} {self.reason} when {self.reason.file} was loaded"


class Skipped:
    """Stands for a name that could not be loaded: it can be passed on and shown, but not used."""

    def __init__(self, reason: _Reason) -> None:
        vars(self)["_reason"] = reason

    def __repr__(self) -> str:
        return f"<{self._reason.name}: skipped, it {self._reason}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle, copy and inspect ask for such names, and expect this
            raise AttributeError(f"no {name}, because it {vars(self).get('_reason')}")
        raise SkippedError(vars(self)["_reason"])

    __hash__ = object.__hash__

    # torch warns of a method of this name, but not of a property.
    __torch_function__ = property(lambda self: partial(_use, self))


def _use(skipped: Skipped, *_args: object, **_options: object) -> None:
    raise SkippedError(skipped._reason)


for _method in """setattr delattr call getitem setitem delitem len iter next reversed contains bool
    int float complex index round neg pos abs invert eq ne lt le gt ge add radd iadd sub rsub isub
    mul rmul imul truediv rtruediv itruediv floordiv rfloordiv ifloordiv mod rmod imod divmod
    rdivmod pow rpow ipow matmul rmatmul imatmul and rand iand or ror ior xor rxor ixor lshift
    rlshift ilshift rshift rrshift irshift enter exit aenter aexit aiter anext await mro_entries
    instancecheck subclasscheck fspath array array_function array_ufunc""".split():
    setattr(Skipped, f"__{_method}__", _use)


class _Clone:
    """The files of a clone that were loaded, and where its imports lead."""

    def __init__(self, entry: Path, skip: tuple[str, ...]) -> None:
        self.folder = entry.parent
        while (self.folder / "__init__.py").is_file():
            self.folder = self.folder.parent
        self.root = next((p for p in entry.parents if (p / ".git").exists()), self.folder)
        self.skip = skip
        self.modules: dict[Path, ModuleType] = {}
        self.loading: list[ModuleType] = []
        self.sys_path: list[str] = []  # as it was before the first of them
        self.partly: dict[int, _Reason] = {}  # by the id of a function or class
        self.rows: list[_Row] = []

    def load(self, path: Path) -> ModuleType:
        """The module of a file or of a package's folder; as it is, if it is being loaded."""
        if path in self.modules:
            return self.modules[path]
        inside = path.relative_to(self.root) if path.is_relative_to(self.root) else Path(path.name)
        # No package has a slash in its name, so this one hides none.
        module = ModuleType(f"{self.root.name}/{inside.as_posix().removesuffix('.py')}")
        source = path
        if path.is_dir():
            module.__path__ = [str(path)]
            source, inside = path / "__init__.py", inside / "__init__.py"
        module.__file__ = str(source)
        file = _File(self, source, inside.as_posix(), module)
        body = file.parse() if source.is_file() else []
        self.modules[path] = module
        if outermost := not self.loading:
            self.sys_path = list(sys.path)
        self.loading.append(module)
        sys.modules[module.__name__] = module  # dataclasses looks it up
        try:
            file.run(body)
        finally:
            if outermost:
                sys.path[:] = self.sys_path
                for loaded in self.loading:
                    sys.modules.pop(loaded.__name__, None)
                self.loading.clear()
        self.rows = file.report() + self.rows
        return module

    def folder_of(self, package: str, beside: Path) -> Path | None:
        """The folder of the clone that a package is imported from; None if it is no file of it.

        As in Python, the clone's files come before what is installed, and folders without
        __init__.py after it. The folder ``beside`` is the importing file's: it counts last, because
        a package's files do not see each other without a dot, unless they run as scripts.
        """
        folders = [self.folder, self.root, *map(Path, filter(self._is_local, sys.path))]
        for folder in folders:
            found = _find(folder, package)
            if found and (found.is_file() or (found / "__init__.py").is_file()):
                return folder
        if _origin(package):
            return None
        return next((folder for folder in [*folders, beside] if _find(folder, package)), None)

    def _is_local(self, entry: str) -> bool:
        """Whether an entry of `sys.path` lies in the clone or was added by its code.

        An environment with installed packages is not of the clone, wherever it lies.
        """
        path = Path(entry).resolve()
        if {"site-packages", "dist-packages"} & set(path.parts) or any(
            path.is_relative_to(prefix) for prefix in (sys.prefix, sys.base_prefix)
        ):
            return False
        added = bool(self.loading) and entry not in self.sys_path
        return added or path.is_relative_to(self.root)

    def import_from(self, start: Path, name: str, wanted: Sequence[str]) -> ModuleType:
        """What `__import__` gives for a dotted name whose first part lies in the folder ``start``.

        That is the first part's module, or the last's if names are ``wanted`` from it.
        """
        place, modules = start, [] if name else [self.load(start)]
        for part in name.split(".") if name else ():
            found = _find(place, part)
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            place = found
            module = self.load(place)
            if modules:
                setattr(modules[-1], part, module)
            modules.append(module)
        for part in wanted:
            submodule = None if hasattr(modules[-1], part) else _find(place, part)
            if submodule:
                setattr(modules[-1], part, self.load(submodule))
        return modules[-1] if wanted else modules[0]


def _find(folder: Path, name: str) -> Path | None:
    """A module in a folder, as Python finds it: a package, else a file, else a mere folder."""
    package, file = folder / name, folder / f"{name}.py"
    if (package / "__init__.py").is_file():
        return package
    if file.is_file():
        return file
    return package if any(package.glob("**/*.py")) else None


def _origin(package: str) -> str | None:
    """Where Python finds an installed package: "" for a mere folder, None for nowhere."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # ValueError: it is imported, but has no spec
        return "imported" if package in sys.modules else None
    return (spec.origin or "") if spec else None


class _File:
    """One file of a clone: runs its statements, and knows what became of its names."""

    def __init__(self, clone: _Clone, path: Path, shown: str, module: ModuleType) -> None:
        self.clone = clone
        self.path = path
        self.shown = shown
        self.names = vars(module)
        self.names["__builtins__"] = {**vars(builtins), "__import__": self.import_}
        self.binders: dict[str, ast.stmt] = {}  # the statement that bound, or lost, a name last
        self.nameless: list[_Row] = []  # of skipped statements that bind no name
        self.dropped: SkippedError | None = None  # by an import of the statement that runs

    def parse(self) -> list[ast.stmt]:
        """The file's statements; ValueError names the line of a syntax error."""
        try:
            tree = ast.parse(self.path.read_bytes(), str(self.path))
            self.code = self._compile(tree.body)
        except (SyntaxError, ValueError) as error:
            line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
            text = error.msg if isinstance(error, SyntaxError) else error
            raise ValueError(
                f"{self.path}{line} is not Python as this version reads it: {text}; "
                "correct it, or give another file of the clone"
            ) from error
        self.names["__doc__"] = ast.get_docstring(tree)
        return tree.body

    def import_(
        self,
        name: str,
        globals: dict | None = None,
        locals: dict | None = None,
        fromlist: Sequence[str] | None = None,
        level: int = 0,
    ) -> ModuleType:
        """`__import__` for this file's code, also when its functions import later."""
        if level:
            folder: Path | None = self.path.parents[level - 1]
        else:
            package = name.partition(".")[0]
            if missing := self._missing(package):
                self.dropped = SkippedError(missing)
                raise self.dropped
            folder = self.clone.folder_of(package, self.path.parent)
        if folder:
            return self.clone.import_from(folder, name, fromlist or ())
        return builtins.__import__(name, globals, locals, fromlist or ())

    def _missing(self, package: str) -> _Reason | None:
        """Why this file cannot import a package; None if it can."""
        if package.startswith(self.clone.skip):
            why = "left out"
        elif self.clone.folder_of(package, self.path.parent) or _origin(package) is not None:
            return None
        else:
            why = "not installed"
        return _Reason("", "", f"needs the package {package}, which was {why}", self.shown)

    def run(self, body: list[ast.stmt]) -> None:
        """Run statements one by one: those of an `if` too, and each name of an import."""
        for statement in body:
            if isinstance(statement, ast.If):
                self._run_if(statement)
                continue
            for part in _parts(statement):
                before = set(self.names)
                self.dropped = None
                try:
                    exec(self._compile([part]), self.names)
                except _FAILURES as error:
                    self._skip(part, error)
                else:
                    self._keep(part, before)

    def _run_if(self, statement: ast.If) -> None:
        test = compile(ast.Expression(statement.test), str(self.path), "eval", dont_inherit=True)
        try:
            branch = statement.body if eval(test, self.names) else statement.orelse
        except _FAILURES as error:
            self._skip(statement, error)
            return
        if not branch:
            self._add_nameless(statement, "the condition is false")
        self.run(branch)

    def _compile(self, body: list[ast.stmt]) -> CodeType:
        # With this flag annotations stay text, so that none needs a package.
        flag = __future__.annotations.compiler_flag
        return compile(ast.Module(body, []), str(self.path), "exec", flag, dont_inherit=True)

    def _keep(self, statement: ast.stmt, before: set[str]) -> None:
        bound = _bound(self._compile([statement]))
        for name in bound:
            if name not in self.names and self.dropped:  # `try: import x; except ImportError: pass`
                self.names[name] = Skipped(self._reason(name, self.dropped))
        starred = {n for n in self.names.keys() - before if isinstance(self.names[n], Skipped)}
        self.binders |= dict.fromkeys([*bound, *sorted(starred)], statement)

    def _skip(self, statement: ast.stmt, error: BaseException) -> None:
        """Let every name that the statement would have bound, or changed, be skipped."""
        lost = [*_bound(self._compile([statement])), *_changed(statement, self.names)]
        if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
            # What the star stood for is not known: every name that has no other source.
            others = {*_bound(self.code), *self.names, *vars(builtins)}
            lost = sorted(_used(self.code) - others)
        for name in lost:
            self.names[name] = Skipped(self._reason(name, error))
            self.binders[name] = statement
        if not lost:
            self._add_nameless(statement, str(self._reason("", error)))

    def _reason(self, name: str, error: BaseException) -> _Reason:
        if isinstance(error, SkippedError):
            needs = error.reason.name
            return error.reason._replace(name=name, needs="" if needs == name else needs)
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        return _Reason(name, "", f"failed ({text})", self.shown)

    def _add_nameless(self, statement: ast.stmt, why: str) -> None:
        text = ast.unparse(statement).splitlines()[0]
        self.nameless.append((self.shown, statement.lineno, text, "skipped", why))

    def report(self) -> list[_Row]:
        """Rows by line: one per name, but none for an import that went well."""
        self._find_partly_kept()
        rows = list(self.nameless)
        for name, statement in self.binders.items():
            value = self.names.get(name)
            status, why = "kept", ""
            if isinstance(value, Skipped):
                status, why = "skipped", str(value._reason)
            elif name not in self.names or isinstance(statement, _IMPORTS):
                continue
            elif reason := self.clone.partly.get(id(value)):
                status, why = "in part", str(reason)
            rows.append((self.shown, statement.lineno, name, status, why))
        return sorted(rows, key=lambda row: row[1])

    def _find_partly_kept(self) -> None:
        """Note functions and classes that name something skipped, or another of their kind."""
        statements = {}
        for name, statement in self.binders.items():
            value = self.names.get(name)
            defines = isinstance(statement, _FUNCTIONS | ast.ClassDef)
            if isinstance(value, FunctionType | type) or (defines and name in self.names):
                statements[id(value)] = statement
        found = True
        while found:
            found = False
            for value_id, statement in statements.items():
                if value_id in self.clone.partly:
                    continue
                if reason := self._first_missing(statement):
                    self.clone.partly[value_id] = reason
                    found = True

    def _first_missing(self, statement: ast.stmt) -> _Reason | None:
        for package in sorted(_imported_later(statement)):
            if missing := self._missing(package):
                return missing
        for used in sorted(_used(self._compile([statement]))):
            value = self.names.get(used)
            if isinstance(value, Skipped):
                return value._reason._replace(needs=used)
            if reason := self.clone.partly.get(id(value)):
                return reason._replace(needs=used)
        return None


def _bound(code: CodeType) -> list[str]:
    """Names that a module's code binds."""
    steps = [(step.opname, step.argval) for step in dis.get_instructions(code)]
    gone = {name for op, name in steps if op == "DELETE_NAME"}  # such as e of `except X as e`
    return list(dict.fromkeys(n for op, n in steps if op == "STORE_NAME" and n not in gone))


def _used(code: CodeType) -> set[str]:
    """Names of the module, and of Python, that a module's code and the functions in it use."""
    loads = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS")
    steps = (step for part in _code_objects(code) for step in dis.get_instructions(part))
    return {step.argval for step in steps if step.opname in loads}


def _code_objects(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_objects(constant)


def _imported_later(statement: ast.stmt) -> set[str]:
    """Packages that functions in a statement import when they are called."""
    functions = [node for node in ast.walk(statement) if isinstance(node, _FUNCTIONS)]
    packages: set[str] = set()
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Import):
            packages.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            packages.add(node.module.partition(".")[0])
    return packages


def _parts(statement: ast.stmt) -> list[ast.stmt]:
    """An import of several names as several imports, a mere text as nothing, the rest as it is."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return []  # compiled alone, a text would become the module's __doc__
    if isinstance(statement, ast.Import):
        return [ast.copy_location(ast.Import([alias]), alias) for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        source, level = statement.module, statement.level
        return [
            ast.copy_location(ast.ImportFrom(source, [alias], level), alias)
            for alias in statement.names
        ]
    return [statement]


def _changed(statement: ast.stmt, names: dict[str, Any]) -> list[str]:
    """Names of objects that a statement changes: it stores in them, or calls a method for effect.

    Where it fails they would be incomplete, and nothing would show it.
    """
    if isinstance(statement, _FUNCTIONS | ast.ClassDef):
        return []
    changed = set()
    for node in ast.walk(statement):
        target: ast.expr | None = None
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            target = node
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            target = node.value.func if isinstance(node.value.func, ast.Attribute) else None
        while isinstance(target, ast.Attribute | ast.Subscript | ast.Call):
            target = target.func if isinstance(target, ast.Call) else target.value
        if isinstance(target, ast.Name) and target.id in names:
            value = names[target.id]
            if not (inspect.isroutine(value) or isinstance(value, ModuleType | type | Skipped)):
                changed.add(target.id)
    return sorted(changed)
