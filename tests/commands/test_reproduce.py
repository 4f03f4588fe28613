"""Unit: the main job end to end on the embedded model: files, continuation, mistakes."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from gt_helpers import reproduce as module
from gt_helpers.__main__ import main
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.model import cache
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import PAPER
from gt_helpers.reproduce import open_run, reproduce
from gt_helpers.scorecard import sweeps
from gt_helpers.scorecard.results import load_results

PROMPTS = 24
COMMAND = ["reproduce", "--model", "mini", "--prompts", str(PROMPTS), "--seed", "3"]
quietly = partial(open_run, "mini", PROMPTS, seed=3, device="cpu", say=lambda line: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    reproduce(quietly(out=out))
    return out


def test_every_experiment_is_on_disk_and_loads(folder: Path) -> None:
    results = load_results(folder)
    assert set(results.evaluations) == {"clean", "corrupted", "partial", "full", "reverse"}
    assert {"logits", "q", "k", "v", "m0@YY", "m1@YY", "m2@YY", "m3@YY"} <= set(results.sweeps)
    assert set(results.parts.mlps) < set(results.sweeps)
    for sweep in results.sweeps.values():
        assert sweep.values.shape == (157, PROMPTS)
    assert results.softmax_of_mean.shape == (97, 100)
    assert results.attention.shape == (12, 12, PROMPTS)
    assert results.lens.keys() == {*results.parts.heads, *results.parts.mlps}
    assert {lens.shape for lens in results.lens.values()} == {(97, 100)}
    assert results.settings["model"] == "mini" and not results.settings["gpt2_small"]
    assert "html" in (folder / "report.html").read_text()[:100]
    assert len(pd.read_csv(folder / "scorecard.csv")) > 20


def test_the_circuit_is_the_models_own_and_works(folder: Path) -> None:
    results = load_results(folder)
    assert results.parts.heads != PAPER.heads
    assert "own sweeps" in results.parts.source
    value = {name: e.prob_diff.mean() for name, e in results.evaluations.items()}
    assert value["corrupted"] < value["full"] < value["clean"]
    assert value["partial"] > value["corrupted"] + 0.5 * (value["clean"] - value["corrupted"])
    assert value["reverse"] < value["partial"]


def test_a_finished_run_is_not_computed_again(folder, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(PathPatching, "sweep", refuse)
    monkeypatch.setattr(PathPatching, "evaluate", refuse)
    monkeypatch.setattr(sweeps, "softmax_of_mean_logits", refuse)
    monkeypatch.setattr(sweeps, "looks_and_writes", refuse)
    lines: list[str] = []
    reproduce(quietly(out=folder, say=lines.append))
    assert any("already finished" in line for line in lines)


def test_an_interrupted_run_keeps_what_it_finished_and_continues(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sweep = PathPatching.sweep

    def interrupted(self: PathPatching, *arguments: object, **more: object) -> object:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append("one")
        return sweep(self, *arguments, **more)

    monkeypatch.setattr(PathPatching, "sweep", interrupted)
    command = [*COMMAND, "--out", str(tmp_path), "--device", "cpu"]
    assert main(command) == 130
    assert len(load_results(tmp_path).sweeps) == 2
    assert "This run is not complete" in (tmp_path / "report.html").read_text()

    monkeypatch.setattr(PathPatching, "sweep", sweep)
    assert main(command) == 0
    whole, continued = load_results(folder), load_results(tmp_path)
    assert whole.sweeps.keys() == continued.sweeps.keys()
    for name, result in whole.sweeps.items():
        torch.testing.assert_close(continued.sweeps[name].values, result.values)
    assert continued.parts == whole.parts
    torch.testing.assert_close(continued.attention, whole.attention)
    torch.testing.assert_close(continued.lens, whole.lens, equal_nan=True)


def test_a_run_interrupted_at_once_still_knows_its_prompts(tmp_path: Path) -> None:
    for _ in range(2):
        run = open_run("mini", 4, 0, (1100, 1800), tmp_path, "cpu", print)
        assert torch.equal(run.results.YY, run.dataset.YY)


def test_attention_and_lens_do_not_depend_on_the_chunks(mini: Transformer, monkeypatch) -> None:
    patching = PathPatching(mini, YearDataset(mini.tokenizer, PROMPTS))
    attention, lens = sweeps.looks_and_writes(patching, ["a7.h10", "m10"])
    monkeypatch.setattr(cache, "PROMPTS_AT_ONCE", 7)
    in_chunks = sweeps.looks_and_writes(patching, ["a7.h10", "m10"])
    torch.testing.assert_close(in_chunks[0], attention)
    torch.testing.assert_close(in_chunks[1], lens, equal_nan=True, atol=1e-5, rtol=1e-4)


def test_tensors_of_an_unknown_run_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "sweep_v.safetensors", tmp_path)
    with pytest.raises(ValueError, match="holds sweep_v.safetensors but no results.json"):
        quietly(out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep_v.safetensors"]


@pytest.mark.parametrize("changed", ["weights", "prompts"])
def test_a_folder_of_other_settings_is_not_overwritten(changed, folder, tmp_path, capsys) -> None:
    shutil.copytree(folder, tmp_path / "run")
    text = json.loads((folder / "results.json").read_text())
    text["settings"][changed] = "others"
    (tmp_path / "run" / "results.json").write_text(before := json.dumps(text))
    assert main([*COMMAND, "--out", str(tmp_path / "run")]) == 2
    assert re.search(rf"other settings \({changed}\).*e\.g\.", capsys.readouterr().err)
    assert (tmp_path / "run" / "results.json").read_text() == before


def test_without_a_model_it_says_which_it_takes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "hub_reachable", lambda: False)
    monkeypatch.setattr(module, "discover", lambda *_: None)
    lines: list[str] = []
    reproduce(open_run(prompts=4, out=tmp_path, device="cpu", say=lines.append))
    assert lines[0].startswith("Model: mini (GPT-2 small")


def test_a_cached_gpt2_small_is_taken_and_judged_by_the_papers_circuit(
    tmp_path: Path, mini_as_gpt2_small: None
) -> None:
    """mini stands in for GPT-2 small in a local hub cache: same names, so the paper's lists run."""
    lines: list[str] = []
    reproduce(open_run(prompts=PROMPTS, out=tmp_path / "out", device="cpu", say=lines.append))
    assert lines[0] == "Model: gpt2-small"
    results = load_results(tmp_path / "out")
    assert results.parts == PAPER and results.settings["gpt2_small"]
    names = "logits m11 m10 m9 m8 q k v m3@YY m2@YY m1@YY m0@YY"
    assert list(results.sweeps) == names.split()
    verdicts = pd.read_csv(tmp_path / "out" / "scorecard.csv")["verdict"]
    assert {"agrees", "disagrees"} <= set(verdicts) and "not comparable" not in set(verdicts)


