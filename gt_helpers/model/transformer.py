"""The plain-tensor view of a model: the functions that path patching recomputes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .components import Shape

# Where the rows of a stream stand in the prompt: whatever indexes a tensor [position, ...].
Positions = int | slice | Tensor

# Rows and vocabulary columns per block of the unembedding: small enough that the softmax's passes
# over a block of logits stay in the processor's cache, large enough for a fast matrix product.
_CPU_BLOCK = (1024, 4096)
_GPU_BLOCK = (8192, 65536)


@dataclass(frozen=True)
class Norm:
    """A LayerNorm with gain and bias [d_model], always recomputed from the stream it is given.

    With ``rms`` an RMSNorm, which neither centres nor has a bias (here: zeros).
    """

    gain: Tensor
    bias: Tensor
    eps: float
    rms: bool = field(default=False, kw_only=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x [..., d_model]."""
        if self.rms:
            return F.rms_norm(x, x.shape[-1:], self.gain, self.eps)
        return F.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)

    def centre(self, x: Tensor) -> Tensor:
        """What is divided by the scale: x [..., d_model] less its mean, or for ``rms`` x itself."""
        return x if self.rms else x - x.mean(-1, keepdim=True)

    def frozen_at(self, x: Tensor) -> FrozenNorm:
        """The norm that divides any stream by the scale of x [..., d_model], whatever its own."""
        scale = (self.centre(x).square().mean(-1, keepdim=True) + self.eps).sqrt()
        return FrozenNorm(self.gain, self.bias, self.eps, scale, rms=self.rms)


@dataclass(frozen=True)
class FrozenNorm(Norm):
    """A norm with a scale [..., 1] taken from another stream: linear in what it is given."""

    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Centre x [..., d_model], divide it by the frozen scale, and apply gain and bias."""
        return self.part(x) + self.bias

    def part(self, x: Tensor) -> Tensor:
        """The same without the bias: parts [..., d_model] of a stream add up to its own."""
        return self.centre(x) / self.scale * self.gain


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: turns pairs of entries of queries and keys by their position.

    The tables [position, pair] cover the first 2 * pair entries of a head, the others stay. A pair
    is two entries half that width apart or, ``adjacent``, two neighbours (as in GPT-J).
    """

    cos: Tensor
    sin: Tensor
    adjacent: bool = False

    def __call__(self, x: Tensor, position: Positions, heads: bool = False) -> Tensor:
        """Turn x [..., d_head] at one position, or [..., position, d_head] at several.

        With ``heads`` there is one more axis, [..., head, d_head].
        """
        cos, sin = (table[position] for table in (self.cos, self.sin))
        if heads:
            cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        turned, rest = x.tensor_split([2 * cos.shape[-1]], dim=-1)
        pairs = turned.unflatten(-1, (-1, 2) if self.adjacent else (2, -1))
        a, b = pairs.unbind(-1 if self.adjacent else -2)
        pairs = torch.stack([a * cos - b * sin, b * cos + a * sin], -1 if self.adjacent else -2)
        return torch.cat([pairs.flatten(-2), rest], dim=-1)


