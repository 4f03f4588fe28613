"""The ten prompt families: what each asks, and how much the circuit does of it (section 5).

A family of one's own is a `Task` with a template:

    mine = Task("lived", "<|endoftext|> The {noun} began in {XX}{YY} and was over in {XX}")
    patching = PathPatching(model, mine.dataset(model.tokenizer))
    study(mine, patching, parts)
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .circuits import CircuitParts, partial_circuit
from .components import component
from .corruptions import Corruption
from .dataset import YearDataset, draw_prompts
from .measures import Measurement, average, ratio
from .metrics import FIRST_YY, LAST_YY, Metric, prob_diff, prob_diff_below
from .path_patching import PathPatching, Sweep
from .prompts import YEAR_STRINGS, listed, load_nouns, valid_years

Earlier = Callable[[int, Sequence[int], random.Random], Iterable[int]]

# fmt: off
ITEMS = (
    "gem", "necklace", "watch", "ring", "suitcase", "scarf", "suit", "shirt", "sweater", "dress",
    "fridge", "TV", "bed", "bike", "lamp", "table", "chair", "painting", "sculpture", "plant",
)
# fmt: on
_FIELDS = ("noun", "earlier", "XX", "YY")
_IN_SEQUENCE = (
    *(name for i in range(1, 5) for name in (f"XX_{i}", f"YY_{i}", f"comma_{i}")),
    *("XX1", "YY", "comma_5", "END"),
)


@dataclass(frozen=True)
class Task:
    """A family of prompts around one question: which end years, two digits, fit the start year?

    ``template`` holds the start year as {XX}{YY}, its last {XX} asks for the end year, {noun} is
    one of ``nouns``, and {earlier} stands for the years that ``earlier(start year, all years,
    random numbers)`` gives. Right are end years above YY, or with ``below`` those below it. The
    corrupted prompt is the same text with YY 01 (``below``: 99), or else the text ``corrupted``.
    ``years`` is the range of start years; ``positions`` names the tokens where their words do not.
    Raises ValueError for a template that does not fit.
    """

    name: str
    template: str
    below: bool = False
    expects: str = "not in the paper"
    years: tuple[int, int] = (1700, 1800)
    nouns: tuple[str, ...] = field(default_factory=load_nouns, repr=False)
    earlier: Earlier | None = None
    corrupted: str = ""
    positions: tuple[str, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        used = re.findall(r"\{(.*?)\}", self.template)
        problem = None
        if unknown := [name for name in used if name not in _FIELDS]:
            problem = f"has the unknown field {{{unknown[0]}}}"
        elif "{XX}{YY}" not in self.template or used.count("YY") > 1:
            problem = "does not write its start year once, as {XX}{YY}"
        elif not self.template.endswith("{XX}"):
            problem = "does not end with {XX}, after which the end year is predicted"
        elif ("earlier" in used) != (self.earlier is not None):
            problem = "and `earlier` do not fit: give {earlier} and the function, or neither"
        if problem:
            raise ValueError(
                f"the template {self.template!r} {problem}; for example "
                "'<|endoftext|> {XX}{YY} is smaller than {XX}'"
            )

    @property
    def asks(self) -> str:
        """Which end years are right, as "> YY" or "< YY"."""
        return "< YY" if self.below else "> YY"

    @property
    def metric(self) -> Metric:
        """Mass on right end years minus mass on the others, YY among these."""
        return prob_diff_below if self.below else prob_diff

    @property
    def changed(self) -> str:
        """What the corruption does, in words."""
        return "the whole sequence" if self.corrupted else f"YY → {'99' if self.below else '01'}"

    def dataset(
        self, tokenizer: PreTrainedTokenizerBase, n: int | None = None, seed: int = 0
    ) -> YearDataset:
        """``n`` aligned prompts whose YYs come in turn; by default one of every YY that fits.

        A YY from 02 to 98 fits if some start year with it splits into a century and a two-digit
        token. Raises ValueError for more prompts than a family without {noun} has, and where texts
        do not split alike.
        """
        first, end = self.years
        every = valid_years(tokenizer, first, end, trim=False)
        pool = [year for year in every if FIRST_YY <= year % 100 <= LAST_YY]
        n = len({year % 100 for year in pool}) if n is None else n
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"n is {n!r}; the number of prompts is 1 or more, for example 97")
        rng = random.Random(f"{self.name} {seed}")
        prompts = draw_prompts(rng, n, pool, self.nouns, balanced=True)
        clean, corrupted = [], []
        for prompt in prompts:
            before = self.earlier(prompt.year, pool, rng) if self.earlier else ()
            fields = {"noun": prompt.noun, "XX": prompt.XX, "YY": YEAR_STRINGS[prompt.YY]}
            fields["earlier"] = ", ".join(map(str, before))
            wrong = fields | {"YY": "99" if self.below else "01"}
            clean.append(self.template.format_map(fields))
            corrupted.append((self.corrupted or self.template).format_map(wrong))
        if "{noun}" not in self.template and len(set(clean)) < n:
            raise ValueError(
                f"the family {self.name!r} has {len(set(clean))} different prompts, fewer than "
                f"n={n}; leave n out to get one of every YY"
            )
        return YearDataset.from_prompts(
            clean,
            corrupted,
            [prompt.year for prompt in prompts],
            tokenizer,
            nouns=[prompt.noun for prompt in prompts] if "{noun}" in self.template else None,
            positions=self.positions,
            corruption=Corruption(self.name, self.changed),
        )


def step(YY: int) -> int:
    """The step of the arithmetic family: the smallest from 2 on that does not divide YY.

    So no year of the sequence is a full hundred, which is one token.
    """
    return next(i for i in range(2, 100) if YY % i)


def _arithmetic(year: int, pool: Sequence[int], rng: random.Random) -> list[int]:
    return [year - k * step(year % 100) for k in (4, 3, 2, 1)]


def _random_years(year: int, pool: Sequence[int], rng: random.Random) -> list[int]:
    same = [other for other in pool if other // 100 == year // 100]
    return [same[int(rng.random() * len(same))] for _ in range(4)]


_FAILS = "fails, or does without the circuit"
_UNTOLD = "reports no number"
_FIRES = "the circuit fires although earlier years are right"
_SEQUENCE = ("eos", *_IN_SEQUENCE)
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "started",
            "<|endoftext|> The {noun} started in the year {XX}{YY} and ended in the year {XX}",
            expects="succeeds; the circuit recovers 98.8 %",
        ),
        Task(
            "happened",
            "<|endoftext|> The {noun} happened in {XX}{YY}. Some years later, it is now the year "
            "{XX}",
            expects=_UNTOLD,
        ),
        Task(
            "sequence",
            "<|endoftext|> 1599, 1607, 1633, 1679, {XX}{YY}, {XX}",
            expects="succeeds; the circuit recovers 67.8 %, with m7, a7.h11 and a6.h1 90.3 %",
            positions=_SEQUENCE,
        ),
        Task(
            "descending",
            "<|endoftext|> 1799, 1753, 1733, 1701, {XX}{YY}, {XX}",
            below=True,
            expects=_FAILS,
            years=(1600, 1700),
            positions=_SEQUENCE,
        ),
        Task(
            "arithmetic",
            "<|endoftext|> {earlier}, {XX}{YY}, {XX}",
            expects=_FAILS,
            earlier=_arithmetic,
            corrupted="<|endoftext|> 1693, 1695, 1697, 1699, 1701, {XX}",
            positions=_SEQUENCE,
        ),
        Task(
            "smaller",
            "<|endoftext|> {XX}{YY} is smaller than {XX}",
            expects="fails: repeats YY",
        ),
        Task(
            "ended",
            "<|endoftext|> The {noun} ended in the year {XX}{YY} and started in the year {XX}",
            below=True,
            expects=_FIRES,
        ),
        Task(
            "BC",
            "<|endoftext|> The {noun} lasted from the year {XX}{YY} BC to the year {XX}",
            below=True,
            expects=_FIRES,
            years=(700, 800),
        ),
        Task(
            "price",
            "<|endoftext|> The price of that {noun} ranges from $ {XX}{YY} to $ {XX}",
            expects="succeeds; the circuit recovers 88.9 %",
            nouns=ITEMS,
        ),
        Task(
            "random",
            "{earlier}, {XX}{YY}, {XX}",
            expects=_UNTOLD,
            years=(1100, 1800),
            earlier=_random_years,
            positions=_IN_SEQUENCE,
        ),
    )
}
SEQUENCE_EXTRA = ("a6.h1", "a7.h11", "m7")  # what the paper adds for the sequence family


def with_components(parts: CircuitParts, names: Iterable[str] = SEQUENCE_EXTRA) -> CircuitParts:
    """The circuit with more heads and MLPs at END; by default the paper's for the sequence family.

    Raises ValueError for names that are no heads or MLPs.
    """
    nodes = [component(name) for name in names]
    for node in nodes:
        if node.kind not in ("head", "mlp"):
            raise ValueError(f"{node.label!r} is no head and no MLP; add for example 'a6.h1'.")
    mlps = {component(name) for name in parts.mlps} | {n for n in nodes if n.kind == "mlp"}
    heads = {component(name) for name in parts.heads} | {n for n in nodes if n.kind == "head"}

    def ordered(found: Iterable) -> tuple[str, ...]:
        return tuple(n.label for n in sorted(found, key=lambda n: (n.depth, n.head)))

    return replace(parts, heads=ordered(heads), mlps=ordered(mlps))


@dataclass(frozen=True)
class TaskStudy:
    """What a model and a circuit do with the prompts of one family.

    ``log_probs`` [prompt, year] of the runs "clean" and "corrupted", "partial" (the partial circuit
    on clean data, everything else corrupted) and "reverse" (the other way round: the circuit is
    impaired); ``sweep`` is every component's effect on the logits, in the family's own metric.
    """

    task: Task
    dataset: YearDataset
    log_probs: dict[str, Tensor]
    sweep: Sweep

    def score(self, run: str) -> Tensor:
        """The family's metric [prompt] in one of the four runs, in [-1, 1]."""
        return self.task.metric(self.log_probs[run].exp(), self.dataset.YY)


