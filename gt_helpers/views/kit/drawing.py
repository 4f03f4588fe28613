"""A circuit drawn as a graph: one self-contained SVG without scripts, nothing computed but layout.

Layers go upward and positions from left to right; every edge runs upward, from sender to receiver.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ...dataset.prompts import PAPER_POSITIONS
from ...edges.graph import EdgeGraph, Edges
from ...formatting import in_words
from ...model.components import END, Component, component, edges
from ...patching.circuits import Circuit
from ..tables import Html

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
    links: dict[Link, list[str]] = {}
    for edge in circuit.edges:
        links.setdefault((edge.sender, edge.receiver.component), []).append(edge.receiver.part)
    nodes = [component(name) for name in circuit.components]
    changes = _by_link(effects or {})
    shown = {key: value for key, value in changes.items() if key in links or key in nodes}
    plan = _plan(nodes, list(positions), "all positions" if summed else "")
    content = repr((circuit, sorted(shown.items(), key=str), title, summed)).encode()
    name = f"circuit-{hashlib.sha256(content).hexdigest()[:8]}"  # the page may hold others
    number = {node: f"n{i}" for i, node in enumerate(nodes)}
    paths = _paths(links, plan.places)
    widest_edge = max((abs(shown[link]) for link in links if link in shown), default=0.0)
    widest_border = max((abs(shown[node]) for node in nodes if node in shown), default=0.0)
    live = {(edge.sender, edge.receiver.component) for edge in circuit.live}
    lines = [
        _edge(link, parts, paths[link], number, shown.get(link), widest_edge, link in live)
        for link, parts in sorted(links.items(), key=lambda item: abs(shown.get(item[0], 0.0)))
    ]
    boxes = [
        _node(node, *plan.places[node], number[node], shown.get(node), widest_border)
        for node in nodes
    ]
    if summed:
        lines, boxes = ([part.replace(f"@{END}", "") for part in some] for some in (lines, boxes))
    kinds, widest = {node.kind for node in nodes}, {"edge": widest_edge, "border": widest_border}
    legend, below = _legend(plan, kinds, widest, len(live) < len(links))
    width, height = plan.width, plan.height + below
    heading = f'<text x="12" y="22" class="title">{escape(title)}</text>' if title else ""
    top = -34 if title else 0
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{name}" role="img" '
        f'viewBox="0 {top} {width:g} {height - top:g}" width="{min(width, 1000):g}" '
        f'style="max-width:100%;height:auto;background:white">'
        f"<title>{escape(circuit.name)}</title><style>{_style(name, number.values())}</style>"
        f'<g transform="translate(0 {top})">{heading}</g>'
        f"{''.join([*plan.background, *lines, *boxes, legend])}</svg>"
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


def _by_link(effects: Mapping[str, float]) -> dict[Link | Component, float]:
    """Effects by component or by the pair that a drawn edge joins; those that are NaN left out."""
    found: dict[Link | Component, float] = {}
    for name, effect in dict(effects).items():
        key: Link | Component
        if "->" in name:
            edge = edges(name)[0]
            key = (edge.sender, edge.receiver.component)
        else:
            key = component(name)
        if not math.isnan(effect) and abs(effect) >= abs(found.get(key, 0.0)):
            found[key] = float(effect)
    return found


@dataclass(frozen=True)
class _Plan:
    """Where everything is: the centres of the boxes, and what lies behind them."""

    places: dict[Component, Place]
    width: float
    height: float
    background: list[str]


def _plan(nodes: Sequence[Component], positions: list[str], label: str) -> _Plan:
    """Rows by depth from the bottom; per position a lane of heads and a lane of MLPs beside it.

    The label, if there is one, takes the place of the positions' names.
    """
    unknown = [node.position for node in nodes if node.position not in positions]
    order = [p for p in dict.fromkeys([*positions, *unknown]) if p != "END"] + ["END"]
    columns = [p for p in order if any(node.position == p for node in nodes)]
    rows = sorted({node.depth for node in nodes})
    height = 30 + _ROW * max(1, len(rows))
    y = {depth: height - 20 - _ROW * (i + 0.5) for i, depth in enumerate(rows)}
    step, places, x, background = _BOX + _GAP, {}, float(_MARGIN), _bands(rows, y)
    for i, position in enumerate(columns):
        here = [node for node in nodes if node.position == position]
        heads = [node for node in here if node.kind == "head"]
        heads.sort(key=lambda node: (node.depth, node.head))
        widest = max((sum(n.depth == node.depth for n in heads) for node in heads), default=0)
        slots = max(widest, min(len(heads), _SLOTS), int(any(node.kind == "all" for node in here)))
        for j, node in enumerate(heads):
            places[node] = (x + step * (j % slots + 0.5), y[node.depth])
        places |= {n: (x + step / 2, y[n.depth]) for n in here if n.kind == "all"}
        end = x + step * slots + _GAP
        if others := [node for node in here if node not in places]:
            right = x + step * slots + (40 if slots else 10) + _BOX / 2
            places |= {node: (right, y[node.depth]) for node in others}
            end = right + _BOX / 2 + 44
        middle = (x + end) / 2
        text = label or position
        background.append(f'<text x="{middle:g}" y="{height - 2}" class="quiet">{text}</text>')
        if i + 1 < len(columns):
            background.append(f'<path d="M{end:g} 8V{height - 20}" class="rule"/>')
        x = end
    return _Plan(places, max(x + 10, 640.0), height + 4, background)


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


def _edge(
    link: Link,
    parts: Sequence[str],
    path: str,
    number: Mapping[Component, str],
    effect: float | None,
    largest: float,
    live: bool,
) -> str:
    sender, receiver = link
    share = abs(effect or 0.0) / (largest or 1.0)
    style = f'stroke="{_colour(effect)}" stroke-width="{1 + 6 * share:.3g}" '
    opacity = 0.8 if largest == 0 else 0.45 + 0.5 * share
    style += f'stroke-opacity="{opacity:.2g}"{"" if live else _DASHED}'
    text = f"{sender.name} -> {receiver.name}"
    if any(parts):
        text += f" ({', '.join(parts)})"
    text += f"{_in_words(effect)}{'' if live else '; changes nothing: on no path to the logits'}"
    return (
        f'<g class="edge {number[sender]} {number[receiver]}"><title>{escape(text)}</title>'
        f'<path d="{path}" class="reach"/><path d="{path}" class="line" {style}/></g>'
    )


def _node(
    node: Component, x: float, y: float, number: str, effect: float | None, largest: float
) -> str:
    border = 1 + 3 * abs(effect or 0.0) / (largest or 1.0)
    label = "logits" if node.kind == "logits" else node.label
    squeeze = f' textLength="{_BOX - 8}" lengthAdjust="spacingAndGlyphs"' if len(label) > 7 else ""
    return (
        f'<g class="node {number}"><title>{escape(node.name + _in_words(effect))}</title>'
        f'<rect x="{x - _BOX / 2:g}" y="{y - _TALL / 2:g}" width="{_BOX}" height="{_TALL}" rx="6" '
        f'fill="{_FILLS.get(node.kind, "#ffffff")}" stroke="{_colour(effect)}" '
        f'stroke-width="{border:.3g}"/>'
        f'<text x="{x:g}" y="{y + 4:g}"{squeeze}>{escape(label)}</text></g>'
    )


def _colour(effect: float | None) -> str:
    if not effect:
        return _NEUTRAL
    return _WORSE if effect < 0 else _BETTER


def _in_words(effect: float | None) -> str:
    return "" if effect is None else f": {in_words(effect, 'points')} without it"


def _legend(
    plan: _Plan, kinds: set[str], widest: Mapping[str, float], dashed: bool
) -> tuple[str, int]:
    """What the colours and widths mean, under the drawing, and how much room that takes."""
    names = {"head": "head", "mlp": "MLP", "embed": "embedding", "all": "all: whole stream"}
    found, x, y = [], 14.0, plan.height + 22
    for kind, name in names.items():
        if kind in kinds:
            found.append(
                f'<rect x="{x:g}" y="{y - 11:g}" width="22" height="14" rx="4" '
                f'fill="{_FILLS[kind]}" stroke="{_NEUTRAL}"/>'
                f'<text x="{x + 28:g}" y="{y:g}" class="note">{name}</text>'
            )
            x += 50 + 7 * len(name)
    if dashed:
        found.append(f'<path d="M{x:g} {y - 4:g}h24" stroke="{_NEUTRAL}"{_DASHED}/>')
        found.append(f'<text x="{x + 30:g}" y="{y:g}" class="note">changes nothing</text>')
    if not any(widest.values()):
        return "".join(found), 34
    y += 24
    for x, colour, text in ((14, _WORSE, "worse without it"), (166, _BETTER, "better without it")):
        found.append(f'<path d="M{x} {y - 4:g}h24" stroke="{colour}" stroke-width="4"/>')
        found.append(f'<text x="{x + 30}" y="{y:g}" class="note">{text}</text>')
    sizes = [f"widest {k} {in_words(v, 'points', 1).lstrip('+')}" for k, v in widest.items() if v]
    found.append(f'<text x="322" y="{y:g}" class="note">{", ".join(sizes)}</text>')
    return "".join(found), 58


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
