"""Fixtures of the engine's tests: a small random GPT-2 in float64, and mini."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from literal import save_random_gpt2

from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def model(folder: Path) -> Transformer:
    return load_model(folder, "cpu", torch.float64)


@pytest.fixture(scope="session")
def mini() -> Transformer:
    return load_model("mini", "cpu")
