"""Unit: names of components, inputs and edges: reading and writing them, and what they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from gt_helpers.model.components import Component, Edge, Input, Shape, at, component, edges, inputs

SHAPE = Shape(12, 12, ("eos", "YY", "END"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("embed@YY", Component("embed", position="YY")),
        ("a9.h1@END", Component("head", 9, 1, "END")),
        ("a11.h10@the2", Component("head", 11, 10, "the2")),
        ("m10@END", Component("mlp", 10, position="END")),
        ("all@XX1", Component("all", position="XX1")),
        ("logits", Component("logits")),
    ],
)
def test_component_names_round_trip(name: str, expected: Component) -> None:
    assert component(name) == expected
    assert expected.name == str(expected) == name
    assert component(expected) is expected
    assert component(f"  {name} ") == expected
    assert name == "logits" or component(expected.label).position == "END"  # the default
    assert component(expected.label).label == expected.label


@pytest.mark.parametrize(
    "name",
    ["a7.h10.v@END", "a7.h10.q@YY", "a7.h10.k[YY]@END", "a0.h0.v[XX1]@the2", "m9@YY", "logits"],
)
def test_input_names_round_trip(name: str) -> None:
    (receiver,) = inputs(name)
    assert receiver.name == str(receiver) == name
    assert inputs(receiver) == inputs([receiver]) == [receiver]
    assert receiver.any_row == receiver.any_row.any_row == inputs(re.sub(r"\[.*\]", "", name))[0]


def test_a_row_is_a_part_of_an_input() -> None:
    assert inputs("a7.h10.v[YY]") == [Input(Component("head", 7, 10), "v", "YY")]


def test_a_head_stands_for_its_three_inputs_and_doubles_are_dropped() -> None:
    assert [i.name for i in inputs("a1.h2@YY")] == [f"a1.h2.{part}@YY" for part in "qkv"]
    found = [i.name for i in inputs(["m1", "a1.h2.v", "a1.h2", "m1@END"])]
    assert found == ["m1@END", "a1.h2.v@END", "a1.h2.q@END", "a1.h2.k@END"]


def test_edges_round_trip_and_split_heads() -> None:
    (edge,) = edges("a9.h1 -> m9")
    assert edge == Edge(component("a9.h1"), inputs("m9")[0])
    assert edge.name == str(edge) == "a9.h1@END -> m9@END"
    assert edges(edge.name) == edges(edge) == [edge]
    assert [e.name for e in edges("m0@YY->a7.h10")] == [
        f"m0@YY -> a7.h10.{part}@END" for part in "qkv"
    ]
    assert edges("m0@YY -> a7.h10.v[YY]") == edges("m0@YY -> a7.h10.v")


@pytest.mark.parametrize(
    "name",
    ["", "m", "a9", "a9.h", "h1", "a9h1", "9.1", "m-1", "m9.q", "a9.h1.x", "m9@", "m9 END", 9],
)
def test_names_of_nothing_are_refused_with_examples(name: object) -> None:
    for read in (component, lambda n: inputs([n])):
        with pytest.raises(ValueError, match=re.escape(repr(name)) + ".*a9.h1@END"):
            read(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("read", "name", "said"),
    [
        (component, "a9.h1.q", "'a9.h1.q' .* write 'a9.h1@END'"),
        (component, "logits@YY", "'logits@YY'.* write 'logits'"),
        (inputs, "embed", "'embed' reads nothing .* e.g."),
        (inputs, "all@YY", "'all@YY' reads nothing .* e.g."),
        (inputs, 3, r"3 names no input; .* e.g."),
        (edges, "a9.h1", "'a9.h1' is not an edge; .* e.g."),
        (edges, "a -> b -> c", "'a -> b -> c' is not an edge; .* e.g."),
        (edges, 3, "3 is not an edge"),
        (edges, "a9h1 -> m9", "'a9h1 ' .*a9.h1@END"),
        (edges, "a1.h1.q -> m2", "'a1.h1.q ' .* write 'a1.h1@END'"),
        (edges, "m0 -> embed", "' embed' reads nothing .* e.g."),
        (edges, "m0@eos -> a7.h10.v[YY]", "another row .* 'm0@eos -> a7.h10.v@END'"),
    ],
)
def test_other_refusals_say_what_is_allowed(read: Callable, name: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(name)


@pytest.mark.parametrize(("name", "kinds"), [("m3", ["head"]), ("embed", ["head", "mlp"])])
def test_other_kinds_than_those_wanted_are_refused(name: str, kinds: list[str]) -> None:
    assert component("a3.h1", "head", "mlp") == component("a3.h1")
    with pytest.raises(ValueError, match=f"{name}@END .*e.g. 'a"):
        component(name, *kinds)


@pytest.mark.parametrize(
    ("sender", "receiver", "exists"),
    [
        ("a9.h1", "m9", True),  # an MLP reads the heads of its own layer
        ("m9", "m9", False),
        ("m9", "a9.h1.v", False),
        ("a9.h0", "a9.h1.q", False),
        ("m8", "a9.h1.q", True),
        ("m11", "logits", True),
        ("embed", "a0.h0.q", True),
        ("all", "logits", True),
        ("all@eos", "a0.h0.k", True),
        ("m0@YY", "logits", False),
        ("m0@YY", "m3", False),
        ("m0@YY", "m3@YY", True),
        ("m0@YY", "a5.h1.q", False),
        ("m0@YY", "a5.h1.k", True),
        ("m0@YY", "a5.h1.v", True),
        ("m0@END", "a5.h1.v@YY", False),
        ("m0@YY", "a5.h1.v[YY]", True),
        ("m0@eos", "a5.h1.v[YY]", False),
        ("logits", "m3", False),
    ],
)
def test_what_reaches_what(sender: str, receiver: str, exists: bool) -> None:
    assert SHAPE.reaches(component(sender), inputs(receiver)[0]) == exists
    if exists:
        SHAPE.check_edge(edges(f"{sender} -> {receiver}")[0])


def test_senders_fill_the_heatmap_row_by_row() -> None:
    senders = SHAPE.senders("YY")
    assert len(senders) == 12 * 13 + 1
    assert [s.name for s in senders[11:14]] == ["a0.h11@YY", "m0@YY", "a1.h0@YY"]
    assert senders[-1].name == "embed@YY"
    assert {s.position for s in senders} == {"YY"}
    assert at(["m0", "a0.h1@END", "embed"], "YY") == ["m0@YY", "a0.h1@YY", "embed@YY"]
    depths = [s.depth for s in senders[:-1]]
    assert depths == sorted(depths) and senders[-1].depth < 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("m12", "m12 .* 0 to 11, e.g. m11"),
        ("a12.h0", "a12.h0 .* 0 to 11, e.g. m11"),
        ("a3.h12", "a3.h12 .* 0 to 11, e.g. a3.h11"),
        ("m3@NOUN", "m3@NOUN.* eos, YY, END"),
        ("a1.h1.v[then]", "'then'.* eos, YY, END"),
        ("a1.h1.v[END]@YY", r"a1.h1.v\[END\]@YY reads no row END.*e.g."),
        ("a1.h1.q[YY]", r"a1.h1.q\[YY\]@END reads no row YY.*e.g."),
    ],
)
def test_inputs_that_the_model_lacks_are_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SHAPE.check_input(inputs(name)[0])


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        ("m9 -> a9.h1.q", "not below the receiver"),
        ("m0@YY -> m3", "own position only"),
        ("m0@YY -> a3.h0.q", "own position only"),
        ("m0@END -> a3.h0.k@YY", "own and earlier positions only"),
        ("m12 -> logits", "m12 does not exist"),
        ("logits -> m3", "logits -> m3@END.* send to nothing"),
    ],
)
def test_impossible_edges_are_refused_with_the_reason(edge: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SHAPE.check_edge(edges(edge)[0])
