"""Unit: attention against the cached heads, and its key axis; tests/model: against transformers."""

from __future__ import annotations

import pytest
import torch
from literal import close, random_prompts

from gt_helpers.analysis import attention
from gt_helpers.analysis.attention import attention_map, attention_pattern, by_head
from gt_helpers.model.cache import ActivationCache, cache_activations
from gt_helpers.model.transformer import Transformer

HEADS = [(layer, head) for layer in range(3) for head in range(3)]
N_PROMPTS, N_POSITIONS = 5, 6


@pytest.fixture(scope="module")
def cache(random_model: Transformer) -> ActivationCache:
    return cache_activations(random_model, random_prompts(N_PROMPTS).clean)


def moved(cache: ActivationCache, layer: int, head: int) -> torch.Tensor:
    """What a head would move from every position [prompt, position, d_model], head by head."""
    block = cache.model.blocks[layer]
    normalised = block.ln1(cache.stream[layer])
    values = torch.einsum("npd,de->npe", normalised, block.W_V[head]) + block.b_V[head]
    return torch.einsum("npe,ed->npd", values, block.W_O[head])


def test_rows_sum_to_1_and_what_they_move_is_the_heads_output(cache: ActivationCache) -> None:
    for layer, head in HEADS:
        pattern = attention_pattern(cache, f"a{layer}.h{head}")
        close(pattern.sum(-1), torch.ones(N_PROMPTS, N_POSITIONS, dtype=pattern.dtype))
        assert (pattern.triu(1) == 0).all() and (pattern.tril() >= 0).all()
        cached = cache.z[layer, :, :, head] @ cache.model.blocks[layer].W_O[head]
        close(pattern @ moved(cache, layer, head), cached)


def test_value_weighting_multiplies_the_keys_columns(cache: ActivationCache) -> None:
    for layer, head in HEADS:
        plain = attention_pattern(cache, f"a{layer}.h{head}")
        weighted = attention_pattern(cache, f"a{layer}.h{head}", value_weighted=True)
        norm = moved(cache, layer, head).norm(dim=-1)
        # The norm of each summand of the head's output, one key at a time.
        for key in range(N_POSITIONS):
            torch.testing.assert_close(weighted[..., key], plain[..., key] * norm[:, key, None])
        by_query = plain * norm[:, :, None]
        assert (weighted - by_query).abs().max() > 1e-2


@pytest.mark.parametrize("value_weighted", [False, True])
@pytest.mark.parametrize(("query", "key"), [(5, 2), (3, 3), (4, 0), (0, 0)])
def test_map_is_one_cell_of_every_heads_pattern(
    cache: ActivationCache,
    monkeypatch: pytest.MonkeyPatch,
    query: int,
    key: int,
    value_weighted: bool,
) -> None:
    monkeypatch.setattr(attention, "PROMPTS_AT_ONCE", 2)  # chunks of 2, 2 and 1
    found = attention_map(cache, query, key, value_weighted)
    assert found.shape == (3, 3, N_PROMPTS)
    for layer, head in HEADS:
        pattern = attention_pattern(cache, f"a{layer}.h{head}", value_weighted)
        close(found[layer, head], pattern[:, query, key])


def test_by_head_names_the_entries() -> None:
    values = torch.arange(24).reshape(2, 3, 4)
    named = by_head(values)
    assert list(named) == ["a0.h0", "a0.h1", "a0.h2", "a1.h0", "a1.h1", "a1.h2"]
    assert torch.equal(named["a1.h2"], values[1, 2])


@pytest.mark.parametrize("name", ["m3", "embed", "a1.h1.v", "head 7", "a3.h0", "a0.h3"])
def test_refuses_what_is_no_head(cache: ActivationCache, name: str) -> None:
    with pytest.raises(ValueError, match=r"e\.g\.|write|allowed"):
        attention_pattern(cache, name)


@pytest.mark.parametrize(("query", "key"), [(2, 3), (6, 0), (3, -1)])
def test_refuses_positions_that_no_head_looks_between(cache, query: int, key: int) -> None:
    with pytest.raises(ValueError, match=f"No head looks from position {query} to position {key}"):
        attention_map(cache, query, key)
