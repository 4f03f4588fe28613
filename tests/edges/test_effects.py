"""Oracle: exact effects of single edges, against circuits and the literal tree; invariants."""

from __future__ import annotations

import random

import pytest
import torch
from literal import Literal, Prompts, close, paths_of_edges, year_prob_diff
from made_edges import one_edge

from gt_helpers.edges.effects import edge_effects
from gt_helpers.edges.graph import EdgeGraph
from gt_helpers.edges.scores import EdgeScores
from gt_helpers.metrics import cutoff_sharpness, prob_diff
from gt_helpers.patching.engine import PathPatching


def test_it_is_the_circuit_of_one_edge_and_all_downstream(either_base, either_graph) -> None:
    patching, graph = either_base, either_graph
    scores = edge_effects(patching, graph)
    base_diff = prob_diff(patching.base_probs, patching.dataset.YY)
    by_receiver = {int(receiver): n for n, receiver in enumerate(graph.index[:, 2])}
    some = random.Random(patching.base).sample(range(len(graph)), 12)
    for number in {*some, *random.Random(1).sample(list(by_receiver.values()), 8)}:
        expected = patching.evaluate(one_edge(graph, number)).prob_diff - base_diff
        close(scores.values[number], expected)
    assert (scores.values.abs().amax(1) > 1e-6).double().mean() > 0.8
    assert scores.measured.all()
    gap = prob_diff(patching.patch_probs, patching.dataset.YY) - base_diff
    assert scores.gap == pytest.approx(float(gap.mean()))


def test_it_is_the_literal_tree(exact: EdgeScores, literal: Literal, prompts: Prompts) -> None:
    base = year_prob_diff(literal.answer([]), prompts)
    for name in ("m1 -> logits", "embed -> a2.h1.v", "a0.h2 -> m2", "m0 -> a1.h1.k", "m0 -> m1"):
        number = exact.graph.names.index(name)
        circuit = one_edge(exact.graph, number)
        edges = [edge.name for edge in circuit.edges]
        paths = paths_of_edges(edges, sources=[source.name for source in circuit.sources])
        effect = year_prob_diff(literal.answer(paths), prompts) - base
        close(exact.values[number], effect)


def test_edges_of_which_one_row_is_read_are_that_row_alone(patching, exact) -> None:
    apart = edge_effects(patching, EdgeGraph.of(patching, summed=False))
    at_END = dict(zip(apart.graph.names, apart.values, strict=True))
    sweep = patching.sweep("logits")
    swept = dict(zip(sweep.senders, sweep.values, strict=True))
    for name, values in zip(exact.graph.names, exact.values, strict=True):
        sender, receiver = name.split(" -> ")
        if receiver in ("m2", "logits") or (receiver.startswith("a2") and receiver.endswith("q")):
            close(at_END[f"{sender}@END -> {receiver}"], values)
        if receiver == "logits":
            close(swept[f"{sender}@END"], values)


@pytest.mark.parametrize("metric", [cutoff_sharpness, lambda probs, YY: probs[..., 30].log()])
def test_any_metric(patching: PathPatching, graph: EdgeGraph, metric) -> None:
    scores = edge_effects(patching, graph, metric, budget=10)
    (number, *_) = scores.measured.nonzero().flatten().tolist()
    YY = patching.dataset.YY
    patched = patching.evaluate(one_edge(graph, number)).probs
    close(scores.values[number], metric(patched, YY) - metric(patching.base_probs, YY))


def test_a_budget_measures_a_drawn_part(patching, exact, capsys) -> None:
    loud = PathPatching(patching.model, patching.dataset, progress=True)
    part = edge_effects(loud, exact.graph, budget=20)
    assert "exact: " in capsys.readouterr().err
    assert part.measured.sum() == 20
    close(part.values[part.measured], exact.values[part.measured])
    assert part.mean.isnan().sum() == 152
    again, other = (edge_effects(patching, exact.graph, budget=20, seed=s) for s in (0, 1))
    assert torch.equal(again.measured, part.measured)
    assert not torch.equal(other.measured, part.measured)
    close(edge_effects(patching, exact.graph, budget=1000, seed=1).values, exact.values)


@pytest.mark.parametrize("budget", [0, -3, 2.5])
def test_a_budget_is_a_number_of_edges(patching, graph, budget: float) -> None:
    with pytest.raises(ValueError, match=rf"{budget}.*e\.g\. budget=2000"):
        edge_effects(patching, graph, budget=budget)
