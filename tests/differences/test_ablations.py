"""Unit: every ablation does what its name says, on small random models in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from literal import random_prompts
from transformer_lens.model_bridge import TransformerBridge

from gt_helpers.analysis.logit_lens import processed_output
from gt_helpers.differences.ablations import FrozenNorms, MeanAblation, ZeroAblation
from gt_helpers.model.cache import cache_activations
from gt_helpers.model.components import component
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching

PROMPTS = random_prompts(7)


@pytest.fixture(scope="module")
def model(random_model: Transformer) -> Transformer:
    return random_model


@pytest.mark.parametrize("kind", [MeanAblation, ZeroAblation])
def test_the_ablated_cache_holds_the_constant_and_its_sums(model, kind: type) -> None:
    (chunk,) = kind(model, PROMPTS)._chunks()
    clean = cache_activations(model, PROMPTS.clean)
    for node in PathPatching(model, PROMPTS).shape.senders("YY"):
        for position in (0, 2, 5):
            ablated, usual = chunk.patch.output(node, position), clean.output(node, position)
            mean = usual.mean(0, keepdim=True).expand_as(usual)
            expected = mean if kind is MeanAblation else torch.zeros_like(mean)
            torch.testing.assert_close(ablated, expected, rtol=0, atol=1e-12)
            torch.testing.assert_close(chunk.base.output(node, position), usual)
    cache = chunk.patch
    written = cache.at_layer(0, 5)
    for layer, block in enumerate(model.blocks):
        torch.testing.assert_close(cache.at_layer(layer, 5), written)
        written = written + cache.z[layer, :, 5].flatten(1) @ block.W_O.flatten(0, 1) + block.b_O
        torch.testing.assert_close(cache.before_mlp(layer, 5), written)
        written = written + cache.mlp[layer, :, 5] + block.b_out
    torch.testing.assert_close(cache.at_layer(model.n_layers, 5), written)


def test_a_mean_is_over_all_prompts_however_they_are_chunked(model, monkeypatch) -> None:
    whole = MeanAblation(model, PROMPTS).sweep("logits").values
    monkeypatch.setattr("gt_helpers.patching.engine.PROMPTS_AT_ONCE", 3)
    torch.testing.assert_close(MeanAblation(model, PROMPTS).sweep("logits").values, whole)


def test_ablations_evaluate_circuits_on_the_ablated_cache(model: Transformer) -> None:
    back = ZeroAblation(model, PROMPTS).reversed()
    biases = sum(block.b_O + block.b_out for block in model.blocks)
    alone = model.log_probs(biases.expand(len(PROMPTS), -1), PROMPTS.year_tokens)
    torch.testing.assert_close(back.base_log_probs, alone)
    clean = cache_activations(model, PROMPTS.clean)
    one = model.log_probs(clean.output(component("m2"), 5) + biases, PROMPTS.year_tokens)
    torch.testing.assert_close(back.evaluate(Circuit("m2 -> logits")).log_probs, one)


def test_frozen_norms_make_direct_effects_add_up_and_live_ones_do_not(model: Transformer) -> None:
    def mismatch(kind: type[PathPatching]) -> float:
        patching = kind(model, PROMPTS)
        senders = [one.name for one in patching.shape.senders("END")]
        swept = patching.sweep_log_probs("logits")
        together = patching.evaluate(Circuit([f"{one} -> logits" for one in senders])).log_probs
        base = patching.base_log_probs
        # Differences between years: the softmax's normaliser drops out.
        changes, total = ((x - base).diff(dim=-1) for x in (swept, together))
        return float((changes.sum(0) - total).abs().max())

    assert mismatch(FrozenNorms) < 1e-9
    assert mismatch(PathPatching) > 1e-2


@pytest.mark.parametrize("route", [("m2",), ("m1", ["m2"]), ("a2.h1.v", ["m2"]), ("a2.h0.q",)])
def test_frozen_norms_differ_from_live_ones_on_every_route(model, route: tuple) -> None:
    at, kinds = "YY" if route[0].endswith(".v") else "END", (PathPatching, FrozenNorms)
    live, frozen = (kind(model, PROMPTS).sweep(*route, senders_at=at).values for kind in kinds)
    assert float((live - frozen).abs().max()) > 1e-4


def test_processed_outputs_are_those_of_transformer_lens(folder: Path, model: Transformer) -> None:
    processed = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float64)
    processed.enable_compatibility_mode(disable_warnings=True)
    logits, hooked = processed.run_with_cache(PROMPTS.clean)
    cache = cache_activations(model, PROMPTS.clean)
    for node in map(component, ("a0.h1", "a2.h2")):
        z = hooked[f"blocks.{node.layer}.attn.hook_z"][:, -1].reshape(
            len(PROMPTS), model.n_heads, -1
        )
        theirs = z[:, node.head] @ processed.blocks[node.layer].attn.W_O[node.head]
        ours = processed_output(cache, node.name)
        torch.testing.assert_close(ours, theirs.double(), rtol=0, atol=1e-6)
    usual = model.unembed(cache.at_layer(model.n_layers, 5)).log_softmax(-1)
    theirs = logits[:, -1].log_softmax(-1).double()  # it folds in float32
    torch.testing.assert_close(theirs, usual, rtol=0, atol=1e-5)
