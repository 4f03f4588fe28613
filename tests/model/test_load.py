"""Unit: load_model, what it loads, what it promises about it, and what it refuses and why."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import GPT2Config, GPT2LMHeadModel

from gt_helpers.environment import hub_reachable, hub_snapshot
from gt_helpers.model.load import is_gpt2_small, load_model
from gt_helpers.model.self_checks import UnsupportedModelError, self_check
from gt_helpers.model.transformer import Transformer

SMALL: dict[str, Any] = {"vocab_size": 61, "bos_token_id": 0, "eos_token_id": 0}


@pytest.fixture(scope="module")
def model(folder: Path) -> Transformer:
    return load_model(folder, device="cpu")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that nobody reaches and a cache that holds nothing."""
    error = ConnectionError("[Errno -2] Name or service not known\nand more lines")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", MagicMock(side_effect=error))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)


def test_a_local_folder_loads_without_network_or_tokenizer(folder, model, no_network) -> None:
    again = load_model(str(folder), device="cpu")
    assert again.name == str(folder) and again.tokenizer is None
    assert (again.n_layers, again.n_heads, again.d_model) == (3, 3, 12)
    assert again.W_U.shape == (12, 131) and again.device.type == "cpu"
    torch.testing.assert_close(again.W_U, model.W_U)


def test_weights_are_unprocessed_and_logits_are_hugging_faces(folder: Path, model) -> None:
    hf = GPT2LMHeadModel.from_pretrained(folder).eval()
    torch.testing.assert_close(model.blocks[1].ln1.gain, hf.transformer.h[1].ln_1.weight)
    torch.testing.assert_close(model.W_U, hf.lm_head.weight.T)
    tokens = torch.arange(24).reshape(2, 12)
    torch.testing.assert_close(model.bridge(tokens), hf(tokens).logits, atol=1e-4, rtol=1e-5)


def test_the_model_is_fit_for_measuring(folder: Path) -> None:
    """In eval mode, without gradients, without TF32, in the precision that was asked for."""
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    model = load_model(folder, device="cpu")
    original = model.bridge.original_model
    assert not any(module.training for module in original.modules())
    assert not any(parameter.requires_grad for parameter in original.parameters())
    for tensor in (model.W_U, model.blocks[0].W_Q, model.blocks[0].W_in, model.ln_final.gain):
        assert not tensor.requires_grad and tensor.dtype == model.dtype == torch.float32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_check_report_is_small_and_readable(folder: Path, dtype, limit: float) -> None:
    report = load_model(folder, device="cpu", dtype=dtype).check_report
    assert len(report) == 5
    for check, error in report.items():
        assert error < limit
        assert " " in check and check.replace("'", "").replace(" ", "").isalpha()


