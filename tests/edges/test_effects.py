"""Unit: the exact effects of single edges against circuits, the literal tree and their own
invariants.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from literal import (
    POSITIONS,
    Literal,
    Prompts,
    paths_of_edges,
    random_prompts,
    save_random_gpt2,
    year_prob_diff,
)
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from gt_helpers.edges import effects as module
from gt_helpers.edges.effects import EdgeScores, edge_effects, sender_changes
from gt_helpers.edges.graph import EdgeGraph
from gt_helpers.metrics import bootstrap_ci, cutoff_sharpness, prob_diff
from gt_helpers.model.components import END
from gt_helpers.model.load import load_model
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching

EXACT = {"atol": 1e-10, "rtol": 0.0, "equal_nan": True}
BASES = ("clean", "corrupted")
both = pytest.mark.parametrize("summed", [True, False], ids=["summed", "apart"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return random_prompts()


@pytest.fixture(scope="module")
def engines(folder: Path, prompts: Prompts) -> dict[str, PathPatching]:
    model = load_model(folder, "cpu", torch.float64)
    return {base: PathPatching(model, prompts, base) for base in BASES}


@pytest.fixture(scope="module")
def patching(engines: dict[str, PathPatching]) -> PathPatching:
    return engines["clean"]


@pytest.fixture(scope="module")
def scores(patching: PathPatching) -> EdgeScores:
    return edge_effects(patching, EdgeGraph.of(patching))


def close(measured: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(measured, expected, **EXACT)


def one_edge(graph: EdgeGraph, number: int) -> Circuit:
    """The edge and everything downstream of its receiver, with its sender as the source."""
    entering = graph.circuit([number]).edges
    depth = entering[0].receiver.component.depth
    downstream = [n for n, (_, s, _) in enumerate(graph.index) if graph.nodes[s].depth >= depth]
    edges = (*entering, *graph.circuit(downstream).edges)
    return Circuit(edges, sources=[edge.sender for edge in entering])


# ---- what is measured -------------------------------------------------------------------------


@both
@pytest.mark.parametrize("base", BASES)
def test_it_is_the_circuit_of_one_edge_and_all_downstream(
    engines: dict[str, PathPatching], base: str, summed: bool
) -> None:
    patching = engines[base]
    graph = EdgeGraph.of(patching, summed)
    scores = edge_effects(patching, graph)
    base_diff = prob_diff(patching.base_probs, patching.dataset.YY)
    by_receiver = {int(receiver): n for n, receiver in enumerate(graph.index[:, 2])}
    some = random.Random(base).sample(range(len(graph)), 12)
    for number in {*some, *random.Random(1).sample(list(by_receiver.values()), 8)}:
        expected = patching.evaluate(one_edge(graph, number)).prob_diff - base_diff
        close(scores.values[number], expected)
    assert (scores.values.abs().amax(1) > 1e-6).double().mean() > 0.8
    assert scores.measured.all()


def test_it_is_the_literal_tree(scores: EdgeScores, folder: Path, prompts: Prompts) -> None:
    hf = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    literal = Literal(hf, prompts.clean, prompts.corrupted)
    base = year_prob_diff(literal.answer([]), prompts)
    for name in ("m1 -> logits", "embed -> a2.h1.v", "a0.h2 -> m2", "m0 -> a1.h1.k", "m0 -> m1"):
        circuit = one_edge(scores.graph, scores.graph.names.index(name))
        edges = [edge.name for edge in circuit.edges]
        paths = paths_of_edges(edges, sources=[source.name for source in circuit.sources])
        effect = year_prob_diff(literal.answer(paths), prompts) - base
        close(scores.values[scores.graph.names.index(name)], effect)


def test_the_direct_edges_to_the_logits_are_a_sweep(
    patching: PathPatching, scores: EdgeScores
) -> None:
    sweep = patching.sweep("logits")
    for name, values in zip(sweep.senders, sweep.values, strict=True):
        edge = f"{name.removesuffix(f'@{END}')} -> logits"
        close(scores.values[scores.graph.names.index(edge)], values)


def test_a_row_of_a_query_or_mlp_is_that_position_alone(patching: PathPatching) -> None:
    apart = edge_effects(patching, EdgeGraph.of(patching, summed=False))
    at_END = dict(zip(apart.graph.names, apart.values, strict=True))
    summed = edge_effects(patching, EdgeGraph.of(patching))
    for name, values in zip(summed.graph.names, summed.values, strict=True):
        sender, receiver = name.split(" -> ")
        if receiver in ("m2", "logits") or (receiver.startswith("a2") and receiver.endswith("q")):
            close(at_END[f"{sender}@END -> {receiver}"], values)  # only END is read


@pytest.mark.parametrize("metric", [cutoff_sharpness, lambda probs, YY: probs[..., 30].log()])
def test_any_metric(patching: PathPatching, metric) -> None:
    graph = EdgeGraph.of(patching)
    scores = edge_effects(patching, graph, metric, budget=10)
    (number, *_) = scores.measured.nonzero().flatten().tolist()
    YY = patching.dataset.YY
    patched = patching.evaluate(one_edge(graph, number)).probs
    close(scores.values[number], metric(patched, YY) - metric(patching.base_probs, YY))


def test_chunks_do_not_matter(
    patching: PathPatching, scores: EdgeScores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROMPTS", 2)
    monkeypatch.setattr(module, "_CPU_ITEMS", 7)
    close(edge_effects(patching, scores.graph).values, scores.values)


def test_sender_changes_are_differences_of_outputs(patching: PathPatching) -> None:
    ((base, patch, _),) = patching.caches(100)
    nodes = EdgeGraph.of(patching).nodes
    changes = sender_changes(base, patch, nodes)
    for node, change in zip(nodes, changes, strict=True):
        for row, position in enumerate(range(base.start, len(POSITIONS))):
            expected = patch.output(node, position) - base.output(node, position)
            close(change[:, row], expected)


# ---- a part of the edges, and runs that are interrupted ---------------------------------------


def test_a_budget_measures_a_drawn_part(
    patching: PathPatching, scores: EdgeScores, capsys: pytest.CaptureFixture
) -> None:
    loud = PathPatching(patching.model, patching.dataset, progress=True)
    part = edge_effects(loud, scores.graph, budget=20)
    assert "20 of 172 edges, drawn at random" in capsys.readouterr().err
    assert part.measured.sum() == part.settings["edges"] == 20
    close(part.values[part.measured], scores.values[part.measured])
    assert part.mean.isnan().sum() == 152
    again, other = (edge_effects(patching, scores.graph, budget=20, seed=s) for s in (0, 1))
    assert torch.equal(again.measured, part.measured)
    assert not torch.equal(other.measured, part.measured)
    whole = edge_effects(patching, scores.graph, budget=1000, seed=1)
    close(whole.values, scores.values)
    assert whole.settings == scores.settings


@pytest.mark.parametrize("budget", [0, -3, 2.5])
def test_a_budget_is_a_number_of_edges(patching: PathPatching, budget: float) -> None:
    with pytest.raises(ValueError, match=r"it is a number of edges, e\.g\. budget=2000"):
        edge_effects(patching, EdgeGraph.of(patching), budget=budget)


def test_what_is_no_metric_is_refused(patching: PathPatching) -> None:
    with pytest.raises(ValueError, match="metric is 'prob_diff'; give a function"):
        edge_effects(patching, EdgeGraph.of(patching), metric="prob_diff")


def test_an_interrupted_run_continues(
    patching: PathPatching,
    scores: EdgeScores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[str] = []
    whole = module._patched

    def counted(graph, base, patch, numbers):
        if len(measured) == 6:
            raise KeyboardInterrupt
        measured.append(graph.receivers[int(graph.index[numbers[0], 2])])
        return whole(graph, base, patch, numbers)

    monkeypatch.setattr(module, "_patched", counted)
    with pytest.raises(KeyboardInterrupt):
        edge_effects(patching, scores.graph, folder=tmp_path / "kept")
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 6
    first, measured[:] = list(measured), [""] * 7
    continued = edge_effects(patching, scores.graph, folder=tmp_path / "kept")
    assert sorted([*first, *measured[7:]]) == sorted(scores.graph.receivers)
    close(continued.values, scores.values)
    measured[:] = [""] * 6  # nothing is left to be measured
    close(edge_effects(patching, scores.graph, folder=tmp_path / "kept").values, continued.values)


def test_a_folder_keeps_one_setting_only(engines: dict[str, PathPatching], tmp_path: Path) -> None:
    patching = engines["clean"]
    graph, folder = EdgeGraph.of(patching), tmp_path / "kept"
    edge_effects(patching, graph, budget=5, folder=folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    others = PathPatching(patching.model, random_prompts(seed=3))
    for changed, arguments in {
        "base": (engines["corrupted"], graph, prob_diff, 5),
        "metric": (patching, graph, cutoff_sharpness, 5),
        "patch_metric": (patching, graph, lambda probs, YY: 2 * prob_diff(probs, YY), 5),
        "edges": (patching, graph, prob_diff, 6),
        "tokens": (others, graph, prob_diff, 5),
        "positions": (patching, EdgeGraph.of(patching, summed=False), prob_diff, 5),
    }.items():
        with pytest.raises(ValueError, match=rf"other settings \(.*\b{changed}\b.*\); nothing was"):
            edge_effects(*arguments, folder=folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "a.txt").write_text("something else")
    with pytest.raises(ValueError, match=r"holds other files and no settings\.json"):
        edge_effects(patching, graph, folder=tmp_path)


def test_a_graph_of_other_prompts_is_refused(patching: PathPatching) -> None:
    with pytest.raises(ValueError, match="is not of this model and these prompts"):
        edge_effects(patching, EdgeGraph(patching.shape, "XX"))


# ---- the scores themselves --------------------------------------------------------------------


def test_scores_are_saved_and_loaded(patching: PathPatching, tmp_path: Path) -> None:
    scores = edge_effects(patching, EdgeGraph.of(patching, summed=False), budget=30)
    scores.save(tmp_path / "scores.safetensors")
    loaded = EdgeScores.load(tmp_path / "scores.safetensors")
    assert torch.equal(loaded.values.nan_to_num(9.0), scores.values.nan_to_num(9.0))
    assert loaded.graph == scores.graph
    assert (loaded.method, loaded.settings) == ("exact", scores.settings)
    save_file({"values": scores.values}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"holds no edge scores; give a file that save\(\) wrote"):
        EdgeScores.load(tmp_path / "other.safetensors")


def test_the_table_is_sorted_and_has_intervals_on_demand(scores: EdgeScores) -> None:
    table = scores.to_frame()
    assert list(table.columns) == ["edge", "effect"]
    assert len(table) == len(scores.graph)
    assert table["effect"].abs().is_monotonic_decreasing
    top = scores.to_frame(top=5, level=0.9)
    assert list(top["edge"]) == list(table["edge"][:5])
    for row in top.itertuples():
        values = scores.values[scores.graph.names.index(row.edge)]
        mean, low, high = (float(part) for part in bootstrap_ci(values, 0.9))
        assert (row.effect, row.low, row.high) == pytest.approx((mean, low, high))


def test_the_table_holds_measured_edges_only(
    patching: PathPatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = edge_effects(patching, EdgeGraph.of(patching), budget=20)
    table = part.to_frame(level=0.95)
    assert {part.graph.names[n] for n in part.measured.nonzero()} == set(table["edge"])
    assert (table["low"] <= table["effect"]).all()
    monkeypatch.setattr(module, "_EDGES", 3)
    assert part.to_frame(level=0.95).equals(table)