def test_both_averaging_orders_agree_when_each_YY_has_one_prompt(folder: Path) -> None:
    results = load_results(folder)
    rows = results.YY - 2
    assert len(rows.unique()) == PROMPTS
    torch.testing.assert_close(
        results.softmax_of_mean[rows], results.evaluations["clean"].probs, atol=1e-5, rtol=0
    )
    assert results.softmax_of_mean.isnan().any(1).sum() == 97 - PROMPTS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "/no/such/folder"], "There is no folder"),
        (["--model", "mini", "--years", "1732-1733"], "no valid year"),
        (["--model", "mini", "--years", "1800"], "e.g. 1100-1800"),
        (["--model", "mini", "--device", "tpu"], "no device 'tpu' here; allowed: cpu"),
    ],
)
def test_settings_that_cannot_be_get_one_sentence(arguments, sentence, tmp_path, capsys) -> None:
    assert main(["reproduce", *arguments, "--out", str(tmp_path / "new")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_prompts_that_are_no_number(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["reproduce", "--prompts", "none"])
    assert "e.g. 490" in capsys.readouterr().err


def test_a_folder_from_before_experiments_and_parallel_models_loads(folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    text = json.loads((folder / "results.json").read_text())
    del text["experiments"]
    for route in text["sweeps"].values():
        del route["parallel"]
    (tmp_path / "run" / "results.json").write_text(json.dumps(text))
    old, new = load_results(tmp_path / "run"), load_results(folder)
    assert old.experiments == {} and old.sweeps["v"].shape == new.sweeps["v"].shape


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no results\.json"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="format 0"):
        load_results(tmp_path)


def test_a_folder_that_lost_a_file_says_which(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "sweep_m10.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no sweep_m10\.safetensors"):
        load_results(tmp_path / "run")
