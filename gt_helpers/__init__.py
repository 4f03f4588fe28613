"""Redo, see and question the greater-than circuit of GPT-2 small (Hanna, Liu, Variengien 2023).

Everything public is imported from here; figures, tables and explorers from `gt_helpers.views`.
What is public stands in ``__init__.pyi``, for type checkers and for this file alike.
"""

import ast
from importlib import import_module
from pathlib import Path

__version__ = "0.3.0"

# Lazy, so that importing the package is quick and needs nothing installed: the setup cell of the
# notebooks does it before torch is there.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_ROOMS = {
    alias.name: f"{__name__}.{statement.module}"
    for statement in _STUB.body
    if isinstance(statement, ast.ImportFrom)
    for alias in statement.names
}
__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> object:
    """Import a public name from its room when it is first asked for."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ROOMS[name]), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return __all__
