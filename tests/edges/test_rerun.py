"""Unit: what a rerun is made of: runs in batches, all heads at once, changes of outputs."""

from __future__ import annotations

import pytest
import torch
from literal import POSITIONS, close
from made_edges import random_mask

from gt_helpers.edges import attribution, effects
from gt_helpers.edges import graph as edge_graph
from gt_helpers.edges.rerun import Rerun, sender_changes
from gt_helpers.patching.engine import PathPatching


def test_runs_come_in_batches_that_join_up(patching: PathPatching) -> None:
    parts = list(patching.caches(2))
    assert [prompts for *_, prompts in parts] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    ((base, patch, _),) = patching.caches(100)
    for name in ("stream", "z", "mlp"):
        for number, whole in enumerate((base, patch)):
            joined = torch.cat([getattr(part[number], name) for part in parts], dim=1)
            assert torch.equal(joined, getattr(whole, name))
    assert patching.first_changed == "YY"


def test_all_heads_at_once_are_the_heads_one_by_one(patching: PathPatching) -> None:
    block = patching.model.blocks[1]
    stream = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0)).double()
    query, key, value = block.qkv(stream, slice(4))
    for head in range(3):
        close(query[..., head, :], block.query(head, stream, slice(4)))
        close(key[..., head, :], block.key(head, stream, slice(4)))
        close(value[..., head, :], block.value(head, stream))


def test_the_patch_run_is_the_base_run_with_all_changes(patching, graph) -> None:
    ((base, patch, _),) = patching.caches(100)
    rerun, changes = Rerun(base), sender_changes(base, patch)
    assert changes.shape[2] == len(POSITIONS) - base.start
    close(rerun.run(0, rerun.base_stream(0)), base.stream[-1][:, -1])
    close(rerun.run(0, rerun.base_stream(0) + changes[0]), patch.stream[-1][:, -1])
    read = patch.stream[1][:, base.start :] - rerun.base_stream(1)
    for node, expected in zip(graph.nodes, changes, strict=True):
        if node.kind == "head" and node.layer == 1:
            close(rerun.output_change(node, dict.fromkeys("qkv", read)), expected)


@pytest.mark.parametrize(
    "measure",
    [
        lambda patching, graph: effects.edge_effects(patching, graph).values,
        lambda patching, graph: attribution.eap_ig(patching, graph, 3).values,
        lambda patching, graph: (
            edge_graph.evaluate_edges(patching, graph, random_mask(graph, 0.4, 2)).log_probs
        ),
    ],
    ids=["effects", "attribution", "answers"],
)
def test_batches_do_not_matter(patching, graph, measure, monkeypatch) -> None:
    whole = measure(patching, graph)
    for module in (attribution, effects, edge_graph):
        monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 16)  # 1, 2 and 4 prompts
    monkeypatch.setattr(effects, "_CPU_ITEMS", 7)
    close(measure(patching, graph), whole)
