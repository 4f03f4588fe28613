"""Unit: figures, tables and the explorer of prompt families."""

from __future__ import annotations

import pandas as pd
import pytest
from transformers import PreTrainedTokenizerBase

from gt_helpers import views
from gt_helpers.analysis.generalization import family_summary, study_family
from gt_helpers.dataset.families import FAMILIES, PromptFamily
from gt_helpers.model.load import load_model
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import CircuitParts

PARTS = CircuitParts(("a5.h1", "a7.h10", "a9.h1"), ("m8", "m9", "m10"), ("m0",), ("embed",))


@pytest.fixture(scope="module")
def patching(tokenizer: PreTrainedTokenizerBase) -> PathPatching:
    return PathPatching(load_model("mini", "cpu"), FAMILIES["ended"].dataset(tokenizer, 12))


def test_effects_heatmap_scales_every_row() -> None:
    effects = pd.DataFrame([[-0.2, 0.1], [0.0, 0.0]], index=["one", "two"], columns=["m8", "m9"])
    (drawn,) = views.effects_heatmap(effects, "title").data
    assert drawn.z.tolist() == [[-1.0, 0.5], [0.0, 0.0]]
    assert (drawn.zmin, drawn.zmax) == (-1, 1) and drawn.customdata[0][0] == "−20.000"
    assert drawn.colorscale[0][1] == "rgb(103,0,31)"  # red for negative


def test_tables_show_a_dash_where_there_is_no_ratio(patching: PathPatching) -> None:
    frame = family_summary([study_family(FAMILIES["ended"], patching, PARTS)])
    shown = views.family_recovery(frame.assign(recovered=float("nan")))
    assert "<b>ended</b>" in shown and "&lt; YY" in shown and ">–<" in shown
    shown = views.family_behaviour(frame)
    assert f"{100 * frame.loc[0, 'clean']:.1f} %".replace("-", "−") in shown
    assert "the circuit fires" in shown


def test_explorer_shows_every_family_and_ones_own(patching: PathPatching) -> None:
    mine = PromptFamily("mine", "<|endoftext|> {XX}{YY} to {XX}")
    explorer = views.family_explorer(patching.model, PARTS, [mine])
    assert explorer.controls["family"].options == ("mine", *FAMILIES)
    assert "into m8" in explorer.controls["shown"].options
    assert "<b>mine</b>" in explorer.text.value
    for shown in ("into the logits", "into m9"):
        explorer.controls["shown"].value = shown
        assert 'data-state="done"' in explorer.state.value, explorer.state.value
    sweep = study_family(
        mine, PathPatching(patching.model, mine.dataset(patching.model.tokenizer)), PARTS
    )
    drawn = explorer.draw(family="mine", shown="into the logits").figure
    assert drawn.data[0].zmax == pytest.approx(float(sweep.sweep.effect.abs().max()), rel=1e-4)
