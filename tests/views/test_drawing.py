"""Unit: the drawing of circuits: valid, complete, without overlaps, safe to put into a page."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from gt_helpers.dataset.prompts import PAPER_POSITIONS
from gt_helpers.model.components import component
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.paper import CircuitParts, full_circuit, partial_circuit
from gt_helpers.views.kit.drawing import circuit_svg

SVG = "{http://www.w3.org/2000/svg}"
# Of the form that `find_circuit` gives: many heads in layer 0, heads and MLPs far apart.
FOUND = CircuitParts(
    heads=(*(f"a0.h{h}" for h in (2, 3, 6, 7, 11)), "a1.h5", "a7.h5", "a11.h2", "a11.h11"),
    mlps=("m0", "m1", "m8", "m10", "m11"),
    readers_of_YY=("embed", "a0.h3", "m0", "m1"),
    early_inputs=("embed",),
)
EVERYWHERE = Circuit(
    [
        *(f"m0@{p} -> a5.h3.v" for p in PAPER_POSITIONS),
        *(f"m0@{p} -> m3@{p}" for p in PAPER_POSITIONS),
        *("a5.h3 -> logits", "embed@YY -> m0@YY", "all@YY -> a5.h4.k", "a5.h4 -> m11"),
    ]
)
CIRCUITS = {
    "partial": partial_circuit(),
    "full": full_circuit(),
    "found": full_circuit(FOUND),
    "one": Circuit("a9.h1 -> logits"),
    "empty": Circuit(),
    "everywhere": EVERYWHERE,
    "a whole layer": Circuit([f"a3.h{h} -> logits" for h in range(25)]),
}


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def groups(svg: str, kind: str) -> list[ET.Element]:
    return [g for g in parse(svg).iter(f"{SVG}g") if g.get("class", "").split()[:1] == [kind]]


def titles(svg: str, kind: str) -> list[str]:
    return [g.findtext(f"{SVG}title") or "" for g in groups(svg, kind)]


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of every component's box, by its name."""
    found = {}
    for group in groups(svg, "node"):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        x, y, width, height = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
        found[(group.findtext(f"{SVG}title") or "").split(":")[0]] = (x, y, x + width, y + height)
    return found


