"""Oracle: neurons against Hugging Face's modules and the engine: all together are the MLP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from tqdm.auto import tqdm

from gt_helpers.analysis import neurons as module
from gt_helpers.analysis.neurons import (
    Neurons,
    counts_up_to,
    last_but_one,
    needed_for,
    neuron_ranking,
)
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import cutoff_sharpness, prob_diff
from gt_helpers.model.cache import ActivationCache, cache_activations
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, CircuitParts

SOME = [0, 7, 100, 255, 383]


@pytest.fixture(scope="module")
def dataset(mini64: Transformer) -> YearDataset:
    return YearDataset(mini64.tokenizer, 10)


@pytest.fixture(scope="module")
def caches(mini64: Transformer, dataset: YearDataset) -> list[ActivationCache]:
    return [cache_activations(mini64, tokens) for tokens in (dataset.clean, dataset.corrupted)]


@pytest.fixture(scope="module")
def m10(caches: list[ActivationCache], dataset: YearDataset) -> Neurons:
    return Neurons(*caches, dataset, "m10")


@pytest.mark.parametrize("mlp", ["m0", "m9", "m10", "m11"])
def test_all_neurons_together_are_the_mlp(mini64, caches, dataset, mlp: str) -> None:
    neurons = Neurons(*caches, dataset, mlp)
    sweep = PathPatching(mini64, dataset).sweep("logits")
    expected = sweep.values[sweep.senders.index(f"{mlp}@END")]
    found = neurons.joint_effect(range(len(neurons)))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert expected.abs().max() > 1e-4


def activations(model: Transformer, tokens: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """What Hugging Face's c_proj of a layer is given at END, and the last block's output there."""
    hf, kept = model.bridge.original_model, {}
    block = hf.transformer.h[layer]
    hooks = [
        block.mlp.c_proj.register_forward_pre_hook(
            lambda _, args: kept.update(act=args[0][:, -1].clone())
        ),
        hf.transformer.ln_f.register_forward_pre_hook(
            lambda _, args: kept.update(final=args[0][:, -1].clone())
        ),
    ]
    hf(tokens)
    for hook in hooks:
        hook.remove()
    return kept["act"], kept["final"]


@torch.no_grad()
def test_one_neuron_is_one_vector_in_the_final_stream(mini64, dataset, m10: Neurons) -> None:
    hf = mini64.bridge.original_model
    clean, final = activations(mini64, dataset.clean, 10)
    corrupted, _ = activations(mini64, dataset.corrupted, 10)
    torch.testing.assert_close(m10.activations, clean, atol=1e-12, rtol=0)

    def answer(stream: Tensor) -> Tensor:
        probs = hf.lm_head(hf.transformer.ln_f(stream)).softmax(-1)[:, dataset.year_tokens]
        return prob_diff(probs, dataset.YY)

    effects = m10.effects()
    weights = hf.transformer.h[10].mlp.c_proj.weight  # [neuron, d_model]
    for neuron in SOME:
        change = (corrupted - clean)[:, neuron, None] * weights[neuron]
        expected = answer(final + change) - answer(final)
        torch.testing.assert_close(effects[neuron], expected, atol=1e-12, rtol=0)
    assert effects.abs().max() > 1e-4


@torch.no_grad()
def test_in_the_last_mlp_a_direct_effect_is_the_whole_effect(mini64, caches, dataset) -> None:
    neurons = Neurons(*caches, dataset, "m11")
    hf, chosen = mini64.bridge.original_model, [3, 200]
    corrupted, _ = activations(mini64, dataset.corrupted, 11)

    def patch(_: object, args: tuple) -> tuple[Tensor]:
        act = args[0].clone()
        act[:, -1, chosen] = corrupted[:, chosen]
        return (act,)

    before = hf(dataset.clean).logits[:, -1]
    hook = hf.transformer.h[11].mlp.c_proj.register_forward_pre_hook(patch)
    after = hf(dataset.clean).logits[:, -1]
    hook.remove()
    change, years = (before - after)[:, dataset.year_tokens], dataset.year_tokens
    expected = change - change[:, :1]
    torch.testing.assert_close(neurons.year_effect(chosen), expected, atol=1e-10, rtol=0)
    diffs = [prob_diff(x.softmax(-1)[:, years], dataset.YY) for x in (after, before)]
    found = neurons.joint_effect(chosen)
    torch.testing.assert_close(found, diffs[0] - diffs[1], atol=1e-12, rtol=0)


def test_effects_are_the_joint_effects_of_groups_of_one(m10: Neurons) -> None:
    for metric in (prob_diff, cutoff_sharpness):
        effects = m10.effects(metric)
        assert effects.shape == (384, 10)
        singles = torch.stack([m10.joint_effect([neuron], metric) for neuron in SOME])
        torch.testing.assert_close(effects[SOME], singles, atol=1e-12, rtol=0)


def test_float32_is_as_exact_as_float32_can_be(m10: Neurons, mini: Transformer) -> None:
    data = m10.dataset
    caches = [cache_activations(mini, tokens, start=12) for tokens in (data.clean, data.corrupted)]
    effects = Neurons(*caches, data, "m10").effects()
    torch.testing.assert_close(effects.double(), m10.effects(), atol=2e-6, rtol=0)


def test_blocks_change_nothing_and_the_bar_ends_full(m10, monkeypatch) -> None:
    whole = m10.effects()
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 6)
    monkeypatch.setattr(module, "_CPU_BLOCK", (3 * 501 * 5, 501))
    bars = []

    def bar(**options: object) -> tqdm:
        bars.append(tqdm(**options))
        return bars[0]

    monkeypatch.setattr(module, "tqdm", bar)
    pieces = m10.effects(progress=True)
    torch.testing.assert_close(pieces, whole, atol=1e-13, rtol=0)
    assert bars[0].n == bars[0].total == 384 * 10 * m10.model.W_U.shape[1]


def test_large_changes_do_not_overflow(m10: Neurons, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m10, "change", m10.change * 1e4)
    effects = m10.effects()
    assert effects.isfinite().all()
    strongest = int(effects.abs().mean(-1).argmax())
    expected = m10.joint_effect([strongest])
    torch.testing.assert_close(effects[strongest], expected, atol=1e-9, rtol=0)


def test_the_lens_is_a_plain_product_and_adds_up(m10: Neurons, mini64: Transformer) -> None:
    years = m10.dataset.year_tokens
    one = m10.activations[:, 7, None] * (m10.W_out[7] @ mini64.W_U[:, years])
    torch.testing.assert_close(m10.lens([7]), one - one[:, :1])
    torch.testing.assert_close(m10.lens([7, 9]), m10.lens([7]) + m10.lens([9]))
    assert not m10.year_effect([7])[:, 0].any() and not m10.lens([7])[:, 0].any()


def test_top_effects_patch_the_first_neurons_of_an_order(m10: Neurons) -> None:
    order = neuron_ranking(m10.effects())
    found = m10.top_effects(order, [1, 5])
    torch.testing.assert_close(found[1], m10.joint_effect(order[:5].tolist()))
    assert found.shape == (2, 10)
    assert not m10.joint_effect([]).any()


def test_ranking_goes_by_the_size_of_the_mean() -> None:
    effects = torch.tensor([[0.1, 0.1], [-3.0, 3.1], [-0.3, -0.5], [0.2, 0.3]])
    assert neuron_ranking(effects).tolist() == [2, 3, 0, 1]


def test_counts_and_how_many_are_needed() -> None:
    assert counts_up_to(384) == [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 384]
    assert counts_up_to(1) == [1] and counts_up_to(5) == [1, 2, 3, 5]
    assert needed_for([0.95, 0.5, 0.92, 1.1], [1, 2, 3, 4], 0.9) == 3
    assert needed_for([1.0, 1.0], [1, 2], 0.9) == 1
    assert needed_for([0.1, 0.2], [1, 2], 0.9) == 2


def test_the_mlp_to_look_into() -> None:
    assert last_but_one(PAPER) == "m10"
    assert last_but_one(CircuitParts((), ("m5",), (), ())) == "m5"
    with pytest.raises(ValueError, match="no MLP at END; name one"):
        last_but_one(CircuitParts((), (), (), ()))


def test_mistakes_are_named(m10, caches, dataset) -> None:
    for name, message in (
        ("a7.h10", "no MLP"),
        ("m10@YY", "'YY'.*END"),
        ("m12", "layers 0 to 11"),
    ):
        with pytest.raises(ValueError, match=message):
            Neurons(*caches, dataset, name)
    with pytest.raises(ValueError, match="10 and 10 prompts, the dataset 4"):
        Neurons(*caches, dataset[:4])
    for wrong in ([384], [-1], [[1]]):
        with pytest.raises(ValueError, match="neurons 0 to 383"):
            m10.joint_effect(wrong)
