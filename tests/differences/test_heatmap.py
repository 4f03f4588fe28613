"""Unit: the checker of the user's own heatmap: each usual cause, planted in a sweep of our own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.differences.heatmap import compare_sweep
from gt_helpers.metrics import prob_diff
from gt_helpers.model.components import Shape, inputs
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.activation import activation_patching
from gt_helpers.patching.engine import PathPatching, Sweep


@pytest.fixture(scope="module")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, YearDataset(mini.tokenizer, 97).take(range(0, 97, 4)))


@pytest.fixture(scope="module")
def to_logits(patching: PathPatching) -> Sweep:
    return patching.sweep("logits")


@pytest.fixture(scope="module")
def to_m9(patching: PathPatching) -> Sweep:
    return patching.sweep("m9", via=["m10", "m11"])


@pytest.fixture(scope="module")
def activations(patching: PathPatching, to_logits: Sweep) -> Tensor:
    """Effects [layer, n_heads + 1] of activation patching, everything after the sender free."""
    model, dataset = patching.model, patching.dataset
    patched = activation_patching(model, dataset, to_logits.senders[:-1], base="clean")
    clean = prob_diff(patching.base_probs, dataset.YY)
    return (patched - clean).mean(-1).reshape(12, 13)


def causes(theirs: Any, ours: Sweep) -> list[str]:
    """The sentences' first words, of all but the first and the last summary."""
    sentences = compare_sweep(theirs, ours).sentences
    assert sentences[0].startswith("As given, the correlation is ")
    assert all(sentence.endswith(".") for sentence in sentences)
    first = [sentence.split(":")[0] for sentence in sentences[1:]]
    return [words for words in first if not words.startswith("With this undone")]


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda t: t,
    "array": lambda t: t.numpy(),
    "lists": lambda t: t.tolist(),
    "frame": lambda t: pd.DataFrame(t.numpy()),
    "pair": lambda t: (t[:, :-1], t[:, -1]),
    "column": lambda t: (t[:, :-1].numpy(), t[:, -1:].tolist()),
}


@pytest.mark.parametrize("form", FORMS)
def test_our_own_heatmap_agrees(form: str, to_logits: Sweep, to_m9: Sweep) -> None:
    for ours in (to_logits, to_m9):
        found = compare_sweep(FORMS[form](ours.effect), ours)
        (sentence,) = found.sentences
        assert "is 1.000; of the 10 strongest cells 10 are the same;" in sentence
        assert sentence.endswith("intervals: 0 of 156 cells.")
        assert str(found) == sentence
        assert not found.table["outside"].any() and (found.table["difference"].abs() < 1e-7).all()


def test_the_table_holds_both_cell_by_cell(to_m9: Sweep) -> None:
    theirs = to_m9.effect.clone()
    theirs[8, 12] += 0.5
    theirs[2, 3] -= 0.25
    theirs[0, 0] = torch.nan
    found = compare_sweep(theirs, to_m9)
    assert list(found.table["component"][:2]) == ["m8@END", "a2.h3@END"]
    top = found.table.iloc[0]
    row = to_m9.to_frame().set_index("component").loc["m8@END"]
    assert (top["ours"], top["low"], top["high"]) == pytest.approx(tuple(row))
    assert top["theirs"] == pytest.approx(row["effect"] + 0.5)
    assert top["difference"] == pytest.approx(0.5) and top["outside"]
    assert int(found.table["outside"].sum()) == 2 and len(found.table) == 156
    assert "(not compared: 1)" in found.sentences[0]


def shifted(effect: Tensor, by: int) -> Tensor:
    moved = effect.roll(by, 0)
    moved[0 if by > 0 else -1] = 0
    return moved


CAUSES: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "clean - patched": (lambda t: -t, ["Flipped"]),
    "percent": (lambda t: 100 * t, ["In percent"]),
    "normalised": (lambda t: t / 1.42, ["Scaled"]),
    "heads by layers": (lambda t: t.T, ["Transposed"]),
    "heads transposed": (lambda t: (t[:, :-1].T, t[:, -1]), ["Transposed"]),
    "MLPs first": (lambda t: t.roll(1, 1), ["MLPs first"]),
    "last layer first": (lambda t: t.flip(0), ["Layers reversed"]),
    "a layer late": (lambda t: shifted(t, 1), ["One layer off"]),
    "a layer early": (lambda t: shifted(t, -1), ["One layer off"]),
    "three at once": (lambda t: -100 * t.roll(1, 1), ["MLPs first", "Flipped", "In percent"]),
    "turned and reversed": (lambda t: t.flip(0).T, ["Transposed", "Layers reversed"]),
}


