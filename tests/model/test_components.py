"""Unit: names of components, inputs and edges: reading and writing them, and what they refuse."""

from __future__ import annotations

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


@pytest.mark.parametrize("name", ["embed", "a9.h1", "m10", "all"])
def test_the_position_defaults_to_end(name: str) -> None:
    assert component(name).position == "END"
    assert component(name) == component(f"{name}@END")
    assert component(name).label == name


@pytest.mark.parametrize(
    "name",
    ["a7.h10.v@END", "a7.h10.q@YY", "a7.h10.k[YY]@END", "a0.h0.v[XX1]@the2", "m9@YY", "logits"],
)
def test_input_names_round_trip(name: str) -> None:
    (receiver,) = inputs(name)
    assert receiver.name == str(receiver) == name
    assert inputs(receiver) == inputs([receiver]) == [receiver]


def test_inputs_with_a_row_know_the_input_without() -> None:
    (receiver,) = inputs("a7.h10.v[YY]")
    assert receiver == Input(Component("head", 7, 10), "v", "YY")
    assert receiver.any_row == inputs("a7.h10.v")[0]
    assert receiver.any_row.any_row == receiver.any_row


def test_a_head_stands_for_its_three_inputs_and_doubles_are_dropped() -> None:
    assert [i.name for i in inputs("a1.h2@YY")] == [f"a1.h2.{part}@YY" for part in "qkv"]
    assert [i.name for i in inputs(["m1", "a1.h2.v", "a1.h2", "m1@END"])] == [
        "m1@END",
        "a1.h2.v@END",
        "a1.h2.q@END",
        "a1.h2.k@END",
    ]


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
        with pytest.raises(
            ValueError, match="is not a component name; allowed are names like"
        ) as e:
            read(name)  # type: ignore[arg-type]
        assert repr(name) in str(e.value) and "a9.h1@END" in str(e.value)


def test_other_refusals_say_what_is_allowed() -> None:
    for read, sentence in (
        (
            lambda: component("a9.h1.q"),
            "'a9.h1.q' is an input of a head, not a component; write 'a9.h1",
        ),
        (
            lambda: component("logits@YY"),
            "'logits@YY': the logits are read at END only; write 'logit",
        ),
        (lambda: inputs("embed"), "'embed' reads nothing and cannot be a receiver; use e.g."),
        (lambda: inputs("all@YY"), "'all@YY' reads nothing and cannot be a receiver; use e.g."),
        (lambda: edges("a9.h1"), "'a9.h1' is not an edge; write 'sender -> receiver', e.g. 'a9.h1"),
        (lambda: edges("a -> b -> c"), "is not an edge; write 'sender -> receiver'"),
        (lambda: edges(3), "3 is not an edge"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError) as caught:
            read()
        assert sentence in str(caught.value)


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


def test_senders_fill_the_heatmap_row_by_row() -> None:
    senders = SHAPE.senders("YY")
    assert len(senders) == 12 * 13 + 1
    assert [s.name for s in senders[11:14]] == ["a0.h11@YY", "m0@YY", "a1.h0@YY"]
    assert senders[-1].name == "embed@YY"
    assert {s.position for s in senders} == {"YY"}
    depths = [s.depth for s in senders[:-1]]
    assert depths == sorted(depths) and senders[-1].depth < 0


def test_at_puts_names_at_a_position() -> None:
    assert at(["m0", "a0.h1@END", "embed"], "YY") == ["m0@YY", "a0.h1@YY", "embed@YY"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("m12", "m12 does not exist: the model has layers 0 to 11, e.g. m11."),
        ("a12.h0", "a12.h0 does not exist: the model has layers 0 to 11"),
        ("a3.h12", "a3.h12 does not exist: the model has heads 0 to 11, e.g. a3.h11."),
        (
            "m3@NOUN",
            "m3@NOUN: there is no position 'NOUN' in these prompts; allowed are eos, YY, END.",
        ),
    ],
)
def test_components_that_the_model_lacks_are_refused(name: str, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        SHAPE.check(component(name))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        ("m9 -> a9.h1.q", "the sender is not below the receiver"),
        ("m0@YY -> m3", "this input is read at the receiver's own position only"),
        ("m0@END -> a3.h0.k@YY", "keys and values of its own and earlier positions only"),
        ("m12 -> logits", "m12 does not exist"),
        ("logits -> m3", "logits -> m3@END: the logits send to nothing."),
    ],
)
def test_impossible_edges_are_refused_with_the_reason(edge: str, why: str) -> None:
    (parsed,) = edges(edge)
    with pytest.raises(ValueError) as caught:
        SHAPE.check_edge(parsed)
    assert why in str(caught.value)


def test_possible_edges_pass() -> None:
    for edge in ("m0@YY -> a7.h10.v", "a9.h1 -> m9", "all@eos -> a0.h0.k", "m11 -> logits"):
        for one in edges(edge):
            SHAPE.check_edge(one)


def test_an_edge_into_another_row_is_refused() -> None:
    with pytest.raises(ValueError, match="row"):
        edges("m0@eos -> a7.h10.v[YY]")
