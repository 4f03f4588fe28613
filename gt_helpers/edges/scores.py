"""Scores of edges: a number for every edge and prompt, measured or estimated, and their comparison.

`effects` and `attribution` make scores; `discovery` and `quality` grow circuits from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Metric, bootstrap_ci, correlation
from ..model.cache import ActivationCache
from ..patching.engine import PathPatching
from ..processes import Tensors, over_prompts
from .graph import EdgeGraph, check_graph

_EDGES = 2048  # edges whose bootstrap resamples are kept at once


class Batch(NamedTuple):
    """A few prompts of a dataset: their two runs, which prompts they are, and the loading bar."""

    base: ActivationCache
    patch: ActivationCache
    prompts: slice
    bar: tqdm


@dataclass(frozen=True)
class EdgeScores:
    """A score for every edge of a graph and every prompt.

    ``values`` are patched less base metric, or what a method takes for it: negative means that the
    edge matters (with the clean base). Edges that were not measured are NaN. ``gap`` is the mean
    change of the metric from the whole base to the whole patch run.
    """

    method: str
    graph: EdgeGraph
    values: Float[Tensor, "edge prompt"]
    gap: float = -1.0

    @property
    def mean(self) -> Float[Tensor, " edge"]:
        """Mean over the prompts; NaN for an edge that was not measured."""
        return self.values.mean(-1)

    @property
    def measured(self) -> Bool[Tensor, " edge"]:
        """Which edges were measured."""
        return ~self.values.isnan().any(-1)

    def to_frame(self, top: int | None = None, level: float | None = None) -> pd.DataFrame:
        """The measured edges, or the ``top`` strongest: edge, effect; strongest first.

        With a ``level``, e.g. 0.95, there are also the ends of the bootstrap interval of that
        level, low and high.
        """
        numbers = self.measured.nonzero().flatten()
        numbers = numbers[strongest_first(self.mean[numbers])[:top]]
        table: dict[str, Any] = {"edge": [self.graph.names[n] for n in numbers.tolist()]}
        table["effect"] = self.mean[numbers]
        if level is not None:
            parts = [bootstrap_ci(self.values[some], level) for some in numbers.split(_EDGES)]
            _, table["low"], table["high"] = map(torch.cat, zip(*parts, strict=True))
        return pd.DataFrame(table)


def strongest_first(scores: Float[Tensor, " edge"]) -> Int[Tensor, " edge"]:
    """The numbers of scores, that of the largest size first."""
    return scores.abs().argsort(descending=True, stable=True)


def scored(
    patching: PathPatching,
    graph: EdgeGraph,
    metric: Metric,
    method: str,
    n_runs: int,
    at_once: int,
    score: Callable[[Batch], Float[Tensor, "edge prompt"]],
) -> EdgeScores:
    """The scores of a method, by batches of at most ``at_once`` prompts, of ``n_runs`` runs each.

    Raises ValueError for a graph of another model or other prompts, and for what is no metric.
    """
    check_graph(patching, graph)
    if not callable(metric):
        raise ValueError(f"metric is {metric!r}; give a function, e.g. metric=prob_diff.")
    data, quiet = patching.dataset, not patching.progress
    gap = metric(patching.patch_probs, data.YY) - metric(patching.base_probs, data.YY)

    def measure(mine: slice) -> Tensors:
        n = mine.stop - mine.start
        values = torch.empty(len(graph), n, dtype=patching.model.dtype)
        bar = tqdm(
            total=n_runs * n, desc=method, unit="run", unit_scale=True, disable=quiet, leave=False
        )
        for base, patch, prompts in patching.caches(at_once, mine):
            here = slice(prompts.start - mine.start, prompts.stop - mine.start)
            values[:, here] = score(Batch(base, patch, prompts, bar)).to(values)
        bar.close()
        return {"values": values}

    values = over_prompts(method, len(data), measure, dim=1)["values"]
    return EdgeScores(method, graph, values, float(gap.mean()))


def compare_scores(
    reference: EdgeScores, others: Sequence[EdgeScores], k: Sequence[int] = (10, 50, 200, 1000)
) -> pd.DataFrame:
    """How well methods rank the edges, one row each, on the edges that both have measured.

    Columns: ``method``; ``edges``, how many these are; ``spearman``, the rank correlation of the
    sizes of the mean scores; ``sign``, the share of edges with the reference's sign; ``top_10``,
    ..., the share of the reference's strongest edges that are among as many strongest of the
    method, NaN where there are not more edges than that. Raises ValueError for scores of another
    graph.
    """
    rows = []
    for other in others:
        ours, theirs = _on_the_same_edges(reference, other)[1:]
        row = {
            "method": other.method,
            "edges": len(ours),
            "spearman": float(correlation(_ranks(ours.abs()), _ranks(theirs.abs()))),
            "sign": float((ours.sign() == theirs.sign()).double().mean()),
        }
        orders = strongest_first(ours), strongest_first(theirs)
        for size in k:
            row[f"top_{size}"] = in_common(*orders, size) if size < len(ours) else math.nan
        rows.append(row)
    columns = ["method", "edges", "spearman", "sign", *(f"top_{size}" for size in k)]
    return pd.DataFrame(rows, columns=columns)


def worst_edges(reference: EdgeScores, other: EdgeScores, n: int = 20) -> pd.DataFrame:
    """The edges that a method gets most wrong, of those that both have measured.

    Columns: ``edge``, the mean scores ``reference`` and ``other``, ``error`` (other less
    reference), and the edge's place in both orders by size, ``reference_rank`` and ``other_rank``
    (1 is the strongest). Raises ValueError for scores of another graph.
    """
    numbers, ours, theirs = _on_the_same_edges(reference, other)
    columns = {
        "edge": [reference.graph.names[number] for number in numbers.tolist()],
        "reference": ours,
        "other": theirs,
        "error": theirs - ours,
        "reference_rank": strongest_first(ours).argsort() + 1,
        "other_rank": strongest_first(theirs).argsort() + 1,
    }
    order = strongest_first(theirs - ours)[:n].tolist()
    return pd.DataFrame(columns).loc[order].reset_index(drop=True)


def common_graph(scores: Iterable[EdgeScores]) -> EdgeGraph:
    """The graph of all these scores; raises ValueError for scores of different graphs."""
    graphs = [one.graph for one in scores]
    if any(graph != graphs[0] for graph in graphs):
        raise ValueError(
            "The scores are of different graphs; give scores of the same model and positions, "
            "e.g. all with EdgeGraph.of(patching)."
        )
    return graphs[0]


def in_common(order: Int[Tensor, " edge"], other: Int[Tensor, " edge"], k: int) -> float:
    """Which share of the first k (or of all, if there are fewer) two orders have in common."""
    first = set(order[:k].tolist())
    return len(first & set(other[:k].tolist())) / max(1, len(first))


def _on_the_same_edges(one: EdgeScores, other: EdgeScores) -> tuple[Tensor, Tensor, Tensor]:
    """The numbers of the edges that both have measured, and both means of them."""
    common_graph([one, other])
    numbers = (one.measured & other.measured).nonzero().flatten()
    return numbers, one.mean[numbers].double(), other.mean[numbers].double()


def _ranks(values: Tensor) -> Tensor:
    """Ranks of values; equal ones share the mean of theirs, as Spearman's correlation wants."""
    return torch.tensor(pd.Series(values.numpy()).rank().to_numpy())
