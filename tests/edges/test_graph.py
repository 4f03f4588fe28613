"""Oracle: the graph of all edges, its circuits, and many live edges against the literal tree."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from literal import POSITIONS, below, close, parse, paths_of_edges, year_log_probs
from made_edges import CHANGED, random_mask

from gt_helpers.analysis.preview import Preview
from gt_helpers.differences.ablations import FrozenNorms, MeanAblation
from gt_helpers.edges.attribution import eap
from gt_helpers.edges.graph import EdgeGraph, evaluate_edges
from gt_helpers.model.components import Shape
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching

# ---- which edges there are --------------------------------------------------------------------


def test_gpt2_small_has_the_edges_of_the_literature() -> None:
    graph = EdgeGraph(Shape(12, 12, ("YY", "END")), "YY")
    assert len(graph) == 32_491  # as counted by Hanna et al. (2024)
    assert graph.senders[:3] == ("embed", "a0.h0", "a0.h1")
    assert graph.receivers[-3:] == ("a11.h11.v", "m11", "logits")
    assert len(set(graph.names)) == len(graph)
    assert {"a9.h1 -> m9", "m0 -> a7.h10.v", "m10 -> logits"} < set(graph.names)
    assert not {"m9 -> a9.h1.q", "m9 -> m9", "a9.h1 -> a9.h2.v"} & set(graph.names)


def test_the_edges_are_those_that_the_literal_tree_reads(graph: EdgeGraph) -> None:
    assert set(graph.names) == {
        f"{sender} -> {receiver}"
        for sender in graph.senders
        for receiver in graph.receivers
        if below(parse(sender)[0], parse(receiver)[0])
    }


def test_with_positions_apart_each_edge_that_can_arrive_has_a_row(patching, graph) -> None:
    found: dict[str, set[str]] = {}
    for name in EdgeGraph.of(patching, summed=False).names:
        label, row, receiver = re.fullmatch(r"(.*)@(\w+) -> (.*)", name).groups()
        found.setdefault(f"{label} -> {receiver}", set()).add(row)
    assert set(found) == set(graph.names)
    for name, rows in found.items():
        # the last layer's queries and MLP, and the logits, are read at END only
        ends = name.endswith(("logits", "m2")) or (" -> a2." in name and name.endswith("q"))
        assert rows == ({"END"} if ends else set(CHANGED))


def test_order_and_index_belong_together(either_graph: EdgeGraph) -> None:
    graph = either_graph
    assert graph == EdgeGraph(graph.shape, "YY", graph.summed)
    assert graph.index[:, 2].diff().min() == 0  # receiver by receiver
    for number in random.Random(0).sample(range(len(graph)), 20):
        row, sender, receiver = graph.index[number].tolist()
        at = f"@{graph.rows[row]}" if graph.rows[row] else ""
        assert graph.names[number] == f"{graph.senders[sender]}{at} -> {graph.receivers[receiver]}"
        chosen = graph.mask(graph.names[number])
        assert chosen.nonzero().flatten().tolist() == [number]
        assert graph.grid(chosen).nonzero().tolist() == [[row, sender, receiver]]


def test_edges_are_chosen_by_names_numbers_or_a_mask(graph: EdgeGraph) -> None:
    mask = random_mask(graph, 0.1, 0)
    numbers = mask.nonzero().flatten()
    names = [graph.names[n] for n in numbers]
    for edges in (mask, mask.numpy(), mask.tolist(), numbers, numbers.tolist(), np.array(names)):
        assert torch.equal(graph.mask(edges), mask)
    assert not graph.mask([]).any()


@pytest.mark.parametrize(
    ("edges", "sentence"),
    [
        (["m0 -> m9"], r"'m0 -> m9' is none of the 172.* e\.g\. 'm2 -> logits'"),
        ("m2 -> a2.h0.q", "'m2 -> a2.h0.q'"),
        ("m0@YY -> m1", "'m0@YY -> m1'"),
        ([172], r"172 is none of the 172"),
        ([-1], "-1 is none"),
        (torch.ones(3, dtype=torch.bool), r"3 edges.* 172.* e\.g\. graph\.mask"),
    ],
)
def test_edges_that_do_not_exist(patching, graph, edges: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        evaluate_edges(patching, graph, edges)


def test_graphs_of_other_prompts_and_other_norms_are_refused(patching, graph) -> None:
    for other in (EdgeGraph(patching.shape, "XX"), EdgeGraph(Shape(2, 3, POSITIONS), "YY")):
        for measure in (lambda: evaluate_edges(patching, other, []), lambda: eap(patching, other)):  # noqa: B023
            with pytest.raises(ValueError, match=r"EdgeGraph\.of\(patching\)"):
                measure()
    with pytest.raises(ValueError, match="'ZZ'"):
        EdgeGraph(patching.shape, "ZZ")
    frozen = FrozenNorms(patching.model, patching.dataset)
    for measure in (lambda: evaluate_edges(frozen, graph, []), lambda: eap(frozen, graph)):
        with pytest.raises(ValueError, match=r"FrozenNorms.*PathPatching\("):
            measure()
    # another patch run, or another way to the same answers, is no obstacle
    for kind in (Preview, MeanAblation):
        engine = kind(patching.model, patching.dataset)
        evaluate_edges(engine, EdgeGraph.of(engine), [])


# ---- circuits and their evaluation ------------------------------------------------------------


def test_all_edges_are_the_patch_run_and_none_the_base_run(either_base, either_graph) -> None:
    patching, graph = either_base, either_graph
    every = evaluate_edges(patching, graph, range(len(graph)))
    close(every.probs, patching.patch_probs)
    assert every.name == f"{len(graph)} of {len(graph)} edges"
    close(evaluate_edges(patching, graph, []).log_probs, patching.base_log_probs)
    assert (patching.patch_probs - patching.base_probs).abs().max() > 0.01


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_it_is_the_evaluation_of_the_circuit(either_base, either_graph, share: float) -> None:
    patching, graph = either_base, either_graph
    for seed in range(3):
        mask = random_mask(graph, share, seed)
        circuit = graph.circuit(mask)
        evaluated = patching.evaluate(circuit).log_probs
        close(evaluate_edges(patching, graph, mask).log_probs, evaluated)
        assert (evaluated - patching.base_log_probs).abs().max() > 1e-3


def test_it_is_the_literal_tree(patching, literal, prompts, either_graph) -> None:
    graph = either_graph
    embeds = [f"embed@{position}" for position in POSITIONS]
    for seed in range(2):
        mask = random_mask(graph, 0.12, seed)
        names = [edge.name for edge in graph.circuit(mask).edges]
        paths = paths_of_edges(names, sources=embeds)
        assert len(paths) > 5
        expected = year_log_probs(literal.answer(paths), prompts)
        close(evaluate_edges(patching, graph, mask).log_probs, expected)


def test_a_summed_edge_is_its_rows_together(patching: PathPatching, graph: EdgeGraph) -> None:
    apart = EdgeGraph.of(patching, summed=False)
    mask = random_mask(graph, 0.3, 5)
    chosen = {graph.names[n] for n in mask.nonzero()}
    rows = [name for name in apart.names if re.sub(r"@\w+", "", name) in chosen]
    one_by_one = evaluate_edges(patching, apart, rows).log_probs
    close(evaluate_edges(patching, graph, mask).log_probs, one_by_one)


def test_a_circuit_is_written_out_over_the_positions(patching, graph) -> None:
    into_mlp = graph.circuit("m0 -> m1")
    assert [edge.name for edge in into_mlp.edges] == [f"m0@{p} -> m1@{p}" for p in CHANGED]
    assert into_mlp.sources == ()
    into_value = graph.circuit("embed -> a1.h0.v")
    pairs = {(e.sender.position, e.receiver.component.position) for e in into_value.edges}
    assert pairs == {(p, t) for p in CHANGED for t in CHANGED[CHANGED.index(p) :]}
    assert {source.name for source in into_value.sources} == {f"embed@{p}" for p in CHANGED}
    # nothing reads the last layer before END
    last = graph.circuit(["embed -> a2.h0.k", "m1 -> a2.h0.q", "m1 -> m2", "m1 -> logits"])
    assert {edge.receiver.component.position for edge in last.edges} == {"END"}
    one = EdgeGraph.of(patching, summed=False).circuit("m0@XX -> a1.h0.k")
    expected = Circuit(["m0@XX -> a1.h0.k@XX", "m0@XX -> a1.h0.k@END"])
    assert set(one.edges) == set(expected.edges)


def test_pruned_keeps_what_lies_on_a_path(patching: PathPatching, graph: EdgeGraph) -> None:
    path = ["embed -> a0.h1.v", "a0.h1 -> m1", "m1 -> logits"]
    extra = ["embed -> m0", "m0 -> a1.h0.q", "a0.h2 -> m1", "m1 -> a2.h0.k"]
    kept = graph.pruned([*path, *extra])
    assert {graph.names[n] for n in kept.nonzero()} == set(path)
    assert graph.pruned(range(len(graph))).all()
    apart = EdgeGraph.of(patching, summed=False)
    # what YY's value brings to the head, later rows carry on; an earlier row cannot
    later = ["embed@YY -> a0.h1.v", "a0.h1@XX -> a1.h0.k", "a1.h0@END -> logits"]
    assert apart.pruned(later).sum() == 3
    earlier = ["embed@XX -> a0.h1.v", "a0.h1@YY -> a1.h0.k", "a1.h0@END -> logits"]
    assert apart.pruned(earlier).sum() == 0
    # what nothing enters stays as in the base run
    unfed = ["m0 -> m1", "m1 -> m2", "m2 -> logits"]
    assert not graph.pruned(unfed).any()
    close(evaluate_edges(patching, graph, unfed).log_probs, patching.base_log_probs)


def test_pruning_changes_no_answer(patching: PathPatching, either_graph: EdgeGraph) -> None:
    graph = either_graph
    mask = random_mask(graph, 0.08, 1)
    kept = graph.pruned(mask)
    assert 0 < kept.sum() < mask.sum()
    whole = patching.evaluate(graph.circuit(mask)).log_probs
    close(patching.evaluate(graph.circuit(kept)).log_probs, whole)
