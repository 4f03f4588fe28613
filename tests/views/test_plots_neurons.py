"""Unit: the figures and explorers of neurons and geometry: what they show, and of what."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import torch
from views.test_widgets import drawn, numbers, state

from gt_helpers import views as plots
from gt_helpers.analysis.geometry import PCA_TEMPLATE, fit_pca, read_stream
from gt_helpers.analysis.neurons import Neurons, neuron_ranking
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import mean_by_YY
from gt_helpers.model.cache import cache_activations
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.views.widgets import neuron_explorer, pca_explorer


@pytest.fixture(scope="module")
def model() -> Transformer:
    return load_model("mini", device="cpu")


def test_neuron_effects_are_ranked_by_size() -> None:
    figure = plots.neuron_effects(torch.tensor([0.001, -0.03, 0.02]), "m10")
    trace = figure.data[0]
    assert list(trace.x) == [1, 2, 3] and list(trace.customdata) == [1, 2, 0]
    np.testing.assert_allclose(trace.y, [-3, 2, 0.1], rtol=1e-6)
    red, blue = plots.COLOURS["corrupted"], plots.COLOURS["clean"]
    assert list(trace.marker.color) == [red, blue, blue]
    assert figure.layout.xaxis.type == "log" and list(figure.layout.xaxis.tickvals) == [1, 3]


def test_share_curves_have_a_line_per_name() -> None:
    figure = plots.share_curves(
        [1, 10, 3072], {"together": [0.1, 0.4, 1], "added": [0, 1, 2]}, "m9"
    )
    assert [trace.name for trace in figure.data] == ["together", "added"]
    assert list(figure.layout.xaxis.ticktext) == "1 3 10 30 100 300 1000 3072".split()
    assert "m9" in figure.layout.yaxis.title.text


@pytest.mark.parametrize("n", [1, 4])
def test_pca_panels(n: int) -> None:
    YY = torch.arange(2, 99)
    names = ["m8 input", "a7.h10", "a7.h8", "embed@YY"][:n]
    points = {name: torch.randn(97, 2) for name in names}
    figure = plots.pca_panels(points, dict.fromkeys(names, torch.tensor([0.61, 0.2])), YY)
    assert [note.text for note in figure.layout.annotations] == names
    assert "61 %" in figure.layout.xaxis.title.text
    for trace, xy in zip(figure.data, points.values(), strict=True):
        np.testing.assert_allclose(np.stack([trace.x, trace.y], -1), xy)
        assert list(trace.marker.color) == YY.tolist()
        assert [text for text in trace.text if text] == "02 10 20 30 40 50 60 70 80 90 98".split()


def test_neuron_explorer(model: Transformer) -> None:
    data = YearDataset(model.tokenizer, 97)
    runs = [cache_activations(model, tokens, start=12) for tokens in (data.clean, data.corrupted)]
    neurons = Neurons(*runs, data, "m10")
    effects = neurons.effects()
    explorer = neuron_explorer(neurons, effects)
    order = neuron_ranking(effects)
    assert state(explorer) == "done" and str(int(order[0])) in explorer.text.value
    expected = mean_by_YY(neurons.lens(order[:1]), data.YY)
    np.testing.assert_allclose(numbers(drawn(explorer).data[0].z), expected, atol=1e-4)
    explorer.controls["rank"].value = 4
    explorer.controls["number"].value = 10
    explorer.controls["shown"].value = "direct effect"
    expected = mean_by_YY(neurons.year_effect(order[3:13]), data.YY)
    np.testing.assert_allclose(numbers(drawn(explorer).data[0].z), expected, atol=1e-4)
    assert "ranks 4 to 13" in drawn(explorer).layout.title.text
    explorer.controls["rank"].value = 384
    assert state(explorer) == "done"


def test_pca_explorer(model: Transformer) -> None:
    years = range(1702, 1799)
    data = [
        YearDataset(model.tokenizer, 97, years=years, template=PCA_TEMPLATE, seed=seed)
        for seed in (0, 1)
    ]
    runs = [cache_activations(model, one.clean) for one in data]
    explorer = pca_explorer(*runs, data[1], ["a7.h10"])
    assert explorer.controls["place"].options[0] == "a7.h10 (circuit)"
    explorer.controls["place"].value = "m8 input"
    explorer.controls["position"].value = "YY"
    train, test = (read_stream(run, "m8@YY input", data[0].positions) for run in runs)
    points = fit_pca(train).project(test)
    sent = drawn(explorer).data[0].x
    sent = np.frombuffer(base64.b64decode(sent["bdata"])) if isinstance(sent, dict) else sent
    np.testing.assert_allclose(sent, points[:, 0], atol=1e-9)
    assert state(explorer) == "done"
