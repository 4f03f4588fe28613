"""Unit: what is done with circuits, leaving things out, and random ones of equal size."""

from __future__ import annotations

import pytest

from gt_helpers.analysis.controls import leave_out, random_circuits, random_parts
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import bootstrap_ci
from gt_helpers.model.components import Shape, component
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, CircuitParts, full_circuit, partial_circuit

SHAPE = Shape(12, 12, ("YY", "END"))
SEVEN = tuple(f"a3.h{h}" for h in range(7))


@pytest.fixture(scope="module")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, YearDataset(mini.tokenizer, 24, seed=3), "corrupted")


def heads_of(parts: CircuitParts) -> set[str]:
    names = {*parts.heads, *parts.readers_of_YY, *parts.early_inputs}
    return {name for name in names if component(name).kind == "head"}


# ---- names of edges, and circuits without them ------------------------------------------------


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
def test_what_is_not_in_a_circuit_cannot_be_left_out(
    name: str, said: str, patching: PathPatching
) -> None:
    with pytest.raises(ValueError, match=said):
        partial_circuit().without(name)
    with pytest.raises(ValueError, match=said):
        leave_out(patching, partial_circuit(), [name])


# ---- leaving out one thing at a time ----------------------------------------------------------


def test_leave_out_measures_each_smaller_circuit_against_the_whole(patching: PathPatching) -> None:
    circuit = partial_circuit()
    table = leave_out(patching, circuit)
    assert sorted(table["name"]) == sorted(name for name in circuit.components if name != "logits")
    assert table["change"].abs().is_monotonic_decreasing
    whole = patching.evaluate(circuit).prob_diff
    for row in table.itertuples():
        diff = patching.evaluate(circuit.without(row.name)).prob_diff
        change, low, high = bootstrap_ci(diff - whole)
        assert row.prob_diff == pytest.approx(float(diff.mean()), abs=1e-7)
        assert row.change == pytest.approx(float(change), abs=1e-7)
        assert (row.low, row.high) == pytest.approx((float(low), float(high)), abs=1e-7)
        assert row.low <= row.change <= row.high


def test_leaving_out_the_logits_is_the_base_run(patching: PathPatching) -> None:
    (row,) = leave_out(patching, partial_circuit(), "logits").itertuples()
    base = patching.evaluate(Circuit()).prob_diff.mean()
    assert row.prob_diff == pytest.approx(float(base), abs=1e-7)


def test_what_has_no_path_to_the_logits_changes_nothing(patching: PathPatching) -> None:
    circuit = partial_circuit() | Circuit(["a3.h3 -> m5", "m5 -> a6.h9.q", "m6 -> m7"])
    # a6.h9 now is computed from its query; m7 leads nowhere
    table = leave_out(patching, circuit, ["m6 -> m7", "m7", "m6", "a3.h3"]).set_index("name")
    assert (table.loc[["m6 -> m7", "m7", "m6"], ["change", "low", "high"]] == 0).all(axis=None)
    assert table.loc["a3.h3", "change"] != 0


def test_leave_out_takes_edges_and_the_other_direction(patching: PathPatching) -> None:
    circuit = Circuit(["m10 -> logits", "m11 -> logits"])
    forth, back = (
        leave_out(engine, circuit, circuit.links).set_index("name")["change"]
        for engine in (patching, patching.reversed())
    )
    assert set(forth.index) == {"m10@END -> logits", "m11@END -> logits"}
    # the circuit brings clean values to the corrupted run, or corrupted ones to the clean run
    assert (forth * back < 0).all()


def test_a_circuit_without_edges_has_nothing_to_leave_out(patching: PathPatching) -> None:
    table = leave_out(patching, Circuit())
    assert table.empty
    assert list(table.columns) == ["name", "prob_diff", "change", "low", "high"]
    with pytest.raises(ValueError, match="m9@END is not in circuit"):
        Circuit().without("m9")


# ---- random circuits --------------------------------------------------------------------------


@pytest.mark.parametrize("build", [partial_circuit, full_circuit])
def test_random_circuits_have_as_many_edges_between_the_same_layers(build) -> None:
    def outline(parts: CircuitParts) -> list[tuple[object, ...]]:
        return sorted(
            (e.sender.depth, e.sender.position, e.receiver.component.depth, e.receiver.part)
            for e in build(parts).edges
        )

    for seed in range(30):
        drawn = random_parts(PAPER, SHAPE, seed)
        assert not heads_of(drawn) & heads_of(PAPER)
        assert len(heads_of(drawn)) == len(heads_of(PAPER)) == 10
        assert outline(drawn) == outline(PAPER)


def test_a_head_in_two_roles_keeps_one_stand_in_for_both() -> None:
    drawn = random_parts(PAPER, SHAPE, 5)
    assert PAPER.readers_of_YY[0] == PAPER.early_inputs[1] == "a0.h1"
    assert drawn.readers_of_YY[0] == drawn.early_inputs[1] != "a0.h1"
    assert drawn.early_inputs[0] == "embed"
    assert drawn.mlps == PAPER.mlps


def test_draws_repeat_by_seed_differ_between_seeds_and_reach_every_other_head() -> None:
    draws = [random_parts(PAPER, SHAPE, seed) for seed in range(200)]
    assert draws[7] == random_parts(PAPER, SHAPE, 7)
    assert len({drawn.heads for drawn in draws}) > 190
    stand_ins = {drawn.heads[-1] for drawn in draws}  # of a9.h1
    assert stand_ins == {f"a9.h{h}" for h in range(12) if h != 1}
    # the same in every Python
    assert " ".join(draws[0].heads) == "a5.h3 a5.h4 a6.h7 a7.h7 a8.h0 a8.h10 a9.h4"


@pytest.mark.parametrize(
    ("parts", "shape", "said"),
    [
        (CircuitParts(SEVEN, ("m9",), (), ()), SHAPE, "7 of the 12 heads of layer 3, .* only 5"),
        (PAPER, Shape(6, 12, ("YY", "END")), "a6.h9 .* 0 to 5"),
        (CircuitParts((), ("m11",), (), ()), SHAPE, "no heads"),
    ],
)
def test_parts_that_nothing_could_stand_in_for_are_refused(
    parts: CircuitParts, shape: Shape, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        random_parts(parts, shape)


def test_half_of_a_layer_can_be_replaced() -> None:
    half = CircuitParts(SEVEN[:6], ("m9",), (), ())
    assert set(random_parts(half, SHAPE).heads) == {f"a3.h{h}" for h in range(6, 12)}


def test_random_circuits_are_evaluated_one_by_one(patching: PathPatching) -> None:
    table = random_circuits(patching, PAPER, n=3, seed=4)
    assert list(table["seed"]) == [4, 5, 6]
    for row in table.itertuples():
        drawn = random_parts(PAPER, patching.shape, row.seed)
        assert row.heads == ", ".join(drawn.heads)
        diff = patching.evaluate(partial_circuit(drawn)).prob_diff
        assert row.prob_diff == pytest.approx(float(diff.mean()), abs=1e-7)


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_the_number_of_random_circuits_is_checked(n: float, patching: PathPatching) -> None:
    with pytest.raises(ValueError, match=f"{n}.*e.g. n=100"):
        random_circuits(patching, PAPER, n=n)
