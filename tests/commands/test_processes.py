"""Unit: several processes: who measures which prompts, what is kept, and equal numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import in_processes
import pytest
import torch
from in_processes import FEW, PROMPTS, scores_of_edges
from safetensors.torch import load_file

from gt_helpers import processes as module
from gt_helpers.__main__ import main
from gt_helpers.processes import (
    Stopped,
    Tensors,
    chunks,
    main_first,
    over_prompts,
    resumable,
    write_tensors,
)

ROOT = Path(__file__).parents[2]
UNRANKED = {"clean", "corrupted"}


class Squares:
    """A measurement [row, prompt] of prompts by their numbers, and the slices that it was asked."""

    def __init__(self) -> None:
        self.slices: list[tuple[int, int]] = []

    def __call__(self, prompts: slice) -> Tensors:
        self.slices.append((prompts.start, prompts.stop))
        number = torch.arange(prompts.start, prompts.stop)
        return {"squares": torch.stack([number**2, -(number**2)])}


def measure(n: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """The squares of n prompts, and the slices that this process measured."""
    squares = Squares()
    return over_prompts("squares", n, squares, dim=1)["squares"], squares.slices


def expected(n: int) -> torch.Tensor:
    return torch.stack([torch.arange(n) ** 2, -(torch.arange(n) ** 2)])


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """What one process of several measures, until it finds that another one is lost."""

    def gather(place: str, value: Any) -> list[Any]:
        raise Stopped

    def measured(rank: int, size: int, n: int) -> list[tuple[int, int]]:
        squares = Squares()
        with monkeypatch.context() as patch:
            patch.setattr(module, "_group", module._Group(rank, size))
            patch.setattr(module, "broadcast", lambda value: value)  # all see the same folder
            patch.setattr(module, "_gather", gather)
            with pytest.raises(Stopped):
                over_prompts("squares", n, squares, dim=1)
        return squares.slices

    return measured


def test_one_process_measures_everything_at_once() -> None:
    found, slices = measure(7)
    assert torch.equal(found, expected(7)) and slices == [(0, 7)]
    with module.processes("cpu") as device:  # without torchrun nothing is started
        assert device == "cpu" and module.world_size() == 1
        assert not module.dist.is_initialized()


@pytest.mark.parametrize(("n", "size"), [(10, 2), (10, 3), (2, 3), (490, 8)])
def test_each_prompt_is_measured_by_one_process(n: int, size: int, lost) -> None:
    slices = [one for rank in range(size) for one in lost(rank, size, n)]
    assert [number for one in slices for number in range(*one)] == list(range(n))
    lengths = [end - first for first, end in slices]
    assert max(lengths) - min(lengths) <= 1


def test_within_a_part_a_process_is_on_its_own(lost, monkeypatch) -> None:
    inner: list[list[tuple[int, int]]] = []
    outer = Squares.__call__

    def nested(self: Squares, prompts: slice) -> Tensors:
        monkeypatch.setattr(Squares, "__call__", outer)
        inner.append(measure(5)[1])  # would raise Stopped if it were shared
        return outer(self, prompts)

    monkeypatch.setattr(Squares, "__call__", nested)
    assert lost(1, 2, 10) == [(5, 10)] and inner == [[(0, 5)]]


def test_what_was_finished_is_kept_for_any_number_of_processes(tmp_path, lost) -> None:
    with pytest.raises(KeyboardInterrupt), resumable("a step", tmp_path):
        assert lost(1, 3, 12) == [(4, 8)]  # of three processes only the second one finishes
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), resumable("a step", tmp_path):
        assert lost(1, 3, 12) == [(2, 4), (8, 9)]  # of three that continue, again
        raise KeyboardInterrupt
    assert len(list(tmp_path.glob("parts/a_step/*"))) == 3
    for other in (("another step", 12), ("a step", 11)):
        with pytest.raises(KeyboardInterrupt), resumable(other[0], tmp_path):
            assert measure(other[1])[1] == [(0, other[1])]  # these parts are not its own
            raise KeyboardInterrupt
    with resumable("a step", tmp_path):
        found, slices = measure(12)
        assert torch.equal(found, expected(12)) and slices == [(0, 2), (9, 12)]
        again, slices = measure(12)  # another measurement, though of the same name
        assert torch.equal(again, found) and slices == [(0, 12)]
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_of_one_process_is_every_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(place: str, value: Any) -> list[Any]:
        return [value, ({}, ValueError("no such year"))]

    monkeypatch.setattr(module, "_group", module._Group(0, 2))
    monkeypatch.setattr(module, "_gather", gather)
    with pytest.raises(ValueError, match="no such year"):
        measure(4)


def test_processes_at_different_places_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gather(found: list[Any], value: tuple[str, Any]) -> None:
        found[:] = [value, ("cubes of 4 prompts", value[1])]

    monkeypatch.setattr(module, "_group", module._Group(0, 2))
    monkeypatch.setattr(module.dist, "all_gather_object", all_gather)
    with pytest.raises(RuntimeError, match="different places: cubes of 4 prompts, squares of 4"):
        measure(4)


def test_a_mistake_is_named_by_the_main_process_alone(monkeypatch, capfd) -> None:
    monkeypatch.setattr(module, "_group", module._Group(1, 2))
    monkeypatch.setattr(module, "_gather", lambda place, value: [False, value])
    monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
    with pytest.raises(Stopped), main_first():
        pytest.fail("it does not get here")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun tells the first of four processes on one machine."""
    told = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "4"}
    for name, value in (told | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"}).items():
        monkeypatch.setenv(name, value)


def test_more_processes_than_gpus_get_one_sentence(torchrun, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main(["reproduce", "--model", "mini"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gt_helpers reproduce: ") and "4 processes" in line and "2 GPUs" in line
    assert "--nproc-per-node=2" in line


@pytest.mark.parametrize(
    ("asked", "gpus", "device"),
    [
        (None, 4, "cuda:3"),
        ("cuda", 4, "cuda:3"),
        ("cuda:0", 1, "cuda:0"),  # they share it
        ("cpu", 4, "cpu"),
        (None, 0, None),
    ],
)
def test_each_process_takes_its_own_gpu(asked, gpus, device, torchrun, monkeypatch) -> None:
    current: list[str] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(module.dist, name, lambda *_, **__: None)
    monkeypatch.setattr(module, "_gather", lambda place, value: [value] * 4)
    with module.processes(asked) as given:
        assert given == device
        assert module.world_size() == 4 and module.is_main()
        assert current == ([device] if device == "cuda:3" else [])
    assert module.world_size() == 1


def test_chunks() -> None:
    assert chunks(slice(3, 10), 3) == [slice(3, 6), slice(6, 9), slice(9, 10)]


# ---- real processes ---------------------------------------------------------------------------

RUN = ["--model", "mini", "--prompts", str(PROMPTS), "--device", "cpu"]


def start_two(*program: str) -> subprocess.CompletedProcess[str]:
    """Two processes of a program on the CPU, started by torchrun on a free port of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PYTHONFAULTHANDLER"] = "1"  # if one aborts, it says where
    return subprocess.run(
        [*command, *program],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def same(folder: Path, other: Path, names: str) -> None:
    """The tensors of two results folders are equal to float precision."""
    files = {path.name for path in folder.glob(names)}
    assert files and files == {path.name for path in other.glob(names)}
    for name in files:
        one, two = load_file(folder / name), load_file(other / name)
        assert one.keys() == two.keys()
        # What is made of the strongest neurons or edges jumps where two of them are tied.
        one.pop("lens_sum", None), two.pop("lens_sum", None)
        if name in ("experiment_attribution.safetensors", "experiment_edges.safetensors"):
            one, two = ({k: v for k, v in x.items() if k in UNRANKED} for x in (one, two))
            assert set(one) == UNRANKED
        atol = 1e-6 if name.startswith("sweep") else 5e-6  # logits of 20 are kept to 2e-6
        torch.testing.assert_close(one, two, atol=atol, rtol=1e-6, equal_nan=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scorecard of one process, which begins with everything that reproduce measures."""
    out = tmp_path_factory.mktemp("alone")
    assert main(["scorecard", *RUN, "--at-most", str(FEW), "--out", str(out)]) == 0
    write_tensors(out / "edges.safetensors", scores_of_edges())
    return out


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = start_two(in_processes.__file__, "measure", str(out))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Model: mini") == 1
    same(alone, out, "*.safetensors")
    assert not (out / "parts").exists()
    assert (out / "scorecard.html").is_file()


@pytest.mark.slow
def test_a_lost_process_ends_the_run_which_continues(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["reproduce", *RUN, "--out", str(out)]
    ended = start_two(in_processes.__file__, "lose", *arguments)
    assert ended.returncode == 1
    sentence = (
        "Process 1 of 2 (counted from 0) was lost in the step 'sweep to m10'. "
        f"What was finished is kept in {out}: the same command continues.\n"
    )
    assert ended.stderr.count(sentence) == ended.stderr.count("was lost") == 1
    kept = [path.relative_to(out / "parts") for path in out.glob("parts/*/*")]
    assert list(map(str, kept)) == ["sweep_to_m10/sweep_1_of_12_prompts_0-6.safetensors"]
    assert (out / "sweep_m11.safetensors").is_file()
    assert "This run is not complete" in (out / "report.html").read_text()

    by_one = tmp_path / "by one"
    shutil.copytree(out, by_one)
    assert main(["reproduce", *RUN, "--out", str(by_one)]) == 0
    ended = start_two("-m", "gt_helpers", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "2 sweeps are already finished" in ended.stdout
    for folder in (by_one, out):
        assert not (folder / "parts").exists()
        for names in ("[abl]*.safetensors", "sweep_*", "evaluation_*"):
            same(alone, folder, names)
