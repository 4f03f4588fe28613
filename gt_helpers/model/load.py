"""load_model: a hub name, a local folder or the embedded ``mini``, ready to be patched."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..environment import hub_snapshot
from .self_checks import SUPPORTED, UnsupportedModelError, self_check
from .transformer import Block, Norm, Rotary, Transformer

MINI = Path(__file__).parent / "mini"
# TransformerLens' short names, and the names under which Hugging Face serves the same weights.
_HUB_NAMES = {
    "gpt2-small": "openai-community/gpt2",
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
# Rotary embeddings whose angles are the same whatever the prompt's length and the layer.
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def load_model(
    name: str | Path = "gpt2-small",
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """Load a model with unprocessed weights, in eval mode, gradients and TF32 off.

    ``name`` is a hub name ("gpt2-small", "gpt2-medium", "EleutherAI/pythia-160m"), "mini" (the
    embedded model) or a local Hugging Face folder. ``device`` defaults to CUDA when there is one.
    In float64 everything is computed in it, also what the model's own code casts to float32.
    Raises OSError if the hub is needed and cannot be reached, and UnsupportedModelError, a
    ValueError, for a model that the engine cannot treat exactly.
    """
    device = _device(device)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype {dtype} is not exact enough; use float32 or float64.")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    folder = _folder(str(name))
    bridge, tokenizer = _boot(str(name), folder, device, dtype)
    _refuse_unsupported(str(name), bridge)
    model = _plain_view(str(name), bridge, tokenizer)
    model.check_report = self_check(model)
    return model


def is_gpt2_small(model: Transformer) -> bool:
    """Whether the model was loaded under GPT-2 small's name, so that the paper's numbers apply."""
    return _HUB_NAMES.get(model.name, model.name) == "openai-community/gpt2"


def _device(name: str | None) -> str:
    """The device of a name, CUDA when there is one for no name; ValueError for one not here."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    allowed = ["cuda", *gpus, "cpu"] if gpus else ["cpu"]
    if name is not None and str(name) not in allowed:
        raise ValueError(f"There is no device {str(name)!r} here; allowed: {', '.join(allowed)}.")
    return allowed[0] if name is None else str(name)


def _folder(name: str) -> Path | None:
    """The local folder that a name stands for, or None for a hub name."""
    if name == "mini":
        return MINI
    if name in _HUB_NAMES or name in _HUB_NAMES.values():
        return None  # always the hub's, so that a name says what was measured; a folder is ./gpt2
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"The folder {name!r} holds no config.json; give a Hugging Face model folder with "
                "config.json, weights and tokenizer files."
            )
        return path
    if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise ValueError(f"There is no folder {name!r}; give an existing folder, e.g. './my-gpt2'.")
    return None


