"""Unit: control studies: each against what it must equal, and by hand on a few prompts."""

from __future__ import annotations

import pytest
import torch

from gt_helpers.analysis import controls
from gt_helpers.analysis.controls import leave_out, random_circuits, random_parts
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import bootstrap_ci, prob_diff
from gt_helpers.model.components import Shape, component
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, CircuitParts, full_circuit, partial_circuit

SHAPE = Shape(12, 12, ("YY", "END"))
SEVEN = tuple(f"a3.h{h}" for h in range(7))


@pytest.fixture(scope="module")
def patching(mini: Transformer) -> PathPatching:
    return PathPatching(mini, YearDataset(mini.tokenizer, 12))


@pytest.fixture(scope="module")
def denoising(patching: PathPatching) -> PathPatching:
    dataset = YearDataset(patching.model.tokenizer, 24, seed=3)
    return PathPatching(patching.model, dataset, "corrupted")


def heads_of(parts: CircuitParts) -> set[str]:
    names = {*parts.heads, *parts.readers_of_YY, *parts.early_inputs}
    return {name for name in names if component(name).kind == "head"}


def test_direct_and_indirect_effects_are_those_of_sweeps(patching: PathPatching) -> None:
    table = controls.direct_and_indirect(patching, PAPER.mlps).set_index(["component", "path"])
    assert list(table.index) == [
        (mlp, path) for mlp in ("m8", "m9", "m10") for path in ("direct", "indirect", "total")
    ]
    # One layer below the last MLP the only indirect path is the one through it.
    late = patching.sweep(["m9", "m10", "m11"], via=["m10", "m11"])
    to_logits = patching.sweep("logits")
    for mlp, path, sweep in (
        ("m8", "direct", to_logits),
        ("m9", "direct", to_logits),
        ("m10", "direct", to_logits),
        ("m8", "indirect", late),
        ("m10", "indirect", patching.sweep("m11")),
        ("m10", "total", patching.sweep(["logits", "m11"])),
    ):
        expected = float(sweep.effect[int(mlp[1:]), -1])
        assert table.loc[(mlp, path), "change"] == pytest.approx(expected, abs=1e-6)
    clean = prob_diff(patching.base_probs, patching.dataset.YY)
    row = table.loc[("m10", "total")]
    assert row["share"] == pytest.approx(-row["change"] / float(clean.mean()))
    assert row["low"] <= row["change"] <= row["high"]


def test_direct_and_indirect_refuse_other_bases_and_heads(patching: PathPatching) -> None:
    for engine, names in ((patching.reversed(), ["m9"]), (patching, ["a9.h1"]), (patching, [])):
        with pytest.raises(ValueError, match="clean base and MLPs"):
            controls.direct_and_indirect(engine, names)


def test_heads_with_all_inputs_patched_are_the_partial_circuit(patching: PathPatching) -> None:
    back, positions = patching.reversed(), patching.dataset.positions
    whole = back.evaluate(partial_circuit(PAPER)).log_probs
    through = back.evaluate(controls.circuit_through(PAPER, positions, "qkv")).log_probs
    torch.testing.assert_close(through, whole, atol=2e-5, rtol=0)
    answers = {
        inputs: back.evaluate(controls.circuit_through(PAPER, positions, inputs)).log_probs
        for inputs in ("v", "qk", "q", "k")
    }
    for log_probs in answers.values():
        assert float((log_probs - whole).abs().max()) > 1e-3
    # A query reads its own row only.
    queries = [f"all@END -> {head}.q" for head in PAPER.heads]
    by_hand = Circuit([*queries, *partial_circuit(PAPER).edges])
    torch.testing.assert_close(answers["q"], back.evaluate(by_hand).log_probs)
    with pytest.raises(ValueError, match="letters q, k and v"):
        controls.circuit_through(PAPER, positions, "w")


def test_shifted_heads_are_the_next_ones() -> None:
    shifted = controls.shifted_heads(PAPER, 12)
    assert set(shifted.heads) == {"a9.h2", "a8.h0", "a7.h11", "a6.h10", "a5.h6", "a8.h9", "a5.h2"}
    assert shifted.mlps == PAPER.mlps


# ---- leaving out one thing at a time ----------------------------------------------------------


def test_leave_out_measures_each_smaller_circuit_against_the_whole(denoising: PathPatching) -> None:
    circuit = partial_circuit()
    table = leave_out(denoising, circuit)
    assert sorted(table["name"]) == sorted(name for name in circuit.components if name != "logits")
    assert table["change"].abs().is_monotonic_decreasing
    whole = denoising.evaluate(circuit).prob_diff
    for row in table.itertuples():
        diff = denoising.evaluate(circuit.without(row.name)).prob_diff
        change, low, high = bootstrap_ci(diff - whole, strata=denoising.dataset.strata)
        assert row.prob_diff == pytest.approx(float(diff.mean()), abs=1e-7)
        assert row.change == pytest.approx(float(change), abs=1e-7)
        assert (row.low, row.high) == pytest.approx((float(low), float(high)), abs=1e-7)
        assert row.low <= row.change <= row.high


def test_leaving_out_the_logits_is_the_base_run(denoising: PathPatching) -> None:
    (row,) = leave_out(denoising, partial_circuit(), "logits").itertuples()
    base = denoising.evaluate(Circuit()).prob_diff.mean()
    assert row.prob_diff == pytest.approx(float(base), abs=1e-7)


