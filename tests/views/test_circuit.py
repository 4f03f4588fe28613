"""Unit: what circuits need, the table of their scores, the builder, and prompt families."""

from __future__ import annotations

import re
from html import unescape

import pandas as pd
import pytest
from explorers import rows, state

from gt_helpers import Circuit, Evaluation, PathPatching, views
from gt_helpers.analysis.generalization import family_summary, study_family
from gt_helpers.dataset.families import FAMILIES, PromptFamily
from gt_helpers.formatting import in_words
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.paper import PAPER, CircuitParts, full_circuit, partial_circuit
from gt_helpers.scorecard.results import Results
from gt_helpers.views import Explorer
from gt_helpers.views.kit.style import COLOURS

CHANGES = pd.DataFrame(
    [
        ("a9.h1@END", 0.4, -0.3, -0.35, -0.25),
        ("m8@END", 0.72, 0.02, 0.01, 0.03),
        ("m11@END", 0.69, -0.01, -0.03, 0.01),
    ],
    columns=["name", "prob_diff", "change", "low", "high"],
)


def test_changes_are_points_with_their_intervals_in_the_order_of_the_table() -> None:
    figure = views.changes_plot(CHANGES, title="Without it")
    traces = {trace.name: trace for trace in figure.data}
    worse = traces["worse without it"]
    assert (list(worse.y), list(worse.x)) == (["a9.h1@END"], [-30])
    assert worse.error_x.array[0] == pytest.approx(5)
    assert worse.error_x.arrayminus[0] == pytest.approx(5)
    assert list(traces["better without it"].y) == ["m8@END"]
    assert list(traces["interval includes 0"].y) == ["m11@END"]
    assert list(figure.layout.yaxis.categoryarray) == list(CHANGES["name"])
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first on top
    assert all(len(trace.x) == 0 for trace in views.changes_plot(CHANGES.head(0)).data)


def test_a_distribution_counts_all_values_and_marks_others() -> None:
    values = [-0.4, -0.41, -0.39, 0.1]
    figure = views.distribution_plot(values, {"partial circuit": 0.72}, "4 random circuits")
    bars, line = figure.data
    assert sum(bars.y) == 4 and bars.name == "4 random circuits"
    assert set(line.x) == {0.72} and line.name == "partial circuit (0.720)"
    assert line.line.color == COLOURS["partial"]
    low, high = figure.layout.xaxis.range
    assert low < -0.41 and high > 0.72
    assert sum(views.distribution_plot([0.5, 0.5], {}, "equal").data[0].y) == 2


def test_headline_table_names_each_evaluation_and_its_shares(patching: PathPatching) -> None:
    noised = patching.reversed()
    random = noised.evaluate(Circuit("m10 -> logits"))
    answers = {
        "random": random.log_probs,
        "corrupted": noised.base_log_probs,
        "clean": patching.base_log_probs,
    }
    YY = patching.dataset.YY
    results = Results({}, YY, evaluations={k: Evaluation(k, v, YY) for k, v in answers.items()})
    found = {row[0]: row[1:] for row in rows(views.headline_table(results))}
    assert list(found) == ["clean prompts", "corrupted prompts", "random"]
    share = random.prob_diff.mean() / results.evaluations["clean"].prob_diff.mean()
    assert found["random"][2].startswith(in_words(float(share))) and "–" not in found["random"]
    assert found["clean prompts"][2:] == found["corrupted prompts"][2:] == ["–", "–"]


# ---- the builder ------------------------------------------------------------------------------


@pytest.fixture
def builder(patching: PathPatching) -> Explorer:
    return views.circuit_builder(patching, PAPER)


def links(explorer: Explorer) -> set[str]:
    """The edges that are drawn."""
    titles = re.findall(r'<g class="edge [^"]*"><title>([^<]*)', explorer.text.value)
    return {re.split(r" \(|;", unescape(title))[0] for title in titles}


