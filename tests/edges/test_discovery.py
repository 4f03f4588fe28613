"""Unit: discovery against planted circuits, and greedy circuits against their own definition."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from made_edges import CHANGED, made_scores, random_scores
from torch import Tensor
from transformers import GPT2LMHeadModel

from gt_helpers.analysis.preview import Preview
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.edges.discovery import (
    FoundCircuit,
    agreement,
    discover_circuit,
    greedy_edges,
    greedy_order,
)
from gt_helpers.edges.graph import EdgeGraph
from gt_helpers.metrics import Metric, prob_diff
from gt_helpers.model.components import Shape, edges
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching, Sweep
from gt_helpers.patching.paper import full_circuit, partial_circuit
from gt_helpers.patching.published import acdc_circuit

PLANTED = ("embed", "a0.h1", "m1", "a2.h2")


def planted(hf: GPT2LMHeadModel) -> None:
    """Make all but the planted components of a model write next to nothing."""
    width = hf.config.n_embd // hf.config.n_head
    for layer, block in enumerate(hf.transformer.h):
        if f"m{layer}" not in PLANTED:
            block.mlp.c_proj.weight.data *= 1e-6
        for head in range(hf.config.n_head):
            if f"a{layer}.h{head}" not in PLANTED:
                block.attn.c_proj.weight.data[head * width : (head + 1) * width] *= 1e-6


# ---- discovery by path patching ---------------------------------------------------------------


def test_it_finds_all_of_a_planted_circuit_and_nothing_else(changed) -> None:
    patching = changed(planted)

    def closeness(probs: Tensor, YY: Tensor) -> Tensor:
        """A metric that everything lowers that changes the answer at all."""
        return -(probs - patching.base_probs).abs().sum(-1)

    found = discover_circuit(patching, 1e-5, metric=closeness)
    graph = EdgeGraph.of(patching, summed=False)
    chosen = []
    for name in graph.names:
        sender, receiver = name.split(" -> ")
        label, position = sender.split("@")
        ends = {label, re.sub(r"\.[qkv]$", "", receiver)}
        same = label == "embed" and position not in ("YY", "XX")  # the tokens differ only there
        if ends <= {*PLANTED, "logits"} and not same:
            chosen.append(name)
    expected = graph.circuit(chosen).live
    assert len(expected) == 45
    assert set(found.edges) == set(expected)
    assert {source.name for source in found.sources} == {"embed@YY", "embed@XX"}
    # these edges are the whole model: alone they answer as it does
    alone = patching.reversed().evaluate(found).log_probs
    torch.testing.assert_close(alone, patching.base_log_probs, atol=1e-4, rtol=0.0)


def test_what_it_finds_on_mini_lowers_the_metric(mini: Transformer) -> None:
    swept: list[tuple[str, object]] = []
    patching = PathPatching(mini, YearDataset(mini.tokenizer, 20))
    preview = Preview.of(patching)

    def sweep(receivers: Sequence[str], *route: object) -> Sweep:
        swept.append((receivers[0], route[1]))
        result = preview.sweep(receivers, *route)
        assert result.values.any()  # a sweep that cannot find anything is not made
        return result

    found = discover_circuit(patching, 0.005, sweep=sweep)
    assert swept[0] == ("logits", "END") and len(set(swept)) == len(swept)
    table = found.to_frame()
    assert (table["high"] < 0).all() and table["effect"].is_monotonic_increasing
    assert found.live == found.edges
    assert {source.label for source in found.sources} == {"embed"}
    best = found.strongest(6)
    back = patching.reversed()
    scores = [back.evaluate(one).prob_diff.mean() for one in (Circuit(), best, found)]
    assert 0 < len(best) <= 6 < len(found)
    assert scores[0] + 0.01 < scores[1] < scores[2]


# Edges and the effects that made-up sweeps give them, in hundredths of the gap.
MADE_UP = {
    "m2@END -> logits": -10.0,
    "m1@END -> logits": -0.5,  # too weak
    "a2.h0@END -> logits": 9.0,  # works against the task
    "a1.h0@END -> m2@END": -5.0,
    "m0@END -> m2@END": -4.0,
    "m0@YY -> a1.h0.v@END": -0.6,  # the strongest into a1.h0
    "embed@YY -> a1.h0.k@END": -0.5,
    "embed@YY -> m0@YY": -0.01,
}


def made_up_sweep(patching: PathPatching, log: dict[str, list[str]]) -> Callable[..., Sweep]:
    YY = patching.dataset.YY
    gap = prob_diff(patching.base_probs, YY) - prob_diff(patching.patch_probs, YY)
    unit = abs(float(gap.mean())) / 100

    def sweep(
        receivers: Sequence[str], via: Sequence[str], senders_at: str, metric: Metric
    ) -> Sweep:
        (receiver,) = receivers
        assert metric is prob_diff
        log[f"{receiver} from {senders_at}"] = list(via)
        senders = tuple(node.name for node in patching.shape.senders(senders_at))
        values = torch.zeros(len(senders), len(YY), dtype=torch.float64)
        for name, effect in MADE_UP.items():
            sender, entered = name.split(" -> ")
            if entered == receiver and sender in senders:
                values[senders.index(sender)] = effect * unit
        return Sweep((receiver,), tuple(via), senders, values, patching.shape)

    return sweep


def test_the_rule_on_made_up_sweeps(patching: PathPatching) -> None:
    log: dict[str, list[str]] = {}
    found = discover_circuit(patching, 0.01, sweep=made_up_sweep(patching, log))
    # m0@END is found, but nothing into it: it does not lead down to the embedding
    expected = ["m2 -> logits", "a1.h0 -> m2", "m0@YY -> a1.h0.v", "embed@YY -> m0@YY"]
    assert set(found.edges) == {edge for name in expected for edge in edges(name)}
    assert log["logits from END"] == []
    assert log["m2@END from END"] == []
    assert log["a1.h0.q@END from END"] == ["m2@END"]
    assert {key for key in log if key.startswith("a1.h0.v")} == {
        f"a1.h0.v@END from {position}" for position in CHANGED
    }
    assert log["m0@YY from YY"] == ["m2@END", "a1.h0.v[YY]@END"]
    assert "m1@END from END" not in log and "a2.h0.q@END from END" not in log
    lower = discover_circuit(patching, 0.004, sweep=made_up_sweep(patching, {}))
    assert set(lower.edges) - set(found.edges) == set(edges("embed@YY -> a1.h0.k"))
    assert {"a1.h0@END", "embed@YY"} < set(lower.strongest(3).components)


def test_what_cannot_be_discovered(patching: PathPatching) -> None:
    with pytest.raises(ValueError, match=r"e\.g\. PathPatching\(model, dataset\)"):
        discover_circuit(patching.reversed())
    with pytest.raises(ValueError, match=r"threshold is -1.*e\.g\. 0\.002"):
        discover_circuit(patching, -1)


def test_the_strongest_edges_hang_together() -> None:
    effects = {
        "m2 -> logits": -3.0,
        "m1 -> logits": -9.0,
        "m0 -> m2": -8.0,
        "embed -> m0": -7.0,
        "embed -> m1": -1.0,
    }
    found = FoundCircuit(
        {edges(name)[0]: torch.tensor([one - 0.5, one + 0.5]) for name, one in effects.items()}
    )
    assert list(found.to_frame()["effect"]) == [-9, -8, -7, -3, -1]
    names = [{edge.name for edge in found.strongest(n).edges} for n in (1, 2, 3, 4, 5, 9)]
    chain = {"m2@END -> logits", "m0@END -> m2@END", "embed@END -> m0@END"}
    # m1 comes first, but only its last edge leads it down to the embedding
    assert names[0] == names[1] == set() and names[2] == names[3] == chain
    assert len(names[4]) == len(names[5]) == 5
    one = found.strongest(3)
    assert torch.equal(one.effects.mean(-1).sort().values, torch.tensor([-8.0, -7.0, -3.0]))
    empty = FoundCircuit({})
    assert len(empty.strongest(3)) == 0 and empty.to_frame().empty


# ---- greedy circuits --------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_the_next_edge_is_the_strongest_into_the_circuit(either_graph, signed: bool) -> None:
    graph = either_graph
    scores = random_scores(graph)  # whose gap is negative: towards the patch run is down
    strength = -scores.mean if signed else scores.mean.abs()
    order = greedy_order(scores, signed).tolist()
    assert sorted(order) == list(range(len(graph)))
    flipped = replace(scores, values=-scores.values, gap=1.0)
    assert greedy_order(flipped, signed).tolist() == order
    joined: set[tuple[int, object]] = set()
    for step, number in enumerate(order[:60]):
        open_edges = []
        for other in set(range(len(graph))) - set(order[:step]):
            row, _, receiver = graph.index[other].tolist()
            one = graph.inputs[receiver]
            rows = range(row, len(graph.rows)) if one.part in ("k", "v") else [row]
            if one.component.kind == "logits" or any((r, one.component) in joined for r in rows):
                open_edges.append(other)
        assert number == max(open_edges, key=lambda n: float(strength[n]))
        row, sender, _ = graph.index[number].tolist()
        joined.add((row, graph.nodes[sender]))


@pytest.mark.parametrize("n_edges", [3, 10, 40, 100])
def test_budgets_are_kept_and_used(either_graph: EdgeGraph, n_edges: int) -> None:
    graph, scores = either_graph, random_scores(either_graph, 1)
    chosen = greedy_edges(scores, n_edges)
    assert chosen.sum() <= n_edges
    assert torch.equal(graph.pruned(chosen), chosen)
    order = greedy_order(scores)
    sizes = [int(graph.pruned(order[:n]).sum()) for n in range(len(order) + 1)]
    assert int(chosen.sum()) == max(size for size in sizes if size <= n_edges)
    assert not (greedy_edges(scores, n_edges) & ~greedy_edges(scores, n_edges + 20)).any()


def test_more_edges_than_there_are_is_all_of_them(graph: EdgeGraph) -> None:
    assert greedy_edges(random_scores(graph), 10**6).all()
    for n_edges in (0, 1.5):
        for some in (lambda n: greedy_edges(random_scores(graph), n), FoundCircuit({}).strongest):
            with pytest.raises(ValueError, match=rf"{n_edges}.*e\.g\. n_edges=100"):
                some(n_edges)


def test_edges_that_were_not_measured_are_not_chosen(graph: EdgeGraph) -> None:
    mean = random_scores(graph).mean
    others = [n for n in graph.names if n.endswith("-> logits") and n != "m2 -> logits"]
    mean[graph.mask([*others, "embed -> m0"])] = torch.nan
    order = greedy_order(made_scores(graph, mean))
    assert graph.names[order[0]] == "m2 -> logits"
    assert len(order) == int((~mean.isnan()).sum())


# ---- circuits on the graph, and how far they agree --------------------------------------------

GRAPH = EdgeGraph(Shape(12, 12, ("YY", "to", "END")), "YY")


def test_published_circuits_on_the_graph() -> None:
    # ACDC's circuit has 262 edges, 27 of them between a head and its own q, k and v
    acdc = GRAPH.edges_of(acdc_circuit(GRAPH.positions))
    assert int(acdc.sum()) == 262 - 27
    assert int(GRAPH.pruned(acdc).sum()) == 235
    full = GRAPH.edges_of(full_circuit())
    # Seven heads, seven early components, four MLPs: 44 edges at END, 98 into keys and values, 14
    # into m0 to m3; whole queries come from the 8 at the bottom and what lies below the head (20),
    # whole early heads from the embedding (9).
    assert int(full.sum()) == 44 + 98 + 14 + 7 * 8 + 20 + 9
    assert len(GRAPH.components(full)) == 18
    assert torch.equal(GRAPH.pruned(full), full)
    names = {GRAPH.names[n] for n in full.nonzero()}
    assert {"embed -> a0.h1.k", "m3 -> a5.h1.q", "m8 -> a9.h1.q", "a9.h1 -> m9"} <= names
    assert not {"embed -> a9.h1.v", "m8 -> a9.h1.v", "a0.h3 -> m1"} & names
    assert int(GRAPH.edges_of(partial_circuit()).sum()) > 44


def test_a_circuit_of_the_graph_comes_back(either_graph: EdgeGraph) -> None:
    chosen = greedy_edges(random_scores(either_graph), 50)
    assert torch.equal(either_graph.edges_of(either_graph.circuit(chosen)), chosen)


def test_what_a_circuit_holds_whole_has_all_below_it(patching: PathPatching) -> None:
    before = Circuit(["m0@The -> m1@The", "m0@The -> a1.h0.v", "m1 -> logits"])
    apart = EdgeGraph.of(patching, summed=False)
    # nothing enters m1@END, so that the circuit holds it whole; before YY nothing changes
    expected = ["embed@END -> m1", "m0@END -> m1", "m1@END -> logits"]
    assert torch.equal(apart.edges_of(before), apart.mask(expected))
    summed = EdgeGraph.of(patching)
    expected = [name.replace("@END", "") for name in expected]
    assert torch.equal(summed.edges_of(before), summed.mask(expected))


def test_components_are_heads_and_mlps() -> None:
    chosen = ["a9.h1 -> m9", "embed -> a0.h3.k", "m9 -> logits"]
    assert GRAPH.components(chosen) == ("a0.h3", "a9.h1", "m9")
    assert GRAPH.components([]) == ()


def test_agreement_by_hand() -> None:
    found = Circuit(["embed@YY -> m0@YY", "m0@YY -> a5.h1.v", "a5.h1 -> m9", "m9 -> logits"])
    reference = [
        *("embed -> m0", "m0 -> a5.h1.k", "a5.h1 -> m9", "a5.h1 -> m10"),
        *("m9 -> logits", "m10 -> logits", "a8.h8 -> m9", "embed -> a8.h8.v"),
    ]
    table = agreement(GRAPH, found, reference)
    assert list(table.index) == ["components", "links", "edges"]
    assert list(table.loc["components"]) == pytest.approx([3, 5, 3, 1, 3 / 5, 3 / 5])
    assert list(table.loc["links"]) == pytest.approx([4, 8, 4, 1, 1 / 2, 1 / 2])
    assert list(table.loc["edges"]) == pytest.approx([4, 8, 3, 3 / 4, 3 / 8, 3 / 9])
    same = agreement(GRAPH, full_circuit(), full_circuit())
    assert (same[["precision", "recall", "jaccard"]] == 1).all(axis=None)
    nothing = agreement(GRAPH, [], reference)
    assert (nothing[["found", "shared", "precision", "recall", "jaccard"]] == 0).all(axis=None)