def test_what_has_no_path_to_the_logits_changes_nothing(denoising: PathPatching) -> None:
    circuit = partial_circuit() | Circuit(["a3.h3 -> m5", "m5 -> a6.h9.q", "m6 -> m7"])
    # a6.h9 now is computed from its query; m7 leads nowhere
    table = leave_out(denoising, circuit, ["m6 -> m7", "m7", "m6", "a3.h3"]).set_index("name")
    assert (table.loc[["m6 -> m7", "m7", "m6"], ["change", "low", "high"]] == 0).all(axis=None)
    assert table.loc["a3.h3", "change"] != 0


def test_leave_out_takes_edges_and_the_other_direction(denoising: PathPatching) -> None:
    circuit = Circuit(["m10 -> logits", "m11 -> logits"])
    forth, back = (
        leave_out(engine, circuit, circuit.links).set_index("name")["change"]
        for engine in (denoising, denoising.reversed())
    )
    assert set(forth.index) == {"m10@END -> logits", "m11@END -> logits"}
    # the circuit brings clean values to the corrupted run, or corrupted ones to the clean run
    assert (forth * back < 0).all()


def test_a_circuit_without_edges_has_nothing_to_leave_out(denoising: PathPatching) -> None:
    table = leave_out(denoising, Circuit())
    assert table.empty
    assert list(table.columns) == ["name", "prob_diff", "change", "low", "high"]


@pytest.mark.parametrize("name", ["a9.h2", "m8 -> a9.h1", "a9.h1 -> m9 -> m10", "seven"])
def test_what_is_not_in_the_circuit_is_refused_before_anything_is_run(
    name: str, denoising: PathPatching
) -> None:
    with pytest.raises(ValueError, match="it has|is not an edge|is not a component name"):
        leave_out(denoising, partial_circuit(), [name])


# ---- random circuits --------------------------------------------------------------------------


@pytest.mark.parametrize("build", [partial_circuit, full_circuit])
def test_random_circuits_have_as_many_edges_between_the_same_layers(build) -> None:
    def outline(parts: CircuitParts) -> list[tuple[object, ...]]:
        return sorted(
            (e.sender.depth, e.sender.position, e.receiver.component.depth, e.receiver.part)
            for e in build(parts).edges
        )

    for seed in range(30):
        drawn = random_parts(PAPER, SHAPE, seed)
        assert not heads_of(drawn) & heads_of(PAPER)
        assert len(heads_of(drawn)) == len(heads_of(PAPER)) == 10
        assert outline(drawn) == outline(PAPER)


def test_a_head_in_two_roles_keeps_one_stand_in_for_both() -> None:
    drawn = random_parts(PAPER, SHAPE, 5)
    assert PAPER.readers_of_YY[0] == PAPER.early_inputs[1] == "a0.h1"
    assert drawn.readers_of_YY[0] == drawn.early_inputs[1] != "a0.h1"
    assert drawn.early_inputs[0] == "embed"
    assert drawn.mlps == PAPER.mlps


def test_draws_repeat_by_seed_differ_between_seeds_and_reach_every_other_head() -> None:
    draws = [random_parts(PAPER, SHAPE, seed) for seed in range(200)]
    assert draws[7] == random_parts(PAPER, SHAPE, 7)
    assert len({drawn.heads for drawn in draws}) > 190
    stand_ins = {drawn.heads[-1] for drawn in draws}  # of a9.h1
    assert stand_ins == {f"a9.h{h}" for h in range(12) if h != 1}
    # the same in every Python
    assert " ".join(draws[0].heads) == "a5.h3 a5.h4 a6.h7 a7.h7 a8.h0 a8.h10 a9.h4"


@pytest.mark.parametrize(
    ("parts", "shape", "said"),
    [
        (CircuitParts(SEVEN, ("m9",), (), ()), SHAPE, "7 of the 12 heads of layer 3, .* only 5"),
        (PAPER, Shape(6, 12, ("YY", "END")), "a6.h9 .* 0 to 5"),
        (CircuitParts((), ("m11",), (), ()), SHAPE, "no heads"),
    ],
)
def test_parts_that_nothing_could_stand_in_for_are_refused(
    parts: CircuitParts, shape: Shape, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        random_parts(parts, shape)


def test_half_of_a_layer_can_be_replaced() -> None:
    half = CircuitParts(SEVEN[:6], ("m9",), (), ())
    assert set(random_parts(half, SHAPE).heads) == {f"a3.h{h}" for h in range(6, 12)}


def test_random_circuits_are_evaluated_one_by_one(denoising: PathPatching) -> None:
    table = random_circuits(denoising, PAPER, n=3, seed=4)
    assert list(table["seed"]) == [4, 5, 6]
    for row in table.itertuples():
        drawn = random_parts(PAPER, denoising.shape, row.seed)
        assert row.heads == ", ".join(drawn.heads)
        diff = denoising.evaluate(partial_circuit(drawn)).prob_diff
        assert row.prob_diff == pytest.approx(float(diff.mean()), abs=1e-7)


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_the_number_of_random_circuits_is_checked(n: float, denoising: PathPatching) -> None:
    with pytest.raises(ValueError, match=f"{n}.*e.g. n=100"):
        random_circuits(denoising, PAPER, n=n)
