"""Unit: the paper's circuit, and its larger one for the sequence family."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gt_helpers.patching.paper import PAPER, full_circuit, partial_circuit, with_components


def test_the_sequence_circuit_has_every_chain_of_its_five_mlps() -> None:
    parts = with_components(PAPER)
    assert parts.heads == tuple(sorted((*PAPER.heads, "a6.h1", "a7.h11"), key=_place))
    assert parts.mlps == ("m7", "m8", "m9", "m10", "m11")
    links = set(partial_circuit(parts).links)
    chain = ["a6.h1@END", *(f"{mlp}@END" for mlp in parts.mlps), "logits"]
    assert {f"{a} -> {b}" for a, b in pairwise(chain)} <= links
    assert "a7.h11@END -> m7@END" in links and "a8.h8@END -> m7@END" not in links
    assert with_components(PAPER, []) == PAPER
    assert len(full_circuit(parts)) > len(full_circuit(PAPER))
    with pytest.raises(ValueError, match="no head and no MLP"):
        with_components(PAPER, ["embed"])


def _place(name: str) -> tuple[int, int]:
    layer, head = name[1:].split(".h")
    return int(layer), int(head)
