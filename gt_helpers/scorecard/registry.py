"""What a topic of the scorecard is made of: its experiments, its claims, and a measure for each.

A topic is a pair of files. ``controls.toml`` holds the claims, ``controls.py`` runs the experiment
on which they are measured and measures them; the claim's id joins the two. A topic's claims may
need several experiments, as those of ``samples`` do.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any, Literal, NotRequired, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..dataset.published import YEARS
from ..dataset.year_dataset import YearDataset
from ..formatting import in_words
from ..metrics import (
    Measurement,
    Strata,
    average,
    includes_0,
    linearised,
    prob_diff,
    share,
    strata_by_YY,
)
from ..model import cache
from ..model.transformer import Transformer
from ..patching.circuits import Circuit
from ..patching.engine import Evaluation, PathPatching
from ..patching.paper import CircuitParts
from ..processes import Tensors, chunks, is_main, over_prompts
from .results import Results


class Claim(TypedDict):
    """What the paper or later work reports, and what this project asks of a measurement.

    By ``kind`` a measurement agrees "value": near the ``value``, by the errors of both (`sd`, `n`,
    ``allowance``); "above", "below": from ``value`` on; "between": in the ``range``; "margin": an
    order or a sign holds by at least ``least`` of the largest effect. "measured" has no source
    that could judge it. A ``check`` follows from the definitions: it must hold on every model.
    """

    id: str
    theme: str  # a heading of the page
    claim: str  # one sentence
    kind: Literal["value", "above", "below", "between", "margin", "measured"]
    unit: Literal["share", "points", "number"]  # shown in %, in percentage points, as it is
    source: str  # a key of sources.toml
    where: str  # in the source: section or file
    experiment: str  # the one that it is measured on
    quoted: NotRequired[list[str]]  # sources that quote it, where its own text was not at hand
    value: NotRequired[float | list[float]]  # several where sources differ
    sd: NotRequired[float]  # over prompts
    n: NotRequired[int]  # prompts behind the value
    allowance: NotRequired[float]  # beyond sampling, instead of the source's
    allowed_for: NotRequired[str]  # if not for another implementation
    range: NotRequired[list[float]]
    least: NotRequired[float]
    check: NotRequired[bool]
    essential: NotRequired[bool]  # the command fails if it alone disagrees
    paper: NotRequired[str]  # what is reported, where that is not the value
    note: NotRequired[str]  # what a reader of the limits must know
    setting: NotRequired[dict[str, Any]]  # the prompts behind the value
    required: NotRequired[bool]  # not to be compared with what other prompts show
    missing: NotRequired[str]  # why nothing measures it


@dataclass(frozen=True)
class Experiment:
    """An experiment: what it does in words, on which prompts, and how long it takes.

    ``minutes`` are for GPT-2 small on two CPU cores; ``data`` says which prompts, apart from their
    number, as a claim's ``setting`` does. ``run`` gives named tensors, per prompt where it can; the
    discovery has none, as it saves its many steps one by one.
    """

    name: str
    title: str
    prompts: int
    minutes: float
    data: dict[str, Any] = field(default_factory=dict)
    run: Procedure = field(default=lambda bench: {}, repr=False)

    def settings(self, seed: int, at_most: int | None = None) -> dict[str, Any]:
        """Which prompts it takes, as it is saved beside its tensors."""
        n = min(self.prompts, at_most or self.prompts)
        return {"prompts": n, "seed": seed, **self.data}


@dataclass(frozen=True)
class Bench:
    """What an experiment is given: the model, its circuit, and its settings as they are saved.

    The fields from ``prompts`` on are the keys that an experiment's ``data`` may have.
    """

    model: Transformer
    parts: CircuitParts
    prompts: int
    seed: int
    balanced: bool = True
    years: Sequence[int] = YEARS
    note: str = ""

    def dataset(self) -> YearDataset:
        """The paper's prompts, drawn as the settings say."""
        tokenizer, (first, end) = self.model.tokenizer, self.years
        return YearDataset(
            tokenizer, self.prompts, years=(first, end), balanced=self.balanced, seed=self.seed
        )