def study(task: Task, patching: PathPatching, parts: CircuitParts) -> TaskStudy:
    """Run a family's prompts clean, corrupted, through the circuit and without it (section 5).

    ``patching`` holds prompts of the task, clean base. Raises ValueError for another base, and for
    a circuit without heads.
    """
    if patching.base != "clean":
        raise ValueError("study needs the clean base, e.g. PathPatching(model, task.dataset(...)).")
    if not parts.heads:
        raise ValueError("The circuit has no heads at END; give parts with some, e.g. PAPER.")
    circuit, back = partial_circuit(parts), patching.reversed()
    return TaskStudy(
        task,
        patching.dataset,
        {
            "clean": patching.base_log_probs,
            "corrupted": back.base_log_probs,
            "partial": back.evaluate(circuit).log_probs,
            "reverse": patching.evaluate(circuit).log_probs,
        },
        patching.sweep("logits", metric=task.metric),
    )


def summary(studies: Iterable[TaskStudy]) -> pd.DataFrame:
    """One row per family: its score in every run, what the circuit recovers, and the top years.

    Columns: ``task``, ``asks``, ``prompts``; the mean score ``clean``, ``corrupted``, ``partial``
    and ``reverse``; ``recovered`` (partial / clean, the paper's) and ``above_corrupted`` (the same
    with the corrupted score taken from both), NaN where the interval of what they are divided by
    includes 0; ``change`` (reverse minus clean: positive where impairing the circuit helps). Each
    has a 95 % interval in ``_low`` and ``_high``. Then ``top_right`` and ``top_YY``, the shares of
    clean prompts whose most probable end year is right, or YY itself, and ``expects``.
    """
    rows = []
    for one in studies:
        scores = {run: one.score(run) for run in one.log_probs}
        found = {run: average(values) for run, values in scores.items()}
        found["change"] = average(scores["reverse"] - scores["clean"])
        found["recovered"] = _share(scores["partial"], scores["clean"])
        low = scores["corrupted"]
        found["above_corrupted"] = _share(scores["partial"] - low, scores["clean"] - low)
        row: dict[str, object] = {"task": one.task.name, "asks": one.task.asks}
        row["prompts"] = len(one.dataset)
        for name, value in found.items():
            row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        top, YY = one.log_probs["clean"].argmax(-1), one.dataset.YY
        right = top < YY if one.task.below else top > YY
        row |= {"top_right": float(right.double().mean())}
        row |= {"top_YY": float((top == YY).double().mean()), "expects": one.task.expects}
        rows.append(row)
    return pd.DataFrame(rows)


