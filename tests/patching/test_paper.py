"""Unit: circuits that are written down: ACDC's version of it, and the paths of single MLPs."""

from __future__ import annotations

import pytest
import torch

from gt_helpers.analysis.controls import mlp_paths
from gt_helpers.dataset.prompts import ACDC_TEMPLATE
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import prob_diff
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import acdc_circuit


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model("mini", "cpu")


def test_acdc_has_its_edges_and_its_prompts(model: Transformer) -> None:
    assert len(acdc_circuit(["YY"])) == 235  # and 27 from heads to their own q, k and v make 262
    dataset = YearDataset(model.tokenizer, 4, template=ACDC_TEMPLATE)
    assert list(dataset.positions).index("YY") == 7 and dataset.clean.shape == (4, 10)
    circuit = acdc_circuit(["YY", "to", "END"])
    assert {source.name for source in circuit.sources} == {"embed@YY", "embed@to", "embed@END"}
    every = acdc_circuit(list(dataset.positions))
    back = PathPatching(model, dataset).reversed()
    # Positions before YY are the same in both runs.
    torch.testing.assert_close(
        back.evaluate(circuit).log_probs, back.evaluate(every).log_probs, atol=1e-5, rtol=1e-4
    )


def test_direct_and_indirect_paths_are_those_of_the_sweeps(model: Transformer) -> None:
    patching = PathPatching(model, YearDataset(model.tokenizer, 6))
    paths = mlp_paths(["m8", "m9", "m10", "m11"])
    assert list(paths) == ["m8", "m9", "m10"]
    clean = prob_diff(patching.base_probs, patching.dataset.YY)
    for name, sweep in (("direct", patching.sweep("logits")), ("indirect", patching.sweep("m11"))):
        change = patching.evaluate(paths["m10"][name]).prob_diff - clean
        expected = sweep.values[sweep.senders.index("m10@END")]
        torch.testing.assert_close(change, expected, atol=1e-6, rtol=0)
    assert {edge.name for edge in paths["m9"]["indirect"].edges} == {
        *("m9@END -> m10@END", "m9@END -> m11@END", "m10@END -> m11@END"),
        *("m10@END -> logits", "m11@END -> logits"),
    }
