"""Oracle: the logit lens against Hugging Face's modules, direct effects, the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gt_helpers.analysis.logit_lens import (
    band,
    beyond_mean_row,
    bias_effect,
    depth_view,
    diagonal,
    direct_effect,
    lens_numbers,
    logit_lens,
    near_diagonal,
    relative_to_00,
    step_correlation,
    step_height,
    triangle,
)
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import mean_by_YY
from gt_helpers.model.cache import ActivationCache, cache_activations, end_logits
from gt_helpers.model.components import Shape
from gt_helpers.model.load import load_model

YEARS, YY = torch.arange(100), torch.arange(2, 99)[:, None]
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(scope="module")
def caches() -> dict[torch.dtype, tuple[ActivationCache, YearDataset]]:
    found = {}
    for dtype in DTYPES:
        model = load_model("mini", device="cpu", dtype=dtype)
        # A trained model's biases are small; larger ones show who counts them, and how often.
        generator = torch.Generator().manual_seed(0)
        for block in model.blocks:
            for bias in (block.b_O, block.b_out):
                bias.add_(torch.randn(bias.shape, generator=generator, dtype=dtype) / 10)
        dataset = YearDataset(model.tokenizer, 12)
        found[dtype] = cache_activations(model, dataset.clean, dataset.position("END")), dataset
    return found


def components(cache: ActivationCache) -> list[str]:
    shape = Shape(cache.model.n_layers, cache.model.n_heads, ("END",))
    return [node.label for node in shape.senders("END")]


@pytest.mark.parametrize("name", ["a7.h10", "m10", "embed", "m11@END"])
def test_the_lens_is_the_whole_final_norm_of_the_component_alone(caches: dict, name: str) -> None:
    cache, data = caches[torch.float64]
    hf = cache.model.bridge.original_model
    parts = {
        "a7.h10": cache.z[7, :, -1, 10] @ cache.model.blocks[7].W_O[10],
        "m10": cache.mlp[10, :, -1],
        "embed": hf.transformer.wte(data.clean[:, -1]) + hf.transformer.wpe(torch.tensor(12)),
        "m11": cache.mlp[11, :, -1],
    }
    written = parts[name.removesuffix("@END")].double()
    expected = hf.lm_head(hf.transformer.ln_f(written))[:, data.year_tokens]
    lens = logit_lens(cache, name, data.year_tokens)
    torch.testing.assert_close(lens, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(relative_to_00(lens), lens - lens[:, [0]], atol=0, rtol=0)


def test_the_lens_forgets_the_size_of_what_is_written(caches: dict) -> None:
    cache, data = caches[torch.float64]
    larger = ActivationCache(cache.model, cache.start, cache.stream, cache.z, 3 * cache.mlp)
    norm = cache.model.ln_final
    assert cache.mlp[10, :, -1].var(-1).min() > 1e3 * norm.eps
    lens, other = (logit_lens(r, "m10", data.year_tokens) for r in (cache, larger))
    torch.testing.assert_close(lens, other, atol=1e-2, rtol=0)
    effect, triple = (direct_effect(r, "m10", data.year_tokens) for r in (cache, larger))
    torch.testing.assert_close(3 * effect, triple)


@pytest.mark.parametrize(("dtype", "tolerance"), [(DTYPES[0], 1e-4), (DTYPES[1], 1e-10)])
def test_direct_effects_add_up_to_the_logits(caches, dtype: torch.dtype, tolerance: float) -> None:
    cache, data = caches[dtype]
    effects = [direct_effect(cache, name, data.year_tokens) for name in components(cache)]
    assert len(effects) == 12 * 13 + 1
    biases = bias_effect(cache, data.year_tokens)
    logits = torch.cat(list(end_logits(cache.model, data.clean)))[:, data.year_tokens]
    total = torch.stack(effects).sum(0) + biases
    torch.testing.assert_close(total, logits, atol=tolerance, rtol=0)
    assert (logits - (total - biases)).abs().max() > 0.01  # the biases' share is not nothing


def test_a_cache_that_keeps_more_positions_gives_the_same(caches: dict) -> None:
    cache, data = caches[torch.float32]
    longer = cache_activations(cache.model, data.clean)
    for read in (logit_lens, direct_effect):
        for name in ("a7.h10", "m10", "embed"):
            ours, theirs = (read(r, name, data.year_tokens) for r in (cache, longer))
            torch.testing.assert_close(ours, theirs)


def test_the_depth_view_is_the_model_cut_short(caches: dict) -> None:
    cache, data = caches[torch.float64]
    names, probs = depth_view(cache, data.year_tokens)
    assert probs.shape == (25, 12, 100)
    assert names[:3] == ["embed", "a0", "m0"] and names[-1] == "m11"
    hf, stages = cache.model.bridge.original_model, {}
    hooks = [
        block.ln_2.register_forward_pre_hook(
            lambda _, given, layer=layer: stages.__setitem__(f"a{layer}", given[0][:, -1])
        )
        for layer, block in enumerate(hf.transformer.h)
    ]
    streams = hf(data.clean, output_hidden_states=True).hidden_states
    for hook in hooks:
        hook.remove()
    stages |= {f"m{layer}": streams[layer + 1][:, -1] for layer in range(11)}
    for stage in ("a0", "m0", "a7", "m9"):
        logits = hf.lm_head(hf.transformer.ln_f(stages[stage]))
        expected = logits.softmax(-1)[:, data.year_tokens]
        torch.testing.assert_close(probs[names.index(stage)], expected, atol=1e-9, rtol=0)
    answer = hf(data.clean).logits[:, -1].softmax(-1)[:, data.year_tokens]
    torch.testing.assert_close(probs[-1], answer, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["logits", "all", "a7.h10@YY", "m12", "a0.h12", "a7.h10.v", 7])
def test_what_has_no_lens_is_refused(caches: dict, name: str) -> None:
    cache, data = caches[torch.float32]
    for read in (logit_lens, direct_effect):
        with pytest.raises(ValueError, match=r"e\.g\.|allowed|write"):
            read(cache, name, data.year_tokens)


# ---- the numbers, on tables of which they are known -------------------------------------------


def step() -> Tensor:
    return (YEARS > YY).double()


def spikes(width: int = 0) -> Tensor:
    return ((YEARS - YY).abs() <= width).double()


def test_numbers_of_a_diagonal() -> None:
    table = spikes()
    assert diagonal(table) == near_diagonal(table) == 1
    assert triangle(table) == 0  # the spike itself is at y <= YY
    assert abs(step_correlation(table)) < 0.2
    assert diagonal(spikes().roll(1, 1)) == 0 and near_diagonal(spikes().roll(1, 1)) == 1
    broad = spikes(8)  # no step either
    assert near_diagonal(broad) == 1 and abs(step_correlation(beyond_mean_row(broad))) < 0.1


def test_numbers_of_a_triangle() -> None:
    assert triangle(step()) == 1 and step_correlation(step()) == pytest.approx(1)
    assert triangle(-step()) == 0 and step_correlation(-step()) == pytest.approx(-1)
    assert diagonal(step()) == 0  # a tie is won by the first, YY + 1
    assert step_correlation(torch.ones(97, 100)) == 0  # a row without variance has no step


def test_years_favoured_whatever_YY_is_do_not_pass_for_a_triangle() -> None:
    rising = YEARS.double().expand(97, 100)
    assert triangle(rising) == 1 and step_correlation(rising) > 0.3
    assert triangle(beyond_mean_row(rising)) == step_correlation(beyond_mean_row(rising)) == 0
    both = beyond_mean_row(rising + 10 * step())
    assert triangle(both) == 1 and step_correlation(both) == pytest.approx(0.68, abs=0.01)
    holes = rising.clone()
    holes[::2] = torch.nan
    assert (beyond_mean_row(holes)[1::2] == 0).all()


def test_step_height_is_the_gap_in_logits() -> None:
    prompts = torch.tensor([2, 41, 98])
    logits = 3 * (YEARS > prompts[:, None]).double() - 1
    torch.testing.assert_close(step_height(logits, prompts), torch.full((3,), 3.0).double())
    loop = [logits[i, y + 1 :].mean() - logits[i, : y + 1].mean() for i, y in enumerate(prompts)]
    torch.testing.assert_close(step_height(logits, prompts), torch.stack(loop))


def test_numbers_of_a_band() -> None:
    assert band(((YEARS > YY) & (YEARS <= YY + 50)).double()) == 1
    assert band((YEARS > YY + 50).double()) == 0
    assert band(spikes()) == 0  # at most equal
    only_late = torch.full((97, 100), torch.nan)
    only_late[47:] = 0.0  # YY 49 and later have no year after YY + 50
    assert math.isnan(band(only_late))
    only_late[46] = (YEARS < 99).double()  # YY 48 has one
    assert band(only_late) == 1


def test_numbers_of_noise() -> None:
    # Rows as of a component that sees only the century: neighbouring years are alike.
    noise = torch.randn(97, 100, generator=torch.Generator().manual_seed(0))
    assert abs(step_correlation(beyond_mean_row(noise.cumsum(-1)))) < 0.15
    tables = torch.randn(40, 97, 100, generator=torch.Generator().manual_seed(0))
    mean = {name: sum(m(t) for t in tables) / 40 for name, m in MEASURES.items()}
    chance = {"diagonal": 0.01, "near": 0.2, "triangle": 0.5, "step": 0.0, "band": 0.5}
    assert mean == pytest.approx(chance, abs=0.02)


MEASURES = {
    "diagonal": diagonal,
    "near": near_diagonal,
    "triangle": triangle,
    "step": step_correlation,
    "band": band,
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_missing_YYs_do_not_count_and_a_constant_per_row_changes_nothing(measure) -> None:
    table = torch.randn(97, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    holes = table.clone()
    holes[1::2] = torch.nan
    assert -1 <= measure(holes) <= 1
    assert math.isnan(measure(torch.full((97, 100), torch.nan)))
    assert measure(relative_to_00(table)) == pytest.approx(measure(table))
    with pytest.raises(ValueError, match=r"\[97, 100\]"):
        measure(table.T)


def test_missing_YYs_leave_the_others_mean() -> None:
    table = step()
    table[::2] = spikes()[::2]  # half of them diagonal, half steps
    assert diagonal(table) == pytest.approx(49 / 97)
    table[::2] = torch.nan
    assert (diagonal(table), triangle(table)) == (0, 1)
    assert step_correlation(table) == pytest.approx(1)


def test_lens_numbers_is_a_table(caches: dict) -> None:
    cache, data = caches[torch.float32]
    tables = {
        name: mean_by_YY(logit_lens(cache, name, data.year_tokens), data.YY)
        for name in ("a7.h10", "m10")
    }
    frame = lens_numbers(tables)
    assert list(frame.index) == list(tables)
    assert frame.loc["m10", "triangle"] == triangle(tables["m10"])
    assert frame.loc["m10", "own step"] == step_correlation(beyond_mean_row(tables["m10"]))
    assert frame.notna().all(axis=None)
    assert lens_numbers({}).empty
