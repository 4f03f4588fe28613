"""A circuit drawn as a graph: one self-contained SVG without scripts, nothing computed but layout.

Layers go upward and positions from left to right; every edge runs upward, from sender to receiver.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ...dataset.prompts import PAPER_POSITIONS
from ...edges.graph import EdgeGraph, Edges
from ...formatting import in_words
from ...model.components import END, Component, component, edges
from ...patching.circuits import Circuit
from .html import Html

_BOX, _TALL = 56, 24  # a component's box, in pixels
_ROW, _GAP, _MARGIN = 50, 12, 70
_SLOTS = 12  # heads of different layers stand beside, not above each other, up to this many
_FILLS = {"head": "#dbe8f6", "mlp": "#d9eee4", "embed": "#f6e7cf", "all": "#f6e7cf"}
_DASHED = ' stroke-dasharray="4 4"'
_WORSE, _BETTER, _NEUTRAL, _QUIET = "#b2182b", "#2166ac", "#8d97a3", "#5b6570"

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
    parts = _parts_by_link(circuit)
    live = {(edge.sender, edge.receiver.component) for edge in circuit.live}
    sizes = _Sizes.of(effects or {}, nodes, parts)
    plan = _plan(nodes, list(positions), "all positions" if summed else "")
    paths = _paths(parts, plan.places)
    number = {node: f"n{i}" for i, node in enumerate(nodes)}

    def edge(link: Link) -> str:
        ends = f"{number[link[0]]} {number[link[1]]}"
        return _edge(link, parts[link], paths[link], ends, sizes, link in live)

    lines = [edge(link) for link in sorted(parts, key=sizes.size)]  # the strongest on top
    boxes = [_node(node, plan.places[node], number[node], sizes) for node in nodes]
    if summed:
        lines, boxes = ([part.replace(f"@{END}", "") for part in some] for some in (lines, boxes))
    legend = _legend(plan.height, {node.kind for node in nodes}, sizes, len(live) < len(parts))
    content = repr((circuit, sorted(sizes.effects.items(), key=str), title, summed))
    name = f"circuit-{hashlib.sha256(content.encode()).hexdigest()[:8]}"  # a page may hold others
    body = f"<style>{_style(name, number.values())}</style>"
    body += "".join([*plan.background, *lines, *boxes, *legend])
    below = 58 if sizes.any else 34
    return _svg(name, circuit.name, title, body, plan.width, plan.height + below)


def _svg(name: str, label: str, title: str, body: str, width: float, height: float) -> Html:
    """The image: what it is called, a heading above it if there is one, and its elements."""
    top = -34 if title else 0
    heading = f'<text x="12" y="{22 + top}" class="title">{escape(title)}</text>' if title else ""
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{name}" role="img" '
        f'viewBox="0 {top} {width:g} {height - top:g}" width="{min(width, 1000):g}" '
        'style="max-width:100%;height:auto;background:white">'
        f"<title>{escape(label)}</title>{heading}{body}</svg>"
    )


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


def _parts_by_link(circuit: Circuit) -> dict[Link, list[str]]:
    """The pairs that edges join, one drawn edge each, with the parts q, k and v that it enters."""
    parts: dict[Link, list[str]] = {}
    for edge in circuit.edges:
        parts.setdefault((edge.sender, edge.receiver.component), []).append(edge.receiver.part)
    return parts


@dataclass(frozen=True)
class _Sizes:
    """The effects on drawn edges and components, and the widest of either, which sets the scale."""

    effects: dict[Link | Component, float]
    widest_edge: float
    widest_border: float

    @classmethod
    def of(
        cls, effects: Mapping[str, float], nodes: Iterable[Component], links: Iterable[Link]
    ) -> _Sizes:
        """The effects by what is drawn; NaN and names of what is not drawn are left out."""
        drawn = {*nodes, *links}
        found: dict[Link | Component, float] = {}
        for name, effect in effects.items():
            key = _key(name)
            strongest = abs(effect) >= abs(found.get(key, 0.0))  # False for NaN
            if key in drawn and strongest:
                found[key] = float(effect)
        edges, borders = (
            [abs(effect) for key, effect in found.items() if isinstance(key, tuple) == is_edge]
            for is_edge in (True, False)
        )
        return cls(found, max(edges, default=0.0), max(borders, default=0.0))

    def size(self, key: Link | Component) -> float:
        """The size of an effect, from 0 to 1, as a share of the widest of its kind."""
        widest = self.widest_edge if isinstance(key, tuple) else self.widest_border
        return abs(self.effects.get(key, 0.0)) / (widest or 1.0)

    def colour(self, key: Link | Component) -> str:
        """Red for what the circuit needs, blue for what it is better without."""
        effect = self.effects.get(key, 0.0)
        return _WORSE if effect < 0 else _BETTER if effect > 0 else _NEUTRAL

    def words(self, key: Link | Component) -> str:
        """The effect for a hover text, or nothing."""
        effect = self.effects.get(key)
        return "" if effect is None else f": {in_words(effect, 'points')} without it"

    @property
    def any(self) -> bool:
        """Whether there is a colour or a width to explain."""
        return bool(self.widest_edge or self.widest_border)


def _key(name: str) -> Link | Component:
    """What a name's effect is drawn on: a component, or the pair that an edge joins."""
    if "->" not in name:
        return component(name)
    edge = edges(name)[0]
    return edge.sender, edge.receiver.component