# Experiments of which every claim can also be measured, less well, on the discovery's prompts.
FALLBACK = ("discovery", "large")

Procedure = Callable[[Bench], Tensors]
Measure = Callable[["Evidence"], "Found"]


class NotMeasured(LookupError):
    """The results lack what a claim needs; the message says what."""


class Topic:
    """Claims that belong together, their experiments, and the measure of each claim.

    The claims and the facts of the experiments come from the TOML file of the topic's name. The
    functions beside them are found by their own names: ``_random_circuits`` is the measure of the
    claim ``random_circuits``.
    """

    def __init__(self, name: str) -> None:
        facts = tomllib.loads(files(__package__).joinpath(f"{name}.toml").read_text("utf-8"))
        self.claims: list[Claim] = facts["claim"]
        self.experiments = {key: Experiment(key, **one) for key, one in facts["experiment"].items()}
        self.measures: dict[str, Measure] = {}

    def experiment(self, run: Procedure) -> Procedure:
        """Register the function that runs the experiment of its name."""
        name = run.__name__.removeprefix("_")
        self.experiments[name] = replace(self.experiments[name], run=run)
        return run

    def measure(self, measure: Measure) -> Measure:
        """Register the function that measures the claim whose id is its name."""
        self.measures[measure.__name__.removeprefix("_")] = measure
        return measure


# ---- what experiments share -------------------------------------------------------------------


def circuit_log_probs(
    model: Transformer,
    dataset: YearDataset,
    circuits: Mapping[str, Circuit] | None = None,
    impaired: Mapping[str, Circuit] | None = None,
    label: str = "prompts",
) -> Tensors:
    """Year log-probabilities [prompt, year] of the runs "clean" and "corrupted", and of circuits.

    ``circuits`` run on clean prompts and everything else on corrupted ones; ``impaired`` the other
    way round. Chunk by chunk, each with its own two runs, so memory does not grow with the number
    of prompts. "YY" [prompt] comes along.
    """

    def measure(mine: slice) -> Tensors:
        some, pieces = chunks(mine, cache.PROMPTS_AT_ONCE), []
        for prompts in tqdm(some, desc=label, leave=False, disable=not is_main()):
            noising = PathPatching(model, dataset[prompts])
            denoising = noising.reversed()
            found = {"clean": noising.base_log_probs, "corrupted": denoising.base_log_probs}
            for patching, runs in ((denoising, circuits), (noising, impaired)):
                for name, circuit in (runs or {}).items():
                    found[name] = patching.evaluate(circuit).log_probs
            pieces.append(found)
        return {name: torch.cat([one[name] for one in pieces]) for name in pieces[0]}

    return over_prompts(label, len(dataset), measure) | {"YY": dataset.YY}


def prob_diffs(found: Tensors) -> Tensors:
    """The probability differences [prompt] of what `circuit_log_probs` gives, and "YY"."""
    YY = found["YY"]
    diffs = {name: prob_diff(one.exp(), YY) for name, one in found.items() if name != "YY"}
    return diffs | {"YY": YY}


