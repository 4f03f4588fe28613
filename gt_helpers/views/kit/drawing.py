"""A circuit drawn as a graph: one self-contained SVG without scripts, nothing computed but layout.

Layers go upward and positions from left to right; every edge runs upward, from sender to receiver.
What lies where is said here; ``data/templates/circuit.svg`` draws it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, Template

from ...dataset.prompts import PAPER_POSITIONS
from ...edges.graph import EdgeGraph, Edges
from ...formatting import in_words
from ...model.components import END, Component, Edge, component, edges
from ...patching.circuits import Circuit
from .html import Html
from .style import BETTER, QUIET, WORSE

_BOX, _TALL = 56, 24  # a component's box, in pixels
_ROW, _GAP, _MARGIN = 50, 12, 70
_SLOTS = 12  # heads of different layers stand beside, not above each other, up to this many
_FILLS = {"head": "#dbe8f6", "mlp": "#d9eee4", "embed": "#f6e7cf", "all": "#f6e7cf"}
_KINDS = {"head": "head", "mlp": "MLP", "embed": "embedding", "all": "all: whole stream"}

Link = tuple[Component, Component]
Place = tuple[float, float]


def circuit_svg(
    circuit: Circuit,
    effects: Mapping[str, float] | None = None,
    title: str = "",
    positions: Iterable[str] = PAPER_POSITIONS,
    summed: bool = False,
) -> Html:
    """A circuit as an SVG image, which a notebook shows; its text written to a file keeps it.

    A head's q, k and v inputs are drawn as one. ``effects`` maps names of components and edges to
    the change of the probability difference without them, as `leave_out` measures it: red, and
    wider, is what the circuit needs. Names that the circuit lacks are passed over; of several
    effects on one drawn edge the strongest counts. Dashed edges change nothing, because no path
    from a source through them reaches the logits. ``positions`` orders the columns; ``summed``, a
    circuit at END stands for all positions at once, and names none.
    """
    nodes = [component(name) for name in circuit.components]
    parts: dict[Link, list[str]] = {}  # q, k and v that a drawn edge enters
    for one in circuit.edges:
        parts.setdefault(_link(one), []).append(one.receiver.part)
    live = {_link(one) for one in circuit.live}
    drawn = _Effects.of(effects or {}, {*nodes, *parts})
    places, plan = _plan(nodes, list(positions), "all positions" if summed else "")
    paths = _paths(parts, places)
    ids = {node: f"n{i}" for i, node in enumerate(nodes)}

    def name(node: Component) -> str:
        return node.label if summed else node.name

    def edge(link: Link) -> dict[str, Any]:
        inputs = f" ({', '.join(parts[link])})" if any(parts[link]) else ""
        idle = "" if link in live else "; changes nothing: on no path to the logits"
        size = drawn.size(link)
        return {
            "ends": " ".join(ids[end] for end in link),
            "text": f"{' -> '.join(map(name, link))}{inputs}{drawn.words(link)}{idle}",
            "path": paths[link],
            "colour": drawn.colour(link),
            "width": 1 + 6 * size,
            "opacity": 0.45 + 0.5 * size if drawn.widest(tuple) else 0.8,
            "idle": bool(idle),
        }

    def box(node: Component) -> dict[str, Any]:
        x, y = places[node]
        return {
            "id": ids[node],
            "x": x,
            "y": y,
            "label": node.label,
            "text": name(node) + drawn.words(node),
            "fill": _FILLS.get(node.kind, "#ffffff"),
            "colour": drawn.colour(node),
            "border": 1 + 3 * drawn.size(node),
        }

    legend = _legend({node.kind for node in nodes}, drawn, len(live) < len(parts))
    content = repr((circuit, sorted(drawn.effects.items(), key=str), title, summed))
    svg = _template().render(
        id=f"circuit-{hashlib.sha256(content.encode()).hexdigest()[:8]}",  # a page may hold others
        name=circuit.name,
        title=title,
        plan=plan,
        top=-34 if title else 0,
        bottom=plan["height"] + 10 + 24 * len(legend),
        edges=[edge(link) for link in sorted(parts, key=drawn.size)],  # the strongest on top
        nodes=[box(node) for node in nodes],
        legend=legend,
        box=_BOX,
        tall=_TALL,
        neutral=QUIET,
    )
    return Html(svg)


@cache
def _template() -> Template:
    found = Environment(
        loader=PackageLoader("gt_helpers", "data/templates"),
        autoescape=True,
        trim_blocks=True,
        finalize=lambda value: f"{value:.5g}" if isinstance(value, float) else value,
    )
    return found.get_template("circuit.svg")


def edges_svg(
    graph: EdgeGraph, edges: Edges, effects: Mapping[str, float] | None = None, title: str = ""
) -> Html:
    """Edges of a graph as `circuit_svg` draws them, those of all positions in one column.

    ``effects`` go by the graph's names of edges and components. Raises ValueError as
    `EdgeGraph.mask` does.
    """
    chosen = graph.mask(edges)
    if graph.summed:
        names = [graph.names[number] for number in chosen.nonzero().flatten().tolist()]
        return circuit_svg(Circuit(names), effects, title, summed=True)
    circuit = graph.circuit(chosen)
    return circuit_svg(Circuit(circuit.live), effects, title, graph.positions)


# ---- what is drawn ----------------------------------------------------------------------------


def _link(edge: Edge) -> Link:
    """The pair that an edge joins; edges that differ in q, k and v are drawn as one."""
    return edge.sender, edge.receiver.component


@dataclass(frozen=True)
class _Effects:
    """The effects on what is drawn: components, and pairs of them that edges join."""

    effects: dict[Link | Component, float]

    @classmethod
    def of(cls, effects: Mapping[str, float], drawn: set[Link | Component]) -> _Effects:
        """The strongest effect on each; NaN and names of what is not drawn are left out."""
        found: dict[Link | Component, float] = {}
        for name, effect in effects.items():
            key = _link(edges(name)[0]) if "->" in name else component(name)
            strongest = abs(effect) >= abs(found.get(key, 0.0))  # False for NaN
            if key in drawn and strongest:
                found[key] = float(effect)
        return cls(found)

    def widest(self, kind: type) -> float:
        """The largest size of an effect on edges (tuple) or on components, which is their scale."""
        return max((abs(e) for key, e in self.effects.items() if isinstance(key, kind)), default=0)

    def size(self, key: Link | Component) -> float:
        """The size of an effect, from 0 to 1, as a share of the widest of its kind."""
        return abs(self.effects.get(key, 0.0)) / (self.widest(type(key)) or 1.0)

    def colour(self, key: Link | Component) -> str:
        """Red for what the circuit needs, blue for what it is better without."""
        effect = self.effects.get(key, 0.0)
        return WORSE if effect < 0 else BETTER if effect > 0 else QUIET

    def words(self, key: Link | Component) -> str:
        """The effect for a hover text, or nothing."""
        effect = self.effects.get(key)
        return "" if effect is None else f": {in_words(effect, 'points')} without it"


# ---- where it is drawn ------------------------------------------------------------------------


def _plan(
    nodes: Sequence[Component], positions: list[str], label: str
) -> tuple[dict[Component, Place], dict[str, Any]]:
    """The centres of the boxes, and what lies behind them, as the template takes it.

    Rows go by depth from the bottom, columns by position from the left. The label, if there is one,
    takes the place of the positions' names.
    """
    depths = sorted({node.depth for node in nodes})
    height = 30.0 + _ROW * max(1, len(depths))
    y = {depth: height - 20 - _ROW * (i + 0.5) for i, depth in enumerate(depths)}
    places: dict[Component, Place] = {}
    left, columns = float(_MARGIN), []
    occur = {node.position for node in nodes}
    order = dict.fromkeys([*positions, *(node.position for node in nodes)])
    for position in sorted(order, key=lambda position: position == END):  # END comes last
        if position not in occur:
            continue
        here = [node for node in nodes if node.position == position]
        x, right = _lanes(here, left)
        places |= {node: (x[node], y[node.depth]) for node in here}
        columns.append({"middle": (left + right) / 2, "right": right, "text": label or position})
        left = right
    width = max(left + 10, 640.0)
    return places, {"width": width, "height": height + 4, "bands": _bands(y), "columns": columns}


def _lanes(here: Sequence[Component], left: float) -> tuple[dict[Component, float], float]:
    """The x of one position's boxes, and where its column ends: heads, beside them the others."""
    step = _BOX + _GAP
    heads = sorted((n for n in here if n.kind == "head"), key=lambda n: (n.depth, n.head))
    whole = [node for node in here if node.kind == "all"]
    others = [node for node in here if node.kind not in ("head", "all")]
    most_in_a_row = max(Counter(head.depth for head in heads).values(), default=0)
    slots = max(most_in_a_row, min(len(heads), _SLOTS), bool(whole))
    x = {head: left + step * (i % slots + 0.5) for i, head in enumerate(heads)}
    x |= dict.fromkeys(whole, left + step / 2)
    right = left + step * slots + _GAP
    if others:
        lane = left + step * slots + (40 if slots else 10) + _BOX / 2
        x |= dict.fromkeys(others, lane)
        right = lane + _BOX / 2 + 44
    return x, right


