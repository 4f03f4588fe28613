"""Unit: PCA, probe and LEACE on planted data, erasing; against hooks: test_model_families.py."""

from __future__ import annotations

import math

import pytest
import torch
from literal import close
from torch import Tensor
from torch.nn.functional import one_hot

from gt_helpers.analysis.geometry import (
    Eraser,
    edited_log_probs,
    edited_streams,
    erase_directions,
    fit_edits,
    fit_leace,
    fit_pca,
    fit_probe,
    late_mlps,
    nearest_gap,
    pca_places,
    probe_scores,
    random_directions,
    read_stream,
    ways_to_erase,
)
from gt_helpers.dataset.prompts import load_nouns
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model.cache import ActivationCache, cache_activations
from gt_helpers.model.components import Shape, component
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.paper import PAPER, CircuitParts


@pytest.fixture(scope="module")
def dataset(mini64: Transformer) -> YearDataset:
    return YearDataset(mini64.tokenizer, 388, nouns=load_nouns()[::2])


@pytest.fixture(scope="module")
def cache(mini64: Transformer, dataset: YearDataset) -> ActivationCache:
    return cache_activations(mini64, dataset.clean)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n: int, seed: int, width: int = 20) -> tuple[Tensor, Tensor]:
    """YY in two of many correlated directions, with noise: x [prompt, width], YY [prompt]."""
    YY = torch.randint(2, 99, (n,), generator=torch.Generator().manual_seed(seed))
    mix = randn(width, width, seed=100)
    signal = torch.stack([YY / 30, (YY / 15).sin()], -1).double() @ randn(2, width, seed=101)
    return randn(n, width, seed=seed + 1) @ mix / 8 + signal + 5, YY


# ---- places -----------------------------------------------------------------------------------


def test_places_are_what_components_write_and_read(cache, dataset) -> None:
    positions = dataset.positions
    END, YY = positions["END"], positions["YY"]
    expected = {
        "m8 input": cache.before_mlp(8, END),
        "m3@YY input": cache.before_mlp(3, YY),
        "a7.h10": cache.output(component("a7.h10"), END),
        "m10": cache.output(component("m10"), END),
        "a7.h10 input": cache.at_layer(7, END),
        "embed@YY": cache.at_layer(0, YY),
    }
    for place, value in expected.items():
        assert torch.equal(read_stream(cache, place, positions), value)


@pytest.mark.parametrize("place", ["logits", "m8 output", "embed input", "m12", "m8@YEAR", "x"])
def test_what_is_no_place_is_refused(cache, dataset, place: str) -> None:
    with pytest.raises(ValueError, match="e.g|allowed"):
        read_stream(cache, place, dataset.positions)


def test_places_of_the_paper_and_of_others() -> None:
    shape = Shape(12, 12, ("YY", "END"))
    assert pca_places(PAPER, shape) == ["m8 input", "a7.h10", "a7.h8", "embed@YY"]
    other = CircuitParts(("a0.h0", "a6.h0", "a9.h2"), ("m0", "m7", "m10"), (), ())
    assert late_mlps(other, 12) == ["m7", "m10"]
    assert pca_places(other, shape) == ["m7 input", "a6.h0", "a6.h1", "embed@YY"]
    headless = CircuitParts((), ("m7",), (), ())
    assert pca_places(headless, shape) == ["m7 input", "embed@YY"]
    with pytest.raises(ValueError, match="upper half"):
        late_mlps(CircuitParts((), ("m1",), (), ()), 12)
    with pytest.raises(ValueError, match="every head of layer 5"):
        pca_places(CircuitParts(("a5.h0", "a5.h1"), ("m7",), (), ()), Shape(12, 2, ("END",)))


# ---- PCA and probe ----------------------------------------------------------------------------


