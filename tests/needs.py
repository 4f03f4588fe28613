"""What a test needs of the machine: without it the test is skipped, and where all is due, fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the running test, or fail it where nothing may be skipped, as in .ci/run."""
    if os.environ.get("GT_NO_SKIPS"):
        pytest.fail(f"{reason} (GT_NO_SKIPS is set)")
    pytest.skip(reason)
