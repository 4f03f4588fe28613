"""Unit: what a scorecard looks like in a notebook: the plot, the counts, the explorer."""

from __future__ import annotations

import copy
import re

import pytest
from made_results import ALL
from views.test_tables import rows

from gt_helpers import views as plots
from gt_helpers.scorecard.claims import claims, scorecard
from gt_helpers.views import tables, widgets


def test_the_plot_has_every_value_and_its_interval() -> None:
    card = scorecard(ALL)
    figure = plots.scorecard_plot(card)
    reported, measured = figure.data
    values = [c for c in claims() if c["kind"] == "value" and c["unit"] == "share"]
    values = [c for c in values if "missing" not in c]
    assert list(reported.x) == [c["value"] for c in values]
    assert len(measured.x) == len(values) == len(set(measured.y))
    assert [label.replace("<br>", " ") for label in measured.y] == [c["claim"] for c in values]
    assert reported.name == "reported"
    other = copy.deepcopy(ALL)
    other.settings["gpt2_small"] = False
    assert plots.scorecard_plot(scorecard(other)).data[0].name == "reported (GPT-2 small)"
    with pytest.raises(ValueError, match="No claim of this table"):
        plots.scorecard_plot(card[card["verdict"] == "not measured"])


def test_claims_are_plain_text() -> None:
    for claim in claims():  # JupyterLab would typeset what stands between dollars
        assert not set("$`<>") & set(claim["claim"] + claim.get("paper", ""))


def test_counts_of_verdicts() -> None:
    card = scorecard(ALL)
    found = {row[0]: row[1:] for row in rows(tables.verdict_counts(card))}
    assert list(found) == [*card["theme"].unique(), "all"]
    assert found["Geometry"] == ["0", "2"]
    assert found["all"] == [str(len(card) - 2), "2"]


def test_the_explorer_shows_what_is_chosen() -> None:
    explorer = widgets.scorecard_explorer(ALL)
    assert 'data-state="done"' in explorer.state.value
    assert "Probability difference on clean prompts" in explorer.text.value
    explorer.controls["theme"].value = "Geometry"
    explorer.controls["verdict"].value = "not measured"
    view = explorer.draw(theme="Geometry", verdict="not measured")
    assert view.figure is None and view.text.count("notebook 6") == 2
    assert "No claim" in explorer.draw(theme="Neurons", verdict="disagrees").text
    every = explorer.draw(theme="all", verdict="all")
    assert len(re.findall("<tr", every.text)) == len(claims()) + 1
