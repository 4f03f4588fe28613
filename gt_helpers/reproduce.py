"""reproduce: the paper's circuit discovery from end to end, into a report and raw results."""

from __future__ import annotations

import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import circuits
from .attention import attention_map
from .circuits import full_circuit, partial_circuit
from .dataset import YearDataset
from .distributed import (
    Tensors,
    is_main,
    main_first,
    main_only,
    over_prompts,
    resumable,
    share,
    world_size,
)
from .logit_lens import logit_lens
from .metrics import mean_by_YY
from .models import hub_reachable, is_gpt2_small, load_model
from .path_patching import Evaluation, PathPatching, Sweep
from .prompts import load_nouns, valid_years
from .report import write_report
from .results import Results, load_results
from .runs import compute_run, end_logits
from .scorecard import claims, measurable, scorecard, to_text
from .transformer import Transformer

_PROMPTS = 512  # whose whole residual stream is kept at once
_PACKAGES = ("torch", "transformer_lens", "transformers", "numpy", "pandas", "plotly")
# What must agree before a results folder is continued; the rest may differ between two sittings.
_SAME = ("model", "weights", "prompts", "seed", "years", "dtype", "corruption", "balanced")


def reproduce(
    model: str | None = None,
    prompts: int = 490,
    seed: int = 0,
    years: tuple[int, int] = (1100, 1800),
    out: str | Path | None = None,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Run the paper's circuit discovery on a model and return the path of the report.

    Without ``model`` it is GPT-2 small when that can be had, and ``mini`` otherwise. On another
    model than GPT-2 small the circuit is the one that its own sweeps find (``find_circuit``).
    A folder that holds an interrupted run of the same settings is continued. Raises ValueError for
    settings that cannot be, and OSError if a named model cannot be had. Within `processes` the
    prompts are shared among them.
    """
    say = main_only(say)
    transformer, dataset, results, folder = open_run(model, prompts, seed, years, out, device, say)
    try:
        discover(transformer, dataset, results, folder, say)
    finally:  # an interrupted run leaves a report of what it finished
        report = folder / "report.html"
        if is_main():
            write_report(results, report)
    if not is_main():
        return report
    table = scorecard(results, measurable(results))
    table.to_csv(folder / "scorecard.csv", index=False)
    say(to_text(table))
    if rest := len(claims()) - len(table):
        say(f"{rest} more claims need other experiments: python -m gt_helpers scorecard")
    say(f"Report: {report.resolve()}")
    return report


def open_run(
    model: str | None,
    prompts: int,
    seed: int,
    years: tuple[int, int],
    out: str | Path | None,
    device: str | None,
    say: Callable[[str], None],
) -> tuple[Transformer, YearDataset, Results, Path]:
    """The model, its balanced prompts, and the results that the folder already holds, or new ones.

    Arguments and errors as for `reproduce`.
    """
    chosen = model or share("gpt2-small" if hub_reachable() else "mini")
    why = "" if model or chosen != "mini" else " (GPT-2 small is not cached and cannot be reached)"
    with main_first():
        if out is not None and Path(out).exists() and not Path(out).is_dir():
            raise ValueError(f"{str(out)!r} is a file; give a folder for the results, e.g. my-run.")
        say(f"Model: {chosen}{why}")
        transformer = load_model(chosen, device)
        if transformer.tokenizer is None:
            raise ValueError(
                f"The folder {chosen!r} holds no tokenizer; add GPT-2's tokenizer.json, or its "
                "vocab.json and merges.txt."
            )
        dataset = YearDataset(transformer.tokenizer, prompts, years=years, seed=seed)
        results = new_results(transformer, dataset, seed, years)
        folder = Path(out) if out else Path("reproduction") / _folder_name(results.settings)
        if is_main():
            results = _continue_or_start(folder, results, say)
    results = share(results)
    several = f"; {world_size()} processes" if world_size() > 1 else ""
    say(f"Device: {transformer.device}{several}; {len(dataset)} prompts; results go to {folder}")
    return transformer, dataset, results, folder


def discover(
    model: Transformer,
    dataset: YearDataset,
    results: Results,
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Every experiment that the results do not hold yet, each saved as soon as it is finished."""
    patching = PathPatching(model, dataset, progress=True)

    @contextmanager
    def step(name: str) -> Iterator[None]:
        started = time.perf_counter()
        with resumable(name, folder):
            yield
            results.seconds[name] = round(time.perf_counter() - started, 2)
            results.save(folder)
        say(f"  {name}: {results.seconds[name]:.1f} s")

    def sweep(receivers: Sequence[str], via: Sequence[str], senders_at: str) -> Sweep:
        name = _sweep_name(receivers)
        if name not in results.sweeps:
            with step(f"sweep to {name}"):
                results.sweeps[name] = patching.sweep(receivers, via, senders_at)
        return results.sweeps[name]

    def evaluation(name: str, measure: Callable[[], Tensor]) -> Evaluation:
        if name not in results.evaluations:
            with step(name):
                results.evaluations[name] = Evaluation(name, measure(), dataset.YY)
        return results.evaluations[name]

    evaluation("clean", lambda: patching.base_log_probs)
    evaluation("corrupted", lambda: patching.reversed().base_log_probs)
    if results.softmax_of_mean is None:
        with step("probabilities of mean logits"):
            results.softmax_of_mean = softmax_of_mean_logits(model, dataset)
    results.parts = parts = circuits.circuit_parts(patching, sweep)
    circuits.end_sweeps(sweep, parts.mlps)
    if parts.heads:
        circuits.attention_sweeps(sweep, parts)
        first_four = [f"m{layer}" for layer in range(min(4, model.n_layers))]
        circuits.early_sweeps(sweep, parts, list(dict.fromkeys((*first_four, *parts.early_mlps))))
    denoising = patching.reversed()
    partial, full = partial_circuit(parts), full_circuit(parts)
    evaluation("partial", lambda: denoising.evaluate(partial).log_probs)
    evaluation("full", lambda: denoising.evaluate(full).log_probs)
    evaluation("reverse", lambda: patching.evaluate(partial).log_probs)
    if results.attention is None:
        with step("attention and logit lens"):
            results.attention, results.lens = looks_and_writes(
                model, dataset, [*parts.heads, *parts.mlps]
            )
    results.save(folder)


def softmax_of_mean_logits(model: Transformer, dataset: YearDataset) -> Tensor:
    """Year probabilities [YY, year] of the logits averaged over prompts of equal YY, rows 02 to 98.

    The order of the paper's circuit discovery code; a YY without a prompt is NaN.
    """
    sums = torch.zeros(97, model.W_U.shape[1], dtype=torch.float64)
    row = dataset.YY - 2
    first = 0
    for logits in end_logits(model, dataset.clean):
        sums.index_add_(0, row[first : first + len(logits)], logits.double().cpu())
        first += len(logits)
    mean = sums / torch.bincount(row, minlength=97)[:, None]
    return mean.softmax(-1)[:, dataset.year_tokens].to(model.dtype)


def looks_and_writes(
    model: Transformer, dataset: YearDataset, names: Sequence[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Attention [layer, head, prompt] from END to YY, and named components' logit lens [YY, year].

    On the clean prompts, in chunks that bound the memory.
    """
    end, YY = dataset.position("END"), dataset.position("YY")

    def measure(prompts: slice) -> Tensors:
        found: dict[str, list[Tensor]] = {name: [] for name in ("attention", *names)}
        for tokens in dataset.clean[prompts].split(_PROMPTS):
            run = compute_run(model, tokens, start=end)
            found["attention"].append(attention_map(run, end, YY).movedim(-1, 0))
            for name in names:
                found[name].append(logit_lens(run, name, dataset.year_tokens))
        return {name: torch.cat(parts) for name, parts in found.items()}

    found = over_prompts("attention and logit lens", len(dataset), measure)
    attention = found.pop("attention").movedim(0, -1)
    return attention, {name: mean_by_YY(lens, dataset.YY) for name, lens in found.items()}


def _sweep_name(receivers: Sequence[str]) -> str:
    """``m9``, ``m0@YY``, ``logits``, or for the inputs of several heads the part: ``v``."""
    return receivers[0].split(".")[-1]


def new_results(
    model: Transformer, dataset: YearDataset, seed: int, years: tuple[int, int]
) -> Results:
    """Results that hold the settings of a run on balanced prompts, and no measurement yet."""
    settings = {
        "model": model.name,
        "gpt2_small": is_gpt2_small(model),
        "weights": model.fingerprint(),
        "prompts": len(dataset),
        "seed": seed,
        "years": list(years),
        "pool_size": len(valid_years(model.tokenizer, *years)),
        "nouns": len(load_nouns()),
        "balanced": True,
        "corruption": dataset.corruption.name,
        "changed_positions": list(dataset.changed_positions),
        "clean_example": dataset.clean_text[0],
        "corrupted_example": dataset.corrupted_text[0],
        "device": str(model.device),
        "processes": world_size(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "d_model": model.d_model,
        "check_report": model.check_report,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m gt_helpers", *sys.argv[1:]]),
    }
    return Results(settings, dataset.YY)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _folder_name(settings: dict[str, Any]) -> str:
    first, last = settings["years"]
    model = Path(settings["model"]).name
    return f"{model}-{settings['prompts']}-prompts-{first}-{last}-seed-{settings['seed']}"


def _continue_or_start(folder: Path, fresh: Results, say: Callable[[str], None]) -> Results:
    if not (folder / "results.json").exists():
        stale = [*folder.glob("*.safetensors"), *folder.glob("parts/*/*.safetensors")]
        if stale:
            raise ValueError(
                f"{folder} holds {min(stale).name} but no results.json, so what it belongs to is "
                "unknown; nothing was changed. Give another folder, e.g. --out another-run."
            )
        fresh.save(folder)
        return fresh
    results = load_results(folder)
    results.YY = fresh.YY  # without a finished experiment the folder does not hold them
    different = [key for key in _SAME if results.settings.get(key) != fresh.settings.get(key)]
    if different:
        raise ValueError(
            f"{folder} holds results of other settings ({', '.join(different)}); nothing was "
            "changed. Give another folder, e.g. --out another-run."
        )
    if results.sweeps:
        say(f"Continuing {folder}: {len(results.sweeps)} sweeps are already finished")
    return results
