"""The plain-tensor view of a GPT-2-family model: the functions that path patching recomputes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows and vocabulary columns per block of the unembedding: small enough that the softmax's passes
# over a block of logits stay in the processor's cache, large enough for a fast matrix product.
_CPU_BLOCK = (1024, 4096)
_GPU_BLOCK = (8192, 65536)


@dataclass(frozen=True)
class Norm:
    """A LayerNorm with gain and bias [d_model], always recomputed from the stream it is given."""

    gain: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise x [..., d_model]."""
        return F.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)

    def frozen_at(self, x: Tensor) -> FrozenNorm:
        """The norm that divides any stream by the scale of x [..., d_model], whatever its own."""
        scale = (x.var(-1, unbiased=False, keepdim=True) + self.eps).sqrt()
        return FrozenNorm(self.gain, self.bias, self.eps, scale)


@dataclass(frozen=True)
class FrozenNorm(Norm):
    """A norm with a scale [..., 1] taken from another stream: linear in what it is given."""

    scale: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Centre x [..., d_model] and divide it by the frozen scale."""
        return (x - x.mean(-1, keepdim=True)) / self.scale * self.gain + self.bias


@dataclass(frozen=True)
class Block:
    """The weights of one layer, and its heads and MLP as functions of the residual stream."""

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

    def query(self, head: int, x: Tensor) -> Tensor:
        """The head's query [..., d_head] of the residual stream x [..., d_model]."""
        return self.ln1(x) @ self.W_Q[head] + self.b_Q[head]

    def key(self, head: int, x: Tensor) -> Tensor:
        """The head's key [..., d_head] of the residual stream x [..., d_model]."""
        return self.ln1(x) @ self.W_K[head] + self.b_K[head]

    def value(self, head: int, x: Tensor) -> Tensor:
        """The head's value [..., d_head] of the residual stream x [..., d_model]."""
        return self.ln1(x) @ self.W_V[head] + self.b_V[head]

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All heads' queries, keys and values [..., head, d_head] of the stream [..., d_model]."""
        normed = self.ln1(x)
        projections = ((self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V))
        query, key, value = (
            torch.einsum("...d,hde->...he", normed, weight) + bias for weight, bias in projections
        )
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

    def mlp(self, x: Tensor) -> Tensor:
        """The MLP's output [..., d_model], without b_out, of the residual stream before it."""
        return self.act(self.ln2(x) @ self.W_in + self.b_in) @ self.W_out


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
