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
from ..metrics import Measurement, prob_diff, recovered
from ..model import cache
from ..model.transformer import Transformer
from ..patching.circuits import Circuit
from ..patching.engine import Evaluation, PathPatching
from ..patching.paper import CircuitParts
from ..processes import Tensors, chunks, is_main, over_prompts
from .results import Results


class Claim(TypedDict):
    """What the paper or later work reports; the limits are this project's.

    Agrees by its ``kind``: "value" within ``tolerance`` of ``value``; "above", "below" from
    ``value`` on; "between" in the ``range``; "order", "sign": the measurement is a margin, above 0;
    "exact" at exactly 0.
    """

    id: str
    theme: str  # a heading of the page
    claim: str  # one sentence
    section: str  # of the paper
    kind: Literal["value", "above", "below", "between", "order", "sign", "exact"]
    unit: Literal["share", "points", "number"]  # shown in %, in percentage points, as it is
    certainty: str  # how what is reported is known, in words, and from how many sources
    experiment: str  # the one that it is measured on
    value: NotRequired[float]
    tolerance: NotRequired[float]
    range: NotRequired[list[float]]
    paper: NotRequired[str]  # what is reported, where that is not the value
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


Procedure = Callable[[Bench], Tensors]
Measure = Callable[["Evidence"], Measurement]


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
    """The probability differences [prompt] of what `circuit_log_probs` gives, without "YY"."""
    YY = found["YY"]
    return {name: prob_diff(one.exp(), YY) for name, one in found.items() if name != "YY"}


# ---- what measures share ----------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """What a claim is measured on: finished results, and in them the experiment that it names.

    ``evidence["clean"]`` is a tensor of that experiment, in double precision if it is not of whole
    numbers. What is not there raises NotMeasured.
    """

    results: Results
    experiment: str

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
        """An evaluation of the experiment if that was run, else of the discovery."""
        if self.experiment in self.results.experiments:
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

    def said(self, *names: str) -> str:
        """Names, by default all, with their means in percentage points."""
        return ", ".join(f"{name} {in_words(self.mean(name), 'points')}" for name in names or self)


def share_of(
    part: Float[Tensor, " prompt"],
    whole: Float[Tensor, " prompt"],
    nothing: Float[Tensor, " prompt"] | None = None,
) -> Measurement:
    """`recovered`, or NotMeasured where it is undefined."""
    found = recovered(part, whole, nothing)
    if math.isnan(found.value):
        raise NotMeasured("the model's own score cannot be told from 0")
    return found


def smallest(found: Mapping[str, Measurement], detail: str = "narrowest: {}") -> Measurement:
    """The smallest of several; its detail is made of its name and of what it said itself."""
    if not found:
        raise NotMeasured("there is nothing to compare with")
    name, least = min(found.items(), key=lambda one: one[1].value)
    return replace(least, detail=detail.format(name, least.detail))
