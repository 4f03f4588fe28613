"""Unit: the embedded model, its splits, its size, the task learned, a repeatable training."""

import json

import build_tokenizer
import pytest
import torch
import train
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gt_helpers.dataset.prompts import load_nouns
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.metrics import cutoff_sharpness, prob_diff

MINI = train.HERE
EOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MINI).eval()


def test_years_and_the_main_template_split_as_in_gpt2(tokenizer, gpt2_tokenizer):
    """The ten prompt families: tests/dataset/test_families.py."""
    nouns, years = load_nouns(), [str(year) for year in range(10_000)]
    texts = years + [" " + year for year in years]
    texts += [
        f"{prefix}The {nouns[(3 * year + k) % len(nouns)]} lasted from the year {year} to the year "
        f"{year // 100}"
        for year in range(1000, 2000)
        for k, prefix in enumerate(("", " ", f"{EOS} "))
    ]
    ours, theirs = (
        [
            one.convert_ids_to_tokens(ids)
            for ids in one(texts, add_special_tokens=False)["input_ids"]
        ]
        for one in (tokenizer, gpt2_tokenizer)
    )
    assert ours == theirs


def test_rebuilding_the_tokenizer_gives_the_committed_one(gpt2_tokenizer, tmp_path):
    build_tokenizer.write_tokenizer(tmp_path, *build_tokenizer.find_gpt2_files())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((MINI / name).read_text())


def test_tokenizer_adds_and_strips_nothing(tokenizer):
    ids = tokenizer(f"{EOS} The war lasted from the year 1732 to the year 17")["input_ids"]
    words = "ĠThe Ġwar Ġlasted Ġfrom Ġthe Ġyear Ġ17 32 Ġto Ġthe Ġyear Ġ17"
    assert tokenizer.convert_ids_to_tokens(ids) == [EOS, *words.split()]
    assert ids[0] == tokenizer.eos_token_id == tokenizer.bos_token_id
    assert len(tokenizer("a")["input_ids"]) == 1
    text = "naïve – 東京, 1732!"  # nothing is unencodable
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_shape_and_size(model):
    config = model.config
    assert (config.n_layer, config.n_head, config.n_embd) == (12, 12, 96)
    assert (config.activation_function, config.layer_norm_epsilon) == ("gelu_new", 1e-5)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert (MINI / "model.safetensors").stat().st_size < 8_000_000
    assert {w.dtype for w in load_file(MINI / "model.safetensors").values()} == {torch.float32}


@torch.no_grad()
def test_the_task_is_learned(model, tokenizer):
    data = YearDataset(tokenizer, 490)
    clean, corrupted = (
        model(input_ids=ids).logits[:, -1].softmax(-1)[:, data.year_tokens]
        for ids in (data.clean, data.corrupted)
    )
    assert prob_diff(clean, data.YY).mean() >= 0.75
    assert prob_diff(corrupted, data.YY).mean() < -0.2
    assert cutoff_sharpness(clean, data.YY).mean() > 0.03
    assert (clean * ~data.valid).sum(1).mean() < 0.1
    assert min(clean.sum(1).min(), corrupted.sum(1).min()) >= 0.95


def test_recorded_metrics_are_those_of_the_weights(model, tokenizer):
    report = json.loads((MINI / "training.json").read_text())
    metrics = train.measure(model, train.Prompts(tokenizer, report["seed"]))
    assert metrics == pytest.approx(report["metrics_on_490_held_out_prompts"], abs=1e-3)
    assert metrics["prob_diff_clean"] >= 0.75 and metrics["prob_diff_01"] < -0.2


def test_held_out_pairs_are_never_drawn(tokenizer):
    prompts = train.Prompts(tokenizer, 0)
    drawn, _ = prompts.draw(prompts.main, 5000, torch.Generator().manual_seed(1))
    held_out, _, _ = prompts.held_out_prompts(490, 0)
    noun_and_year = [2, 7, 8]
    drawn, held_out = ({*map(tuple, ids[:, noun_and_year].tolist())} for ids in (drawn, held_out))
    assert held_out and not held_out & drawn


def test_end_years_are_later():
    probs = train.end_year_distribution()
    assert torch.allclose(probs.sum(1), torch.ones(100))
    assert probs[:99].tril().sum() == 0


def test_training_is_repeatable(tmp_path):
    train.train_mini(tmp_path / "a", seed=3, steps=2, progress=False)
    train.main(["--out", str(tmp_path / "b"), "--seed", "3", "--steps", "2"])
    a, b = (load_file(tmp_path / run / "model.safetensors") for run in "ab")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "a", MINI))
    assert len(ours) == len(theirs)


def test_training_refuses_no_steps(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        train.train_mini(tmp_path, steps=0)
