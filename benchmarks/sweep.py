"""How fast a path-patching sweep is, and how much memory it takes, against what it replaces.

    python benchmarks/sweep.py                 # GPT-2 small's shape, 490 prompts, CPU (and CUDA)
    python benchmarks/sweep.py --quick         # a minute's look, fewer prompts: ratios are rough
    python benchmarks/sweep.py --memory        # 10,000 prompts (minutes): the peak is bounded

The weights are random and the prompts are random tokens: neither matters for time or memory. All
ratios come from one process; run it on an idle machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timing import (
    GIB,
    Peak,
    Table,
    options_of,
    print_tables,
    product_seconds,
    random_prompts,
    seconds,
)
from torch import Tensor
from transformers import GPT2LMHeadModel

from gt_helpers.model.load import load_model
from gt_helpers.patching import engine as path_patching
from gt_helpers.patching.engine import PathPatching

BATCH = 64  # prompts per forward pass of the plain model; on two cores faster than all at once


@dataclass
class Frozen:
    """What every component of a plain GPT-2 wrote: per layer [prompt, position, ...]."""

    z: list[Tensor]
    mlp: list[Tensor]


@contextmanager
def hooks(model: Any, z_hook: Callable, mlp_hook: Callable) -> Iterator[None]:
    """Call z_hook(layer, z) and mlp_hook(layer, output), which return what takes their place."""
    with ExitStack() as stack:
        for index, block in enumerate(model.transformer.h):

            def before(_: Any, args: tuple, layer: int = index) -> tuple[Tensor]:
                return (z_hook(layer, args[0]),)

            def after(_: Any, args: tuple, output: Tensor, layer: int = index) -> Tensor:
                return mlp_hook(layer, output)

            stack.callback(block.attn.c_proj.register_forward_pre_hook(before).remove)
            stack.callback(block.mlp.register_forward_hook(after).remove)
        yield


def keep_everything(model: Any, tokens: Tensor) -> Frozen:
    """One forward pass that keeps every head's and MLP's output."""
    kept = Frozen([], [])

    def keep(store: list[Tensor]) -> Callable[[int, Tensor], Tensor]:
        def hook(layer: int, value: Tensor) -> Tensor:
            store.append(value)
            return value

        return hook

    with hooks(model, keep(kept.z), keep(kept.mlp)):
        model(tokens, logits_to_keep=1, use_cache=False)
    return kept


def hooked_pass(model: Any, tokens: Tensor, base: Frozen, patch: Frozen, sender: tuple) -> Tensor:
    """END logits with one head or MLP at END patched and everything else frozen at the base run."""
    layer, head = sender
    width = base.z[0].shape[-1] // model.config.n_head
    logits = []
    for rows in torch.arange(len(tokens)).split(BATCH):
        some = slice(int(rows[0]), int(rows[-1]) + 1)

        def z_hook(here: int, _: Tensor, some: slice = some) -> Tensor:
            z = base.z[here][some]
            if here != layer or head is None:
                return z
            part = slice(head * width, (head + 1) * width)
            z = z.clone()
            z[:, -1, part] = patch.z[here][some, -1, part]
            return z

        def mlp_hook(here: int, _: Tensor, some: slice = some) -> Tensor:
            output = base.mlp[here][some]
            if here != layer or head is not None:
                return output
            output = output.clone()
            output[:, -1] = patch.mlp[here][some, -1]
            return output

        with hooks(model, z_hook, mlp_hook):
            logits.append(model(tokens[some], logits_to_keep=1, use_cache=False).logits[:, -1])
    return torch.cat(logits)


@torch.no_grad()
def benchmark(folder: Path, n: int, device: str, quick: bool = False) -> Table:
    """Time and memory of one device, as rows of a table."""
    model = load_model(folder, device=device)
    prompts: Any = random_prompts(n, model.W_U.shape[1])
    last = f"m{model.n_layers - 1}"
    patching = PathPatching(model, prompts)
    with Peak(device) as peak:
        runs = seconds(lambda: patching.base_probs, device)
        to_logits = seconds(lambda: patching.sweep("logits"), device)
        to_last = seconds(lambda: patching.sweep(last), device)
    sweeps: list[Any] = []  # timed once more, with the metric that is compared to the hooked passes
    again = seconds(
        lambda: sweeps.append(patching.sweep("logits", metric=lambda probs, YY: probs[..., 0])),
        device,
    )
    to_logits = min(to_logits, again)
    senders = model.n_layers * (model.n_heads + 1)
    patching._cache.clear()

    product = product_seconds(model, senders * n, device, 0.1 if quick else 0.3)
    hf: Any = GPT2LMHeadModel.from_pretrained(folder)
    hf.to(device).eval()
    clean, corrupted = prompts.clean.to(device), prompts.corrupted.to(device)
    base, patch = keep_everything(hf, clean), keep_everything(hf, corrupted)
    layers = [0, model.n_layers // 2, model.n_layers - 1]
    few = [(layers[0], 0), (layers[1], 1), (layers[2], None)]
    hooked_pass(hf, clean, base, patch, few[0])  # warm
    hooked = seconds(
        lambda: [hooked_pass(hf, clean, base, patch, sender) for sender in few], device
    ) / len(few)
    plain_end = seconds(lambda: plain_pass(hf, clean, 1), device, 2)
    plain_all = seconds(lambda: plain_pass(hf, clean, 0), device, 1 if quick else 2)
    error = check_against_hooks(hf, clean, base, patch, few, sweeps[0], model.n_heads)

    def times(value: float, unit: float) -> str:
        return f"{value / unit:.2f}"

    return [
        ("prompts x senders", f"{n} x {senders}"),
        ("sweep to logits, s", f"{to_logits:.2f}"),
        (f"sweep to {last}, s", f"{to_last:.2f}"),
        ("the two cached runs and the base answer, s", f"{runs:.2f}"),
        ("one hooked pass per sender, s (3 measured, extrapolated)", f"{hooked * senders:.1f}"),
        (
            "one plain forward, all logits / END logits only, s",
            f"{plain_all:.2f} / {plain_end:.2f}",
        ),
        ("bare unembedding product of the sweep, s", f"{product:.2f}"),
        ("(a) hooked passes / sweep", times(hooked * senders, to_logits)),
        ("(b) sweep / one plain forward, all logits", times(to_logits, plain_all)),
        ("(b) sweep / one plain forward, END logits only", times(to_logits, plain_end)),
        ("(c) sweep / bare product", times(to_logits, product)),
        (f"(c) sweep to {last} / bare product", times(to_last, product)),
        ("peak memory above the model, runs and sweeps, GiB", f"{peak.bytes / GIB:.2f}"),
        ("largest difference to the hooked passes (probability of 00)", f"{error:.1e}"),
    ]


def plain_pass(model: Any, tokens: Tensor, positions: int) -> None:
    """One plain forward pass with the logits of the last positions (0: all), logits dropped."""
    for batch in tokens.split(BATCH):
        model(batch, logits_to_keep=positions, use_cache=False)


def check_against_hooks(
    hf: Any, clean: Tensor, base: Frozen, patch: Frozen, few: list, sweep: Any, n_heads: int
) -> float:
    """Largest difference between the two ways, in the change of the first year's probability."""
    before = hf(clean, logits_to_keep=1, use_cache=False).logits[:, -1].softmax(-1)[:, 0]
    errors = []
    for layer, head in few:
        row = layer * (n_heads + 1) + (n_heads if head is None else head)
        after = hooked_pass(hf, clean, base, patch, (layer, head)).softmax(-1)[:, 0]
        errors.append(float(((after - before).cpu() - sweep.values[row]).abs().max()))
    return max(errors)


