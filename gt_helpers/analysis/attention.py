"""Where do the heads look? Attention patterns, plain or weighted by what is moved (section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.cache import ActivationCache
from ..model.components import component
from ..model.transformer import Block

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
    node = component(head, "head")
    run.model.shape([node.position]).check(node)
    block, stream = run.model.blocks[node.layer], run.stream[node.layer]
    n_positions = stream.shape[1]
    pattern = block.pattern(node.head, stream, range(n_positions))
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
            parts = [block.pattern(head, part, [query]) for part in stream.split(_PROMPTS)]
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


def _moved_norm(block: Block, head: int, stream: Tensor) -> Tensor:
    """Norm [...] of what the head would move from a position of stream [..., d_model]."""
    return (block.value(head, stream) @ block.W_O[head]).norm(dim=-1)
