"""The embedded model for all tests of views, and runs of it that several of them look at."""

from __future__ import annotations

import pytest

from gt_helpers import ActivationCache, PathPatching, YearDataset, cache_activations, load_model
from gt_helpers.model.transformer import Transformer


@pytest.fixture(scope="session")
def mini() -> Transformer:
    return load_model("mini", device="cpu")


@pytest.fixture(scope="session")
def dataset(mini: Transformer) -> YearDataset:
    return YearDataset(mini.tokenizer, 97)  # every YY once, 02 first


@pytest.fixture(scope="session")
def clean(mini: Transformer, dataset: YearDataset) -> ActivationCache:
    return cache_activations(mini, dataset.clean)


@pytest.fixture(scope="session")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, YearDataset(mini.tokenizer, 24, seed=3))
