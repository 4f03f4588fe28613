"""Runs of the embedded model that several tests of views look at."""

from __future__ import annotations

import pytest

from gt_helpers import ActivationCache, PathPatching, YearDataset, cache_activations
from gt_helpers.model.transformer import Transformer


@pytest.fixture(scope="session")
def dataset(mini: Transformer) -> YearDataset:
    return YearDataset(mini.tokenizer, 97)  # every YY once, 02 first


@pytest.fixture(scope="session")
def clean(mini: Transformer, dataset: YearDataset) -> ActivationCache:
    return cache_activations(mini, dataset.clean)


@pytest.fixture(scope="session")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, YearDataset(mini.tokenizer, 24, seed=3))