def _share(part: Tensor, whole: Tensor) -> Measurement:
    size = average(whole)
    clear = size.low > 0 or size.high < 0
    return ratio(part, whole) if clear else Measurement(math.nan)


def compare_effects(
    sweeps: Mapping[str, Sweep], names: Iterable[str] = (), others: int = 2
) -> pd.DataFrame:
    """Mean effects of components, a row per sweep: the named ones, and each sweep's strongest.

    Columns are component labels from the input on: ``names``, such as a circuit's, and of every
    sweep the ``others`` strongest senders that are not among them. Raises ValueError for no sweeps,
    for sweeps of different senders, and for an unknown name.
    """
    if len({sweep.senders for sweep in sweeps.values()}) != 1:
        raise ValueError("Give one or more sweeps of the same senders, e.g. {'price': sweep}.")
    senders = [component(name) for name in next(iter(sweeps.values())).senders]
    labels, names = [sender.label for sender in senders], list(names)
    if unknown := [name for name in names if name not in labels]:
        raise ValueError(f"the sweeps have no sender {listed(unknown)}; e.g. 'a9.h1' or 'm10'")
    effects = torch.stack([sweep.values.mean(-1) for sweep in sweeps.values()])
    frame = pd.DataFrame(effects.double().numpy(), index=list(sweeps), columns=labels)
    chosen = set(names)
    for _, row in frame.drop(columns=list(chosen)).iterrows():
        chosen |= set(row.abs().nlargest(others).index)
    order = sorted(senders, key=lambda node: (node.depth, node.head))
    return frame[[node.label for node in order if node.label in chosen]]
