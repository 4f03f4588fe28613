"""The paper's circuit discovery: sweeps, circuits, attention and lens, saved step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..analysis.attention import attention_map
from ..analysis.logit_lens import logit_lens
from ..dataset.year_dataset import YearDataset
from ..metrics import mean_by_YY
from ..model.cache import cache_activations, end_logits
from ..model.transformer import Transformer
from ..patching import paper as circuits
from ..patching.engine import Evaluation, PathPatching, Sweep
from ..patching.paper import full_circuit, partial_circuit
from ..processes import Tensors, over_prompts, resumable
from .results import Results

_PROMPTS = 512  # whose whole residual stream is kept at once


def discover(
    model: Transformer,
    dataset: YearDataset,
    results: Results,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Every experiment that the results do not hold yet, each saved as soon as it is finished."""
    patching = PathPatching(model, dataset, progress=True)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        with resumable(name, folder):
            yield
            results.seconds[name] = round(time.perf_counter() - started, 2)
            results.save(folder)
        say(f"  {name}: {results.seconds[name]:.1f} s")

    def sweep(receivers: Sequence[str], via: Sequence[str], senders_at: str) -> Sweep:
        name = _sweep_name(receivers)
        if name not in results.sweeps:
            with step(f"sweep to {name}"):
                results.sweeps[name] = patching.sweep(receivers, via, senders_at)
        return results.sweeps[name]

    def evaluation(name: str, measure: Callable[[], Tensor]) -> Evaluation:
        if name not in results.evaluations:
            with step(name):
                results.evaluations[name] = Evaluation(name, measure(), dataset.YY)
        return results.evaluations[name]

    evaluation("clean", lambda: patching.base_log_probs)
    evaluation("corrupted", lambda: patching.reversed().base_log_probs)
    if results.softmax_of_mean is None:
        with step("probabilities of mean logits"):
            results.softmax_of_mean = softmax_of_mean_logits(model, dataset)
    results.parts = parts = circuits.circuit_parts(patching, sweep)
    circuits.end_sweeps(sweep, parts.mlps)
    if parts.heads:
        circuits.attention_sweeps(sweep, parts)
        first_four = [f"m{layer}" for layer in range(min(4, model.n_layers))]
        circuits.early_sweeps(sweep, parts, list(dict.fromkeys((*first_four, *parts.early_mlps))))
    denoising = patching.reversed()
    partial, full = partial_circuit(parts), full_circuit(parts)
    evaluation("partial", lambda: denoising.evaluate(partial).log_probs)
    evaluation("full", lambda: denoising.evaluate(full).log_probs)
    evaluation("reverse", lambda: patching.evaluate(partial).log_probs)
    if results.attention is None:
        with step("attention and logit lens"):
            results.attention, results.lens = looks_and_writes(
                model, dataset, [*parts.heads, *parts.mlps]
            )
    results.save(folder)


def softmax_of_mean_logits(model: Transformer, dataset: YearDataset) -> Tensor:
    """Year probabilities [YY, year] of the logits averaged over prompts of equal YY, rows 02 to 98.

    The order of the paper's circuit discovery code; a YY without a prompt is NaN.
    """
    sums = torch.zeros(97, model.W_U.shape[1], dtype=torch.float64)
    row = dataset.YY - 2
    first = 0
    for logits in end_logits(model, dataset.clean):
        sums.index_add_(0, row[first : first + len(logits)], logits.double().cpu())
        first += len(logits)
    mean = sums / torch.bincount(row, minlength=97)[:, None]
    return mean.softmax(-1)[:, dataset.year_tokens].to(model.dtype)


def looks_and_writes(
    model: Transformer, dataset: YearDataset, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Attention [layer, head, prompt] from END to YY, and named components' logit lens [YY, year].

    On the clean prompts, in chunks that bound the memory.
    """
    end, YY = dataset.position("END"), dataset.position("YY")

    def measure(prompts: slice) -> Tensors:
        found: dict[str, list[Tensor]] = {name: [] for name in ("attention", *names)}
        for tokens in dataset.clean[prompts].split(_PROMPTS):
            run = cache_activations(model, tokens, start=end)
            found["attention"].append(attention_map(run, end, YY).movedim(-1, 0))
            for name in names:
                found[name].append(logit_lens(run, name, dataset.year_tokens))
        return {name: torch.cat(parts) for name, parts in found.items()}

    found = over_prompts("attention and logit lens", len(dataset), measure)
    attention = found.pop("attention").movedim(0, -1)
    return attention, {name: mean_by_YY(lens, dataset.YY) for name, lens in found.items()}


def _sweep_name(receivers: Sequence[str]) -> str:
    """``m9``, ``m0@YY``, ``logits``, or for the inputs of several heads the part: ``v``."""
    return receivers[0].split(".")[-1]