def save_gpt2(folder: Path, **options: Any) -> GPT2LMHeadModel:
    """Save a small GPT-2 of these options, its weights moved away from where they start."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 8, "n_positions": 16}
    hf = GPT2LMHeadModel(GPT2Config(**(SMALL | sizes | options)))
    for parameter in hf.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    hf.save_pretrained(folder)
    return hf


@pytest.mark.parametrize(
    "options",
    [
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "gelu"},
        {"activation_function": "relu"},
        {"n_inner": 20},
        {"layer_norm_epsilon": 1e-2},
        {"tie_word_embeddings": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_gpt2_variants_are_treated_exactly(tmp_path: Path, options: dict[str, Any]) -> None:
    hf = save_gpt2(tmp_path, **options)
    model = load_model(tmp_path, device="cpu", dtype=torch.float64)
    assert max(model.check_report.values()) < 1e-10
    tokens = torch.arange(24).reshape(2, 12)
    expected = hf.double().eval()(tokens).logits
    torch.testing.assert_close(model.bridge(tokens), expected, atol=1e-10, rtol=0)


# ---------------------------------------------------------------- refusals


def test_half_precision_and_what_the_bridge_gets_wrong_are_refused(tmp_path: Path) -> None:
    save_gpt2(tmp_path, scale_attn_weights=False)  # it scales all the same
    with pytest.raises(UnsupportedModelError, match="recomputed heads"):
        load_model(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="float32 or float64"):
        load_model(tmp_path, device="cpu", dtype=torch.bfloat16)


ZERO, EPS = torch.zeros_like, lambda norm: replace(norm, eps=0.1)


@pytest.mark.parametrize(
    ("part", "wrong", "check"),
    [
        ("act", lambda _: F.relu, "recomputed MLPs"),
        ("act", lambda _: F.gelu, "recomputed MLPs"),  # erf form: differs by 1e-3
        ("scale", lambda _: 0.3, "recomputed heads"),
        ("b_V", ZERO, "recomputed heads"),
        ("b_O", ZERO, "components add up"),
        ("W_O", ZERO, "components add up"),
        ("ln2", EPS, "recomputed MLPs"),
        ("W_U", lambda W_U: 1.01 * W_U, "patching nothing gives the base logits"),
        ("W_U", lambda W_U: float("nan") * W_U, "patching nothing gives the base logits"),
        ("ln_final", lambda norm: replace(norm, bias=norm.bias + 1), "patching nothing gives"),
    ],
)
def test_a_wrong_recomputation_is_refused_by_model_and_check(model, part, wrong, check) -> None:
    last = model.blocks[-1]
    if part in ("W_U", "ln_final"):
        changed = replace(model, **{part: wrong(getattr(model, part))})
    else:
        last = replace(last, **{part: wrong(getattr(last, part))})
        changed = replace(model, blocks=[*model.blocks[:-1], last])
    said = rf"^{re.escape(model.name)} cannot be .*'{check}.* 1e-04 in torch.float32"
    with pytest.raises(UnsupportedModelError, match=said):
        self_check(changed)


def test_folders_that_hold_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_model(tmp_path)
    for missing in (tmp_path / "gpt3", "./gpt3", "some/where/gpt3"):
        with pytest.raises(ValueError, match="gpt3'; .*e.g."):
            load_model(missing)


# ---------------------------------------------------------------- the hub


@pytest.mark.parametrize("name", ["gpt2-small", "gpt2", "somebody/some-gpt2"])
def test_without_the_hub_one_clear_error_offers_what_works(no_network: None, name: str) -> None:
    said = f"'{name}' is not in .*Name or service not known.* gpt2-small, .* 'mini' .*e.g. './gpt2'"
    with pytest.raises(OSError, match=said):  # on one line
        load_model(name)


@pytest.mark.parametrize(
    ("error", "said"),
    [(RepositoryNotFoundError, "no model 'gpt2-smal'"), (GatedRepoError, "'gpt2-smal' only to")],
)
def test_a_name_the_hub_lacks_is_not_blamed_on_the_network(
    no_network: None, monkeypatch: pytest.MonkeyPatch, error: type[Exception], said: str
) -> None:
    missing = MagicMock(side_effect=error("404", response=MagicMock()))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", missing)
    with pytest.raises(OSError, match=said):
        load_model("gpt2-smal")


def test_offline_mode_is_named_and_asks_no_hub(no_network: None, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set"):
        load_model("gpt2-small")


def test_hub_reachable_answers_instead_of_raising(folder: Path, no_network, monkeypatch) -> None:
    assert not hub_reachable()
    with monkeypatch.context() as online:
        online.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
        assert hub_reachable()
    # A model that is cached needs no hub.
    cached = MagicMock(side_effect=lambda _, file, **__: str(folder / file))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert hub_reachable()
    assert hub_snapshot("openai-community/gpt2") == folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("gpt2-small", True), ("gpt2", True), ("openai-community/gpt2", True)),
        *(("gpt2-medium", False), ("mini", False), ("./gpt2", False)),
    ],
)
def test_only_gpt2_small_is_gpt2_small(model: Transformer, name: str, expected: bool) -> None:
    assert is_gpt2_small(replace(model, name=name)) == expected


def test_a_hub_name_is_never_a_folder_of_that_name(folder: Path, tmp_path, monkeypatch) -> None:
    """Otherwise a folder called gpt2 would be judged as GPT-2 small."""
    (tmp_path / "gpt2").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="not in the local cache"):
        load_model("gpt2", device="cpu")
    assert not is_gpt2_small(load_model("./gpt2", device="cpu"))


def test_fingerprints_tell_weights_apart(folder: Path) -> None:
    one, same = (load_model(folder, device="cpu") for _ in range(2))
    assert one.fingerprint() == same.fingerprint()
    with torch.no_grad():
        same.blocks[0].b_O.add_(1e-6)
    assert one.fingerprint() != same.fingerprint()
