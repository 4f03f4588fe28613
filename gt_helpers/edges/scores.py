"""Scores of edges: a number for every edge and prompt, measured or estimated, and their comparison.

`effects` and `attribution` make scores; `discovery` and `quality` grow circuits from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Metric, Strata, bootstrap_ci
from ..model.cache import ActivationCache
from ..patching.engine import PathPatching
from .graph import EdgeGraph, check_graph

TOP = (10, 50, 200, 1000)  # how many of the strongest edges are compared


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
    strata: Strata | None = field(default=None, repr=False)  # of the prompts, see `bootstrap_ci`

    @property
    def mean(self) -> Float[Tensor, " edge"]:
        """Mean over the prompts; NaN for an edge that was not measured."""
        return self.values.mean(-1)

    @property
    def measured(self) -> Bool[Tensor, " edge"]:
        """Which edges were measured."""
        return ~self.values.isnan().any(-1)

    def to_frame(self, top: int = 20, level: float = 0.95) -> pd.DataFrame:
        """The strongest measured edges, strongest first: edge, effect, and its interval's ends.

        The ends, low and high, are of the bootstrap interval of this level over prompts.
        """
        numbers = self.measured.nonzero().flatten()
        numbers = numbers[strongest_first(self.mean[numbers])[:top]]
        mean, low, high = bootstrap_ci(self.values[numbers], level, self.strata)
        names = [self.graph.names[number] for number in numbers.tolist()]
        return pd.DataFrame({"edge": names, "effect": mean, "low": low, "high": high})


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
    YY = patching.dataset.YY
    gap = metric(patching.patch_probs, YY) - metric(patching.base_probs, YY)

    def measure(mine: slice) -> dict[str, Tensor]:
        n = mine.stop - mine.start
        values = torch.empty(len(graph), n, dtype=patching.model.dtype)
        bar = tqdm(
            total=n_runs * n,
            desc=method,
            unit="run",
            unit_scale=True,
            disable=not patching.progress,
            leave=False,
        )
        for base, patch, prompts in patching.caches(at_once, mine):
            here = slice(prompts.start - mine.start, prompts.stop - mine.start)
            values[:, here] = score(Batch(base, patch, prompts, bar)).to(values)
        bar.close()
        return {"values": values}

    values = patching.over_prompts(method, measure, dim=1)["values"]
    return EdgeScores(method, graph, values, float(gap.mean()), patching.dataset.strata)


def compare_scores(
    reference: EdgeScores, others: Sequence[EdgeScores], k: Sequence[int] = TOP
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
        means = _side_by_side(reference, other)[["reference", "other"]]
        ours, theirs = (torch.tensor(means[name].to_numpy()) for name in means)
        row = {
            "method": other.method,
            "edges": len(means),
            "spearman": means.abs().corr("spearman").loc["reference", "other"],
            "sign": float((ours.sign() == theirs.sign()).double().mean()),
        }
        orders = strongest_first(ours), strongest_first(theirs)
        shares = {f"top_{n}": in_common(*orders, n) if n < len(ours) else math.nan for n in k}
        rows.append(row | shares)
    return pd.DataFrame(rows)


def worst_edges(reference: EdgeScores, other: EdgeScores, n: int = 20) -> pd.DataFrame:
    """The edges that a method gets most wrong, of those that both have measured.

    Columns: ``edge``, the mean scores ``reference`` and ``other``, ``error`` (other less
    reference), and the edge's place in both orders by size, ``reference_rank`` and ``other_rank``
    (1 is the strongest). Raises ValueError for scores of another graph.
    """
    table = _side_by_side(reference, other)
    table["error"] = table["other"] - table["reference"]
    for name in ("reference", "other"):
        sizes = table[name].abs()
        table[f"{name}_rank"] = sizes.rank(method="first", ascending=False).astype(int)
    worst = table.sort_values("error", key=abs, ascending=False, kind="stable", ignore_index=True)
    return worst[:n]


def _side_by_side(reference: EdgeScores, other: EdgeScores) -> pd.DataFrame:
    """The edges that both have measured, by name, and both mean scores of them."""
    graph = common_graph([reference, other])
    both = reference.measured & other.measured
    names = [graph.names[number] for number in both.nonzero().flatten().tolist()]
    means = {"reference": reference.mean[both].double(), "other": other.mean[both].double()}
    return pd.DataFrame({"edge": names, **means})


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
