"""Self-checks: does the plain-tensor view reproduce the model that it was taken from?

Path patching is exact only if it does, so a model that fails any check is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .cache import cache_activations, end_logits
from .components import END
from .transformer import Block, Head, Stream, Transformer

SUPPORTED = (
    "Supported are GPT-2, OPT, Pythia and GPT-NeoX, GPT-J, Phi 1 and 2, Llama, Mistral, Qwen2 and "
    "Gemma 1, e.g. 'gpt2-small' or 'EleutherAI/pythia-160m'"
)
_SIZE = (4, 10)  # prompts and positions of the random tokens
# Largest allowed error relative to the largest entry of the checked tensor.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


class UnsupportedModelError(ValueError):
    """The engine cannot treat this model exactly."""


@torch.no_grad()
def self_check(model: Transformer) -> dict[str, float]:
    """Compare every recomputation with the model's own run on random tokens.

    Returns the largest relative error of each check. Raises UnsupportedModelError, naming the model
    and the check, if one exceeds 1e-4 in float32 or 1e-10 in float64.
    """
    tolerance = _TOLERANCE.get(model.dtype, 0.0)
    report: dict[str, float] = {}
    for check, error in _errors(model):
        if not error <= tolerance:  # also catches NaN
            raise UnsupportedModelError(
                f"{model.name} cannot be patched exactly: the check '{check}' fails with a "
                f"relative error of {error:.1e} (allowed: {tolerance:.0e} in {model.dtype}). "
                f"{SUPPORTED}, in float32 or float64."
            )
        report[check] = max(error, report.get(check, 0.0))
    return report


def _errors(model: Transformer) -> Iterator[tuple[str, float]]:
    """The checks, and the error of each at every layer, or at the end of the model."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.W_U.shape[1], (2, *_SIZE), generator=generator)
    base, patch = (cache_activations(model, some) for some in tokens)
    end = _SIZE[1] - 1
    for layer in range(model.n_layers):
        block, stream, z = model.blocks[layer], base.stream[layer], base.z[layer]
        total = block.after_heads(stream, z) + base.mlp[layer] + block.b_out
        yield "components add up to the residual stream", _error(total, base.stream[layer + 1])
        mlp = block.mlp(base.before_mlp(layer, end))
        yield "recomputed MLPs reproduce the model's", _error(mlp, base.mlp[layer, :, end])
        # All heads recomputed together, and each one as the engine does it.
        together = block.mix(*block.qkv(stream, slice(end + 1)))[:, -1]
        yield "recomputed heads reproduce the model's", _error(together, z[:, end])
        for head in range(model.n_heads):
            single = _single(block, head, stream)
            yield "recomputed heads reproduce the model's", _error(single, z[:, end, head])
    nodes, stream = model.shape([END]).senders(END), base.at_layer(model.n_layers, end)
    change = torch.stack([patch.output(n, end) - base.output(n, end) for n in nodes]).sum(0)
    logits = [torch.cat(list(end_logits(model, some))) for some in tokens]
    yield "patching nothing gives the base logits", _error(model.unembed(stream), logits[0])
    patched = model.unembed(stream + change)
    yield "patching everything gives the patch logits", _error(patched, logits[1])


def _single(block: Block, head: int, stream: Stream) -> Head:
    """What one head mixes at the last position."""
    end = stream.shape[1] - 1
    query = block.query(head, stream[:, end], end)
    keys, values = block.key(head, stream, slice(end + 1)), block.value(head, stream)
    return block.mix_changed(query[None], keys, values)[0]


def _error(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())