def _bands(y: Mapping[int, float]) -> list[dict[str, Any]]:
    """The rows of each layer, by name; every second band is shaded."""
    found = []
    for i, (layer, depths) in enumerate(groupby(y, key=lambda depth: depth // 2)):
        rows = [y[depth] for depth in depths]
        is_output = layer >= 1000  # the logits'
        found.append(
            {
                "top": min(rows) - _ROW / 2,
                "height": max(rows) - min(rows) + _ROW,
                "shaded": i % 2 and not is_output,
                "text": "" if is_output else "input" if layer < 0 else f"layer {layer}",
            }
        )
    return found


def _paths(links: Iterable[Link], places: Mapping[Component, Place]) -> dict[Link, str]:
    """The curve of every edge, laid out so that it passes beside the other boxes if it can."""
    sides = {link: _sides(*link, places) for link in links}
    ports: dict[tuple[int, Component, str], list[Link]] = {}  # the edges at one side of a box
    for link in sides:
        for end in (0, 1):
            ports.setdefault((end, link[end], sides[link][end]), []).append(link)
    ends: list[dict[Link, Place]] = [{}, {}]
    for (end, node, side), mine in ports.items():
        mine.sort(key=lambda link: _port_order(link, sides[link], end, places))
        x, y = places[node]
        length = 0.8 * (_TALL if side == "left" else _BOX)
        for i, link in enumerate(mine):
            offset = (i - (len(mine) - 1) / 2) * min(7.0, length / len(mine))
            ends[end][link] = {
                "top": (x + offset, y - _TALL / 2),
                "bottom": (x + offset, y + _TALL / 2),
                "left": (x - _BOX / 2, y + offset),
                "right": (x + _BOX / 2, y),
                "lane": (x + 0.4 * _BOX, y),
            }[side]
    return {k: _curve(sides[k], ends[0][k], ends[1][k], places[k[0]][0]) for k in sides}


def _sides(
    sender: Component, receiver: Component, places: Mapping[Component, Place]
) -> tuple[str, str]:
    """Where an edge leaves its sender and where it enters its receiver."""
    (x1, y1), (x2, y2) = places[sender], places[receiver]
    if x1 == x2:
        blocked = any(x == x1 and y2 < y < y1 for x, y in places.values())
        return ("right", "right") if blocked else ("lane", "lane")
    return ("top", "left" if x1 < x2 and receiver.kind in ("mlp", "logits") else "bottom")


def _port_order(
    link: Link, sides: tuple[str, str], end: int, places: Mapping[Component, Place]
) -> tuple[float, float]:
    """Orders the edges at one side of a box such that they cross as little as possible."""
    x, y = places[link[1 - end]]
    if end == 1:
        return (x, y) if sides[1] == "left" else (y, x)
    return (0.0, y) if sides[1] == "left" else (1.0, x)


def _curve(sides: tuple[str, str], start: Place, stop: Place, x_sender: float) -> str:
    (x1, y1), (x2, y2) = start, stop
    wide, high = x2 - x1, y1 - y2
    if sides[0] == "lane":
        return f"M{x1:g} {y1:g}V{y2:g}"
    if sides[0] == "right":  # around what stands between
        side = x1 + min(52.0, 14 + 0.12 * high)
        return f"M{x1:g} {y1:g}C{side:g} {y1 - 8:g} {side:g} {y2 + 8:g} {x2:g} {y2:g}"
    if sides[1] == "left":  # up, then right
        corner = f"{x1:g} {y2 + 0.3 * high:g} {x1 + 0.3 * wide:g} {y2:g}"
        return f"M{x1:g} {y1:g}C{corner} {x2:g} {y2:g}"
    if wide < 1.5 * _BOX:
        return f"M{x1:g} {y1:g}C{x1:g} {y1 - high / 2:g} {x2:g} {y2 + high / 2:g} {x2:g} {y2:g}"
    run = y1 - 13 + 0.3 * (x1 - x_sender)  # between two rows to the right, then up
    corner = f"{x2 - 0.2 * wide:g} {run:g} {x2:g} {run - 0.2 * (run - y2):g}"
    return f"M{x1:g} {y1:g}Q{x1:g} {run:g} {x1 + 16:g} {run:g}C{corner} {x2:g} {y2:g}"


# ---- what it means ----------------------------------------------------------------------------


def _legend(kinds: set[str], drawn: _Effects, dashed: bool) -> list[list[dict[str, Any]]]:
    """Rows of what the colours, dashes and widths mean, each item with its place."""
    row: list[dict[str, Any]] = [
        {"fill": _FILLS[kind], "text": text} for kind, text in _KINDS.items() if kind in kinds
    ]
    if dashed:
        row.append({"colour": QUIET, "idle": True, "text": "changes nothing"})
    rows = [row]
    widest = {"edge": drawn.widest(tuple), "border": drawn.widest(Component)}
    if any(widest.values()):
        sizes = {kind: in_words(size, "points", 1).lstrip("+") for kind, size in widest.items()}
        text = ", ".join(f"widest {kind} {sizes[kind]}" for kind in sizes if widest[kind])
        signs = ((WORSE, "worse without it"), (BETTER, "better without it"), ("", text))
        rows.append([{"colour": colour, "text": words} for colour, words in signs])
    for items in rows:
        x = 14
        for item in items:
            item["x"] = x
            x += 50 + 7 * len(item["text"])
    return rows