TOLD = {
    "normalised": "as if divided by 1.4",
    "a layer late": "what ours has one layer below",
    "a layer early": "what ours has one layer above",
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_planted_cause_is_named_alone(cause: str, to_logits: Sweep, to_m9: Sweep) -> None:
    change, expected = CAUSES[cause]
    generator = torch.Generator().manual_seed(0)
    for ours in (to_logits, to_m9):
        # as other prompts would: every cell is a little off, zeros are not
        noise = 1 + 0.05 * torch.randn(ours.effect.shape, generator=generator)
        theirs = change(ours.effect * noise)
        assert causes(theirs, ours) == expected
        last = compare_sweep(theirs, ours).sentences[-1]
        undone = re.fullmatch(
            r"With this undone, the correlation is (\S+); .*: (\d+) of 156.*", last
        )
        assert undone and float(undone[1]) > 0.99 and undone[2] == "0"
        told = TOLD.get(cause, "")
        assert told in compare_sweep(theirs, ours).sentences[1]


def test_cells_that_must_be_0(to_m9: Sweep, activations: Tensor) -> None:
    # Everything above m9 reaches the logits, but not by way of m9.
    (m9,) = inputs("m9")
    senders = to_m9.shape.senders("END")[:-1]
    reach = torch.tensor([to_m9.shape.reaches(node, m9) for node in senders]).reshape(12, 13)
    theirs = torch.where(reach, to_m9.effect, activations)
    found = compare_sweep(theirs, to_m9)
    (sentence,) = [s for s in found.sentences if s.startswith("Not 0")]
    n = int(((theirs.abs() > 1e-3 * theirs.abs().max()) & ~reach).sum())
    assert sentence.startswith(f"Not 0: {n} cells (strongest m11@END, ")
    assert not [s for s in found.sentences if s.startswith("None of the usual")]


@pytest.mark.parametrize(("cell", "named"), [(9, "a9.h2"), ((8, 12), "m8")])
def test_cells_that_must_not_be_0(cell: Any, named: str, to_m9: Sweep) -> None:
    theirs = to_m9.effect.clone()
    theirs[cell] = 0
    (sentence,) = [s for s in compare_sweep(theirs, to_m9).sentences if s.startswith("0 in yours")]
    assert f"(strongest {named}@END, " in sentence


def test_activation_patching_is_recognised(to_logits: Sweep, activations: Tensor) -> None:
    assert causes(activations, to_logits) == ["Everything reacts"]


def test_what_is_not_explained_is_said_so(to_logits: Sweep, to_m9: Sweep) -> None:
    noise = torch.randn(12, 13, generator=torch.Generator().manual_seed(1))
    (cause,) = causes(noise, to_logits)
    assert cause.startswith("None of the usual")
    for constant in (torch.zeros(12, 13), torch.full((12, 13), torch.nan)):
        (first, *_) = compare_sweep(constant, to_m9).sentences
        assert first.startswith("As given, the correlation is 0.000;")


def test_a_sweep_of_zeros(patching: PathPatching) -> None:
    # Queries at END read nothing at YY.
    ours = patching.sweep("a7.h10.q", senders_at="YY")
    assert not ours.effect.any()
    found = compare_sweep(ours.effect, ours)
    assert not found.table["outside"].any() and "0 of 156 cells" in found.sentences[0]
    (sentence,) = [s for s in compare_sweep(ours.effect + 1, ours).sentences if "Not 0" in s]
    assert "156 cells" in sentence


def test_few_strong_mlps_do_not_hide_transposed_heads() -> None:
    """As in GPT-2 small: m8 to m11 and one head are strong, all other heads weak."""
    generator = torch.Generator().manual_seed(0)
    shape = Shape(12, 12, ("YY", "END"))
    effect = 0.002 * torch.randn(12, 13, generator=generator)
    effect[8:, 12] = torch.tensor([-0.15, -0.3, -0.5, -0.2])
    effect[9, 1] = -0.06
    senders = tuple(node.name for node in shape.senders("END"))
    values = torch.cat([effect.flatten(), torch.zeros(1)])[:, None].repeat(1, 3)
    ours = Sweep(("logits",), (), senders, values, shape)
    assert causes((effect[:, :12].T, effect[:, 12]), ours) == ["Transposed"]


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (torch.zeros(12, 12), "shape \\[12, 12\\]; give \\[12, 13\\]"),
        (torch.zeros(156), "shape \\[156\\]"),
        ((torch.zeros(12, 12), torch.zeros(11)), "\\[12, 12\\] and \\[11\\]"),
        ([[1.0], [1.0, 2.0]], "no table of numbers"),
        ("heatmap", "no table of numbers"),
    ],
)
def test_other_shapes_are_refused(theirs: Any, message: str, to_logits: Sweep) -> None:
    with pytest.raises(ValueError, match=message):
        compare_sweep(theirs, to_logits)
