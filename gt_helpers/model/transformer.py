"""The plain-tensor view of a model: the functions that path patching recomputes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .components import Shape

Stream = Float[Tensor, "... d_model"]
Head = Float[Tensor, "... d_head"]  # a query, key or value of one head
Heads = Float[Tensor, "... head d_head"]  # of all heads
Changed = Float[Tensor, "sender prompt d_head"]
Tokens = Int[Tensor, " token"]
# Where the rows of a stream stand in the prompt: whatever indexes a tensor [position, ...].
Positions = int | slice | Tensor

# Rows and vocabulary columns per block of the unembedding: small enough that the softmax's passes
# over a block of logits stay in the processor's cache, large enough for a fast matrix product.
_CPU_BLOCK = (1024, 4096)
_GPU_BLOCK = (8192, 65536)


@dataclass(frozen=True)
class Norm:
    """A LayerNorm, computed anew for whatever stream it is given.

    With ``rms`` an RMSNorm, which neither centres nor has a bias (here: zeros).
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    eps: float
    rms: bool = field(default=False, kw_only=True)

    def __call__(self, x: Stream) -> Stream:
        """Normalise a stream."""
        if self.rms:
            return F.rms_norm(x, x.shape[-1:], self.gain, self.eps)
        return F.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)

    def centre(self, x: Stream) -> Stream:
        """What is divided by the scale: x less its mean, or for ``rms`` x itself."""
        return x if self.rms else x - x.mean(-1, keepdim=True)

    def frozen_at(self, x: Stream) -> FrozenNorm:
        """The norm that divides any stream by the scale of x, whatever its own."""
        scale = (self.centre(x).square().mean(-1, keepdim=True) + self.eps).sqrt()
        return FrozenNorm(self.gain, self.bias, self.eps, scale, rms=self.rms)


