"""Where do the heads look? Attention patterns, plain or weighted by what is moved (section 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..model.cache import PROMPTS_AT_ONCE, ActivationCache
from ..model.components import component
from ..model.transformer import Block


@torch.no_grad()
def attention_pattern(
    cache: ActivationCache, head: str, value_weighted: bool = False
) -> Float[Tensor, "prompt query key"]:
    """One head's attention; every query's row sums to 1 (section 3.2).

    Value-weighted, each KEY's column is multiplied by the norm of what is moved from there: of the
    key position's value vector, with its bias, through W_O, in units of the residual stream. An
    entry is then the norm of what the query's position receives from the key's. (The paper's
    released code multiplies by the norm at the query instead, a slip of axes.) Raises ValueError
    for what is no head of the model.
    """
    node = component(head, "head")
    cache.model.shape([node.position]).check(node)
    block, stream = cache.model.blocks[node.layer], cache.stream[node.layer]
    pattern = block.pattern(node.head, stream, range(stream.shape[1]))
    if value_weighted:
        pattern = pattern * _moved_norm(block, node.head, stream)[:, None, :]
    return pattern.cpu()


@torch.no_grad()
def attention_map(
    cache: ActivationCache, query: int, key: int, value_weighted: bool = False
) -> Float[Tensor, "layer head prompt"]:
    """Every head's attention from one position to another (section 3.2).

    ``query`` and ``key`` are indices, e.g. ``dataset.position("END")``; ``value_weighted`` as for
    `attention_pattern`. Raises ValueError for positions that the prompts lack, or a later key.
    """
    model, n_positions = cache.model, cache.stream.shape[2]
    if not 0 <= key <= query < n_positions:
        raise ValueError(
            f"No head looks from position {query} to position {key}: give 0 <= key <= query < "
            f"{n_positions}, e.g. query=dataset.position('END'), key=dataset.position('YY')."
        )
    found = torch.empty(model.n_layers, model.n_heads, cache.stream.shape[1], dtype=model.dtype)
    for layer, block in enumerate(model.blocks):
        stream = cache.stream[layer, :, : query + 1]
        for head in range(model.n_heads):
            parts = [block.pattern(head, part, [query]) for part in stream.split(PROMPTS_AT_ONCE)]
            attention = torch.cat(parts)[:, 0, key]
            if value_weighted:
                attention = attention * _moved_norm(block, head, stream[:, key])
            found[layer, head] = attention
    return found


def by_head(values: Float[Tensor, "layer head ..."]) -> dict[str, Tensor]:
    """The values of every head by its name: {"a0.h0": [...], "a0.h1": ...}."""
    return {
        f"a{layer}.h{head}": value
        for layer, of_layer in enumerate(values)
        for head, value in enumerate(of_layer)
    }


def _moved_norm(block: Block, head: int, stream: Float[Tensor, "*rows d_model"]) -> Tensor:
    """Norm [*rows] of what the head would move from each row of the stream."""
    return (block.value(head, stream) @ block.W_O[head]).norm(dim=-1)
