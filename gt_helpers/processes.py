"""More than one device: every process measures some of the prompts and gets the results of all.

``torchrun --nproc-per-node=2 -m gt_helpers reproduce`` starts two; without torchrun there is one
process, which measures everything. Whatever walks over prompts does so in a function of a slice of
them, and leaves it to `over_prompts` who measures what:

    def answers(prompts: slice) -> Tensors:
        return {"probs": torch.cat([probs_of(some) for some in chunks(prompts, 256)])}

    probs = over_prompts("answers", len(dataset), answers)["probs"]  # of all, in every process

Prompts are independent and results are put side by side, so no number is added to another. What
follows is computed everywhere, from the same results, and only the main process prints and saves.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

T = TypeVar("T")
Tensors = dict[str, Tensor]

_TIMEOUT = timedelta(hours=2)  # of waiting for a process that hangs; a lost one is noticed at once
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(RuntimeError):
    """The run cannot go on, e.g. because a process was lost; one process has said why."""


@dataclass(frozen=True)
class _Group:
    """The processes of this run: the number of this one, and each one's machine and process id."""

    rank: int = 0
    size: int = 1
    members: tuple[tuple[str, int], ...] = ()


@dataclass
class _Step:
    """A step of a run, its results folder, and how often each thing was measured in it."""

    name: str
    folder: Path
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def parts(self) -> Path:
        """Where the processes keep what they finished of this step."""
        return self.folder / "parts" / _file_name(self.name)


_group = _Group()
_step: _Step | None = None
_measuring = False  # a part of the prompts: what is called meanwhile is this process's alone


def rank() -> int:
    """The number of this process, from 0 on; 0 is the main one."""
    return _group.rank


def world_size() -> int:
    """How many processes there are."""
    return _group.size


def is_main() -> bool:
    """Whether this is the process that prints, shows bars and writes results."""
    return _group.rank == 0


def main_only(say: Callable[[str], None]) -> Callable[[str], None]:
    """A function that says something, and in every process but the main one says nothing."""
    return say if is_main() else lambda line: None


def over_prompts(
    what: str, n: int, measure: Callable[[slice], Tensors], dim: int = 0
) -> dict[str, Tensor]:
    """What ``measure`` finds on n prompts, each process measuring some of them.

    ``measure`` takes a slice of the prompts 0 to n - 1 and gives named tensors whose axis ``dim``
    is these prompts; the result has all n there, in every process. All processes must call this
    alike, and in the same order; within ``measure``, a process calls it for itself alone. In a
    `resumable` step, what an interrupted attempt kept of this is not measured again. A ValueError
    of one process is raised in all.
    """
    if _measuring:
        return measure(slice(0, n))
    path, kept = _kept(what, n)
    left = sorted(set(range(n)) - {number for some in kept for number in range(n)[some]})
    first, last = (len(left) * i // world_size() for i in (rank(), rank() + 1))
    found, refusal = _measured(measure, _slices(left[first:last]), path)
    if is_main() and path:
        found |= {prompts.start: load_file(_part(path, prompts)) for prompts in kept}
    everyone = _gather(f"{what} of {n} prompts", (found, refusal))
    for _, refused in everyone:
        if refused is not None:
            raise refused
    by_start = {start: part for found, _ in everyone for start, part in found.items()}
    parts = [by_start[start] for start in sorted(by_start)]
    if len(parts) == 1:
        return parts[0]
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}


def _measured(
    measure: Callable[[slice], Tensors], mine: Sequence[slice], path: Path | None
) -> tuple[dict[int, Tensors], ValueError | None]:
    """What this process finds on its prompts, by the first of each slice; or why it refuses."""
    global _measuring
    found: dict[int, Tensors] = {}
    _measuring = True
    try:
        for prompts in mine:
            found[prompts.start] = tensors = measure(prompts)
            if world_size() == 1:
                continue  # nothing is sent, and no other process can be lost meanwhile
            found[prompts.start] = {name: _own(tensor) for name, tensor in tensors.items()}
            if path:
                write_tensors(_part(path, prompts), tensors)
    except ValueError as error:
        return {}, error
    finally:
        _measuring = False
    return found, None


def chunks(prompts: slice, size: int) -> list[slice]:
    """A slice of prompts, or of anything, in pieces of at most ``size``."""
    starts = range(prompts.start, prompts.stop, size)
    return [slice(first, min(first + size, prompts.stop)) for first in starts]


@contextmanager
def resumable(name: str, folder: Path) -> Iterator[None]:
    """A named step of a run whose results are saved into a folder at the end of the block.

    Until then the folder keeps, under ``parts``, what each process has finished of it, for a run of
    any number of processes that continues this one. The name says everything that these depend on
    beyond the folder's settings.
    """
    global _step
    _step = _Step(name, folder)
    try:
        yield
        if is_main():
            shutil.rmtree(_step.parts, ignore_errors=True)
            with suppress(OSError):
                _step.parts.parent.rmdir()  # if it is empty
    finally:
        _step = None


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file that is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    save_file({name: _own(tensor) for name, tensor in tensors.items()}, temporary)
    temporary.chmod(0o644)
    temporary.replace(path)


