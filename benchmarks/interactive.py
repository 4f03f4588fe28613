"""How fast the explorers answer: sweeps in preview against exact ones, edges, and a whole redraw.

    python benchmarks/interactive.py               # GPT-2 small's shape, 49 prompts, CPU (and CUDA)
    python benchmarks/interactive.py --prompts 490

The two runs are cached, as they are while a user turns the controls. Weights and prompts are
random, but the year tokens are raised until they hold nearly all of the probability, as they do in
GPT-2: otherwise the preview would be off, say so, and fall back to exact sweeps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timing import Table, random_prompts, run, seconds

from gt_helpers import views
from gt_helpers.analysis import preview
from gt_helpers.edges.attribution import eap
from gt_helpers.edges.graph import EdgeGraph, evaluate_edges
from gt_helpers.edges.scores import EdgeScores
from gt_helpers.model.load import load_model
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, CircuitParts, full_circuit

TINY = CircuitParts(("a0.h1",), ("m1",), ("m0",), ("embed",))


@torch.no_grad()
def benchmark(folder: Path, n: int, device: str) -> Table:
    """Time of one device, as rows of a table."""
    model = load_model(folder, device=device)
    prompts: Any = random_prompts(n, model.W_U.shape[1])
    model.b_U = model.b_U.clone()
    model.b_U[prompts.year_tokens] += 13.0
    parts = PAPER if model.n_layers == 12 else TINY
    exact = PathPatching(model, prompts)
    held = float(exact.base_probs.sum(-1).mean())
    quick = preview.Preview.of(exact)
    rows = [("prompts", str(n)), ("probability on the year tokens", f"{held:.4f}")]
    late = list(parts.mlps)
    routes = {
        "to the logits": ("logits",),
        f"to {late[-1]}": (late[-1],),
        f"to {late[0]}, on through {len(late) - 1} MLPs": (late[0], late[1:]),
        f"to the values of {len(parts.heads)} heads": ([f"{h}.v" for h in parts.heads], late, "YY"),
    }
    for name, route in routes.items():
        quick.sweep(*route)  # the rest's mean vector is made once
        quick.forget()
        times = [seconds(lambda e=e, r=route: e.sweep(*r), device, 2) for e in (exact, quick)]
        error = f"{quick.error:.0e}" + (" (exact)" if quick.exact else "")
        words = f"{times[0]:.2f}, {times[1]:.3f}: **{times[0] / times[1]:.0f} x**; {error}"
        rows.append((f"sweep {name}: exact s, preview s: ratio; largest error", words))
    explorer = views.path_explorer(exact, parts)
    explorer.controls["prompts"].value = n
    redraw = seconds(explorer.refresh, device, 3)
    rows.append(("path explorer, a whole redraw, s", f"{redraw:.2f}"))
    graph = EdgeGraph.of(exact)
    back, chosen = exact.reversed(), torch.arange(len(graph)) % 3 == 0
    evaluated = seconds(lambda: evaluate_edges(back, graph, chosen), device, 2)
    found: list[EdgeScores] = []
    attributed = seconds(lambda: found.append(eap(exact, graph)), device)
    rows.append((f"a third of {len(graph)} edges evaluated, s", f"{evaluated:.2f}"))
    rows.append(("all edges by EAP, s", f"{attributed:.1f}"))
    explorer = views.discovery_explorer(exact, found, {"described": full_circuit(parts)})
    for n_edges in (200, 2000):
        choice = {"method": found[0].method, "edges": n_edges, "against": "described"}
        redraw = seconds(lambda c=choice: explorer.draw(**c), device)
        rows.append((f"discovery explorer, a new circuit of {n_edges} edges, s", f"{redraw:.2f}"))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Print the table for each device."""
    run(benchmark, 49, __doc__, arguments)


if __name__ == "__main__":
    main()