@pytest.mark.parametrize("circuit", CIRCUITS.values(), ids=CIRCUITS)
def test_all_is_drawn_once_within_the_picture_and_no_boxes_overlap(circuit: Circuit) -> None:
    svg = circuit_svg(circuit)
    assert sorted(boxes(svg)) == sorted(circuit.components)
    drawn = [re.sub(r" \(.*|;.*", "", title) for title in titles(svg, "edge")]
    assert sorted(drawn) == sorted(circuit.links)
    left, top, width, height = map(float, parse(svg).attrib["viewBox"].split())
    places = boxes(svg)
    for x0, y0, x1, y1 in places.values():
        assert left + 60 < x0 < x1 <= left + width and top <= y0 < y1 <= top + height
    for a, b in itertools.combinations(places.values(), 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    assert float(parse(svg).attrib["width"]) <= 1000


@pytest.mark.parametrize("name", ["partial", "full", "found", "everywhere"])
def test_edges_run_upward_and_positions_to_the_right(name: str) -> None:
    circuit = CIRCUITS[name]
    places = boxes(circuit_svg(circuit))
    for edge in circuit.edges:
        sender, receiver = places[edge.sender.name], places[edge.receiver.component.name]
        assert sender[1] > receiver[3]
    order = {position: i for i, position in enumerate(PAPER_POSITIONS)}
    for a, b in itertools.permutations(places, 2):
        if order[component(a).position] < order[component(b).position]:
            assert places[a][2] < places[b][0]


def test_positions_that_nobody_named_stand_before_the_end() -> None:
    circuit = Circuit(["m0@X -> a5.h1.v", "m1@Y -> a5.h1.v", "a5.h1 -> logits"])

    def left(svg: str) -> list[str]:
        return sorted(boxes(svg), key=lambda name: boxes(svg)[name][0])

    assert left(circuit_svg(circuit))[:2] == ["m0@X", "m1@Y"]
    assert left(circuit_svg(circuit, positions=["Y", "X", "END"]))[:2] == ["m1@Y", "m0@X"]


def test_inputs_of_one_head_are_one_edge_with_the_strongest_effect() -> None:
    circuit = Circuit(["m0@YY -> a7.h10.k", "m0@YY -> a7.h10.v", "a7.h10 -> logits"])
    name = "m0@YY -> a7.h10@END (k, v)"
    assert titles(circuit_svg(circuit), "edge")[0] == name
    effects = {"m0@YY -> a7.h10.v": -0.3, "m0@YY -> a7.h10.k": 0.1, "a7.h10 -> logits": -0.6}
    assert f"{name}: −30.00 pp without it" in titles(circuit_svg(circuit, effects), "edge")


def lines(svg: str) -> dict[str, tuple[str, float]]:
    """Colour and width of every edge, by its name."""
    found = {}
    for group in groups(svg, "edge"):
        (line,) = (p for p in group.iter(f"{SVG}path") if p.get("class") == "line")
        name = (group.findtext(f"{SVG}title") or "").split(":")[0]
        found[name] = line.attrib["stroke"], float(line.attrib["stroke-width"])
    return found


def test_effects_give_colour_width_and_words() -> None:
    circuit = Circuit(["a9.h1 -> m9", "a9.h1 -> logits", "m9 -> logits"])
    effects = {"a9.h1 -> m9": -0.1, "m9@END -> logits": 0.05, "a9.h1": -0.2, "m9": float("nan")}
    svg = circuit_svg(circuit, effects)
    drawn = lines(svg)
    assert drawn["a9.h1@END -> m9@END"] == ("#b2182b", 7)
    assert drawn["m9@END -> logits"] == ("#2166ac", 4)
    assert drawn["a9.h1@END -> logits"] == ("#8d97a3", 1)
    assert "a9.h1@END -> m9@END: −10.00 pp without it" in titles(svg, "edge")
    assert "a9.h1@END: −20.00 pp without it" in titles(svg, "node")
    assert "m9@END" in titles(svg, "node")
    assert "widest edge 10.0 pp, widest border 20.0 pp" in svg
    assert "worse without it" not in circuit_svg(circuit)


def test_effects_of_other_components_are_passed_over_and_other_texts_refused() -> None:
    circuit = Circuit("a9.h1 -> logits")
    others = {"m0@YY": 3.0, "m0@YY -> a7.h10.v": -1.0}
    assert circuit_svg(circuit, others) == circuit_svg(circuit)
    with pytest.raises(ValueError, match="'banana' is not a component name"):
        circuit_svg(circuit, {"banana": 1.0})


def test_edges_that_change_nothing_are_dashed() -> None:
    circuit = Circuit(
        ["a9.h1 -> m10", "m9 -> m10", "m10 -> logits", "m8 -> m11", "m7 -> m9"],
        sources=["a9.h1", "m8"],
    )
    svg = circuit_svg(circuit)
    idle = [title.split(";")[0] for title in titles(svg, "edge") if "changes nothing" in title]
    # m11 leads nowhere; m7 sends nothing, so m9 does not change either
    assert sorted(idle) == ["m7@END -> m9@END", "m8@END -> m11@END", "m9@END -> m10@END"]
    assert svg.count("stroke-dasharray") == len(idle) + 2  # the legend and a style
    assert "changes nothing" not in circuit_svg(full_circuit())


def test_kinds_are_coloured_apart() -> None:
    found = set()
    for group in groups(circuit_svg(full_circuit()), "node"):
        name, rect = group.findtext(f"{SVG}title") or "", group.find(f"{SVG}rect")
        assert rect is not None
        found.add((component(name).kind, rect.attrib["fill"]))
    fills = dict(found)
    assert len(found) == len(fills) and set(fills) == {"head", "mlp", "embed", "all", "logits"}
    assert fills["head"] != fills["mlp"] != fills["embed"] != fills["head"]


def test_names_are_escaped_and_there_are_no_scripts() -> None:
    circuit = Circuit("a9.h1 -> logits", name='<script>alert("&")</script>')
    svg = circuit_svg(circuit, title="1 < 2 & <b>")
    assert "<script" not in svg and "onload" not in svg and "http" not in svg.replace(SVG[1:-1], "")
    assert parse(svg).findtext(f"{SVG}title") == circuit.name
    assert "1 < 2 & <b>" in "".join(parse(svg).itertext())


def test_two_drawings_share_no_id_and_style_only_themselves() -> None:
    one, other = circuit_svg(partial_circuit()), circuit_svg(partial_circuit(), title="other")
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (one, other)]
    assert len(ids[0]) == len(ids[1]) == 1 and ids[0] != ids[1]
    style = parse(one).findtext(f"{SVG}style") or ""
    selectors = re.findall(r"[^{},]+(?=,[^{}]*\{|\{)", style)
    assert selectors and all(part.strip().startswith(f"#{ids[0][0]}") for part in selectors)