# ---- where it is drawn ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Where everything is: the centres of the boxes, and what lies behind them."""

    places: dict[Component, Place]
    width: float
    height: float
    background: list[str]


def _plan(nodes: Sequence[Component], positions: list[str], label: str) -> _Plan:
    """Rows by depth from the bottom, columns by position from the left.

    The label, if there is one, takes the place of the positions' names.
    """
    depths = sorted({node.depth for node in nodes})
    height = 30 + _ROW * max(1, len(depths))
    y = {depth: height - 20 - _ROW * (i + 0.5) for i, depth in enumerate(depths)}
    columns = _columns(nodes, positions)
    places: dict[Component, Place] = {}
    left, background = float(_MARGIN), _bands(depths, y)
    for position in columns:
        here = [node for node in nodes if node.position == position]
        x, right = _lanes(here, left)
        places |= {node: (x[node], y[node.depth]) for node in here}
        middle, text = (left + right) / 2, label or position
        background.append(f'<text x="{middle:g}" y="{height - 2}" class="quiet">{text}</text>')
        if position != columns[-1]:
            background.append(f'<path d="M{right:g} 8V{height - 20}" class="rule"/>')
        left = right
    return _Plan(places, max(left + 10, 640.0), height + 4, background)


def _columns(nodes: Sequence[Component], positions: list[str]) -> list[str]:
    """The positions that occur: those named in their order, then others, END last."""
    occur = dict.fromkeys(node.position for node in nodes)
    order = [p for p in dict.fromkeys([*positions, *occur]) if p != END] + [END]
    return [position for position in order if position in occur]


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


