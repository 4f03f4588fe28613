"""Unit: the circuit builder, driven from Python, and the table that it and notebook 5 show."""

from __future__ import annotations

import re
from html import unescape

import pytest

from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.formatting import in_words
from gt_helpers.model.load import load_model
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import Evaluation, PathPatching
from gt_helpers.patching.paper import PAPER, full_circuit, partial_circuit
from gt_helpers.scorecard.results import Results
from gt_helpers.views import widgets
from gt_helpers.views.kit.explorer import Explorer
from gt_helpers.views.tables import headline_table


@pytest.fixture(scope="module")
def patching() -> PathPatching:
    model = load_model("mini")
    return PathPatching(model, YearDataset(model.tokenizer, 24, seed=3))


@pytest.fixture
def builder(patching: PathPatching) -> Explorer:
    return widgets.circuit_builder(patching, PAPER)


def links(explorer: Explorer) -> set[str]:
    """The edges that are drawn."""
    titles = re.findall(r'<g class="edge [^"]*"><title>([^<]*)', explorer.text.value)
    return {re.split(r" \(|;", unescape(title))[0] for title in titles}


def shows(explorer: Explorer, patching: PathPatching, circuit: Circuit) -> None:
    """The explorer draws this circuit, and its probability difference is in the table."""
    assert 'data-state="done"' in explorer.state.value
    assert links(explorer) == set(circuit.links)
    diff = float(patching.evaluate(circuit).prob_diff.mean())
    assert f"<td>{in_words(diff)}" in re.sub(r'(<td) style="[^"]*"', r"\1", explorer.text.value)


def test_it_starts_from_the_partial_circuit(builder: Explorer, patching: PathPatching) -> None:
    shows(builder, patching.reversed(), partial_circuit())


def test_components_and_edges_are_switched_off(builder: Explorer, patching: PathPatching) -> None:
    builder.controls["without"].value = ("m8@END", "m0@YY")  # m0 is not in the partial circuit
    builder.controls["cut"].value = ("a9.h1@END -> m9@END", "m8@END -> logits")
    expected = partial_circuit().without("m8", "a9.h1 -> m9")
    shows(builder, patching.reversed(), expected)
    builder.controls["start"].value = "full circuit"
    expected = full_circuit().without("m8", "m0@YY", "a9.h1 -> m9")
    shows(builder, patching.reversed(), expected)


def test_edges_are_added_by_name(builder: Explorer, patching: PathPatching) -> None:
    builder.controls["start"].value = "no edges"
    shows(builder, patching.reversed(), Circuit())
    builder.controls["add"].value = "a9.h1 -> m9, m9 -> logits"
    shows(builder, patching.reversed(), Circuit(["a9.h1 -> m9", "m9 -> logits"]))
    builder.controls["add"].value = "a9.h1 -> m99"
    assert 'data-state="error"' in builder.state.value
    assert "m99 does not exist" in builder.state.value


def test_the_reverse_has_no_recovered_share(builder: Explorer, patching: PathPatching) -> None:
    assert "–" not in builder.text.value.split("this circuit")[1].split("</tr>")[0]
    builder.controls["sends"].value = "corrupted values into the clean run"
    shows(builder, patching, partial_circuit())
    row = builder.text.value.split("reverse of this circuit")[1].split("</tr>")[0]
    assert row.count("–") == 2


def test_an_empty_circuit_found_elsewhere_can_be_built_from(patching: PathPatching) -> None:
    nothing = type(PAPER)((), (), (), ())
    explorer = widgets.circuit_builder(patching, nothing)
    shows(explorer, patching.reversed(), Circuit())


def test_headline_table_names_each_evaluation_and_its_shares(patching: PathPatching) -> None:
    noised = patching.reversed()
    answers = {
        "random": noised.evaluate(Circuit("m10 -> logits")).log_probs,
        "corrupted": noised.base_log_probs,
        "clean": patching.base_log_probs,
    }
    YY = patching.dataset.YY
    results = Results({}, YY, evaluations={k: Evaluation(k, v, YY) for k, v in answers.items()})
    rows = re.findall(r"<tr.*?</tr>", headline_table(results))
    assert [re.findall("<b>(.*?)</b>", row)[:1] for row in rows[1:]] == [
        ["clean prompts"],
        ["corrupted prompts"],
        ["random"],
    ]
    share = noised.evaluate(Circuit("m10 -> logits")).prob_diff.mean()
    share /= Evaluation("", answers["clean"], YY).prob_diff.mean()
    assert in_words(float(share)) in rows[3] and "–" not in rows[3]
    assert rows[1].count("–") == rows[2].count("–") == 2
