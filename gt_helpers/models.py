"""load_model: GPT-2 from the hub, a local folder or the embedded ``mini``, ready to be patched."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import UnsupportedModelError, self_check
from .transformer import Block, Norm, Transformer

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
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_HUB_SECONDS = 5


def load_model(
    name: str | Path = "gpt2-small",
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Transformer:
    """Load a GPT-2-family model with unprocessed weights, in eval mode, gradients and TF32 off.

    ``name`` is a hub name ("gpt2-small", "gpt2-medium", any GPT-2-family name), "mini" (the
    embedded model) or a local Hugging Face folder. ``device`` defaults to CUDA when there is one.
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
    _refuse_unsupported(str(name), bridge.cfg)
    model = _plain_view(str(name), bridge, tokenizer)
    model.check_report = self_check(model)
    return model


def is_gpt2_small(model: Transformer) -> bool:
    """Whether the model was loaded under GPT-2 small's name, so that the paper's numbers apply."""
    return _HUB_NAMES.get(model.name, model.name) == "openai-community/gpt2"


def hub_reachable(name: str = "gpt2-small") -> bool:
    """Whether a model can be had from the local cache or the hub, found out in a few seconds."""
    try:
        _hub_snapshot(_HUB_NAMES.get(name, name))
    except OSError:
        return False
    return True


def _device(name: str | None) -> str:
    """The device of a name, CUDA when there is one for no name; ValueError for one not here."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return "cuda" if n_gpus else "cpu"
    allowed = ["cpu", *(["cuda"] if n_gpus else []), *(f"cuda:{i}" for i in range(n_gpus))]
    if str(name) not in allowed:
        raise ValueError(f"There is no device {str(name)!r} here; allowed: {', '.join(allowed)}.")
    return str(name)


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


def _hub_snapshot(repo: str) -> Path | None:
    """The cached snapshot of a hub model, or None if the hub answers; OSError if neither."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    weights = [try_to_load_from_cache(repo, f) for f in ("model.safetensors", "pytorch_model.bin")]
    cached = [Path(path) for path in weights if isinstance(path, str)]
    tokenizer = try_to_load_from_cache(repo, "tokenizer.json")
    if cached and isinstance(tokenizer, str):
        return cached[0].parent
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        raise OSError("the Hugging Face hub cannot be reached (HF_HUB_OFFLINE is set)")
    try:
        get_hf_file_metadata(hf_hub_url(repo, "config.json"), timeout=_HUB_SECONDS)
    except RepositoryNotFoundError as error:
        raise OSError(f"the Hugging Face hub has no model {repo!r}") from error
    except Exception as error:  # the hub client raises many kinds; all mean: no answer
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(f"the Hugging Face hub cannot be reached ({reason})") from error
    return None


def _boot(name: str, folder: Path | None, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    source = str(folder) if folder else _HUB_NAMES.get(name, name)
    if folder is None:
        try:
            source = str(_hub_snapshot(source) or source)
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


def _refuse_unsupported(name: str, cfg: Any) -> None:
    """Refuse, with the reason, architectures whose components are not GPT-2's."""
    reasons = {
        "its position embedding is not a learned absolute one": cfg.positional_embedding_type
        != "standard",
        "its attention and MLP run in parallel": cfg.parallel_attn_mlp,
        "its normalisation is not LayerNorm": cfg.normalization_type != "LN",
        "it normalises after its blocks as well": cfg.use_normalization_before_and_after
        or cfg.post_embedding_ln,
        "its heads share keys and values": cfg.n_key_value_heads not in (None, cfg.n_heads),
        "its MLPs are gated or missing": cfg.gated_mlp or cfg.attn_only,
        "it is a mixture of experts": bool(cfg.num_experts),
        "its attention is local or capped": cfg.use_local_attn or cfg.attn_scores_soft_cap > 0,
        f"its activation {cfg.act_fn!r} is unknown here": cfg.act_fn not in _ACTIVATIONS,
        "it is not a causal decoder": cfg.attention_dir != "causal",
    }
    for reason, applies in reasons.items():
        if applies:
            raise _unsupported(name, reason)


def _unsupported(name: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{name} cannot be patched exactly: {reason}. Supported are GPT-2-family models, "
        "e.g. 'gpt2-small', 'gpt2-medium' or 'distilgpt2'."
    )


def _plain_view(name: str, bridge: Any, tokenizer: Any) -> Transformer:
    cfg = bridge.cfg
    config = bridge.original_model.config

    def weights(module: Any, *names: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for weight in names:
            value = getattr(module, weight, None)
            if not isinstance(value, Tensor):
                raise _unsupported(name, f"a layer of it has no {weight}, which GPT-2's have")
            found[weight] = value
        return found

    def norm(module: Any) -> Norm:
        gain, bias = weights(module, "weight", "bias").values()
        return Norm(gain, bias, cfg.eps)

    blocks = []
    for layer, block in enumerate(bridge.blocks):
        scale = cfg.d_head**-0.5 if getattr(config, "scale_attn_weights", True) else 1.0
        if cfg.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        heads = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
        blocks.append(
            Block(
                ln1=norm(block.ln1),
                ln2=norm(block.ln2),
                **weights(block.attn, *heads),
                **weights(block.mlp, "W_in", "b_in", "W_out", "b_out"),
                act=_ACTIVATIONS[cfg.act_fn],
                scale=scale,
            )
        )
    return Transformer(
        name, bridge, tokenizer, blocks, norm(bridge.ln_final), bridge.W_U, bridge.b_U
    )
