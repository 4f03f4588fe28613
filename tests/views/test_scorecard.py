"""Unit: claims beside what was measured: tables, plots, and the explorer."""

from __future__ import annotations

import copy
import re

import numpy as np
import pandas as pd
import pytest
import torch
from explorers import rows
from made_results import ALL

from gt_helpers import Evaluation, views
from gt_helpers.scorecard.claims import claims, scorecard
from gt_helpers.scorecard.results import Results
from gt_helpers.scorecard.verdicts import reported_values


def test_the_plot_has_every_value_and_its_interval() -> None:
    card = scorecard(ALL)
    figure = views.scorecard_plot(card)
    reported, measured = figure.data
    values = [c for c in claims() if c["kind"] == "value" and c["unit"] == "share"]
    values = [c for c in values if "missing" not in c]
    means = [sum(reported_values(c)) / len(reported_values(c)) for c in values]
    assert list(reported.x) == pytest.approx(means)
    assert len(measured.x) == len(values) == len(set(measured.y))
    assert [label.replace("<br>", " ") for label in measured.y] == [c["claim"] for c in values]
    assert reported.name == "reported"
    other = copy.deepcopy(ALL)
    other.settings["gpt2_small"] = False
    assert views.scorecard_plot(scorecard(other)).data[0].name == "reported (GPT-2 small)"
    with pytest.raises(ValueError, match="No claim of this table"):
        views.scorecard_plot(card[card["verdict"] == "not measured"])


def test_claims_are_plain_text() -> None:
    for claim in claims():  # JupyterLab would typeset what stands between dollars
        assert not set("$`<>") & set(claim["claim"] + claim.get("paper", ""))


def test_counts_of_verdicts() -> None:
    card = scorecard(ALL)
    found = {row[0]: row[1:] for row in rows(views.verdict_counts(card))}
    assert list(found) == [*card["theme"].unique(), "all"]
    assert found["Geometry"] == ["0", "0", "0", "2"]
    assert found["all"] == [str(len(card) - 17), "3", "12", "2"]


def test_the_explorer_shows_what_is_chosen() -> None:
    explorer = views.scorecard_explorer(ALL)
    assert 'data-state="done"' in explorer.state.value
    assert "Probability difference on clean prompts" in explorer.text.value
    explorer.controls["theme"].value = "Geometry"
    explorer.controls["verdict"].value = "not measured"
    view = explorer.draw(theme="Geometry", verdict="not measured")
    assert view.figure is None and view.text.count("notebook 6") == 2
    assert "No claim" in explorer.draw(theme="Neurons", verdict="disagrees").text
    every = explorer.draw(theme="all", verdict="all")
    assert len(re.findall("<tr", every.text)) == len(claims()) + 1


def results(gpt2_small: bool) -> Results:
    YY = torch.tensor([10, 50])
    log_probs = torch.full((2, 100), 0.01).log()
    settings = {"model": "<b>m</b>", "gpt2_small": gpt2_small}
    return Results(settings, YY, evaluations={"clean": Evaluation("clean", log_probs, YY)})


def test_beside_the_paper() -> None:
    ids = ["clean_prob_diff", "partial_prob_diff"]
    first, second = rows(views.beside_the_paper(results(True), ids))
    assert first[1].startswith("81.7 %") and "disagrees" in first[3]
    assert "not measured" in second[3]
    other = views.beside_the_paper(results(False), ids)
    assert "&lt;b&gt;m&lt;/b&gt;" in other and "not comparable" in rows(other)[0][3]
    with pytest.raises(ValueError, match="no claim 'nonsense'"):
        views.beside_the_paper(results(True), ["nonsense"])


def test_interval_plot_puts_measured_beside_reported() -> None:
    table = pd.DataFrame(
        {
            "label": ["clean", "partial"],
            "measured": [0.8, 0.7],
            "low": [0.78, 0.66],
            "high": [0.83, 0.72],
            "reported": [0.817, float("nan")],
        }
    )
    figure = views.interval_plot(table, "probability difference")
    reported, measured = figure.data
    assert list(measured.x) == [0.8, 0.7] and reported.x[0] == 0.817
    np.testing.assert_allclose(measured.error_x.array, [0.03, 0.02])
    np.testing.assert_allclose(measured.error_x.arrayminus, [0.02, 0.04])
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first row is on top
