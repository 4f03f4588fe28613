"""Unit: control studies: each against what it must equal, and by hand on a few prompts."""

from __future__ import annotations

import pytest
import torch

from gt_helpers.analysis import controls
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import prob_diff
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, partial_circuit


@pytest.fixture(scope="module")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, YearDataset(mini.tokenizer, 12))


def test_direct_and_indirect_effects_are_those_of_sweeps(patching: PathPatching) -> None:
    table = controls.direct_and_indirect(patching, PAPER.mlps).set_index(["component", "path"])
    assert list(table.index) == [
        (mlp, path) for mlp in ("m8", "m9", "m10") for path in ("direct", "indirect", "total")
    ]
    # One layer below the last MLP the only indirect path is the one through it.
    late = patching.sweep(["m9", "m10", "m11"], via=["m10", "m11"])
    to_logits = patching.sweep("logits")
    for mlp, path, sweep in (
        ("m8", "direct", to_logits),
        ("m9", "direct", to_logits),
        ("m10", "direct", to_logits),
        ("m8", "indirect", late),
        ("m10", "indirect", patching.sweep("m11")),
        ("m10", "total", patching.sweep(["logits", "m11"])),
    ):
        expected = float(sweep.effect[int(mlp[1:]), -1])
        assert table.loc[(mlp, path), "change"] == pytest.approx(expected, abs=1e-6)
    clean = prob_diff(patching.base_probs, patching.dataset.YY)
    row = table.loc[("m10", "total")]
    assert row["share"] == pytest.approx(-row["change"] / float(clean.mean()))
    assert row["low"] <= row["change"] <= row["high"]


def test_direct_and_indirect_refuse_other_bases_and_heads(patching: PathPatching) -> None:
    for engine, names in ((patching.reversed(), ["m9"]), (patching, ["a9.h1"]), (patching, [])):
        with pytest.raises(ValueError, match="clean base and MLPs"):
            controls.direct_and_indirect(engine, names)


def test_heads_with_all_inputs_patched_are_the_partial_circuit(patching: PathPatching) -> None:
    back, positions = patching.reversed(), patching.dataset.positions
    whole = back.evaluate(partial_circuit(PAPER)).log_probs
    through = back.evaluate(controls.circuit_through(PAPER, positions, "qkv")).log_probs
    torch.testing.assert_close(through, whole, atol=2e-5, rtol=0)
    answers = {
        inputs: back.evaluate(controls.circuit_through(PAPER, positions, inputs)).log_probs
        for inputs in ("v", "qk", "q", "k")
    }
    for log_probs in answers.values():
        assert float((log_probs - whole).abs().max()) > 1e-3
    # A query reads its own row only.
    queries = [f"all@END -> {head}.q" for head in PAPER.heads]
    by_hand = Circuit([*queries, *partial_circuit(PAPER).edges])
    torch.testing.assert_close(answers["q"], back.evaluate(by_hand).log_probs)
    with pytest.raises(ValueError, match="letters q, k and v"):
        controls.circuit_through(PAPER, positions, "w")


def test_shifted_heads_are_the_next_ones() -> None:
    shifted = controls.shifted_heads(PAPER, 12)
    assert set(shifted.heads) == {"a9.h2", "a8.h0", "a7.h11", "a6.h10", "a5.h6", "a8.h9", "a5.h2"}
    assert shifted.mlps == PAPER.mlps
