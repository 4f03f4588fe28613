"""Self-checks: does the plain-tensor view reproduce the model that it was taken from?

Path patching is exact only if it does, so a model that fails any check is refused by name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .cache import ActivationCache, cache_activations, end_logits
from .components import END
from .transformer import Transformer

SUPPORTED = (
    "Supported are GPT-2, OPT, Pythia and GPT-NeoX, GPT-J, Phi 1 and 2, Llama, Mistral, Qwen2 and "
    "Gemma 1, e.g. 'gpt2-small' or 'EleutherAI/pythia-160m'"
)
# Largest allowed error relative to the largest entry of the checked tensor.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


class UnsupportedModelError(ValueError):
    """The engine cannot treat this model exactly."""


@torch.no_grad()
def self_check(model: Transformer, n_prompts: int = 4, n_positions: int = 10) -> dict[str, float]:
    """Compare every recomputation with the model's own run on random tokens.

    Returns the largest relative error of each check. Raises UnsupportedModelError, naming the model
    and the check, if one exceeds 1e-4 in float32 or 1e-10 in float64.
    """
    generator = torch.Generator().manual_seed(0)
    n_vocab = model.W_U.shape[1]
    tokens = torch.randint(n_vocab, (2, n_prompts, n_positions), generator=generator)
    base, patch = (cache_activations(model, some) for some in tokens)
    base_logits, patch_logits = (torch.cat(list(end_logits(model, some))) for some in tokens)
    end = n_positions - 1
    stream, components = base.at_layer(model.n_layers, end), model.shape([END]).senders(END)
    changes = [patch.output(node, end) - base.output(node, end) for node in components]
    report = {
        "components add up to the residual stream": _additivity_error(base),
        "recomputed MLPs reproduce the model's": _mlp_error(base, end),
        "recomputed heads reproduce the model's": _head_error(base, end),
        "patching nothing gives the base logits": _error(model.unembed(stream), base_logits),
        "patching everything gives the patch logits": _error(
            model.unembed(stream + torch.stack(changes).sum(0)), patch_logits
        ),
    }
    tolerance = _TOLERANCE.get(model.dtype, 0.0)
    for check, error in report.items():
        if not error <= tolerance:  # also catches NaN
            raise UnsupportedModelError(
                f"{model.name} cannot be patched exactly: the check '{check}' fails with a "
                f"relative error of {error:.1e} (allowed: {tolerance:.0e} in {model.dtype}). "
                f"{SUPPORTED}, in float32 or float64."
            )
    return report


def _error(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


def _additivity_error(cache: ActivationCache) -> float:
    """Each layer's heads, MLP and biases explain what the layer added to the stream."""
    errors = []
    for layer, block in enumerate(cache.model.blocks):
        middle = block.after_heads(cache.stream[layer], cache.z[layer])
        total = middle + cache.mlp[layer] + block.b_out
        errors.append(_error(total, cache.stream[layer + 1]))
    return max(errors)


def _mlp_error(cache: ActivationCache, end: int) -> float:
    return max(
        _error(block.mlp(cache.before_mlp(layer, end)), cache.mlp[layer, :, end])
        for layer, block in enumerate(cache.model.blocks)
    )


def _head_error(cache: ActivationCache, end: int) -> float:
    """The engine's attention for one head, and that of all heads together, give the model's."""
    errors = []
    for layer, block in enumerate(cache.model.blocks):
        stream = cache.stream[layer, :, : end + 1]
        together = block.mix(*block.qkv(stream, slice(end + 1)))[:, -1]
        errors.append(_error(together, cache.z[layer, :, end]))
        for head in range(cache.model.n_heads):
            query = block.query(head, stream[:, end], end)
            keys, values = block.key(head, stream, slice(end + 1)), block.value(head, stream)
            (z,) = block.mix_changed(query[None], keys, values)
            errors.append(_error(z, cache.z[layer, :, end, head]))
    return max(errors)