@dataclass(frozen=True)
class Block:
    """The weights of one layer, and its heads and MLP as functions of the residual stream.

    Biases that a family lacks are zeros; heads that share keys and values have a copy each. In a
    ``parallel`` block the MLP reads what the heads read, the stream before the layer.
    """

    ln1: Norm
    ln2: Norm
    W_Q: Tensor  # [head, d_model, d_head], as W_K and W_V
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor  # [head, d_head, d_model]
    b_Q: Tensor  # [head, d_head], as b_K and b_V
    b_K: Tensor
    b_V: Tensor
    b_O: Tensor  # [d_model]
    W_in: Tensor  # [d_model, d_mlp]
    b_in: Tensor
    W_out: Tensor  # [d_mlp, d_model]
    b_out: Tensor
    act: Callable[[Tensor], Tensor]
    scale: float  # what attention scores are multiplied by
    W_gate: Tensor | None = None  # [d_model, d_mlp]; without it the MLP is not gated
    b_gate: Tensor | None = None
    rotary: Rotary | None = None
    parallel: bool = False

    def query(self, head: int, x: Tensor, position: Positions) -> Tensor:
        """The head's query [..., d_head] of the residual stream x [..., d_model].

        ``position`` says where its rows stand in the prompt: an index for [..., d_model], several
        (a slice, a tensor) for [..., position, d_model]. Only rotary embeddings ask.
        """
        query = self.ln1(x) @ self.W_Q[head] + self.b_Q[head]
        return query if self.rotary is None else self.rotary(query, position)

    def key(self, head: int, x: Tensor, position: Positions) -> Tensor:
        """The head's key [..., d_head] of the residual stream x, its rows placed as for `query`."""
        key = self.ln1(x) @ self.W_K[head] + self.b_K[head]
        return key if self.rotary is None else self.rotary(key, position)

    def value(self, head: int, x: Tensor) -> Tensor:
        """The head's value [..., d_head] of the residual stream x [..., d_model]."""
        return self.ln1(x) @ self.W_V[head] + self.b_V[head]

    def pattern(self, head: int, x: Tensor, queries: Sequence[int]) -> Tensor:
        """The head's attention [prompt, query, key] from some positions of x to all before them."""
        chosen = torch.tensor(list(queries), device=x.device)
        query = self.query(head, x[:, chosen], chosen)
        scores = query @ self.key(head, x, slice(x.shape[1])).mT * self.scale
        later = torch.arange(x.shape[1], device=x.device) > chosen[:, None]
        return scores.masked_fill(later, -torch.inf).softmax(-1)

    def qkv(self, x: Tensor, position: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """All heads' queries, keys and values [..., head, d_head] of the stream [..., d_model].

        ``position`` as for `query`.
        """
        normed = self.ln1(x)
        projections = ((self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V))
        query, key, value = (
            torch.einsum("...d,hde->...he", normed, weight) + bias for weight, bias in projections
        )
        if self.rotary is not None:
            query, key = (self.rotary(part, position, heads=True) for part in (query, key))
        return query, key, value

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What heads mix from the values [..., query, head, d_head], attending causally.

        Queries, keys and values are [..., position, head, d_head]; the queries are those of the
        last positions.
        """
        n_queries, n_keys = query.shape[-3], key.shape[-3]
        scores = torch.einsum("...qhe,...khe->...hqk", query, key) * self.scale
        later = torch.ones(n_queries, n_keys, dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(later.triu(n_keys - n_queries + 1), -torch.inf)
        return torch.einsum("...hqk,...khe->...qhe", scores.softmax(-1), value)

    def neurons(self, x: Tensor) -> Tensor:
        """What W_out is applied to [..., d_mlp], of the residual stream that the MLP reads."""
        normed = self.ln2(x)
        linear = normed @ self.W_in + self.b_in
        if self.W_gate is None or self.b_gate is None:
            return self.act(linear)
        return self.act(normed @ self.W_gate + self.b_gate) * linear

    def mlp(self, x: Tensor) -> Tensor:
        """The MLP's output [..., d_model], without b_out, of the residual stream that it reads."""
        return self.neurons(x) @ self.W_out


@dataclass
class Transformer:
    """A loaded model: its TransformerLens bridge, its tokenizer and its layers' plain tensors.

    ``check_report`` holds the measured errors of the self-checks that it passed when it was loaded.
    """

    name: str
    bridge: Any
    tokenizer: Any
    blocks: list[Block]
    ln_final: Norm
    W_U: Tensor  # [d_model, vocab]
    b_U: Tensor  # [vocab]
    check_report: dict[str, float] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        """Number of heads per layer."""
        return self.blocks[0].W_Q.shape[0]

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP of a layer read the same stream, as in Pythia."""
        return self.blocks[0].parallel

    def shape(self, positions: Iterable[str]) -> Shape:
        """What names may be used on prompts with these positions."""
        return Shape(self.n_layers, self.n_heads, tuple(positions), self.parallel)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.W_U.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_U.device

    def fingerprint(self) -> str:
        """A hash of all weights, the same on every device; it tells models of one name apart."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.bridge.original_model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.W_U.dtype

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits [..., vocab] of the final residual stream [..., d_model]."""
        return self.ln_final(stream) @ self.W_U + self.b_U

    def log_probs(self, stream: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [..., token] of a few tokens under the full-vocabulary softmax.

        The softmax's normaliser is summed block by block over the vocabulary, so that the logits
        of all of ``stream`` [..., d_model] never stand in memory at once.
        """
        return self.log_probs_of(self.ln_final(stream), tokens)

    def log_probs_of(self, normed: Tensor, tokens: Tensor) -> Tensor:
        """The same [..., token] of a final stream [..., d_model] that was normalised already."""
        rows = normed.reshape(-1, normed.shape[-1])
        tokens = tokens.to(self.device)
        logits = rows @ self.W_U[:, tokens] + self.b_U[tokens]
        normaliser = torch.cat([self._log_sum_exp(part) for part in rows.split(self._block[0])])
        log_probs = (logits - normaliser[:, None]).to(normed.dtype)
        return log_probs.reshape(*normed.shape[:-1], len(tokens))

    @property
    def _block(self) -> tuple[int, int]:
        return _CPU_BLOCK if self.device.type == "cpu" else _GPU_BLOCK

    def _log_sum_exp(self, rows: Tensor) -> Tensor:
        """Log-sum-exp over the vocabulary [row], in float64, of normalised rows [row, d_model]."""
        peak = torch.full_like(rows[:, 0], -math.inf)
        total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for columns in torch.arange(self.W_U.shape[1], device="cpu").split(self._block[1]):
            first, last = int(columns[0]), int(columns[-1]) + 1
            logits = torch.addmm(self.b_U[first:last], rows, self.W_U[:, first:last])
            higher = torch.maximum(peak, logits.amax(-1))
            total = total * (peak - higher).exp() + logits.sub_(higher[:, None]).exp_().sum(-1)
            peak = higher
        return peak + total.log()