def _boot(name: str, folder: Path | None, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    source = str(folder) if folder else _HUB_NAMES.get(name, name)
    if folder is None:
        try:
            source = str(hub_snapshot(source) or source)
        except OSError as error:
            raise OSError(
                f"The model {name!r} is not in the local cache, and {error}. Known names are "
                f"{', '.join(_HUB_NAMES)}; without a network use 'mini' or a local folder, "
                "e.g. './gpt2'."
            ) from error
    bridge = TransformerBridge.boot_transformers(source, device=device, dtype=dtype)
    bridge.eval()
    bridge.requires_grad_(False)
    # The bridge's own tokenizer adds a BOS by itself; prompts here spell theirs out.
    has_tokenizer = folder is None or any((folder / f).is_file() for f in _TOKENIZER_FILES)
    return bridge, AutoTokenizer.from_pretrained(source) if has_tokenizer else None


def _refuse_unsupported(name: str, bridge: Any) -> None:
    """Refuse, with the reason, architectures that the plain view has no place for."""
    cfg, config, first = bridge.cfg, bridge.original_model.config, bridge.blocks[0]
    rotary = cfg.positional_embedding_type == "rotary"
    rope = getattr(config, "rope_parameters", None) or {"rope_type": "default"}
    layers = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or ()
    local = cfg.use_local_attn or bool(getattr(config, "sliding_window", None))
    after = cfg.post_embedding_ln or cfg.use_normalization_before_and_after
    after = after or not getattr(config, "do_layer_norm_before", True)  # OPT-350m
    reasons = {
        "its positions are neither learned absolute nor rotary embeddings (ALiBi, for one, is "
        "not)": not rotary and cfg.positional_embedding_type != "standard",
        # Angles that change with the prompt's length would differ between recomputation and run.
        "its rotary angles depend on the layer or on the prompt's length": rotary
        and rope.get("rope_type") not in _FIXED_ROPE,
        "it is not a causal decoder": cfg.attention_dir != "causal",
        "its normalisation is neither LayerNorm nor RMSNorm": cfg.normalization_type
        not in ("LN", "RMS"),
        "it normalises after its blocks or embeddings as well": after
        or any(hasattr(first, post) for post in ("ln1_post", "ln2_post")),
        "it normalises queries and keys": hasattr(first.attn, "q_norm"),
        "its attention is local": local or not {*layers} <= {"full_attention", "global"},
        "it is a mixture of experts": bool(cfg.num_experts),
        "it has no MLPs": cfg.attn_only,
        "its attention scores or logits are capped": cfg.attn_scores_soft_cap > 0
        or cfg.output_logits_soft_cap > 0,
        f"its activation {cfg.act_fn!r} is unknown here": cfg.act_fn not in _ACTIVATIONS,
    }
    for reason, applies in reasons.items():
        if applies:
            raise _unsupported(name, reason)


def _unsupported(name: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{name} cannot be patched exactly: {reason}. {SUPPORTED}.")


class _Reader:
    """Reads the weights of a bridge into the parts of the plain view."""

    def __init__(self, name: str, bridge: Any) -> None:
        self.name, self.bridge, self.cfg = name, bridge, bridge.cfg

    def tensor(self, module: Any, weight: str, *missing: int) -> Tensor:
        """A weight; where the family has none, zeros of the shape ``missing``, if it is given."""
        value = getattr(module, weight, None)
        if isinstance(value, Tensor):
            return value
        if not missing:
            raise _unsupported(self.name, f"a part of it has no {weight}")
        return self.bridge.W_U.new_zeros(missing)

    def norm(self, module: Any) -> Norm:
        gain = self.tensor(module, "weight")
        if module.uses_weight_offset:  # Gemma stores the gain less 1
            gain = gain + 1
        bias = self.tensor(module, "bias", len(gain))
        return Norm(gain, bias, self.cfg.eps, rms=module.uses_rms_norm)

    def attention(self, module: Any) -> dict[str, Tensor]:
        found = {weight: self.tensor(module, weight) for weight in ("W_Q", "W_K", "W_V", "W_O")}
        for part in "QKV":
            n_heads, _, d_head = found[f"W_{part}"].shape
            found[f"b_{part}"] = self.tensor(module, f"b_{part}", n_heads, d_head)
        for shared in ("W_K", "b_K", "W_V", "b_V"):  # grouped keys and values: a copy for each head
            group = self.cfg.n_heads // len(found[shared])
            if group > 1:
                found[shared] = found[shared].repeat_interleave(group, 0)
        return found | {"b_O": self.tensor(module, "b_O", self.cfg.d_model)}

    def mlp(self, module: Any) -> dict[str, Tensor]:
        found = {}
        for part in ("in", "gate", "out") if self.cfg.gated_mlp else ("in", "out"):
            weight = found[f"W_{part}"] = self.tensor(module, f"W_{part}")
            found[f"b_{part}"] = self.tensor(module, f"b_{part}", weight.shape[-1])
        return found

    def block(self, layer: int, rotary: Rotary | None) -> Block:
        cfg, block = self.cfg, self.bridge.blocks[layer]
        scaled = getattr(self.bridge.original_model.config, "scale_attn_weights", True)
        scale = cfg.d_head**-0.5 if scaled else 1.0
        if cfg.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        return Block(
            ln1=self.norm(block.ln1),
            ln2=self.norm(block.ln2 if hasattr(block, "ln2") else block.ln1),  # GPT-J has only one
            **self.attention(block.attn),
            **self.mlp(block.mlp),
            act=_ACTIVATIONS[cfg.act_fn],
            scale=scale,
            rotary=rotary,
            parallel=bool(cfg.parallel_attn_mlp),
        )


def _plain_view(name: str, bridge: Any, tokenizer: Any) -> Transformer:
    """The bridge's weights as plain tensors; UnsupportedModelError if a part is missing."""
    reader, rotary = _Reader(name, bridge), _rotary(name, bridge)
    blocks = [reader.block(layer, rotary) for layer in range(len(bridge.blocks))]
    norm = reader.norm(bridge.ln_final)
    return Transformer(name, bridge, tokenizer, blocks, norm, bridge.W_U, bridge.b_U)


def _rotary(name: str, bridge: Any) -> Rotary | None:
    """The model's own cosines and sines, of every position that it was made for."""
    if bridge.cfg.positional_embedding_type != "rotary":
        return None
    table = getattr(bridge.blocks[0].attn.original_component, "embed_positions", None)
    if isinstance(table, Tensor):  # GPT-J: sines, then cosines
        sin, cos = table.to(bridge.W_U).chunk(2, dim=-1)
        return Rotary(cos, sin, adjacent=True)
    if not hasattr(bridge, "rotary_emb"):
        raise _unsupported(name, "its rotary embedding is of an unknown kind")
    positions = torch.arange(bridge.cfg.n_ctx, device=bridge.W_U.device)[None]
    tables = bridge.rotary_emb.original_component(bridge.W_U, positions)
    cos, sin = (table[0].chunk(2, dim=-1)[0].contiguous() for table in tables)
    return Rotary(cos, sin)
