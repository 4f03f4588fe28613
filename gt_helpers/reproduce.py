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
from .scorecard.claims import EXPERIMENTS, claims, known, measurable, scorecard, to_text
from .scorecard.registry import FALLBACK, Bench, Experiment
from .scorecard.results import Outcome, Reproduction, Results, load_results, new_results
from .scorecard.sweeps import DISCOVERY, discover

LONG = 10  # minutes, above which --skip-long leaves an experiment out
# What must agree before a results folder is continued; the rest may differ between two sittings.
_SAME = ("model", "weights", "prompts", "seed", "years", "dtype", "corruption", "balanced")


def open_run(
    model: str | None = None,
    prompts: int = 490,
    seed: int = 0,
    years: tuple[int, int] = YEARS,
    out: str | Path | None = None,
    device: str | None = None,
    say: Callable[[str], None] = print,
) -> Reproduction:
    """The model, its balanced prompts, and the results that the folder already holds, or new ones.

    Without ``model`` it is GPT-2 small when that can be had, and ``mini`` otherwise. Raises
    ValueError for settings that cannot be, and OSError if a named model cannot be had. Within
    `processes` only the main one says anything.
    """
    say = main_only(say)
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
        drawn = f"{len(dataset)}-prompts-{years[0]}-{years[1]}-seed-{seed}"
        folder = Path(out or f"reproduction/{Path(transformer.name).name}-{drawn}")
        if is_main():
            results = _continue_or_start(folder, results, say)
    results = broadcast(results)
    several = f"; {world_size()} processes" if world_size() > 1 else ""
    say(f"Device: {transformer.device}{several}; {len(dataset)} prompts; results go to {folder}")
    return Reproduction(transformer, dataset, results, folder, say)


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


# ---- the two commands -------------------------------------------------------------------------


def reproduce(run: Reproduction) -> Path:
    """Run the paper's circuit discovery and return the path of the report.

    On another model than GPT-2 small the circuit is the one that its own sweeps find
    (``find_circuit``). What the run's folder holds already is not measured again.
    """
    report = run.folder / "report.html"
    try:
        discover(run)
    finally:  # an interrupted run leaves a report of what it finished
        if is_main():
            write_report(run.results, report)
    if is_main():
        table = scorecard(run.results, measurable(run.results))
        table.to_csv(run.folder / "scorecard.csv", index=False)
        run.say(to_text(table))
        if rest := len(claims()) - len(table):
            run.say(f"{rest} more claims need other experiments: python -m gt_helpers scorecard")
        run.say(f"Report: {report.resolve()}")
    return report


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

    ``model`` to ``device`` are `open_run`'s, and `reproduce`'s folder is continued; the years of
    further experiments are their own. ``only`` are ids of claims, by default all. ``skip_long``
    leaves out what takes above ten minutes on a CPU; ``at_most`` limits the prompts of each further
    experiment. Raises ValueError for an unknown id, and as `open_run` does.
    """
    with main_first():
        ids = known(list(only) or None)
    needed = _needed(ids, skip_long)
    run = open_run(model, prompts, seed, years, out, device, say)
    if is_gpt2_small(run.model) and run.results.parts is None:
        run.results.parts = PAPER
    elif run.results.parts is None and needed and DISCOVERY not in needed:
        needed = [DISCOVERY, *needed]  # it finds the circuit that the others are about
    wanted = {one.name: one.settings(seed, at_most) for one in needed}
    missing = [one for one in needed if not _is_held(run.results, one.name, wanted[one.name])]
    if missing:
        times = ", ".join(f"{one.name} ({one.minutes:g} min)" for one in missing)
        run.say(f"To measure, with the time that GPT-2 small takes on two CPU cores: {times}")
    for experiment in missing:
        if experiment is DISCOVERY:
            discover(run)
        else:
            _carry_out(experiment, wanted[experiment.name], run)
    table = scorecard(run.results)  # the files hold also what is not asked for now
    if is_main():
        write_scorecard(run.results, table, run.folder)
    return table[table["id"].isin(ids)].reset_index(drop=True), run.folder


def _needed(ids: Iterable[str], skip_long: bool) -> list[Experiment]:
    """The experiments that claims need, in the order in which they are run."""
    wanted = {c["experiment"] for c in claims() if c["id"] in ids and "missing" not in c}
    if skip_long:
        long = {name for name in wanted if EXPERIMENTS[name].minutes > LONG} - {DISCOVERY.name}
        wanted = wanted - long | ({DISCOVERY.name} if long & set(FALLBACK) else set())
    return [experiment for name, experiment in EXPERIMENTS.items() if name in wanted]


def _is_held(results: Results, name: str, settings: dict[str, Any]) -> bool:
    """Whether the results hold an experiment on the prompts of these settings, or on more."""
    if name == DISCOVERY.name:
        return results.attention is not None  # what it finishes last
    held = results.experiments[name].settings if name in results.experiments else {"prompts": 0}
    n = held["prompts"]
    return n >= settings["prompts"] and held == settings | {"prompts": n}


def _carry_out(experiment: Experiment, settings: dict[str, Any], run: Reproduction) -> None:
    """Run one experiment and save it."""
    name, n, seed = experiment.name, settings["prompts"], settings["seed"]
    run.say(f"  {name}: {experiment.title} ({n:,} prompts)")
    try:
        with run.step(name, kept_as=f"{name}, {n} prompts, seed {seed}"):
            found = experiment.run(Bench(run.model, run.results.parts or PAPER, **settings))
            if is_main():  # only now: an interrupted run keeps what there was
                (run.folder / f"experiment_{name}.safetensors").unlink(missing_ok=True)
            run.results.experiments[name] = Outcome(settings, found)
    except ValueError as error:  # a model of another shape may lack what an experiment needs
        run.say(f"  {name}: not measured: {error}")
