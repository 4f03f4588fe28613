"""Unit: EAP and EAP-IG against exact effects, finite differences and what integrals add up to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from literal import close
from torch import Tensor
from transformers import GPT2LMHeadModel

from gt_helpers.edges.attribution import VARIANTS, eap, eap_ig
from gt_helpers.edges.effects import edge_effects
from gt_helpers.edges.graph import EdgeGraph
from gt_helpers.edges.rerun import Rerun, sender_changes
from gt_helpers.metrics import cutoff_sharpness, prob_diff
from gt_helpers.patching.engine import PathPatching


def linear(hf: GPT2LMHeadModel) -> None:
    """Make a model linear in its residual stream: every receiver's output is.

    Queries are 0, so attention is constant; the norms divide by a huge epsilon; the activation is
    a ReLU far on its positive side.
    """
    hf.config.activation_function, hf.config.layer_norm_epsilon = "relu", 1e20
    width = hf.config.n_embd
    for name, weight in hf.named_parameters():
        if ".ln_" in name and name.endswith("weight"):
            weight.data *= 1e9
        if name.endswith("c_attn.weight") or name.endswith("c_attn.bias"):
            weight.data[..., :width] = 0
        if name.endswith("c_fc.bias"):
            weight.data += 20
        if name.endswith("c_proj.weight"):
            weight.data *= 0.3


@pytest.fixture(scope="module")
def linear_patching(changed: Callable[..., PathPatching]) -> PathPatching:
    return changed(linear)


def logit_difference(probs: Tensor, YY: Tensor) -> Tensor:
    """A metric that is linear in the logits."""
    return (probs[..., 60:] / probs[..., :40]).log().sum(-1)


# ---- what the scores are ----------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["EAP", *VARIANTS])
def test_on_a_linear_model_every_method_is_exact(linear_patching, variant, either_graph) -> None:
    graph = either_graph  # every model of this shape has it
    exact = edge_effects(linear_patching, graph, logit_difference).values
    if variant == "EAP":
        found = eap(linear_patching, graph, logit_difference).values
    else:
        found = eap_ig(linear_patching, graph, 2, variant, logit_difference).values
    close(found, exact)
    # attention is constant: what enters queries and keys does nothing
    idle = graph.mask([name for name in graph.names if name.endswith((".q", ".k"))])
    assert exact[idle].abs().max() < 1e-8
    assert exact[~idle].abs().mean() > 1e-3


@pytest.mark.parametrize("metric", [prob_diff, cutoff_sharpness])
def test_eap_is_the_slope_of_the_effect_at_the_base_run(either_base, either_graph, metric) -> None:
    patching, graph, step = either_base, either_graph, 1e-5
    scores = eap(patching, graph, metric)
    ((base_run, patch_run, _),) = patching.caches(100)
    changes = sender_changes(base_run, patch_run)
    data = patching.dataset
    for number in range(0, len(graph), 5 if graph.summed else 23):
        row, sender, receiver = graph.index[number].tolist()
        change = changes[sender].clone()
        if not graph.summed:
            keep = torch.arange(change.shape[1]) == row
            change = change * keep[:, None]
        moved = torch.stack([step * change, -step * change])
        streams = Rerun(base_run).final_stream(graph.inputs[receiver], moved)
        more, less = metric(patching.model.log_probs(streams, data.year_tokens).exp(), data.YY)
        close(scores.values[number], (more - less) / (2 * step), atol=1e-7)
    assert scores.values.abs().mean() > 1e-5


def test_the_positions_add_up(patching: PathPatching) -> None:
    summed, apart = (EdgeGraph.of(patching, summed) for summed in (True, False))
    for variant in VARIANTS:
        whole, parts = (eap_ig(patching, graph, 2, variant).values for graph in (summed, apart))
        dense = torch.zeros(*apart.exists.shape, len(patching.dataset), dtype=torch.float64)
        dense[apart.index.unbind(1)] = parts
        # the rows that the summed graph has besides cannot arrive: their scores are 0
        close(dense.sum(0)[summed.index[:, 1], summed.index[:, 2]], whole)


def test_the_inputs_variant_adds_up_to_the_whole_change(either_base, graph) -> None:
    patching, YY = either_base, either_base.dataset.YY
    from_embed = graph.index[:, 1] == 0
    whole = prob_diff(patching.patch_probs, YY) - prob_diff(patching.base_probs, YY)

    def off(scores: Tensor) -> float:
        return float((scores[from_embed].sum(0) - whole).abs().max())

    found = [eap_ig(patching, graph, steps).values for steps in (4, 16, 64)]
    errors = [off(values) for values in found]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 2e-3 < errors[0]
    assert whole.abs().max() > 0.05
    # with half of the last point for half of the first it is the trapezoidal rule
    ends = eap_ig(patching, graph, variant="clean-corrupted").values
    assert off(found[2] + (ends - eap(patching, graph).values) / 64) < 1e-4


def test_one_step_is_eap_and_the_ends_are_the_two_runs(patching, estimate) -> None:
    graph = estimate.graph
    close(eap_ig(patching, graph, 1).values, estimate.values)
    # seen from the other run, the senders' changes have the other sign
    reverse = eap(patching.reversed(), graph)
    ends = eap_ig(patching, graph, variant="clean-corrupted")
    close(ends.values, (estimate.values - reverse.values) / 2)
    assert (estimate.values + reverse.values).abs().max() > 1e-3


def test_scores_say_what_they_are(patching, estimate, exact, capsys) -> None:
    assert estimate.method == "EAP" and estimate.gap == exact.gap
    assert estimate.measured.all()
    assert not estimate.values.requires_grad
    loud = PathPatching(patching.model, patching.dataset, progress=True)
    found = eap_ig(loud, estimate.graph, 2)
    assert found.method == "EAP-IG inputs, 2 steps"
    assert found.method in capsys.readouterr().err
    with torch.no_grad():
        close(eap(patching, estimate.graph).values, estimate.values)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"variant": "logits"}, "'logits'.*inputs, clean-corrupted"),
        ({"steps": 0}, r"steps is 0.*e\.g\. steps=5"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"metric": lambda probs, YY: (probs > 0.5).double().sum(-1)}, r"e\.g\. prob_diff"),
        ({"metric": "prob_diff"}, r"metric is 'prob_diff'.*e\.g\. metric=prob_diff"),
    ],
)
def test_what_cannot_be(patching, graph, arguments: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        eap_ig(patching, graph, **arguments)
