"""Unit: the figures and explorers of neurons and geometry: what they show, and of what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explorers import drawn, numbers, state

from gt_helpers import ActivationCache, YearDataset, cache_activations, mean_by_YY, views
from gt_helpers.analysis.geometry import PCA_TEMPLATE, fit_pca, read_stream
from gt_helpers.analysis.neurons import Neurons, neuron_ranking
from gt_helpers.model.transformer import Transformer
from gt_helpers.views.kit.style import COLOURS


def test_neuron_effects_are_ranked_by_size() -> None:
    figure = views.neuron_effects(torch.tensor([0.001, -0.03, 0.02]), "m10")
    trace = figure.data[0]
    assert list(trace.x) == [1, 2, 3] and list(trace.customdata) == [1, 2, 0]
    np.testing.assert_allclose(trace.y, [-3, 2, 0.1], rtol=1e-6)
    red, blue = COLOURS["corrupted"], COLOURS["clean"]
    assert list(trace.marker.color) == [red, blue, blue]
    assert figure.layout.xaxis.type == "log"


def test_share_curves_have_a_line_per_name() -> None:
    figure = views.share_curves(
        [1, 10, 3072], {"together": [0.1, 0.4, 1], "added": [0, 1, 2]}, "m9"
    )
    assert [trace.name for trace in figure.data] == ["together", "added"]
    assert figure.layout.xaxis.ticktext[-1] == "3072"  # all neurons
    assert "m9" in figure.layout.yaxis.title.text


@pytest.mark.parametrize("n", [1, 4])
def test_pca_panels(n: int) -> None:
    YY = torch.arange(2, 99)
    names = ["m8 input", "a7.h10", "a7.h8", "embed@YY"][:n]
    points = {name: torch.randn(97, 2) for name in names}
    figure = views.pca_panels(points, dict.fromkeys(names, torch.tensor([0.61, 0.2])), YY)
    assert [note.text for note in figure.layout.annotations] == names
    assert "61 %" in figure.layout.xaxis.title.text
    for trace, xy in zip(figure.data, points.values(), strict=True):
        np.testing.assert_allclose(np.stack([trace.x, trace.y], -1), xy)
        assert list(trace.marker.color) == YY.tolist()
        assert trace.text[0] == "02"  # some points are named, by their YY
        assert all(text in ("", f"{yy:02d}") for text, yy in zip(trace.text, YY, strict=True))


def test_neuron_explorer(mini: Transformer, clean: ActivationCache, dataset: YearDataset) -> None:
    corrupted = cache_activations(mini, dataset.corrupted)
    neurons = Neurons(clean, corrupted, dataset, "m10")
    effects = neurons.effects()
    explorer = views.neuron_explorer(neurons, effects)
    order = neuron_ranking(effects)
    assert state(explorer) == "done" and str(int(order[0])) in explorer.text.value
    expected = mean_by_YY(neurons.lens(order[:1]), dataset.YY)
    np.testing.assert_allclose(numbers(drawn(explorer).data[0].z), expected, atol=1e-4)
    explorer.controls["from_rank"].value = 4
    explorer.controls["how_many"].value = 10
    explorer.controls["shown"].value = "direct effect"
    expected = mean_by_YY(neurons.year_effect(order[3:13]), dataset.YY)
    np.testing.assert_allclose(numbers(drawn(explorer).data[0].z), expected, atol=1e-4)
    assert "ranks 4 to 13" in drawn(explorer).layout.title.text
    explorer.controls["from_rank"].value = 384
    assert state(explorer) == "done"


def test_pca_explorer(mini: Transformer) -> None:
    years = range(1702, 1799)
    data = [
        YearDataset(mini.tokenizer, 97, years=years, template=PCA_TEMPLATE, seed=seed)
        for seed in (0, 1)
    ]
    caches = [cache_activations(mini, one.clean) for one in data]
    explorer = views.pca_explorer(*caches, data[1], ["a7.h10"])
    assert explorer.controls["place"].options[0] == ("a7.h10 (circuit)", "a7.h10")
    explorer.controls["place"].value = "m8 input"
    explorer.controls["position"].value = "YY"
    train, test = (read_stream(cache, "m8@YY input", data[0].positions) for cache in caches)
    points = fit_pca(train).project(test)
    np.testing.assert_allclose(numbers(drawn(explorer).data[0].x), points[:, 0], atol=1e-9)
    assert state(explorer) == "done"
