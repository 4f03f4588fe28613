"""Fixtures of the edges' tests: a random GPT-2 in float64 on random prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from literal import Literal, Prompts, random_prompts, save_random_gpt2
from made_edges import BASES
from transformers import GPT2LMHeadModel

from gt_helpers.edges.attribution import eap
from gt_helpers.edges.effects import edge_effects
from gt_helpers.edges.graph import EdgeGraph
from gt_helpers.edges.scores import EdgeScores
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    """Five prompts that change at YY and XX."""
    return random_prompts()


@pytest.fixture(scope="session")
def literal(folder: Path, prompts: Prompts) -> Literal:
    """The same model and prompts, written down literally."""
    hf = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    return Literal(hf, prompts.clean, prompts.corrupted)


@pytest.fixture(scope="session")
def engines(random_model: Transformer, prompts: Prompts) -> dict[str, PathPatching]:
    """The patching of either base."""
    return {base: PathPatching(random_model, prompts, base) for base in BASES}


@pytest.fixture(scope="session")
def patching(engines: dict[str, PathPatching]) -> PathPatching:
    """The patching of the clean base."""
    return engines["clean"]


@pytest.fixture(scope="session", params=BASES)
def either_base(request: pytest.FixtureRequest, engines: dict[str, PathPatching]) -> PathPatching:
    """The patching of the clean base, then that of the corrupted one."""
    return engines[request.param]


@pytest.fixture(scope="session", params=[True, False], ids=["summed", "apart"])
def either_graph(request: pytest.FixtureRequest, patching: PathPatching) -> EdgeGraph:
    """The graph with the positions summed, then the one that keeps them apart."""
    return EdgeGraph.of(patching, request.param)


@pytest.fixture(scope="session")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PathPatching]:
    """Makes a patching of the random model after something was done to its weights."""

    def made(change: Callable[[GPT2LMHeadModel], None]) -> PathPatching:
        folder = save_random_gpt2(tmp_path_factory.mktemp(change.__name__))
        hf = GPT2LMHeadModel.from_pretrained(folder)
        change(hf)
        hf.save_pretrained(folder)
        return PathPatching(load_model(folder, "cpu", torch.float64), random_prompts(12))

    return made


@pytest.fixture(scope="session")
def graph(patching: PathPatching) -> EdgeGraph:
    """Its 172 edges, positions summed."""
    return EdgeGraph.of(patching)


@pytest.fixture(scope="session")
def exact(patching: PathPatching, graph: EdgeGraph) -> EdgeScores:
    """Their effects."""
    return edge_effects(patching, graph)


@pytest.fixture(scope="session")
def estimate(patching: PathPatching, graph: EdgeGraph) -> EdgeScores:
    """Their scores by EAP."""
    return eap(patching, graph)