@dataclass(frozen=True)
class FrozenNorm(Norm):
    """A norm with a scale taken from another stream: linear in what it is given."""

    scale: Float[Tensor, "... 1"]

    def __call__(self, x: Stream) -> Stream:
        """Centre x, divide it by the frozen scale, and apply gain and bias."""
        return self.part(x) + self.bias

    def part(self, x: Stream) -> Stream:
        """The same without the bias: the parts of a stream add up to the stream's own."""
        return self.centre(x) / self.scale * self.gain


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: turns pairs of entries of queries and keys by their position.

    The tables cover the first 2 * pair entries of a head, the others stay. A pair is two entries
    half that width apart or, ``adjacent``, two neighbours (as in GPT-J).
    """

    cos: Float[Tensor, "position pair"]
    sin: Float[Tensor, "position pair"]
    adjacent: bool = False

    def __call__(self, x: Tensor, position: Positions) -> Tensor:
        """Turn x [..., d_head] at one position, or [..., position, d_head] at several."""
        cos, sin = (table[position] for table in (self.cos, self.sin))
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
    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "head d_head"]
    b_V: Float[Tensor, "head d_head"]
    b_O: Float[Tensor, " d_model"]
    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"]
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"]
    act: Callable[[Tensor], Tensor]
    scale: float  # what attention scores are multiplied by
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None  # without it the MLP is not gated
    b_gate: Float[Tensor, " d_mlp"] | None = None
    rotary: Rotary | None = None
    parallel: bool = False

    def query(self, head: int, x: Stream, position: Positions) -> Head:
        """The head's query of the residual stream x.

        ``position`` says where x stands in the prompt: an index for [..., d_model], several (a
        slice, a tensor) for [..., position, d_model]. Only rotary embeddings ask.
        """
        return self._turned(self.ln1(x) @ self.W_Q[head] + self.b_Q[head], position)

    def key(self, head: int, x: Stream, position: Positions) -> Head:
        """The head's key of the residual stream x, placed as for `query`."""
        return self._turned(self.ln1(x) @ self.W_K[head] + self.b_K[head], position)

    def value(self, head: int, x: Stream) -> Head:
        """The head's value of the residual stream x."""
        return self.ln1(x) @ self.W_V[head] + self.b_V[head]

    def qkv(self, x: Stream, position: Positions) -> tuple[Heads, Heads, Heads]:
        """All heads' queries, keys and values; x as for `query`."""
        normed = self.ln1(x)
        projections = ((self.W_Q, self.b_Q), (self.W_K, self.b_K), (self.W_V, self.b_V))
        query, key, value = (
            torch.einsum("...d,hde->...he", normed, weight) + bias for weight, bias in projections
        )
        query, key = (
            self._turned(part.movedim(-2, 0), position).movedim(0, -2) for part in (query, key)
        )
        return query, key, value

    def _turned(self, x: Tensor, position: Positions) -> Tensor:
        return x if self.rotary is None else self.rotary(x, position)

    def attention(
        self,
        query: Float[Tensor, "... query d_head"],
        key: Float[Tensor, "... key d_head"],
        positions: Int[Tensor, " query"],
    ) -> Float[Tensor, "... query key"]:
        """How much queries at some positions attend to the keys of positions 0, 1, 2, ..."""
        scores = query @ key.mT * self.scale
        later = torch.arange(key.shape[-2], device=key.device) > positions[:, None]
        return scores.masked_fill(later, -torch.inf).softmax(-1)

    def pattern(
        self, head: int, x: Float[Tensor, "prompt position d_model"], queries: Sequence[int]
    ) -> Float[Tensor, "prompt query key"]:
        """The head's attention from some positions of x, each to itself and all before."""
        chosen = torch.tensor(list(queries), device=x.device)
        query, key = self.query(head, x[:, chosen], chosen), self.key(head, x, slice(x.shape[1]))
        return self.attention(query, key, chosen)

    def mix(self, query: Heads, key: Heads, value: Heads) -> Heads:
        """What all heads mix from the values [..., position, head, d_head], by query.

        There may be fewer queries than keys: they are those of the last positions.
        """
        n_queries, n_keys = query.shape[-3], key.shape[-3]
        last = torch.arange(n_keys - n_queries, n_keys, device=key.device)
        query, key, value = (part.transpose(-3, -2) for part in (query, key, value))
        return (self.attention(query, key, last) @ value).transpose(-3, -2)

    def mix_changed(
        self,
        query: Changed,
        keys: Float[Tensor, "prompt key d_head"],
        values: Float[Tensor, "prompt key d_head"],
        new_keys: Mapping[int, Changed] = {},
        new_values: Mapping[int, Changed] = {},
    ) -> Changed:
        """What one head mixes at the last key's position, with other keys and values at some.

        A changed key changes one score and a changed value one summand: senders share the rest.
        Keys end at the query's position, so nothing has to be masked.
        """
        scores = torch.einsum("snd,npd->snp", query, keys)
        # Scores are written into, so they need a copy for each sender of keys; values broadcast.
        n_senders = max(map(len, new_keys.values()), default=1)
        if len(scores) < n_senders:
            scores = scores.repeat(n_senders, 1, 1)
        for position, key in new_keys.items():
            scores[..., position] = (query * key).sum(-1)
        pattern = (scores * self.scale).softmax(-1)
        z = torch.einsum("snp,npd->snd", pattern, values)
        for position, value in new_values.items():
            z = z + pattern[..., position, None] * (value - values[:, position])
        return z

    def after_heads(self, x: Stream, z: Heads) -> Stream:
        """The stream x before the layer, with what its heads write when they mix z."""
        return x + z.flatten(-2) @ self.W_O.flatten(0, 1) + self.b_O

    def neurons(self, x: Stream) -> Float[Tensor, "... d_mlp"]:
        """What W_out is applied to, of the residual stream x that the MLP reads."""
        normed = self.ln2(x)
        linear = normed @ self.W_in + self.b_in
        if self.W_gate is None or self.b_gate is None:
            return self.act(linear)
        return self.act(normed @ self.W_gate + self.b_gate) * linear

    def mlp(self, x: Stream) -> Stream:
        """The MLP's output, without b_out, of the residual stream x that it reads."""
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
    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, " vocab"]
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
    def parallel(self) -> bool:
        """Whether attention and MLP of a layer read the same stream, as in Pythia."""
        return self.blocks[0].parallel

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.W_U.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.W_U.dtype

    def shape(self, positions: Iterable[str]) -> Shape:
        """What names may be used on prompts with these positions."""
        return Shape(self.n_layers, self.n_heads, tuple(positions), self.parallel)

    def fingerprint(self) -> str:
        """A hash of all weights, the same on every device; it tells models of one name apart."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.bridge.original_model.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def unembed(self, stream: Stream) -> Float[Tensor, "... vocab"]:
        """Logits of the final residual stream."""
        return self.ln_final(stream) @ self.W_U + self.b_U

    def log_probs(self, stream: Stream, tokens: Tokens) -> Float[Tensor, "... token"]:
        """Log-probabilities of a few tokens under the full-vocabulary softmax.

        The softmax's normaliser is summed block by block over the vocabulary, so that the logits
        of all of ``stream`` never stand in memory at once.
        """
        return self.log_probs_of(self.ln_final(stream), tokens)

    def log_probs_of(self, normed: Stream, tokens: Tokens) -> Float[Tensor, "... token"]:
        """The same of a final stream that was normalised already."""
        rows = normed.reshape(-1, normed.shape[-1])
        tokens = tokens.to(self.device)
        logits = rows @ self.W_U[:, tokens] + self.b_U[tokens]
        n_rows, n_columns = _CPU_BLOCK if self.device.type == "cpu" else _GPU_BLOCK
        sizes = torch.cat([self._log_sum_exp(some, n_columns) for some in rows.split(n_rows)])
        log_probs = (logits - sizes[:, None]).to(normed.dtype)
        return log_probs.reshape(*normed.shape[:-1], len(tokens))

    def _log_sum_exp(self, rows: Tensor, n_columns: int) -> Tensor:
        """Log-sum-exp over the vocabulary [row], in float64, of normalised rows [row, d_model]."""
        peak = torch.full_like(rows[:, 0], -math.inf)
        total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
        for W_U, b_U in zip(self.W_U.split(n_columns, 1), self.b_U.split(n_columns), strict=True):
            logits = torch.addmm(b_U, rows, W_U)
            # What was summed so far is rescaled to the highest logit yet: no exponential overflows.
            higher = torch.maximum(peak, logits.amax(-1))
            total = total * (peak - higher).exp() + logits.sub_(higher[:, None]).exp_().sum(-1)
            peak = higher
        return peak + total.log()
