"""Which neurons carry an MLP's answer? Direct effects of single neurons and groups (section 4).

A patched neuron's activation at END takes its patch-run value in the edge ``m10 -> logits`` only:
whatever else reads the MLP keeps the base run's. The final norm is recomputed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..dataset.year_dataset import YearDataset
from ..metrics import Metric, prob_diff
from ..model.cache import PROMPTS_AT_ONCE, ActivationCache
from ..model.components import END, Component, component
from ..model.transformer import Transformer
from ..patching.paper import CircuitParts
from ..processes import Tensors, chunks, is_main, over_prompts
from .logit_lens import Stream, Tokens, end_of, relative_to_00, unembedded

# Logits that stand in memory at once, and columns of the vocabulary: as in transformer.py, the
# passes of a softmax over such a block stay in the processor's cache.
_CPU_BLOCK = (2**19, 4096)
_GPU_BLOCK = (2**26, 65536)
Numbers = Sequence[int] | Int[Tensor, " neuron"]
PerPrompt = Float[Tensor, " prompt"]
Changes = Float[Tensor, "prompt neuron"]
Weights = Float[Tensor, "neuron d_model"]


class Neurons:
    """The neurons of one MLP at END in two runs over a dataset's prompts, to be patched.

    ``base`` and ``patch`` are caches of the same prompts, e.g. clean and corrupted; ``change``
    [prompt, neuron] is the patch less the base activation (what W_out is applied to: after the
    nonlinearity, and the gate if there is one). Raises ValueError for what is no MLP at END of the
    model, or caches of other prompts.
    """

    def __init__(
        self, base: ActivationCache, patch: ActivationCache, dataset: YearDataset, mlp: str = "m10"
    ) -> None:
        if not len(dataset) == base.stream.shape[1] == patch.stream.shape[1]:
            raise ValueError(
                f"The caches hold {base.stream.shape[1]} and {patch.stream.shape[1]} prompts, the "
                f"dataset {len(dataset)}; give e.g. cache_activations(model, dataset.clean)."
            )
        node = end_mlp(base.model, mlp)
        self.mlp, self.dataset, self.model = node.label, dataset, base.model
        block, end = base.model.blocks[node.layer], end_of(base)
        before, after = (block.neurons(run.before_mlp(node.layer, end)) for run in (base, patch))
        self.activations, self.change, self.W_out = before, after - before, block.W_out
        self._stream = base.at_layer(base.model.n_layers, end)

    def __len__(self) -> int:
        return len(self.W_out)

    @torch.no_grad()
    def effects(
        self, metric: Metric = prob_diff, progress: bool = False
    ) -> Float[Tensor, "neuron prompt"]:
        """What patching each neuron alone does to the metric, all in one pass.

        Patched minus base, as a sweep's values; exact, the softmax is over the full vocabulary.
        """
        YY, years = self.dataset.YY, self.dataset.year_tokens
        base = metric(self.model.log_probs(self._stream, years).exp().cpu(), YY)
        values = torch.empty(len(self), len(YY), dtype=self.model.dtype)

        def measure(mine: slice) -> Tensors:
            with self._bar(mine.stop - mine.start, progress) as bar:
                # Each prompt's normalisers of all neurons are kept: half as many prompts at once.
                for prompts in chunks(mine, PROMPTS_AT_ONCE // 2):
                    stream, change = self._stream[prompts], self.change[prompts]
                    single = _Single(self.model, stream, change, self.W_out)
                    for some, log_probs in single.log_probs(years, bar):
                        patched = metric(log_probs.exp().cpu(), YY[prompts])
                        values[some, prompts] = (patched - base[prompts]).to(values)
            return {"values": values[:, mine]}

        return over_prompts(f"neurons of {self.mlp}", len(YY), measure, dim=1)["values"]

    def _bar(self, n_prompts: int, progress: bool) -> tqdm:
        return tqdm(
            total=len(self) * n_prompts * self.model.W_U.shape[1],
            desc=f"{len(self)} neurons of {self.mlp}",
            unit="logit",
            unit_scale=True,
            disable=not (progress and is_main()),
            leave=False,
        )

    @torch.no_grad()
    def joint_effect(self, neurons: Numbers, metric: Metric = prob_diff) -> PerPrompt:
        """What patching some neurons together does to the metric: patched minus base."""
        streams = torch.stack([self._stream, self._patched(neurons)])
        probs = self.model.log_probs(streams, self.dataset.year_tokens).exp().cpu()
        base, patched = metric(probs, self.dataset.YY)
        return patched - base

    def top_effects(self, order: Numbers, counts: Iterable[int]) -> Float[Tensor, "count prompt"]:
        """The `joint_effect` of the first neurons of an order, for each count of them."""
        return torch.stack([self.joint_effect(order[:count]) for count in counts])

    @torch.no_grad()
    def year_effect(self, neurons: Numbers) -> Float[Tensor, "prompt year"]:
        """What the year logits owe to some neurons together, less the year 00's.

        Base minus patched logits, so that positive means favoured (the paper's direct effect).
        """
        norm = self.model.ln_final
        lost = norm(self._stream) - norm(self._patched(neurons))
        return relative_to_00(unembedded(self.model, lost, self.dataset.year_tokens))

    @torch.no_grad()
    def lens(self, neurons: Numbers) -> Float[Tensor, "prompt year"]:
        """The logit lens of some neurons added up, less the year 00's.

        Activation times output weights times unembedding, without any norm (the paper's product).
        """
        chosen = self._chosen(neurons)
        output = self.activations[:, chosen] @ self.W_out[chosen]
        return relative_to_00(unembedded(self.model, output, self.dataset.year_tokens))

    def _patched(self, neurons: Numbers) -> Stream:
        chosen = self._chosen(neurons)
        return self._stream + self.change[:, chosen] @ self.W_out[chosen]

    def _chosen(self, neurons: Numbers) -> Int[Tensor, " neuron"]:
        chosen = torch.as_tensor(neurons, dtype=torch.long, device=self.model.device)
        if chosen.ndim != 1 or (len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self)):
            raise ValueError(
                f"{self.mlp} has the neurons 0 to {len(self) - 1}; give a list of them, e.g. [0]."
            )
        return chosen


def neuron_ranking(effects: Float[Tensor, "neuron prompt"]) -> Int[Tensor, " neuron"]:
    """Numbers of the neurons, by the size of their mean effect, largest first.

    Sign does not count: what works against the task ranks as high as what works for it.
    """
    return effects.double().mean(-1).abs().argsort(descending=True, stable=True)


def counts_up_to(n: int) -> list[int]:
    """1, 2, 3, 5, 10, 20, 30, 50, 100, ... and n: how many neurons a curve looks at."""
    steps = [digit * 10**power for power in range(len(str(n))) for digit in (1, 2, 3, 5)]
    return [*(step for step in steps if step < n), n]


def needed_for(shares: Sequence[float], counts: Sequence[int], share: float) -> int:
    """The first count from which on the shares stay at ``share`` or more; the last if none does."""
    first = len(counts) - 1
    while first > 0 and shares[first - 1] >= share:
        first -= 1
    return counts[first]


def last_but_one(parts: CircuitParts) -> str:
    """The MLP to look into: the circuit's last but one at END, GPT-2 small's m10 (section 4).

    Raises ValueError for a circuit without MLPs.
    """
    if not parts.mlps:
        raise ValueError("This circuit has no MLP at END; name one of the model's, e.g. 'm10'.")
    return parts.mlps[-2:][0]


class _Single:
    """Final logits of prompts with one neuron patched each, for all neurons, by rank-one updates.

    One neuron moves the stream along its own output weights, so with S the centred stream and w
    the centred weights (RMSNorms do not centre) the patched logits are (S + change w) / scale' @
    gain W_U + constants: two products with W_U serve all neurons and prompts, and only the new
    scale and the softmax differ.
    """

    def __init__(self, model: Transformer, stream: Stream, change: Changes, W_out: Weights) -> None:
        self.model, self.change = model, change.T
        norm = model.ln_final
        centred, written = norm.centre(stream.double()), norm.centre(W_out.double())
        covariance = written @ centred.T / model.d_model
        variance = (
            centred.square().mean(-1)
            + 2 * self.change * covariance
            + self.change**2 * written.square().mean(-1)[:, None]
        )
        self.inverse = (variance + norm.eps).rsqrt().to(model.dtype)  # [neuron, prompt]
        self.stream, self.written = (x.to(model.dtype) * norm.gain for x in (centred, written))

    def log_probs(self, tokens: Tokens, bar: tqdm) -> Iterator[tuple[slice, Tensor]]:
        """Some neurons at a time, and their log-probabilities [neuron, prompt, token]."""
        normaliser, tokens = self._normaliser(bar), tokens.to(self.model.device)
        for some in chunks(slice(0, len(self.written)), 512):
            logits = self._combine(some, *self._products(self.written[some], tokens))
            yield some, logits - normaliser[some, :, None]

    def _normaliser(self, bar: tqdm) -> Float[Tensor, "neuron prompt"]:
        """Log-sum-exp over the vocabulary, block by block; advances the bar."""
        size, width = _CPU_BLOCK if self.change.device.type == "cpu" else _GPU_BLOCK
        total = torch.full_like(self.inverse, -torch.inf)
        for columns in chunks(slice(0, self.model.W_U.shape[1]), width):
            stream, written, constant = self._products(self.written, columns)
            per_step = max(1, size // stream.numel())
            for some in chunks(slice(0, len(written)), per_step):
                logits = self._combine(some, stream, written[some], constant)
                total[some] = torch.logaddexp(total[some], logits.logsumexp(-1))
            bar.update(total.numel() * len(constant))
        return total

    def _products(self, written: Tensor, tokens: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        W_U = self.model.W_U[:, tokens]
        constant = self.model.ln_final.bias @ W_U + self.model.b_U[tokens]
        return self.stream @ W_U, written @ W_U, constant

    def _combine(self, some: slice, stream: Tensor, written: Tensor, constant: Tensor) -> Tensor:
        moved = torch.addcmul(stream, self.change[some, :, None], written[:, None])
        return torch.addcmul(constant, moved, self.inverse[some, :, None])


def end_mlp(model: Transformer, name: str) -> Component:
    """The MLP at END of that name; ValueError for what is none of the model's."""
    node = component(name, "mlp")
    model.shape([END]).check(node)
    return node
