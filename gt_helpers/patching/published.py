"""The circuit as other studies take it."""

from __future__ import annotations

from collections.abc import Iterable

from .circuits import Circuit, connect, everywhere

_ACDC_HEADS = ("a5.h5", "a6.h1", "a6.h9", "a7.h10", "a8.h11", "a9.h1")


def acdc_circuit(positions: Iterable[str]) -> Circuit:
    """The circuit that the paper on ACDC takes for Hanna et al.'s, at all of the given positions.

    Six heads instead of seven, the early heads and MLPs, and every MLP below layer 9 into the
    heads' queries. Its 262 edges are these 235, which count all positions as one, and the 27
    between a head and its own q, k and v. Positions are given in order.
    """
    early_heads, early_mlps = ["a0.h1", "a0.h3", "a0.h5"], ["m0", "m1", "m2", "m3"]
    lower, late = [f"m{layer}" for layer in range(9)], ["m8", "m9", "m10", "m11"]
    links = [
        *connect(["embed"], [*early_heads, *early_mlps]).edges,
        *connect(["a0.h1"], early_mlps).edges,
        *connect([*early_heads, *early_mlps], _ACDC_HEADS).edges,
        *connect(lower, [*lower, *(f"{head}.q" for head in _ACDC_HEADS)]).edges,
        *connect([*_ACDC_HEADS, *late], late).edges,
    ]
    positions = list(positions)
    edges = [edge for link in links for edge in everywhere(link, positions)]
    to_logits = connect([*_ACDC_HEADS, *late], ["logits"]).edges
    return Circuit([*to_logits, *edges], "ACDC's circuit", [f"embed@{p}" for p in positions])