def shows(explorer: Explorer, patching: PathPatching, circuit: Circuit) -> None:
    """The explorer draws this circuit, and its probability difference is in the table."""
    assert state(explorer) == "done"
    assert links(explorer) == set(circuit.links)
    diff = float(patching.evaluate(circuit).prob_diff.mean())
    assert f"<td>{in_words(diff)}" in re.sub(r'(<td) style="[^"]*"', r"\1", explorer.text.value)


def test_components_and_edges_are_switched_off(builder: Explorer, patching: PathPatching) -> None:
    shows(builder, patching.reversed(), partial_circuit())
    builder.controls["without"].value = ("m8@END", "m0@YY")  # m0 is not in the partial circuit
    builder.controls["cut_edges"].value = ("a9.h1@END -> m9@END", "m8@END -> logits")
    expected = partial_circuit().without("m8", "a9.h1 -> m9")
    shows(builder, patching.reversed(), expected)
    builder.controls["start_from"].value = "full circuit"
    expected = full_circuit().without("m8", "m0@YY", "a9.h1 -> m9")
    shows(builder, patching.reversed(), expected)


def test_edges_are_added_by_name(builder: Explorer, patching: PathPatching) -> None:
    builder.controls["start_from"].value = "no edges"
    shows(builder, patching.reversed(), Circuit())
    builder.controls["add_edges"].value = "a9.h1 -> m9, m9 -> logits"
    shows(builder, patching.reversed(), Circuit(["a9.h1 -> m9", "m9 -> logits"]))
    builder.controls["add_edges"].value = "a9.h1 -> m99"
    assert state(builder) == "error"
    assert "m99 does not exist" in builder.state.value


def test_the_reverse_has_no_recovered_share(builder: Explorer, patching: PathPatching) -> None:
    assert "–" not in builder.text.value.split("this circuit")[1].split("</tr>")[0]
    builder.controls["it_sends"].value = "corrupted values into the clean run"
    shows(builder, patching, partial_circuit())
    row = builder.text.value.split("reverse of this circuit")[1].split("</tr>")[0]
    assert row.count("–") == 2


def test_an_empty_circuit_found_elsewhere_can_be_built_from(patching: PathPatching) -> None:
    nothing = CircuitParts((), (), (), ())
    shows(views.circuit_builder(patching, nothing), patching.reversed(), Circuit())


# ---- prompt families --------------------------------------------------------------------------

PARTS = CircuitParts(("a5.h1", "a7.h10", "a9.h1"), ("m8", "m9", "m10"), ("m0",), ("embed",))


def test_family_tables_show_a_dash_where_there_is_no_ratio(mini: Transformer) -> None:
    ended = FAMILIES["ended"]
    patching = PathPatching(mini, ended.dataset(mini.tokenizer, 12))
    frame = family_summary([study_family(ended, patching, PARTS)])
    shown = views.family_recovery(frame.assign(recovered=float("nan")))
    assert "<b>ended</b>" in shown and "&lt; YY" in shown and ">–<" in shown
    shown = views.family_behaviour(frame)
    assert f"{100 * frame.loc[0, 'clean']:.1f} %".replace("-", "−") in shown
    assert "the circuit fires" in shown


def test_family_explorer_shows_every_family_and_ones_own(mini: Transformer) -> None:
    mine = PromptFamily("mine", "<|endoftext|> {XX}{YY} to {XX}")
    explorer = views.family_explorer(mini, PARTS, [mine])
    assert explorer.controls["family"].options == ("mine", *FAMILIES)
    assert "into m8" in explorer.controls["shown"].options
    assert "<b>mine</b>" in explorer.text.value
    for shown in ("into the logits", "into m9"):
        explorer.controls["shown"].value = shown
        assert state(explorer) == "done", explorer.state.value
    found = study_family(mine, PathPatching(mini, mine.dataset(mini.tokenizer)), PARTS)
    drawn = explorer.draw(family="mine", shown="into the logits").figure
    assert drawn.data[0].zmax == pytest.approx(float(found.sweep.effect.abs().max()), rel=1e-4)
