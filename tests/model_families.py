"""Oracle: small random models of every family; the literal evaluator over their own modules.

Only the tree of components is the evaluator's; every head, MLP, norm and embedding is computed by
the modules of the model's own class in transformers, without a formula of the package or of ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from literal import POSITIONS, VOCABULARY, Literal, Node, rows
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    Qwen2Config,
)

from gt_helpers.model.load import MINI

N_LAYERS, N_HEADS = 3, 4


@dataclass(frozen=True)
class Family:
    """A small model's config, and where its parts are: names of modules, within a layer or not."""

    config: PretrainedConfig
    layers: str = "model.layers"
    final: str = "model.norm"
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm")
    attention: str = "self_attn"
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    fused: tuple[int, ...] = ()  # how one projection's output splits, with 3 for q, k and v
    output: str = "o_proj"
    mlp: tuple[str, ...] = ("mlp",)  # modules in a row
    mlp_output: str = "mlp.down_proj"
    parallel: bool = False

    @property
    def groups(self) -> int:
        """How many heads share a key and a value."""
        return N_HEADS // (getattr(self.config, "num_key_value_heads", None) or N_HEADS)


COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
COMMON |= {"pad_token_id": 1}
SIZES = COMMON | {"hidden_size": 16, "num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS}
SIZES |= {"max_position_embeddings": 24, "intermediate_size": 20}
OLD_SIZES = COMMON | {"n_embd": 16, "n_layer": N_LAYERS, "n_head": N_HEADS, "n_positions": 24}
OLD_NAMES = {"layers": "transformer.h", "final": "transformer.ln_f", "attention": "attn"}
BIASES = {"attention_bias": True, "mlp_bias": True}
SHARED = {"num_key_value_heads": 2, "head_dim": 6}
ROPE = {"rope_type": "default", "rope_theta": 100.0}
LLAMA_3 = ROPE | {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0}
LLAMA_3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 12}


def _neox(parallel: bool, rotary: float) -> Family:
    return Family(
        GPTNeoXConfig(
            **SIZES,
            use_parallel_residual=parallel,
            rope_parameters=ROPE | {"partial_rotary_factor": rotary},
        ),
        layers="gpt_neox.layers",
        final="gpt_neox.final_layer_norm",
        attention="attention",
        projections=("query_key_value",),
        fused=(N_HEADS, 3, -1),
        output="dense",
        mlp_output="mlp.dense_4h_to_h",
        parallel=parallel,
    )


FAMILIES = {
    "GPT-2": Family(
        GPT2Config(**OLD_SIZES),
        **OLD_NAMES,
        norms=("ln_1", "ln_2"),
        projections=("c_attn",),
        fused=(3, N_HEADS, -1),
        output="c_proj",
        mlp_output="mlp.c_proj",
    ),
    "OPT": Family(
        OPTConfig(**SIZES, ffn_dim=20, word_embed_proj_dim=16),
        layers="model.decoder.layers",
        final="model.decoder.final_layer_norm",
        norms=("self_attn_layer_norm", "final_layer_norm"),
        output="out_proj",
        mlp=("fc1", "activation_fn", "fc2"),
        mlp_output="fc2",
    ),
    "Pythia": _neox(parallel=True, rotary=0.5),
    "GPT-NeoX, sequential": _neox(parallel=False, rotary=1.0),
    "GPT-J": Family(
        GPTJConfig(**OLD_SIZES, rotary_dim=2),
        **OLD_NAMES,
        norms=("ln_1", "ln_1"),
        output="out_proj",
        mlp_output="mlp.fc_out",
        parallel=True,
    ),
    "Phi": Family(
        PhiConfig(**SIZES),
        final="model.final_layernorm",
        norms=("input_layernorm", "input_layernorm"),
        output="dense",
        mlp_output="mlp.fc2",
        parallel=True,
    ),
    "Llama": Family(LlamaConfig(**SIZES, rms_norm_eps=1e-2)),
    "Llama 3, shared keys and values": Family(
        LlamaConfig(**SIZES, **BIASES, **SHARED, tie_word_embeddings=True, rope_parameters=LLAMA_3)
    ),
    "Mistral": Family(MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=None)),
    "Qwen2": Family(Qwen2Config(**SIZES, num_key_value_heads=1)),
    "Gemma": Family(GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=6)),
}


def save_random(family: Family, folder: Path) -> Path:
    """Save a model of the family whose every weight is random and large enough to matter."""
    hf = AutoModelForCausalLM.from_config(family.config)
    generator = torch.Generator().manual_seed(7)
    for name, weight in hf.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            weight.data = 0.5 * noise
        elif weight.ndim == 1:
            weight.data = (family.config.model_type != "gemma") + 0.4 * noise  # Gemma adds 1
        else:
            embedding = any(part in name for part in ("embed", "wte", "wpe"))
            weight.data = noise * (1.0 if embedding else 1.5 / weight.shape[-1] ** 0.5)
    hf.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):  # the bridge asks for one
        shutil.copy(MINI / file, folder)
    return folder


