"""The two commands: reproduce, the discovery with its report, and scorecard, every claim.

Both continue a results folder that holds part of the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from .dataset.published import YEARS
from .dataset.year_dataset import YearDataset
from .environment import hub_reachable
from .model.load import is_gpt2_small, load_model
from .patching.paper import PAPER
from .processes import broadcast, is_main, main_first, main_only, world_size
from .report import write_report, write_scorecard
from .scorecard.claims import EXPERIMENTS, FALLBACK, claims, measurable, scorecard, to_text
from .scorecard.discovery import DISCOVERY, discover
from .scorecard.registry import Bench, Experiment
from .scorecard.results import Outcome, Results, Run, load_results, new_results

# What must agree before a results folder is continued; the rest may differ between two sittings.
_SAME = ("model", "weights", "prompts", "seed", "years", "dtype", "corruption", "balanced")


def reproduce(
    model: str | None = None,
    prompts: int = 490,
    seed: int = 0,
    years: tuple[int, int] = YEARS,
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
    run = open_run(model, prompts, seed, years, out, device, say)
    report = run.folder / "report.html"
    try:
        discover(run)
    finally:  # an interrupted run leaves a report of what it finished
        if is_main():
            write_report(run.results, report)
    if not is_main():
        return report
    table = scorecard(run.results, measurable(run.results))
    table.to_csv(run.folder / "scorecard.csv", index=False)
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
) -> Run:
    """The model, its balanced prompts, and the results that the folder already holds, or new ones.

    Arguments and errors as for `reproduce`.
    """
    chosen = model or broadcast("gpt2-small" if hub_reachable() else "mini")
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
    results = broadcast(results)
    several = f"; {world_size()} processes" if world_size() > 1 else ""
    say(f"Device: {transformer.device}{several}; {len(dataset)} prompts; results go to {folder}")
    return Run(transformer, dataset, results, folder, say)


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


def run_scorecard(
    model: str | None = None,
    prompts: int = 490,
    seed: int = 0,
    years: tuple[int, int] = YEARS,
    out: str | Path | None = None,
    device: str | None = None,
    only: Iterable[str] = (),
    skip_long: bool = False,
    at_most: int | None = None,
    say: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, Path]:
    """Run what the claims need and the folder does not hold yet; returns the table and the folder.

    ``model``, ``prompts``, ``seed``, ``years``, ``out`` and ``device`` are `reproduce`'s, whose
    folder is continued; the years of further experiments are their own. ``only`` are ids of claims,
    by default all. ``skip_long`` leaves out what takes above ten minutes on a CPU; ``at_most``
    limits the prompts of each further experiment. Raises ValueError for an unknown id, and as
    `reproduce` does.
    """
    say = main_only(say)
    with main_first():
        ids = _chosen(only)
    needed = _needed(ids, skip_long)
    run = open_run(model, prompts, seed, years, out, device, say)
    if is_gpt2_small(run.model) and run.results.parts is None:
        run.results.parts = PAPER
    elif run.results.parts is None and needed and DISCOVERY not in needed:
        needed = [DISCOVERY, *needed]  # it finds the circuit that the others are about
    wanted = {one.name: one.settings(seed, at_most) for one in needed if one is not DISCOVERY}
    missing = [one for one in needed if not _is_held(run.results, one.name, wanted.get(one.name))]
    if missing:
        times = ", ".join(f"{one.name} ({one.minutes:g} min)" for one in missing)
        say(f"To measure, with the time that GPT-2 small takes on two CPU cores: {times}")
    for experiment in missing:
        if experiment is DISCOVERY:
            discover(run)
        else:
            _carry_out(experiment, wanted[experiment.name], run)
    if is_main():  # also what is not asked for now
        write_scorecard(run.results, scorecard(run.results), run.folder)
    return scorecard(run.results, ids), run.folder


def _chosen(only: Iterable[str]) -> list[str]:
    """The ids of all claims, or of the given ones."""
    known = [claim["id"] for claim in claims()]
    wanted = list(only) or known
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"There is no claim {unknown[0]!r}; known are {', '.join(known)}.")
    return wanted


def _needed(ids: Iterable[str], skip_long: bool) -> list[Experiment]:
    """The experiments that claims need, in the order in which they are run."""
    wanted = {c["experiment"] for c in claims() if c["id"] in ids and "missing" not in c}
    if skip_long:
        long = {name for name in wanted if EXPERIMENTS[name].long and name != DISCOVERY.name}
        instead = {DISCOVERY.name} if long & set(FALLBACK) else set()
        wanted = wanted - long | instead
    return [experiment for name, experiment in EXPERIMENTS.items() if name in wanted]


def _is_held(results: Results, name: str, settings: dict[str, Any] | None) -> bool:
    """Whether the results hold an experiment on the prompts of these settings, or on more."""
    if settings is None:
        return results.attention is not None  # what the discovery finishes last
    held = results.experiments.get(name)
    if held is None:
        return False
    n = held.settings["prompts"]
    return n >= settings["prompts"] and held.settings == settings | {"prompts": n}


def _carry_out(experiment: Experiment, settings: dict[str, Any], run: Run) -> None:
    """Run one experiment and save it."""
    name, n, seed = experiment.name, settings["prompts"], settings["seed"]
    run.say(f"  {name}: {experiment.title} ({n:,} prompts)")
    try:
        with run.step(name, kept_as=f"{name}, {n} prompts, seed {seed}"):
            found = experiment.run(Bench(run.model, run.results.parts or PAPER, **settings))
            run.results.drop(name, run.folder)  # only now: an interrupted run keeps what there was
            run.results.experiments[name] = Outcome(settings, found)
    except ValueError as error:  # a model of another shape may lack what an experiment needs
        run.say(f"  {name}: not measured: {error}")
