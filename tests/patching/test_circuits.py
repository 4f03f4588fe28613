"""Unit: what is done with circuits before anything is run."""

from __future__ import annotations

import pytest

from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.paper import full_circuit, partial_circuit


def test_links_name_every_pair_once_and_rebuild_the_circuit() -> None:
    circuit = full_circuit()
    assert len(set(circuit.links)) == len(circuit.links) < len(circuit)
    assert "m0@YY -> a7.h10@END" in circuit.links  # one name for the k and the v input
    pairs = {(edge.sender, edge.receiver.component) for edge in circuit.edges}
    assert len(pairs) == len(circuit.links)
    assert partial_circuit().links == tuple(edge.name for edge in partial_circuit().edges)


def test_without_an_edge_only_that_edge_is_gone() -> None:
    circuit = full_circuit()
    smaller = circuit.without("m0@YY -> a7.h10.v")
    assert set(circuit.edges) - set(smaller.edges) == set(Circuit("m0@YY -> a7.h10.v").edges)
    assert smaller.sources == circuit.sources
    both = circuit.without("m0@YY -> a7.h10")  # k and v; there is no edge to the query
    assert len(circuit) - len(both) == 2
    mixed = circuit.without("m0@YY -> a7.h10", "m9")
    assert set(mixed.edges) == set(circuit.without("m9").edges) & set(both.edges)


def test_a_component_whose_last_edge_goes_does_not_become_a_source() -> None:
    circuit = Circuit(["a9.h1 -> m9", "m9 -> logits"])
    smaller = circuit.without("a9.h1 -> m9")
    assert smaller.edges == Circuit("m9 -> logits").edges
    assert [source.name for source in smaller.sources] == ["a9.h1@END"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a9.h2", "a9.h2@END .* it has a5.h1@END, "),
        ("m8 -> a9.h1", r"'m8 -> a9.h1' .* it has .* and 32 more\."),
        ("a9.h1 -> m9 -> m10", "is not an edge"),
        ("seven", "'seven' is not a component name"),
    ],
)
def test_what_is_not_in_a_circuit_cannot_be_left_out(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        partial_circuit().without(name)


def test_a_circuit_without_edges_has_nothing_to_leave_out() -> None:
    with pytest.raises(ValueError, match="m9@END is not in circuit"):
        Circuit().without("m9")