@torch.no_grad()
def memory(folder: Path, n: int, device: str) -> Table:
    """Peak memory over many prompts: the base answer, then a sweep from a tenth of the senders."""
    model = load_model(folder, device=device)
    prompts: Any = random_prompts(n, model.W_U.shape[1])
    patching = PathPatching(model, prompts)
    last = model.n_layers - 1
    with Peak(device) as peak:
        runs = seconds(lambda: patching.base_probs, device)
        sweep = seconds(lambda: patching.sweep("a1.h0.v", [f"m{last}"]), device)
    cached = sum(run.nbytes for pair in patching._cache.values() for run in pair)
    return [
        ("prompts", f"{n}"),
        ("base answer, s", f"{runs:.1f}"),
        ("sweep to a1.h0.v (only what lies below it is computed), s", f"{sweep:.1f}"),
        ("runs kept in the cache, GiB", f"{cached / GIB:.2f}"),
        ("limit of the cache, GiB", f"{path_patching._CACHE_BYTES / GIB:.2f}"),
        ("peak memory above the model, GiB", f"{peak.bytes / GIB:.2f}"),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the table for each device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--prompts", type=int, help="490; 49 with --quick; 10000 with --memory")
    parser.add_argument("--quick", action="store_true", help="fewer prompts and repeats")
    parser.add_argument("--memory", action="store_true", help="peak memory over many prompts")
    options = options_of(parser, arguments)
    n = options.prompts or (10_000 if options.memory else 49 if options.quick else 490)
    if options.memory:
        print_tables(lambda folder, device: memory(folder, n, device), options)
    else:
        print_tables(lambda folder, device: benchmark(folder, n, device, options.quick), options)


if __name__ == "__main__":
    main()