def _bands(rows: Sequence[int], y: Mapping[int, float]) -> list[str]:
    """A band behind every second layer, and the layers' names on the left."""
    layers = dict.fromkeys(depth // 2 for depth in rows)
    found = []
    for i, layer in enumerate(layers):
        heights = [y[depth] for depth in rows if depth // 2 == layer]
        top, bottom = min(heights) - _ROW / 2, max(heights) + _ROW / 2
        if i % 2 and layer < 1000:
            found.append(
                f'<rect x="0" y="{top:g}" width="100%" height="{bottom - top:g}" fill="#f5f6f8"/>'
            )
        text = "input" if layer < 0 else "" if layer >= 1000 else f"layer {layer}"
        found.append(f'<text x="34" y="{(top + bottom) / 2 + 4:g}" class="quiet">{text}</text>')
    return found


def _paths(links: Iterable[Link], places: Mapping[Component, Place]) -> dict[Link, str]:
    """The curve of every edge, laid out so that it passes beside the other boxes if it can."""
    links = list(links)
    sides = {link: _sides(*link, places) for link in links}
    ends: list[dict[Link, Place]] = [{}, {}]
    for end in (0, 1):
        for node, side in {(link[end], sides[link][end]) for link in links}:
            mine = [k for k in links if (k[end], sides[k][end]) == (node, side)]
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
    return {k: _curve(sides[k], ends[0][k], ends[1][k], places[k[0]][0]) for k in links}


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


# ---- how it is drawn --------------------------------------------------------------------------


def _edge(link: Link, parts: Sequence[str], path: str, ends: str, sizes: _Sizes, live: bool) -> str:
    """An edge's line, with a wide invisible one that is easy to point at."""
    text = f"{link[0].name} -> {link[1].name}"
    text += f" ({', '.join(parts)})" if any(parts) else ""
    text += sizes.words(link) + ("" if live else "; changes nothing: on no path to the logits")
    size = sizes.size(link)
    opacity = 0.45 + 0.5 * size if sizes.widest_edge else 0.8
    style = (
        f'stroke="{sizes.colour(link)}" stroke-width="{1 + 6 * size:.3g}" '
        f'stroke-opacity="{opacity:.2g}"{"" if live else _DASHED}'
    )
    return (
        f'<g class="edge {ends}"><title>{escape(text)}</title>'
        f'<path d="{path}" class="reach"/><path d="{path}" class="line" {style}/></g>'
    )


def _node(node: Component, place: Place, number: str, sizes: _Sizes) -> str:
    """A component's box and name."""
    x, y = place
    label = node.label
    squeeze = f' textLength="{_BOX - 8}" lengthAdjust="spacingAndGlyphs"' if len(label) > 7 else ""
    return (
        f'<g class="node {number}"><title>{escape(node.name + sizes.words(node))}</title>'
        f'<rect x="{x - _BOX / 2:g}" y="{y - _TALL / 2:g}" width="{_BOX}" height="{_TALL}" rx="6" '
        f'fill="{_FILLS.get(node.kind, "#ffffff")}" stroke="{sizes.colour(node)}" '
        f'stroke-width="{1 + 3 * sizes.size(node):.3g}"/>'
        f'<text x="{x:g}" y="{y + 4:g}"{squeeze}>{escape(label)}</text></g>'
    )


def _legend(height: float, kinds: set[str], sizes: _Sizes, dashed: bool) -> list[str]:
    """What the colours, dashes and widths mean, under the drawing."""
    names = {"head": "head", "mlp": "MLP", "embed": "embedding", "all": "all: whole stream"}
    found, x, y = [], 14, height + 22
    for kind in [kind for kind in names if kind in kinds]:
        colours = f'fill="{_FILLS[kind]}" stroke="{_NEUTRAL}"'
        box = f'<rect x="{x}" y="{y - 11:g}" width="22" height="14" rx="4" {colours}/>'
        found += [box, _note(x + 28, y, names[kind])]
        x += 50 + 7 * len(names[kind])
    if dashed:
        found.append(f'<path d="M{x} {y - 4:g}h24" stroke="{_NEUTRAL}"{_DASHED}/>')
        found.append(_note(x + 30, y, "changes nothing"))
    if sizes.any:
        y += 24
        for x, colour, text in ((14, _WORSE, "worse"), (166, _BETTER, "better")):
            found.append(f'<path d="M{x} {y - 4:g}h24" stroke="{colour}" stroke-width="4"/>')
            found.append(_note(x + 30, y, f"{text} without it"))
        widest = {"edge": sizes.widest_edge, "border": sizes.widest_border}
        words = {kind: in_words(size, "points", 1).lstrip("+") for kind, size in widest.items()}
        texts = [f"widest {kind} {words[kind]}" for kind, size in widest.items() if size]
        found.append(_note(322, y, ", ".join(texts)))
    return found


def _note(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y:g}" class="note">{text}</text>'


def _style(name: str, numbers: Iterable[str]) -> str:
    """Hovering an edge darkens it; hovering a component fades the edges of all the others."""
    hovers = "".join(
        f"#{name}:has(.node.{n}:hover) .edge:not(.{n}){{opacity:.08}}" for n in numbers
    )
    return (
        f"#{name} text{{font:12px 'Helvetica Neue',Helvetica,Arial,'Liberation Sans',sans-serif;"
        "fill:#25292e;text-anchor:middle;pointer-events:none}"
        f"#{name} .quiet{{fill:{_QUIET}}}#{name} .note,#{name} .title{{text-anchor:start}}"
        f"#{name} .title{{font-size:15px}}#{name} path{{fill:none}}"
        f"#{name} .rule{{stroke:#c9ced4;stroke-dasharray:2 4}}"
        f"#{name} .reach{{stroke:transparent;stroke-width:9}}"
        f"#{name} .edge:hover .line{{stroke:#111;stroke-opacity:1}}{hovers}"
    )
