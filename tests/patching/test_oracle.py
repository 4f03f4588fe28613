"""Oracle: cell by cell against the outputs of the paper's own code on a substitute model.

The recording is too large for the repository; without it beside the checkout these tests skip.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from literal import Prompts
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gt_helpers.analysis.attention import attention_pattern
from gt_helpers.analysis.logit_lens import logit_lens
from gt_helpers.dataset.prompts import PAPER_POSITIONS, year_tokens
from gt_helpers.metrics import mean_by_YY, prob_diff
from gt_helpers.model.cache import cache_activations, end_logits
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER, partial_circuit

ORACLE = Path(__file__).parents[3] / "shared" / "oracle"
pytestmark = pytest.mark.skipif(
    not (ORACLE / "golden.safetensors").is_file(), reason="the paper's outputs are not at hand"
)
LATE = ("m8", "m9", "m10", "m11")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(ORACLE / "golden.safetensors")


@pytest.fixture(scope="module")
def patching(golden: dict[str, Tensor], gpt2_tokenizer: PreTrainedTokenizerBase) -> PathPatching:
    dataset = Prompts(
        golden["good_toks"].long(),
        golden["bad_toks"].long(),
        golden["years_YY"].long(),
        {name: index for index, name in enumerate(PAPER_POSITIONS)},
        year_tokens(gpt2_tokenizer),
    )
    return PathPatching(load_model(ORACLE / "model", device="cpu"), dataset)


def recorded_softmax(model: Transformer, normed: Tensor, tokens: Tensor) -> Tensor:
    """The float32 softmax over all logits at once, whose rounding the recorded numbers carry."""
    logits = (part @ model.W_U + model.b_U for part in normed.flatten(0, 1).split(256))
    probs = torch.cat([part.softmax(-1)[:, tokens] for part in logits])
    return probs.log().reshape(*normed.shape[:-1], len(tokens))


def test_prob_diff_of_clean_and_01_prompts(patching: PathPatching, golden: dict) -> None:
    YY = patching.dataset.YY
    base, patch = prob_diff(patching.base_probs, YY), prob_diff(patching.patch_probs, YY)
    torch.testing.assert_close(base, golden["baseline_prob_diff"], atol=5e-5, rtol=0)
    torch.testing.assert_close(patch, golden["all_bad_prob_diff"], atol=5e-5, rtol=0)


def test_both_averaging_orders(patching: PathPatching, golden: dict) -> None:
    data = patching.dataset
    logits = torch.cat(list(end_logits(patching.model, data.clean)))
    of_mean = mean_by_YY(logits, data.YY).softmax(-1)[:, data.year_tokens]
    torch.testing.assert_close(of_mean, golden["probs"], atol=5e-5, rtol=0)
    mean_of = mean_by_YY(patching.base_probs, data.YY)
    torch.testing.assert_close(mean_of, golden["probs_mean_of_softmax"], atol=5e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("ipp_logits", (["logits"], [], "END")),
        ("ipp_mlp10", (["m10"], ["m11"], "END")),
        ("attn_v", ([f"{head}.v" for head in PAPER.heads], LATE, "YY")),
        ("attn_q", ([f"{head}.q" for head in PAPER.heads], LATE, "YY")),
        ("results_mlp1", (["m1@YY"], [*(f"{head}.v[YY]" for head in PAPER.heads), *LATE], "YY")),
    ],
)
def test_sweep_cell_by_cell(patching, golden, monkeypatch, name: str, route: tuple) -> None:
    if name == "ipp_logits":  # one cell would differ by 1.1e-6, all of it the recording's rounding
        monkeypatch.setattr(Transformer, "log_probs_of", recorded_softmax)
        monkeypatch.setattr(patching, "_base_log_probs", None)
    sweep = patching.sweep(*route)
    monkeypatch.setattr(patching, "_base_log_probs", None)
    torch.testing.assert_close(sweep.effect, golden[name], atol=1e-6, rtol=0)
    assert (golden[name].abs().max() > 1e-3) == (name != "attn_q")


def test_partial_circuit(patching: PathPatching, golden: dict) -> None:
    measured = patching.reversed().evaluate(partial_circuit()).prob_diff
    torch.testing.assert_close(measured, golden["ms_prob_diff"], atol=5e-5, rtol=0)


def test_attention_pattern(patching: PathPatching, golden: dict) -> None:
    cache = cache_activations(patching.model, golden["good_toks"][:20].long())
    pattern = attention_pattern(cache, "a8.h11")
    torch.testing.assert_close(pattern, golden["attn_a8h11"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["a7.h10", "m10"])
def test_logit_lens(patching: PathPatching, golden: dict, name: str) -> None:
    data = patching.dataset
    cache = cache_activations(patching.model, data.clean, start=data.positions["END"])
    lens = mean_by_YY(logit_lens(cache, name, data.year_tokens), data.YY)
    torch.testing.assert_close(lens, golden[f"logit_lens_{name}"], atol=2e-5, rtol=0)
