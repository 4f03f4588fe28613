"""What each process runs in test_processes.py: ``in_processes.py measure OUT``, or ``lose`` a run.

With the arguments of ``python -m gt_helpers`` after ``lose``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from gt_helpers.__main__ import main
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.edges.attribution import eap
from gt_helpers.edges.effects import edge_effects
from gt_helpers.edges.graph import EdgeGraph, evaluate_edges
from gt_helpers.model.load import load_model
from gt_helpers.patching.engine import PathPatching
from gt_helpers.processes import is_main, processes, rank, write_tensors
from gt_helpers.reproduce import run_scorecard

PROMPTS, FEW = 12, 4
_swept = PathPatching._swept


def measure(out: Path) -> None:
    """The scorecard, and beside it scores of edges."""
    with processes("cpu") as device:
        run_scorecard("mini", PROMPTS, out=out, device=device, at_most=FEW)
        found = scores_of_edges()
        if is_main():
            write_tensors(out / "edges.safetensors", found)
    # Gloo's threads ended with the group: the interpreter's end would abort, now and then.
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], threads


def scores_of_edges() -> dict[str, Tensor]:
    """Scores [edge, prompt] of a few edges, or of all where it is quick; answers [prompt, year]."""
    model = load_model("mini", "cpu")
    patching = PathPatching(model, YearDataset(model.tokenizer, FEW))
    graph = EdgeGraph.of(patching)
    scores = edge_effects(patching, graph, budget=20)
    live = evaluate_edges(patching, graph, range(0, len(graph), 50))
    return {
        "exact": scores.values[scores.measured],
        "estimated": eap(patching, graph).values,
        "live": live.log_probs,
    }


def lost(self: PathPatching, route, some: slice) -> Iterator[tuple]:
    """A sweep; to m10, process 1 is lost when process 0 has finished its part of it."""
    if rank() == 1 and route.receivers[0].name == "m10@END":
        while not list(Path(sys.argv[-1]).glob("parts/sweep_to_m10/*.safetensors")):
            time.sleep(0.05)
        os._exit(9)
    return _swept(self, route, some)


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(Path(sys.argv[2]))
    else:
        PathPatching._swept = lost
        sys.exit(main(sys.argv[2:]))
