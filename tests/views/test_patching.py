"""Unit: a sweep's heatmap and its strongest senders, on made-up sweeps, and the path explorer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from explorers import drawn, numbers, rows, state

from gt_helpers import PathPatching, views
from gt_helpers.model.components import Shape, inputs
from gt_helpers.patching.engine import Sweep
from gt_helpers.patching.paper import PAPER, CircuitParts, circuit_parts
from gt_helpers.views.kit.style import NO_EFFECT

POSITIONS = ("eos", "The", "NOUN", "lasted", "XX1", "YY", "to", "END")


def a_sweep(receivers: list[str], at: str = "END", layers: int = 12, heads: int = 12) -> Sweep:
    """A sweep of random effects, of which those that cannot be are 0."""
    shape = Shape(layers, heads, POSITIONS)
    senders = shape.senders(at)
    values = torch.randn(len(senders), 40, generator=torch.Generator().manual_seed(0)) / 100
    targets = inputs(receivers)
    for i, sender in enumerate(senders):
        if not any(shape.reaches(sender, target) for target in targets):
            values[i] = 0
    return Sweep(tuple(receivers), (), tuple(s.name for s in senders), values, shape)


# ---- the heatmap ------------------------------------------------------------------------------


def test_layers_from_the_top_with_the_mlp_last_and_red_for_negative() -> None:
    sweep = a_sweep(["logits"])
    sweep.values[9 * 13 + 1] = -0.1234
    figure = views.sweep_heatmap(sweep, "To the logits")
    layout, (cells,) = figure.layout, figure.data
    assert layout.title.text == "To the logits"
    assert layout.xaxis.title.text.startswith("head at END")
    assert layout.xaxis.ticktext[-1] == "MLP"
    assert layout.yaxis.title.text == "layer" and layout.yaxis.range[0] > layout.yaxis.range[1]
    np.testing.assert_allclose(np.array(cells.z), sweep.effect.numpy(), rtol=1e-5)
    assert cells.zmin == -cells.zmax and cells.zmax == pytest.approx(0.1234)
    assert (cells.colorscale[0][1], cells.colorscale[-1][1]) == ("rgb(103,0,31)", "rgb(5,48,97)")
    assert cells.colorbar.title.text == "change in probability difference"
    assert "customdata[0]" in cells.hovertemplate and "customdata[1]" in cells.hovertemplate
    assert tuple(cells.customdata[9][1]) == ("a9.h1@END", "−12.340 pp")


def test_unreachable_is_told_from_zero() -> None:
    sweep = a_sweep(["m2"])
    sweep.values[0] = 0  # a0.h0 reaches m2 but changes nothing
    figure = views.sweep_heatmap(sweep)
    (cells,) = figure.data
    blank = np.isnan(np.array(cells.z, dtype=float))
    assert blank[3:].all() and blank[2, 12] and not blank[1, 12]
    assert cells.customdata[11][0][1] == "cannot reach"
    assert cells.customdata[0][0][1] == "no effect (exactly 0)"
    assert cells.hoverongaps and figure.layout.plot_bgcolor == NO_EFFECT


def test_a_sweep_without_any_effect_is_all_grey() -> None:
    figure = views.sweep_heatmap(a_sweep(["a9.h1.q"], "YY"))
    (cells,) = figure.data
    assert cells.opacity == 0 and not cells.showscale and figure.layout.plot_bgcolor == NO_EFFECT
    assert {words for _, words in np.array(cells.customdata).reshape(-1, 2)} <= {
        *("cannot reach", "no effect (exactly 0)")
    }
    assert "nan" not in figure.to_json().lower()
    assert figure.layout.xaxis.title.text == "head at YY"


def test_a_circuit_is_outlined_and_the_embedding_named_outside_the_grid() -> None:
    figure = views.sweep_heatmap(a_sweep(["logits"]), marked=["a9.h1", "m10@END", "m0@YY"])
    corners = {(shape.x0, shape.y0) for shape in figure.layout.shapes}
    assert corners == {(0.5, 8.5), (11.5, 9.5)}  # a9.h1 and m10; m0@YY is not in this figure
    sweep = a_sweep(["a9.h1.v"], "YY")
    sweep.values[-1] = -0.25
    assert "−25.00" in views.sweep_heatmap(sweep).layout.xaxis.title.text


def test_effects_heatmap_scales_every_row() -> None:
    effects = pd.DataFrame([[-0.2, 0.1], [0.0, 0.0]], index=["one", "two"], columns=["m8", "m9"])
    (drawn,) = views.effects_heatmap(effects, "title").data
    assert drawn.z.tolist() == [[-1.0, 0.5], [0.0, 0.0]]
    assert (drawn.zmin, drawn.zmax) == (-1, 1) and drawn.customdata[0][0] == "−20.000 pp"
    assert drawn.colorscale[0][1] == "rgb(103,0,31)"  # red for negative


@pytest.mark.parametrize(("layers", "heads"), [(2, 4), (48, 25)])
def test_other_shapes(layers: int, heads: int) -> None:
    figure = views.sweep_heatmap(a_sweep(["logits"], layers=layers, heads=heads))
    assert np.array(figure.data[0].z).shape == (layers, heads + 1)
    assert figure.layout.xaxis.ticktext[-1] == "MLP"
    assert figure.layout.width <= 1100 and figure.layout.height <= 1200


# ---- the strongest senders --------------------------------------------------------------------


def test_top_components_are_the_strongest() -> None:
    sweep = a_sweep(["logits"])
    sweep.values.zero_()
    sweep.values[9 * 13 + 1], sweep.values[0] = -0.2, 0.1
    assert rows(views.top_components(sweep, PAPER)) == [
        ["a9.h1@END", "−20.00 pp", "−20.00 to −20.00", "yes"],
        ["a0.h0@END", "+10.00 pp", "+10.00 to +10.00", "no"],
    ]
    sweep.values.zero_()
    assert "exactly no effect" in views.top_components(sweep, PAPER)


def test_in_the_circuit_is_what_its_edges_connect_to_the_receiver() -> None:
    sweep = a_sweep(["m1@YY"], "YY")
    for name in ("a0.h1@YY", "a0.h3@YY", "m0@YY", "embed@YY"):
        sweep.values[sweep.senders.index(name)] = -1.0
    found = {row[0]: row[3] for row in rows(views.top_components(sweep, PAPER, n=5))}
    members = [name for name, member in found.items() if member == "yes"]
    # a0.h3 is of the circuit, but it feeds the heads' keys and values, not m1
    assert sorted(members) == ["a0.h1@YY", "embed@YY", "m0@YY"] and found["a0.h3@YY"] == "no"
    assert not views.top_rows(sweep, None)["in_circuit"].any()


def test_the_drawing_of_one_edge_is_an_image() -> None:
    assert views.one_edge_drawing().lstrip().startswith("<svg")


# ---- the explorer -----------------------------------------------------------------------------


def test_path_explorer_follows_route_direction_and_metric(patching: PathPatching) -> None:
    explorer = views.path_explorer(patching, PAPER)
    route, controls = explorer.children[0], explorer.controls
    assert route.options[:5] == ("to the logits", "to m11", "to m10", "to m9", "to m8")
    assert route.options[5:9] == (
        *(f"from YY to the heads' {part}" for part in ("queries", "keys", "values")),
        "from YY to m3 at YY",
    )
    for option in route.options:
        route.value = option
        assert state(explorer) == "done", option
    route.value = "to m9"
    assert (controls["receivers"].value, controls["via"].value) == ("m9", "m10, m11")
    sweep = patching.sweep("m9", via=["m10", "m11"])
    shown = drawn(explorer).data[0].z
    np.testing.assert_allclose(numbers(shown)[:9], sweep.effect[:9], atol=1e-3)
    assert "Preview: of " in explorer.text.value
    controls["receivers"].value = "m8"
    assert route.value == "(as typed below)"
    route.value = "to m9"  # can be chosen again
    assert controls["receivers"].value == "m9"
    controls["direction"].value = "denoising"
    assert drawn(explorer).data[0].z != shown
    controls["metric"].value = "cutoff sharpness"
    controls["prompts"].value = 7
    assert state(explorer) == "done"
    controls["receivers"].value = "m99"
    assert "m99 does not exist" in explorer.state.value
    controls["receivers"].value = " m9 , logits,"
    assert state(explorer) == "done"


def test_path_explorer_without_heads(patching: PathPatching) -> None:
    explorer = views.path_explorer(patching, CircuitParts((), ("m11",), (), ()))
    assert explorer.children[0].options[:-1] == ("to the logits", "to m11")


def test_circuit_parts_of_another_model_are_found(patching, monkeypatch) -> None:
    with pytest.raises(ValueError, match="clean base"):
        circuit_parts(patching.reversed())
    found = circuit_parts(patching)
    assert found.heads and "found" in found.source
    monkeypatch.setattr(patching.model, "name", "gpt2-small")
    assert circuit_parts(patching) == PAPER