# ---- what measures share ----------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a measure found: values [prompt] whose mean is the number, or hits [prompt] of a share.

    Without an axis the values are the number itself, and ``no_interval`` says why it has none. A
    margin is judged by the ``largest`` effect beside it. ``strata`` stand in for the experiment's.
    """

    values: Tensor
    detail: str = ""
    largest: float = math.nan
    strata: Strata | None = None
    no_interval: str = ""

    @property
    def mean(self) -> float:
        """The number."""
        return float(self.values.double().mean())

    def measurement(self) -> Measurement:
        """The number with its interval, which knows the design of the prompts."""
        if not self.values.ndim:
            return Measurement(self.mean, detail=self.detail)
        if self.values.dtype == torch.bool:
            return share(self.values, self.detail)
        return average(self.values.double(), self.detail, self.strata)

    @property
    def interval(self) -> str:
        """What the interval resamples, in words."""
        if not self.values.ndim:
            return f"no interval: {self.no_interval}"
        if self.values.dtype == torch.bool:
            return "Wilson's interval for a share"
        return "prompts resampled" + (" within their YY" if self.strata is not None else "")


def number(value: float, detail: str = "", why: str = "made of means over prompts") -> Found:
    """A number that has no interval, and why."""
    return Found(torch.tensor(value, dtype=torch.float64), detail, no_interval=why)


@dataclass(frozen=True)
class Evidence:
    """What a claim is measured on: finished results, and in them the experiment that it names.

    ``evidence["clean"]`` is a tensor of that experiment, in double precision if it is not of whole
    numbers. What is not there raises NotMeasured.
    """

    results: Results
    experiment: str

    @property
    def settings(self) -> dict[str, Any]:
        """Of the prompts: those of the experiment if that was run, else of the discovery."""
        outcome = self.results.experiments.get(self.experiment)
        return outcome.settings if outcome else self.results.settings

    @property
    def strata(self) -> Strata | None:
        """What balanced prompts are resampled within."""
        if self.experiment not in self.results.experiments:
            return self.results.strata
        YY = self.tensors.get("YY")  # which older folders lack
        return strata_by_YY(YY) if self.settings.get("balanced") and YY is not None else None

    @property
    def tensors(self) -> Tensors:
        """Everything that the experiment measured, as it is kept."""
        if self.experiment not in self.results.experiments:
            raise NotMeasured(
                f"the experiment {self.experiment!r} is missing: "
                "python -m gt_helpers scorecard runs it"
            )
        return self.results.experiments[self.experiment].tensors

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise NotMeasured(f"{name!r} is not defined for this model or its circuit")
        found = self.tensors[name]
        return found.double() if found.is_floating_point() else found

    def starting(self, *starts: str) -> dict[str, Tensor]:
        """The experiment's tensors whose names begin so."""
        names = [name for name in self.tensors if name.startswith(starts)]
        return {name: self[name] for name in names or starts[:1]}  # none at all: NotMeasured

    def evaluation(self, name: str) -> Evaluation:
        """An evaluation of the experiment, or of the discovery where that stands in for it."""
        if self.experiment in self.results.experiments or self.experiment not in FALLBACK:
            return Evaluation(name, self[name], self["YY"])
        if name not in self.results.evaluations:
            raise NotMeasured(f"the evaluation {name!r} is missing")
        return self.results.evaluations[name]

    @property
    def parts(self) -> CircuitParts:
        """The circuit."""
        if self.results.parts is None:
            raise NotMeasured("the circuit has not been chosen yet")
        return self.results.parts


class Effects(dict[str, Float[Tensor, " prompt"]]):
    """Effects or scores by the names of components; one that is not there is not measured."""

    def __missing__(self, name: str) -> Tensor:
        raise NotMeasured(f"the model has no {name}")

    def mean(self, name: str) -> float:
        """The mean over prompts."""
        return float(self[name].mean())

    @property
    def largest(self) -> float:
        """The size of the largest mean."""
        return max(abs(self.mean(name)) for name in self)

    def said(self, *names: str) -> str:
        """Names, by default all, with their means in percentage points."""
        return ", ".join(f"{name} {in_words(self.mean(name), 'points')}" for name in names or self)


def recovered_share(
    part: Float[Tensor, " prompt"],
    whole: Float[Tensor, " prompt"],
    nothing: Float[Tensor, " prompt"] | None = None,
) -> Float[Tensor, " prompt"]:
    """Values whose mean is `recovered`; NotMeasured where the whole cannot be told from 0."""
    if nothing is not None:
        part, whole = part - nothing, whole - nothing
    if includes_0(whole):
        raise NotMeasured("the model's own score cannot be told from 0")
    return linearised(part, whole)


def smallest(found: Mapping[str, Found], detail: str = "narrowest: {}") -> Found:
    """The smallest of several; its detail is made of its name and of what it said itself."""
    if not found:
        raise NotMeasured("there is nothing to compare with")
    name, least = min(found.items(), key=lambda one: one[1].mean)
    return replace(least, detail=detail.format(name, least.detail))
