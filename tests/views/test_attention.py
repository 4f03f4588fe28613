"""Unit: the figures of attention, CircuitsVis without a network, and the attention explorer."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from explorers import state

from gt_helpers import ActivationCache, YearDataset, attention_pattern, views
from gt_helpers.views.kit.style import NO_EFFECT

NAMES = ("eos", "The", "NOUN", "XX1", "YY", "END")


def a_pattern(n: int = len(NAMES), seed: int = 0) -> torch.Tensor:
    scores = torch.randn(n, n, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf).softmax(-1)


def test_pattern_heatmap_names_positions_with_end_at_the_bottom() -> None:
    pattern = a_pattern()
    figure = views.pattern_heatmap(pattern, NAMES, "a7.h10")
    (cells,) = figure.data
    low, high = figure.layout.yaxis.range
    assert low > high  # the first row is on top, END's at the bottom
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert axis.ticktext == NAMES
    drawn, kept = np.array(cells.z, dtype=float), np.tril(np.ones((6, 6), dtype=bool))
    np.testing.assert_allclose(drawn[kept], pattern.numpy()[kept], rtol=1e-6)
    # Where no head can look there is no number, only the grey ground.
    assert np.isnan(drawn[~kept]).all() and figure.layout.plot_bgcolor == NO_EFFECT
    assert cells.customdata[5][4] == "END → YY"
    assert (cells.zmin, cells.zmax) == (0, 1)


def test_pattern_heatmap_of_another_quantity_and_what_it_refuses() -> None:
    pattern = 7 * a_pattern()
    cells = views.pattern_heatmap(pattern, NAMES, zmax=None, label="norm moved").data[0]
    assert cells.zmax == pytest.approx(7.0)
    assert cells.colorbar.title.text == "norm moved" and "norm moved" in cells.hovertemplate
    assert views.pattern_heatmap(0 * pattern, NAMES, zmax=None).data[0].zmax == 1.0
    with pytest.raises(ValueError, match=r"must be \[6, 6\].*e\.g\."):
        views.pattern_heatmap(pattern[None], NAMES)


def test_looks_heatmap_has_a_row_for_every_head() -> None:
    looks = {"a7.h10": a_pattern()[-1], "a9.h1": a_pattern(seed=1)[-1]}
    figure = views.looks_heatmap(looks, NAMES)
    (cells,) = figure.data
    np.testing.assert_allclose(np.array(cells.z)[1], looks["a9.h1"].numpy(), rtol=1e-6)
    low, high = figure.layout.yaxis.range
    assert low > high and figure.layout.yaxis.ticktext == ("a7.h10", "a9.h1")
    assert figure.layout.xaxis.ticktext == NAMES
    assert cells.customdata[1][4] == "a9.h1 → YY" and cells.zmax == 1
    with pytest.raises(ValueError, match=r"a7\.h10 has the shape \[6, 6\].*\[6\].*e\.g\."):
        views.looks_heatmap({"a7.h10": a_pattern()}, NAMES)


def test_head_map_looks_like_a_sweep_without_mlps() -> None:
    values = torch.rand(12, 12, generator=torch.Generator().manual_seed(0))
    figure = views.head_map(values, "END → YY", marked=["a9.h1", "a5.h5@END"])
    cells = figure.data[0]
    assert cells.customdata[9][1] == "a9.h1"
    np.testing.assert_allclose(np.array(cells.z), values.numpy(), rtol=1e-6)
    assert (cells.zmin, cells.zmax) == (0, pytest.approx(float(values.max())))
    low, high = figure.layout.yaxis.range
    assert low > high and figure.layout.yaxis.title.text == "layer"
    outlined = {(round(shape.y0), round(shape.x0)) for shape in figure.layout.shapes}
    assert outlined == {(9, 1), (5, 5)}
    assert views.head_map(values, zmax=1.0).data[0].zmax == 1.0


def test_attention_html_needs_no_network() -> None:
    patterns = {"a7.h10": a_pattern(), "a9.h1": a_pattern(seed=1)}
    html = views.attention_html(["<|endoftext|>", " The", " war", " 17", "32", " 17"], patterns)
    assert "a7.h10" in html and "a9.h1" in html and "<|endoftext|>" in html
    assert "unpkg.com" not in html and not re.search(r"<script[^>]*src=", html)
    assert html.startswith("<div") and html.endswith("</div></div>")  # nothing is left open
    assert len(html) < 2_000_000


def test_attention_html_refuses_many_heads_and_other_prompts() -> None:
    tokens = ["a"] * 6
    for n in (0, 13):
        with pytest.raises(ValueError, match=rf"{n} heads are given; choose 1 to 12.*e\.g\."):
            views.attention_html(tokens, {f"a0.h{i}": a_pattern() for i in range(n)})
    with pytest.raises(ValueError, match=r"a1\.h0 has the shape \[5, 5\].*\[6, 6\].*e\.g\."):
        views.attention_html(tokens, {"a1.h0": a_pattern(5)})


def test_attention_explorer(clean: ActivationCache, dataset: YearDataset) -> None:
    explorer = views.attention_explorer(clean, dataset, ["a9.h1", "a7.h10"])
    options = explorer.controls["head"].options
    assert options[:2] == (("a9.h1 (circuit)", "a9.h1"), ("a7.h10 (circuit)", "a7.h10"))
    assert len({name for _, name in options}) == len(options) == 144
    years = explorer.controls["prompts_YY"].options
    assert years[:3] == ("all", "00 to 09", "10 to 19") and years[-1] == "90 to 99"
    before = explorer.text.value
    explorer.controls["head"].value = "a5.h9"
    assert explorer.text.value != before and state(explorer) == "done"

    chosen = torch.arange(10, 20) - 2  # the prompts with YY 10 to 19
    plain = explorer.draw(head="a5.h9", shown="attention", prompts_YY="10 to 19")
    expected = attention_pattern(clean, "a5.h9")[chosen].mean(0)
    cells = np.array(plain.figure.data[0].z)[-1]
    np.testing.assert_allclose(cells, expected[-1].numpy(), rtol=1e-5)
    assert "mean over 10 prompts" in plain.figure.layout.title.text
    top = list(dataset.positions)[int(expected[-1].argmax())]
    assert plain.text.index(top) < plain.text.index(f"{float(expected[-1].max()):.3f}")

    weighted = explorer.draw(
        head="a5.h9", shown="attention × norm moved", prompts_YY="all"
    ).figure.data[0]
    expected = attention_pattern(clean, "a5.h9", value_weighted=True).mean(0)
    assert weighted.zmax == pytest.approx(float(expected.max()), rel=1e-5)
