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
    base, patch = torch.randint(n_vocab, (2, n_prompts, n_positions), generator=generator)
    base_run, patch_run = cache_activations(model, base), cache_activations(model, patch)
    base_logits, patch_logits = (torch.cat(list(end_logits(model, t))) for t in (base, patch))
    end = n_positions - 1
    components = model.shape([END]).senders(END)
    changes = [patch_run.output(node, end) - base_run.output(node, end) for node in components]
    everything = base_run.at_layer(model.n_layers, end) + torch.stack(changes).sum(0)
    report = {
        "components add up to the residual stream": _additivity_error(base_run),
        "recomputed MLPs reproduce the model's": _mlp_error(base_run, end),
        "recomputed heads reproduce the model's": _head_error(base_run, end),
        "patching nothing gives the base logits": _error(
            model.unembed(base_run.at_layer(model.n_layers, end)), base_logits
        ),
        "patching everything gives the patch logits": _error(
            model.unembed(everything), patch_logits
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


def _additivity_error(run: ActivationCache) -> float:
    """Each layer's heads, MLP and biases explain what the layer added to the stream."""
    errors = []
    for layer, block in enumerate(run.model.blocks):
        heads = run.z[layer].flatten(2) @ block.W_O.flatten(0, 1)
        total = run.stream[layer] + heads + block.b_O + run.mlp[layer] + block.b_out
        errors.append(_error(total, run.stream[layer + 1]))
    return max(errors)


def _mlp_error(run: ActivationCache, position: int) -> float:
    return max(
        _error(block.mlp(run.before_mlp(layer, position)), run.mlp[layer, :, position])
        for layer, block in enumerate(run.model.blocks)
    )


def _head_error(run: ActivationCache, position: int) -> float:
    errors = []
    for layer, block in enumerate(run.model.blocks):
        stream = run.stream[layer]
        z = []
        for head in range(run.model.n_heads):
            query = block.query(head, stream[:, position], position)
            keys = block.key(head, stream[:, : position + 1], slice(position + 1))
            values = block.value(head, stream[:, : position + 1])
            scores = torch.einsum("nd,npd->np", query, keys) * block.scale
            z.append(torch.einsum("np,npd->nd", scores.softmax(-1), values))
        errors.append(_error(torch.stack(z, 1), run.z[layer, :, position]))
    return max(errors)