def test_pca_finds_the_directions_of_the_covariance() -> None:
    x = planted(300, 0)[0]
    pca = fit_pca(x, 3)
    values, vectors = torch.linalg.eigh(x.T.cov())
    torch.testing.assert_close(pca.directions @ pca.directions.T, torch.eye(3).double())
    overlap = (pca.directions @ vectors[:, -3:].flip(1)).abs()
    torch.testing.assert_close(overlap, torch.eye(3).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(pca.explained(x), (values / values.sum()).flip(0)[:3])
    torch.testing.assert_close(pca.project(x).var(0), values.flip(0)[:3])
    with pytest.raises(ValueError, match="need 4 prompts"):
        fit_pca(x[:3], 3)
    noise, others = randn(30, 50), randn(30, 50, seed=1)  # what was fitted is explained better
    assert fit_pca(noise).explained(noise).sum() > 0.1 > fit_pca(noise).explained(others).sum()


def test_nearest_gap_tells_an_arc_from_a_cloud() -> None:
    YY = torch.arange(2, 99)
    angle = YY.double() / 98 * 3
    assert nearest_gap(torch.stack([angle.cos(), angle.sin()], -1), YY) == 1
    gaps = [nearest_gap(randn(97, 2, seed=seed), YY) for seed in range(20)]
    assert sum(gaps) / 20 == pytest.approx(33, abs=2)
    # A prompt of the same YY, at the very same place, does not count.
    assert nearest_gap(torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([5, 5, 9])) == 4
    with pytest.raises(ValueError, match="same YY"):
        nearest_gap(randn(3, 2), torch.tensor([4, 4, 4]))


def test_the_probe_is_judged_on_others() -> None:
    (x, YY), (others, YY_others) = planted(300, 0), planted(300, 50)
    probe = fit_probe(x, YY)
    assert 0.5 < probe.r2(others, YY_others) <= 1
    shuffled = YY[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    assert fit_probe(x, shuffled).r2(others, YY_others) < 0.05
    constant = fit_probe(torch.zeros(300, 20), YY)
    assert constant.r2(torch.zeros(300, 20), YY) == pytest.approx(0, abs=1e-12)
    # With more directions than prompts, too.
    (x, YY), (others, YY_others) = planted(60, 0, width=200), planted(300, 50, width=200)
    assert fit_probe(x, YY).r2(others, YY_others) > 0.3
    noise = fit_probe(randn(60, 200), YY)
    assert noise.r2(randn(300, 200, seed=1), YY_others) < 0.1


def test_probe_scores_tell_an_order_from_years_learned_one_by_one() -> None:
    (_, YY), (_, YY_others) = planted(970, 0), planted(970, 50)
    places = randn(100, 200, seed=7)  # of every YY: anywhere, or along a line
    for of_YY, ordered in ((places, False), (torch.arange(100)[:, None] / 30 * places[:1], True)):
        x, others = (
            of_YY[years] + randn(970, 200, seed=i) / 10 for i, years in enumerate((YY, YY_others))
        )
        found = probe_scores(x, YY, others, YY_others)
        assert list(found) == [
            "same YYs", "same YYs, permuted", "held-out YYs", "held-out YYs, permuted"
        ]  # fmt: skip
        same, permuted, held_out, both = found.values()
        assert same > 0.9 and both < 0.1
        assert (held_out > 0.9, permuted < 0.1) == (ordered, ordered)


# ---- LEACE ------------------------------------------------------------------------------------


def covariance(x: Tensor, z: Tensor) -> Tensor:
    z = z.double().reshape(len(z), -1)
    return (x - x.mean(0)).T @ (z - z.mean(0)) / len(x)


@pytest.mark.parametrize("n", [400, 12])  # 12 prompts leave a singular covariance
@pytest.mark.parametrize("classes", [False, True])
def test_leace_leaves_no_covariance_with_the_concept(n: int, classes: bool) -> None:
    x, YY = planted(n, 0)
    z = one_hot(YY // 40, 100) if classes else YY
    erased = fit_leace(x, z)(x)
    before, after = covariance(x, z), covariance(erased, z)
    assert after.abs().max() < 1e-9 * before.abs().max()
    torch.testing.assert_close(erased.mean(0), x.mean(0))
    assert fit_probe(erased, YY).weights.isfinite().all()


def test_leace_is_the_textbooks_formula() -> None:
    x, YY = planted(500, 0)
    eraser = fit_leace(x, YY)
    cov, cross = covariance(x, x), covariance(x, YY)
    read_out = torch.linalg.solve(cov, cross)
    projection = torch.eye(20).double() - cross @ read_out.T / (cross.T @ read_out)
    expected = (x - x.mean(0)) @ projection.T + x.mean(0)
    torch.testing.assert_close(eraser(x), expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(eraser(eraser(x)), eraser(x))  # erased is erased
    torch.testing.assert_close(fit_leace(x, torch.full((500,), 7))(x), x)  # nothing to erase


def test_leace_changes_less_than_erasing_the_covariance_itself() -> None:
    x, YY = planted(500, 0)
    cross = covariance(x, YY)
    orthogonal = erase_directions(x.mean(0), (cross / cross.norm()).T)
    assert covariance(orthogonal(x), YY).abs().max() < 1e-8  # enough for the same end
    assert (fit_leace(x, YY)(x) - x).norm() < 0.99 * (orthogonal(x) - x).norm()


def test_on_other_prompts_a_new_probe_falls_to_chance() -> None:
    (x, YY), (a, YY_a), (b, YY_b) = (planted(2000, seed) for seed in (0, 50, 70))
    eraser = fit_leace(x, YY)
    assert fit_probe(a, YY_a).r2(b, YY_b) > 0.5
    assert fit_probe(eraser(a), YY_a).r2(eraser(b), YY_b) < 0.02


def test_erased_directions_are_gone_and_the_mean_stays() -> None:
    x = planted(50, 0)[0]
    directions = random_directions(3, 20, seed=1)
    erased = erase_directions(x.mean(0), directions)(x)
    torch.testing.assert_close(directions @ directions.T, torch.eye(3).double())
    torch.testing.assert_close((erased - x.mean(0)) @ directions.T, torch.zeros(50, 3).double())
    torch.testing.assert_close(erased.mean(0), x.mean(0))


# ---- erasing in the model ---------------------------------------------------------------------


def test_ways_to_erase_take_what_they_say() -> None:
    x, YY = planted(970, 0)
    found = {name: fit(x) for name, fit in ways_to_erase(YY).items()}
    erased = [eraser(x) for eraser in found.values()]
    number, classes, shuffled, _, principal, drawn = erased
    assert covariance(number, YY).abs().max() < 1e-9
    assert covariance(classes, one_hot(YY, 100)).abs().max() < 1e-9
    assert fit_pca(x).explained(principal).sum() < 1e-9
    assert [eraser.read.shape[1] for eraser in found.values()] == [1, 20, 1, 20, 2, 2]
    for control in (shuffled, drawn):
        assert fit_probe(control, YY).r2(control, YY) > 0.5
    again = ways_to_erase(YY)["LEACE, shuffled YY (control)"](x)
    assert torch.equal(again(x), shuffled)


def nothing(width: int) -> Eraser:
    zeros = torch.zeros(width, 1).double()
    return Eraser(zeros[:, 0], zeros, zeros.T)


def test_erasing_nothing_is_the_run(cache: ActivationCache, dataset: YearDataset) -> None:
    width, n_layers = cache.model.d_model, cache.model.n_layers
    expected = cache.at_layer(n_layers, -1)
    assert torch.equal(edited_streams(cache, {})["logits"], expected)
    for edits in ({"m0": nothing(width)}, {"m8": nothing(width), "m11": nothing(width)}):
        streams = edited_streams(cache, edits)
        torch.testing.assert_close(streams["logits"], expected, atol=1e-10, rtol=0)
        torch.testing.assert_close(streams["m11"], cache.before_mlp(11, 12), atol=1e-10, rtol=0)
    log_probs = cache.model.log_probs(expected, dataset.year_tokens)
    torch.testing.assert_close(edited_log_probs(cache, {}, dataset.year_tokens), log_probs)


def test_every_edit_is_fitted_on_what_the_ones_below_leave(cache, dataset) -> None:
    YY = dataset.YY
    edits = fit_edits(cache, ["m10", "m8"], lambda x: fit_leace(x, YY))
    assert list(edits) == ["m8", "m10"]
    streams = edited_streams(cache, edits)
    for name in edits:
        size = covariance(read_stream(cache, f"{name} input", dataset.positions), YY).abs().max()
        assert covariance(streams[name], YY).abs().max() < 1e-9 * size
    assert covariance(streams["m9"], YY).abs().max() > 1e-3  # later heads bring YY back
    some = cache_activations(cache.model, dataset.clean[:20], start=12)  # END is enough
    found = edited_log_probs(some, edits, dataset.year_tokens)
    close(found, cache.model.log_probs(streams["logits"][:20], dataset.year_tokens))
    assert (found - edited_log_probs(some, {}, dataset.year_tokens)).abs().max() > 0.1


def test_erased_years_are_gone_for_a_new_probe_on_other_prompts(mini64, cache, dataset) -> None:
    data = YearDataset(mini64.tokenizer, 388, nouns=load_nouns()[1::2], seed=1)
    others, YY = cache_activations(mini64, data.clean), data.YY
    edits = fit_edits(cache, ["m8"], lambda x: fit_leace(x, dataset.YY))
    for streams, low, high in (
        (read_stream(others, "m8 input", data.positions), 0.9, 1.0),
        (edited_streams(others, edits)["m8"], -math.inf, 0.05),
    ):
        assert low < fit_probe(streams[::2], YY[::2]).r2(streams[1::2], YY[1::2]) < high
