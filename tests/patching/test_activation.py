"""Oracle: activation patching against hooks that overwrite the same in a plain pass."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformers import PreTrainedTokenizerBase

from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import prob_diff
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching import activation as module
from gt_helpers.patching.activation import Site, activation_patching, site
from gt_helpers.patching.circuits import Circuit
from gt_helpers.patching.engine import PathPatching

HOOKS = {
    "stream": "hook_in",
    "q": "attn.q.hook_out",
    "k": "attn.k.hook_out",
    "v": "attn.v.hook_out",
    "head": "attn.o.hook_in",
    "mlp": "mlp.hook_out",
}
SITES = (
    *("a9.h1@END", "a7.h10@YY", "m10", "m0@YY", "stream8@YY", "stream11@END"),
    *("a9.h1.v@YY", "a9.h1.q@END", "a5.h3.k@YY", "a3.h2.q@to"),
)


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerBase) -> YearDataset:
    return YearDataset(tokenizer, 6)


def hooked(model: Transformer, dataset: YearDataset, names: list[str], base: str) -> Tensor:
    """The same by hooks on the whole model: slow and obvious."""
    tokens, other = dataset.clean, dataset.corrupted
    tokens, other = (tokens, other) if base == "clean" else (other, tokens)
    _, cache = model.bridge.run_with_cache(other)

    def overwrite(value: Tensor, hook: HookPoint, one: Site) -> Tensor:
        position = dataset.positions[one.position]
        value, patch = value.clone(), cache[hook.name]
        if one.head < 0:
            value[:, position] = patch[:, position]
            return value
        split, patch = (x.reshape(*x.shape[:2], model.n_heads, -1) for x in (value, patch))
        split[:, position, one.head] = patch[:, position, one.head]
        return split.reshape(value.shape)

    hooks = [
        (f"blocks.{one.layer}.{HOOKS[one.kind]}", partial(overwrite, one=one))
        for one in map(site, names)
    ]
    logits = model.bridge.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
    return prob_diff(logits.softmax(-1)[:, dataset.year_tokens], dataset.YY)


@pytest.mark.parametrize("base", ["clean", "corrupted"])
def test_it_is_what_hooks_do(mini64: Transformer, dataset: YearDataset, base: str) -> None:
    sites = [*([name] for name in SITES), ["a7.h10@END", "a9.h1@END", "a8.h11.v@YY", "m9@END"]]
    found = activation_patching(mini64, dataset, sites, base)
    expected = torch.stack([hooked(mini64, dataset, names, base) for names in sites])
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
    assert len(found.mean(-1).unique()) > 5  # the sites do differ


def test_limits(mini64: Transformer, dataset: YearDataset) -> None:
    patching = PathPatching(mini64, dataset)
    clean, corrupted = (
        prob_diff(probs, dataset.YY) for probs in (patching.base_probs, patching.patch_probs)
    )
    sites = ["stream0@YY", "a5.h5@year", ["stream11@END", "m11"]]
    found = activation_patching(mini64, dataset, sites, "corrupted")
    torch.testing.assert_close(found[0], clean, atol=1e-9, rtol=0)  # YY is all that differs
    torch.testing.assert_close(found[1], corrupted, atol=1e-9, rtol=0)  # nothing differs before it
    assert not torch.allclose(found[2], clean, atol=1e-4)  # the last heads still read 01
    last = activation_patching(mini64, dataset, ["m11@END"], "clean")[0]
    by_path = patching.evaluate(Circuit(["m11 -> logits"])).prob_diff
    torch.testing.assert_close(last, by_path, atol=1e-9, rtol=0)  # after it there is nothing else


def test_chunks_do_not_matter(mini64, dataset, monkeypatch) -> None:
    whole = activation_patching(mini64, dataset, SITES)
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 8)
    monkeypatch.setattr(module, "_SITES", 3)
    torch.testing.assert_close(activation_patching(mini64, dataset, SITES), whole)


@pytest.mark.parametrize(
    ("name", "base", "said"),
    [
        ("embed@YY", "clean", "embed@YY .*e.g."),
        ("a12.h0@END", "clean", "a12.h0 .*0 to 11, e.g."),
        ("stream3@nowhere", "clean", "'nowhere'.*YY"),
        ("nonsense", "clean", "'nonsense' .*a9.h1@END"),
        ("m10", "noise", "e.g. 'clean'; got 'noise'"),
    ],
)
def test_what_cannot_be_is_refused(name: str, base: str, said: str, mini64, dataset) -> None:
    with pytest.raises(ValueError, match=said):
        activation_patching(mini64, dataset, [name], base)
