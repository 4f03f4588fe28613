"""Unit: the circuit as other studies take it: ACDC's."""

from __future__ import annotations

import torch

from gt_helpers.dataset.prompts import ACDC_TEMPLATE
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.published import acdc_circuit


def test_acdc_has_its_edges_and_its_prompts(mini: Transformer) -> None:
    assert len(acdc_circuit(["YY"])) == 235  # and 27 from heads to their own q, k and v make 262
    dataset = YearDataset(mini.tokenizer, 4, template=ACDC_TEMPLATE)
    assert list(dataset.positions).index("YY") == 7 and dataset.clean.shape == (4, 10)
    circuit = acdc_circuit(["YY", "to", "END"])
    assert {source.name for source in circuit.sources} == {"embed@YY", "embed@to", "embed@END"}
    every = acdc_circuit(list(dataset.positions))
    back = PathPatching(mini, dataset).reversed()
    # Positions before YY are the same in both runs.
    some, all_of_it = (back.evaluate(one).log_probs for one in (circuit, every))
    torch.testing.assert_close(some, all_of_it, atol=1e-5, rtol=1e-4)
