"""Where do the heads look? Attention patterns, plain or weighted by what is moved (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.cache import ActivationCache
from ..model.components import Component, component
from ..model.transformer import Block, Transformer

_PROMPTS = 256  # prompts whose keys are computed together


@torch.no_grad()
def attention_pattern(run: ActivationCache, head: str, value_weighted: bool = False) -> Tensor:
    """One head's attention [prompt, query, key]; every query's row sums to 1 (section 3.2).

    Value-weighted, each KEY's column is multiplied by the norm of what is moved from there: of the
    key position's value vector, with its bias, through W_O, in units of the residual stream. An
    entry is then the norm of what the query's position receives from the key's. (The paper's
    released code multiplies by the norm at the query instead, a slip of axes.) Raises ValueError
    for what is no head of the model.
    """
    node = _head(run.model, head)
    block, stream = run.model.blocks[node.layer], run.stream[node.layer]
    n_positions = stream.shape[1]
    pattern = _attention(block, node.head, stream, range(n_positions))
    if value_weighted:
        pattern = pattern * _moved_norm(block, node.head, stream)[:, None, :]
    return pattern.cpu()


@torch.no_grad()
def attention_map(
    run: ActivationCache, query: int, key: int, value_weighted: bool = False
) -> Tensor:
    """Every head's attention [layer, head, prompt] from one position to another (section 3.2).

    ``query`` and ``key`` are indices, e.g. ``dataset.position("END")``; ``value_weighted`` as for
    `attention_pattern`. Raises ValueError for positions that the prompts lack, or a later key.
    """
    model, n_positions = run.model, run.stream.shape[2]
    if not 0 <= key <= query < n_positions:
        raise ValueError(
            f"No head looks from position {query} to position {key}: give 0 <= key <= query < "
            f"{n_positions}, e.g. query=dataset.position('END'), key=dataset.position('YY')."
        )
    found = torch.empty(model.n_layers, model.n_heads, run.stream.shape[1], dtype=model.dtype)
    for layer, block in enumerate(model.blocks):
        stream = run.stream[layer, :, : query + 1]
        for head in range(model.n_heads):
            parts = [_attention(block, head, part, [query]) for part in stream.split(_PROMPTS)]
            attention = torch.cat(parts)[:, 0, key]
            if value_weighted:
                attention = attention * _moved_norm(block, head, stream[:, key])
            found[layer, head] = attention
    return found


def by_head(values: Tensor) -> dict[str, Tensor]:
    """The values [layer, head, ...] of every head by its name: {"a0.h0": [...], "a0.h1": ...}."""
    return {
        f"a{layer}.h{head}": value
        for layer, of_layer in enumerate(values)
        for head, value in enumerate(of_layer)
    }


def _attention(block: Block, head: int, stream: Tensor, queries: Sequence[int]) -> Tensor:
    """Attention [prompt, query, key] of some queries to all positions of stream."""
    chosen = torch.tensor(list(queries), device=stream.device)
    query = block.query(head, stream[:, chosen], chosen)
    scores = query @ block.key(head, stream, slice(stream.shape[1])).mT * block.scale
    later = torch.arange(stream.shape[1], device=stream.device) > chosen[:, None]
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def _moved_norm(block: Block, head: int, stream: Tensor) -> Tensor:
    """Norm [...] of what the head would move from a position of stream [..., d_model]."""
    return (block.value(head, stream) @ block.W_O[head]).norm(dim=-1)


def _head(model: Transformer, name: str) -> Component:
    node = component(name)
    if node.kind != "head":
        raise ValueError(f"{name!r} is not a head; give a head's name, e.g. 'a7.h10'.")
    model.shape([node.position]).check(node)
    return node
