"""How fast all neurons of one MLP are ranked, against the products that senders would cost.

    python benchmarks/neurons.py               # GPT-2 small's shape, 490 prompts, CPU (and CUDA)
    python benchmarks/neurons.py --prompts 49  # a first look

The comparison is a sweep with as many senders as the MLP has neurons: on the same prompts its
unembedding alone is one product [neurons x prompts, d_model] x [d_model, vocabulary]. Weights and
prompts are random, as in sweep.py: neither matters for time or memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timing import GIB, Peak, Table, product_seconds, random_prompts, run, seconds

from gt_helpers.analysis.neurons import Neurons
from gt_helpers.model.cache import cache_activations
from gt_helpers.model.load import load_model
from gt_helpers.patching.engine import PathPatching


@torch.no_grad()
def benchmark(folder: Path, n: int, device: str) -> Table:
    """Time and memory of one device, as rows of a table."""
    model = load_model(folder, device=device)
    prompts: Any = random_prompts(n, model.W_U.shape[1])
    end, mlp = prompts.clean.shape[1] - 1, f"m{model.n_layers - 2 if model.n_layers > 2 else 0}"
    runs = [cache_activations(model, tokens, end) for tokens in (prompts.clean, prompts.corrupted)]
    neurons = Neurons(*runs, prompts, mlp)
    found: list[torch.Tensor] = []
    with Peak(device) as peak:
        ranked = seconds(lambda: found.append(neurons.effects(progress=True)), device)
    few = range(0, len(neurons), len(neurons) // 8)
    error = max(float((neurons.joint_effect([i]) - found[0][i]).abs().max()) for i in few)
    product = product_seconds(model, len(neurons) * n, device, 0.02)
    patching = PathPatching(model, prompts)
    patching.base_probs  # noqa: B018  the two runs are not part of a sweep's time
    sweep = seconds(lambda: patching.sweep("logits"), device)
    per_sender = sweep / (model.n_layers * (model.n_heads + 1))
    as_senders = per_sender * len(neurons)
    return [
        ("prompts x neurons", f"{n} x {len(neurons)}"),
        (f"all neurons of {mlp}, s", f"{ranked:.1f}"),
        ("bare product of as many senders, s (2 % measured, extrapolated)", f"{product:.1f}"),
        ("sweep of as many senders, s (extrapolated from one to the logits)", f"{as_senders:.1f}"),
        ("all neurons / bare product", f"{ranked / product:.2f}"),
        ("all neurons / sweep of as many senders", f"{ranked / as_senders:.2f}"),
        ("peak memory above what the runs left behind, GiB", f"{peak.bytes / GIB:.2f}"),
        ("largest difference to patching a neuron with a full product", f"{error:.1e}"),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the table for each device."""
    run(benchmark, 490, __doc__, arguments)


if __name__ == "__main__":
    main()
