"""What a test needs of the machine: without it the test is skipped, and where all is due, fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the running test, or fail it where nothing may be skipped, as in .ci/run."""
    if os.environ.get("GT_NO_SKIPS"):
        pytest.fail(f"{reason} (GT_NO_SKIPS is set)")
    pytest.skip(reason)


def browser() -> str | None:
    """The path of a Chromium in which notebooks can be tested, if there is all that it takes."""
    there = all(importlib.util.find_spec(name) for name in ("jupyterlab", "playwright"))
    programs = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    return next(filter(None, programs), None) if there else None
