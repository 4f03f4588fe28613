"""What the tests of edges share: parameters, comparisons, and masks and scores that are made up."""

from __future__ import annotations

import torch
from literal import POSITIONS
from torch import Tensor

from gt_helpers.edges.graph import EdgeGraph
from gt_helpers.edges.scores import EdgeScores
from gt_helpers.patching.circuits import Circuit

CHANGED = POSITIONS[POSITIONS.index("YY") :]
BASES = ("clean", "corrupted")


def random_mask(graph: EdgeGraph, share: float, seed: int) -> Tensor:
    """Random edges, with half of those at the two ends so that many lie on a path."""
    draws = torch.rand(len(graph), generator=torch.Generator().manual_seed(seed))
    at_an_end = (graph.index[:, 1] == 0) | (graph.index[:, 2] == len(graph.inputs) - 1)
    return draws < torch.where(at_an_end, max(share, 0.5), share)


def one_edge(graph: EdgeGraph, number: int) -> Circuit:
    """The edge and everything downstream of its receiver, with its sender as the source."""
    entering = graph.circuit([number]).edges
    depth = entering[0].receiver.component.depth
    downstream = [n for n, (_, s, _) in enumerate(graph.index) if graph.nodes[s].depth >= depth]
    edges = (*entering, *graph.circuit(downstream).edges)
    return Circuit(edges, sources=[edge.sender for edge in entering])


def made_scores(
    graph: EdgeGraph, means: Tensor | list[float], method: str = "made up"
) -> EdgeScores:
    """Scores whose first edges have these means over two prompts; the rest is not measured."""
    mean = torch.full((len(graph),), torch.nan, dtype=torch.float64)
    mean[: len(means)] = torch.as_tensor(means, dtype=torch.float64)
    return EdgeScores(method, graph, torch.stack([mean - 0.1, mean + 0.1], dim=1))


def random_scores(graph: EdgeGraph, seed: int = 0) -> EdgeScores:
    """Scores drawn from a normal distribution."""
    return made_scores(
        graph, torch.randn(len(graph), generator=torch.Generator().manual_seed(seed))
    )