@contextmanager
def processes(device: str | None = None) -> Iterator[str | None]:
    """Join the processes that torchrun started, for as long as the block lasts; gives the device.

    Without torchrun nothing happens, and the device is the given one. Each process takes the GPU of
    its own number unless ``device`` is another than "cuda". When a process is lost, the others say
    so in one sentence, and Stopped is raised. Raises ValueError for more processes than GPUs.
    """
    global _group
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield device
        return
    _group = _Group(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    handlers = {one: signal.signal(one, _stop) for one in _SIGNALS}
    try:
        device = _own_device(device)
        # Imported later, its functions would hold the group as their default, and with it Gloo's
        # threads until the interpreter ends, which can then abort although the run succeeded.
        import torch.distributed.nn.functional  # noqa: F401

        # What is gathered lies on the CPU. Gloo notices a lost process at once; NCCL would wait.
        dist.init_process_group("gloo", timeout=_TIMEOUT)
        members = _gather("members", (socket.gethostname(), os.getpid()))
        _group = _Group(_group.rank, _group.size, tuple(members))
        yield device
        _gather("end", None)
        dist.destroy_process_group()
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
        _group = _Group()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through the block first, e.g. to download what the others then find.

    A mistake that it meets there is named by it alone: the others end without a word.
    """
    if not is_main():
        if not broadcast(False):
            _leave()
        yield
        return
    try:
        yield
    except Stopped:
        raise
    except Exception:
        broadcast(False)
        raise
    broadcast(True)


def broadcast(value: T) -> T:
    """The main process's value, in every process; all must call this."""
    return _gather("broadcast", value if is_main() else None)[0]


def _kept(what: str, n: int) -> tuple[Path | None, list[slice]]:
    """Where parts of a measurement are kept in this step, and of which prompts there are some."""
    if _step is None:
        return None, []
    _step.calls[what] += 1
    path = _step.parts / f"{_file_name(what)}_{_step.calls[what]}_of_{n}_prompts"
    files = path.parent.glob(f"{path.name}_*.safetensors")
    ends = sorted([int(end) for end in file.stem.rpartition("_")[2].split("-")] for file in files)
    kept = [slice(first, end) for first, end in ends]
    return path, broadcast(kept)  # the main process's view, lest two differ


def _part(path: Path, prompts: slice) -> Path:
    return path.with_name(f"{path.name}_{prompts.start}-{prompts.stop}.safetensors")


def _slices(numbers: Sequence[int]) -> list[slice]:
    """Ascending numbers as slices of consecutive ones."""
    by_gap = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    pieces = [[number for _, number in piece] for _, piece in by_gap]
    return [slice(piece[0], piece[-1] + 1) for piece in pieces]


def _own(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own on the CPU: a view would be sent with all that it views."""
    return tensor.detach().cpu().contiguous().clone()


def _file_name(text: str) -> str:
    return re.sub(r"[^\w@.-]+", "_", text)


def _own_device(device: str | None) -> str | None:
    """The device of this process, of the one that is asked for."""
    n_gpus, here = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if n_gpus == 0 or device not in (None, "cuda"):
        return device
    if here > n_gpus:
        if not is_main():
            _leave()
        raise ValueError(
            f"torchrun started {here} processes on a machine with {n_gpus} GPUs; start one for "
            f"each, --nproc-per-node={n_gpus}, or give --device cpu."
        )
    device = f"cuda:{os.environ['LOCAL_RANK']}"
    torch.cuda.set_device(device)
    return device


def _gather(place: str, value: Any) -> list[Any]:
    """The values of all processes, which must have come to the same place."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    try:
        dist.all_gather_object(found, (place, value))
    except RuntimeError as error:
        time.sleep(5)  # torchrun stops the others when a process is lost, and then `_stop` says so
        reason = str(error).partition("\n")[0].split("] ", 1)[-1]  # without its place in C++
        _say(f"The processes do not reach each other any more ({reason})")
        raise Stopped("Another process was lost.") from error
    if len(places := sorted({place for place, _ in found})) > 1:
        raise RuntimeError(f"The processes came to different places: {', '.join(places)}.")
    return [value for _, value in found]


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal, as torchrun sends it when a process is lost: one process says why."""
    for one in _SIGNALS:
        signal.signal(one, signal.SIG_IGN)
    here = socket.gethostname()
    lost = [i for i, (host, pid) in enumerate(_group.members) if host == here and not _lives(pid)]
    if rank() == min(set(range(world_size())) - set(lost)):
        numbers = " and ".join(map(str, lost))
        of_all = f"Process {numbers} of {world_size()} (counted from 0) was lost"
        _say(of_all if lost else "The run was stopped")
        time.sleep(1 if world_size() == 2 else 5)  # the others are looking too, who is there
    raise Stopped("The run was stopped.")


def _say(what: str) -> None:
    """Say why the run is stopped, where, and how it is continued."""
    where = f" in the step '{_step.name}'" if _step else ""
    kept = f"is kept in {_step.folder}" if _step else "is kept"
    sentence = f"{what}{where}. What was finished {kept}: the same command continues."
    print(f"\n{sentence}", file=sys.stderr, flush=True)


def _leave() -> NoReturn:
    """End without a word, and not before the main process, which says why."""
    time.sleep(1)
    raise Stopped("The main process cannot go on.")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