@contextmanager
def in_double() -> Iterator[None]:
    """In here what transformers' code casts to float32 on its way stays in float64."""
    cast = Tensor.float

    def as_it_is(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else cast(x)

    with (
        torch.no_grad(),
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(Tensor, "float", as_it_is),
    ):
        yield


class Modules:
    """A family's model in float64, by the parts that all families have."""

    def __init__(self, family: Family, folder: Path) -> None:
        self.family = family
        self.hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
        self.layers = list(self.hf.get_submodule(family.layers))
        self.attention = [layer.get_submodule(family.attention) for layer in self.layers]
        self.output = [one.get_submodule(family.output) for one in self.attention]
        self.mlp_output = [layer.get_submodule(family.mlp_output) for layer in self.layers]
        names = family.projections
        self.projections = [[a.get_submodule(name) for name in names] for a in self.attention]

    def norm(self, layer: int, which: int, x: Tensor) -> Tensor:
        """The norm before a layer's attention (0) or MLP (1), of x [..., d_model]."""
        return self.layers[layer].get_submodule(self.family.norms[which])(x)

    def logits(self, tokens: Tensor, hooks: Iterable = ()) -> Tensor:
        """The model's logits [prompt, vocabulary] at the last position, under some hooks."""
        with in_double(), ExitStack() as stack:
            for hook in hooks:
                stack.callback(hook.remove)
            return self.hf(tokens, use_cache=False).logits[:, -1]

    def first_call(self, tokens: Tensor, module: nn.Module) -> tuple[tuple, dict[str, Any]]:
        """The arguments that a module is called with when the model runs."""
        calls: list[tuple[tuple, dict[str, Any]]] = []

        def keep(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            calls.append((args, kwargs))

        self.logits(tokens, [module.register_forward_pre_hook(keep, with_kwargs=True)])
        return calls[0]

    def projection(self, layer: int, part: str) -> nn.Module:
        """What computes a layer's queries, keys or values ("q", "k" or "v"), maybe all three."""
        return self.projections[layer][0 if self.family.fused else "qkv".index(part)]

    def split(self, projected: Tensor, part: str) -> Tensor:
        """A view [..., head, d_head] of the queries, keys or values in a projection's output."""
        if not self.family.fused:
            return projected.unflatten(-1, (-1, self.d_head))
        parts = projected.unflatten(-1, self.family.fused)
        return parts.select(self.family.fused.index(3) - 3, "qkv".index(part))

    @cached_property
    def d_head(self) -> int:
        """Width of a head."""
        weight = self.output[0].weight  # GPT-2's are transposed
        return weight.shape[0 if self.family.output == "c_proj" else 1] // N_HEADS


class FamilyLiteral(Literal):
    """The literal evaluator over the modules of any family."""

    def __init__(self, modules: Modules, base: Tensor, patch: Tensor) -> None:
        self.modules, self.parallel = modules, modules.family.parallel
        self.n_layers, self.n_heads = N_LAYERS, N_HEADS
        # Masks, positions and cosines are the same for all prompts and streams.
        self.calls = [modules.first_call(base, one) for one in modules.attention]
        self.base, self.patch = self._run(base), self._run(patch)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [prompt, vocabulary] of the last stream, its norm live."""
        hf = self.modules.hf
        with in_double():
            return hf.get_output_embeddings()(hf.get_submodule(self.modules.family.final)(x))

    def _embed(self, tokens: Tensor) -> Tensor:
        args, kwargs = self.modules.first_call(tokens, self.modules.layers[0])
        return args[0] if args else kwargs["hidden_states"]

    def _output_bias(self, kind: str, layer: int) -> Tensor | float:
        outputs = self.modules.output if kind == "head" else self.modules.mlp_output
        bias = outputs[layer].bias
        return 0.0 if bias is None else bias.detach()

    def _compute(self, node: Node, streams: dict[tuple[str, int], Tensor]) -> Tensor:
        kind, layer, head, position = node
        with in_double():
            if kind == "mlp":
                x = self.modules.norm(layer, 1, streams["", position])
                for name in self.modules.family.mlp:
                    x = self.modules.layers[layer].get_submodule(name)(x)
                return x - self._output_bias("mlp", layer)
            z = self._z(layer, {part: self._read_by(node, part, streams) for part in "qkv"})
            alone = torch.zeros_like(z)
            alone[:, :, head] = z[:, :, head]
            written = self.modules.output[layer](alone.flatten(2))[:, position]
            return written - self._output_bias("head", layer)

    def _read_by(self, node: Node, part: str, streams: dict[tuple[str, int], Tensor]) -> Tensor:
        """The normalised rows [prompt, position, d_model] that a head's input reads, else zeros."""
        known = {row: streams[part, row] for row in rows(node, part)}
        nothing = torch.zeros_like(next(iter(known.values())))
        whole = [known.get(row, nothing) for row in range(len(POSITIONS))]
        return self.modules.norm(node[1], 0, torch.stack(whole, 1))

    def _z(self, layer: int, read: dict[str, Tensor]) -> Tensor:
        """The attention module's mixed values [prompt, position, head, d_head].

        Hooks let its queries, keys and values read different streams.
        """
        modules, kept = self.modules, []

        def reading(part: str) -> Callable:
            return lambda _, args: (read[part],)

        def fused(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            output = output.clone()
            for part in "qkv":
                projected = module.forward(read[part])
                modules.split(output, part).copy_(modules.split(projected, part))
            return output

        projections = modules.projections[layer]
        if modules.family.fused:
            hooks = [projections[0].register_forward_hook(fused)]
        else:
            pairs = zip(projections, "qkv", strict=True)
            hooks = [one.register_forward_pre_hook(reading(part)) for one, part in pairs]
        output = modules.output[layer]
        hooks.append(output.register_forward_pre_hook(lambda _, args: kept.append(args[0])))
        args, kwargs = self.calls[layer]
        given = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        modules.attention[layer](read["q"], *args[1:], **given)
        for hook in hooks:
            hook.remove()
        return kept[0].unflatten(-1, (N_HEADS, -1))
