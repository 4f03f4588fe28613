"""What the benchmarks share: random prompts and weights, time, peak memory, and their tables."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1]))

from gt_helpers.model import transformer
from gt_helpers.model.transformer import Transformer

Table = list[tuple[str, str]]
POSITIONS = "eos The NOUN lasted from the year XX1 YY to the2 year2 END".split()
YY = POSITIONS.index("YY")
GIB = 2**30


@dataclass
class RandomPrompts:
    """The parts of a dataset that the engine reads: random tokens that differ at YY."""

    clean: Tensor
    corrupted: Tensor
    YY: Tensor
    positions: dict[str, int]
    year_tokens: Tensor
    strata = None

    def __len__(self) -> int:
        return len(self.YY)

    def take(self, which: Tensor) -> RandomPrompts:
        """Some of the prompts, by their numbers."""
        return replace(
            self, clean=self.clean[which], corrupted=self.corrupted[which], YY=self.YY[which]
        )


def random_prompts(n: int, vocabulary: int) -> RandomPrompts:
    """n prompts of 13 tokens whose clean and corrupted version differ at YY."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(vocabulary, (n, len(POSITIONS)), generator=generator)
    corrupted = clean.clone()
    corrupted[:, YY] = (clean[:, YY] + 1) % vocabulary
    return RandomPrompts(
        clean,
        corrupted,
        torch.randint(2, 99, (n,), generator=generator),
        {name: index for index, name in enumerate(POSITIONS)},
        torch.arange(100),
    )


def save_gpt2(folder: Path, tiny: bool = False) -> None:
    """Save a randomly initialised GPT-2, of GPT-2 small's shape unless ``tiny``."""
    small: dict[str, Any] = (
        {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 211} if tiny else {}
    )
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **small)).save_pretrained(folder)


def seconds(work: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Least wall time of a few runs of some work."""
    times = []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


class Peak:
    """Peak memory above the start of the ``with`` block, in bytes: the GPU's, or the process's."""

    def __init__(self, device: str) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> Peak:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._start = torch.cuda.memory_allocated()
            return self
        self._process = psutil.Process(os.getpid())
        self._start, self._stop = self._process.memory_info().rss, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.bytes = max(self.bytes, self._process.memory_info().rss - self._start)

    def __exit__(self, *_: object) -> None:
        if self.device == "cuda":
            self.bytes = torch.cuda.max_memory_allocated() - self._start
            return
        self._stop.set()
        self._thread.join()


def product_seconds(model: Transformer, n_rows: int, device: str, fraction: float) -> float:
    """Time of the bare product [rows, d_model] x [d_model, vocabulary], the fastest way tried."""
    rows = torch.randn(n_rows, model.d_model, device=device)
    n_tokens = model.W_U.shape[1]
    transposed = model.W_U.contiguous()

    def one(size: int, columns: int, weight: Tensor) -> float:
        some = rows[: max(1, int(n_rows * fraction))]
        out = torch.empty(size * columns, device=device)

        def work() -> None:
            for part in some.split(size):
                for columns_ in weight.split(columns, dim=1):
                    into = out[: len(part) * columns_.shape[1]].view(len(part), -1)
                    torch.matmul(part, columns_, out=into)

        return seconds(work, device) * n_rows / len(some)

    own = transformer._CPU_BLOCK if device == "cpu" else transformer._GPU_BLOCK
    tried = [(*own, model.W_U), (*own, transposed), (own[0], n_tokens, model.W_U)]
    return min(one(size, min(columns, n_tokens), weight) for size, columns, weight in tried)


def machine(device: str) -> str:
    """One line that says what was measured on what."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if device == "cpu" else ():
        if line.startswith("model name"):
            name = line.split(":")[1].strip()
            break
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    return f"{device}: {name or platform.machine()}{threads}, torch {torch.__version__}, float32"


def options_of(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The command line of every benchmark; ``parser`` may have options of its own."""
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CPU, and CUDA if any")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, to test this script")
    return parser.parse_args(arguments)


def print_tables(benchmark: Callable[[Path, str], Table], options: argparse.Namespace) -> None:
    """Print what a benchmark of a random GPT-2 gives on each device."""
    devices = [options.device] if options.device else ["cpu"]
    if not options.device and torch.cuda.is_available():
        devices.append("cuda")
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_gpt2(Path(folder), options.tiny)
        for device in devices:
            table = benchmark(Path(folder), device)
            print(f"\n{machine(device)}\n\n| | |\n|---|---|")
            print("\n".join(f"| {label} | {value} |" for label, value in table), flush=True)


def run(
    benchmark: Callable[[Path, int, str], Table],
    prompts: int,
    description: str | None,
    arguments: list[str] | None,
) -> None:
    """The command of a benchmark whose only option of its own is the number of prompts."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=prompts)
    options = options_of(parser, arguments)
    print_tables(lambda folder, device: benchmark(folder, options.prompts, device), options)
