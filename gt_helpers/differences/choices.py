"""One choice at a time changed from the paper's setting: what becomes of metric, sweeps, circuit.

Each choice is measured against the reference, the paper's setting on centuries 11 to 17, with the
same seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..analysis.logit_lens import direct_effect, logit_lens
from ..analysis.preview import Preview
from ..dataset.corruptions import Corruption
from ..dataset.prompts import ACDC_TEMPLATE, NO_BOS_TEMPLATE, NO_SPACE_TEMPLATE, listed
from ..dataset.published import eap_ig_prompts
from ..dataset.year_dataset import YearDataset
from ..metrics import Metric, Strata, linearised, logit_diff, mean_by_YY, prob_diff, recovered
from ..model.cache import ActivationCache, cache_activations
from ..model.components import Shape
from ..model.transformer import Transformer
from ..patching.activation import overwritten_log_probs
from ..patching.circuits import Circuit, connect
from ..patching.engine import PathPatching
from ..patching.paper import (
    CircuitParts,
    attention_sweeps,
    early_sweeps,
    end_sweeps,
    partial_circuit,
)
from .ablations import FrozenNorms, MeanAblation, ZeroAblation
from .other_metrics import (
    Logits,
    YearTokens,
    biased_lens,
    prob_diff_of_mean_logits,
    prob_diff_or_equal,
    prob_diff_renormalised,
    processed_lens,
    raw_lens,
)

Years = tuple[int, int]
# A tokenizer, the number of prompts, a seed and the pool of start years.
Draw = Callable[[PreTrainedTokenizerBase, int, int, Years], YearDataset]
# An activation cache, a component's name and the year tokens.
Lens = Callable[[ActivationCache, str, YearTokens], Logits]


def _prompts(**arguments: Any) -> Draw:
    """The paper's prompts but for some arguments of `YearDataset`."""
    return lambda tokenizer, n, seed, years: YearDataset(
        tokenizer, n, **{"seed": seed, "years": years, **arguments}
    )


_paper = _prompts()


def _few(tokenizer: PreTrainedTokenizerBase, n: int, seed: int, years: Years) -> YearDataset:
    """20 of the prompts with YYs at even distances; the first 20 would end at YY 21."""
    prompts, few = _paper(tokenizer, n, seed, years), min(n, 20)
    order = prompts.YY.argsort(stable=True)
    return prompts.take(order[[(2 * i + 1) * n // (2 * few) for i in range(few)]])


def _shuffled(tokenizer: PreTrainedTokenizerBase, n: int, seed: int, years: Years) -> YearDataset:
    """Every clean prompt with another one as its corrupted prompt: the next in a random order."""
    clean = _paper(tokenizer, n, seed, years)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return YearDataset.from_prompts(
        clean.clean_text,
        clean.take(order.roll(1)[order.argsort()]).clean_text,
        clean.years.tolist(),
        tokenizer,
        nouns=clean.nouns,
        positions=tuple(clean.positions),
        corruption=Corruption("shuffled", "another one of the clean prompts"),
    )


@dataclass(frozen=True)
class Choice:
    """One thing done otherwise than in the reference; what it does not name is as there.

    ``draw`` makes the prompts and ``patching`` the engine. ``nodes`` says what is patched: "heads
    and MLPs" along paths (the paper's), "heads" along paths on which MLPs run freely (as in the
    work on indirect object identification), or "activations", whose change reaches all that comes
    after them. ``unit`` is the metric's, "share" or "number".
    """

    name: str
    what: str
    draw: Draw = _paper
    patching: type[PathPatching] = PathPatching
    nodes: str = "heads and MLPs"
    metric: Metric = prob_diff
    lens: Lens = logit_lens
    unit: str = "share"
    group: str = ""


OTHER_PROMPTS = "other prompts"  # the yardstick of all other choices
REFERENCE = Choice("the paper's setting", "nothing is changed", group="reference")

_BY_GROUP = {
    "prompts": (
        Choice(
            OTHER_PROMPTS,
            "another seed: what chance alone does",
            lambda tokenizer, n, seed, years: _paper(tokenizer, n, seed + 100_000, years),
        ),
        Choice("20 prompts", "20 of the prompts, their YYs spread evenly", _few),
        Choice(
            "YY not balanced",
            "years are drawn from the whole pool, as for the paper's headline numbers",
            _prompts(balanced=False),
        ),
        Choice(
            "years 1000-1899",
            "the years of the paper's code: of century 10, the corruption changes XX1 too",
            _prompts(years=(1000, 1900)),
        ),
        Choice(
            "no space after BOS",
            "prompts begin <|endoftext|>The, as TransformerLens adds a BOS by itself",
            _prompts(template=NO_SPACE_TEMPLATE),
        ),
        Choice("no BOS", "prompts begin with The", _prompts(template=NO_BOS_TEMPLATE)),
        Choice(
            "ACDC's prompts",
            "no BOS, and the prompt ends with “to 17” instead of “to the year 17”",
            _prompts(template=ACDC_TEMPLATE),
        ),
        Choice("EAP-IG's prompts", "no space after BOS, and 34 of the nouns", eap_ig_prompts),
    ),
    "corruption": (
        Choice(
            "smaller YY",
            "YY becomes a random smaller one instead of 01",
            _prompts(corruption="smaller"),
        ),
        Choice(
            "any other YY",
            "YY becomes a random other one, smaller or larger",
            _prompts(corruption="random"),
        ),
        Choice("another noun", "only the noun changes", _prompts(corruption="noun")),
        Choice(
            "another century",
            "only the start year's century changes; YY and the century at the end stay",
            _prompts(corruption="century"),
        ),
        Choice("shuffled prompts", "the corrupted prompt is another clean one", _shuffled),
        Choice(
            "mean ablation",
            "instead of a corrupted run, the mean over the clean prompts is patched in, at every "
            "position its own",
            patching=MeanAblation,
        ),
        Choice(
            "zero ablation",
            "instead of a corrupted run, zero is patched in; output biases stay",
            patching=ZeroAblation,
        ),
    ),
    "metric": (
        Choice(
            "renormalised",
            "the probabilities of the 100 years are scaled to add up to 1",
            metric=prob_diff_renormalised,
        ),
        Choice("greater or equal", "the year YY counts as right", metric=prob_diff_or_equal),
        Choice(
            "logit difference",
            "the mean year logit above YY less the mean up to YY",
            metric=logit_diff,
            unit="number",
        ),
        Choice(
            "mean logits per YY",
            "logits of equal YY are averaged before the softmax, not probabilities after it",
            metric=prob_diff_of_mean_logits,
        ),
    ),
    "method": (
        Choice(
            "MLPs free",
            "only heads are nodes: MLPs on the way recompute, as in the IOI paper",
            nodes="heads",
        ),
        Choice(
            "activation patching",
            "a component is overwritten, and all that comes after it recomputes",
            nodes="activations",
        ),
        Choice(
            "norms frozen",
            "every LayerNorm divides by the scale of the base run",
            patching=FrozenNorms,
        ),
    ),
    "lens": (
        Choice(
            "lens: processed weights",
            "weights are folded and centred first, as TransformerLens does by default",
            lens=processed_lens,
        ),
        Choice(
            "lens: scale of the stream",
            "divided by the scale of the whole stream, not of the component alone",
            lens=direct_effect,
        ),
        Choice("lens: no norm", "the unembedding alone", lens=raw_lens),
        Choice("lens: with b_out", "MLPs with their output bias", lens=biased_lens),
    ),
}
CHOICES: dict[str, Choice] = {
    choice.name: replace(choice, group=group)
    for group, choices in _BY_GROUP.items()
    for choice in choices
}


@dataclass(frozen=True)
class ChoiceRun:
    """What one choice makes the model answer with one seed, as log-probabilities.

    ``answers`` are those of "clean" and "corrupted" prompts, and of "partial", the partial circuit
    on clean data with everything else corrupted. Where only heads are nodes this is its heads and
    every MLP that they reach, and with activation patching its heads, overwritten. ``sweeps`` are
    named after their receivers, base clean; senders are those of `Shape.senders`. ``cache`` is of
    the clean prompts, for the lenses; ``error`` is the largest of a log-probability that a preview
    found among its checked cells.
    """

    dataset: YearDataset
    cache: ActivationCache
    answers: dict[str, Float[Tensor, "prompt year"]]
    sweeps: dict[str, Float[Tensor, "sender prompt year"]]
    error: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What one choice gives with one seed: means over prompts.

    ``scores`` in the choice's metric: "clean", "corrupted" and "partial", as in `ChoiceRun`, and
    what the circuit recovers of the clean score, "recovered" (the paper's) and "above_corrupted"
    (later work's faithfulness). Further the ``effects`` of every sweep, the ``lenses`` of the
    circuit's components, and the preview's ``error``. ``per_prompt`` are the clean and corrupted
    score of every prompt, and its part in the recovered share, of which "recovered" is the mean.
    """

    scores: dict[str, float]
    effects: dict[str, Float[Tensor, " sender"]]
    lenses: dict[str, Float[Tensor, "YY year"]]
    error: float = 0.0
    per_prompt: dict[str, Float[Tensor, " prompt"]] = field(default_factory=dict)
    strata: Strata | None = None  # of the prompts, see `bootstrap_ci`


def measure_choices(
    model: Transformer,
    parts: CircuitParts,
    names: Iterable[str] | None = None,
    n: int = 194,
    seeds: Sequence[int] = (0, 1, 2),
    years: Years = (1100, 1800),
    preview: bool = False,
    progress: bool = False,
) -> dict[str, list[Outcome]]:
    """The reference and every choice (or those of ``names``), each with every seed.

    ``parts`` is the model's circuit, ``n`` the prompts per seed, ``years`` their pool; with
    ``preview`` sweeps are quick ones, see `preview.py`. Returns an outcome per seed by the choices'
    names, the reference first. Raises ValueError for an unknown name, no seeds, and a circuit
    without heads.
    """
    names = list(CHOICES) if names is None else list(names)
    if unknown := [name for name in names if name not in CHOICES]:
        raise ValueError(f"{unknown[0]!r} is no choice; known are {listed(CHOICES)}")
    if not parts.heads or not seeds:
        raise ValueError("choices need a circuit with heads at END and one seed or more, e.g. [0]")
    chosen = [REFERENCE, *(CHOICES[name] for name in names)]
    outcomes: dict[str, list[Outcome]] = {choice.name: [] for choice in chosen}
    turns = [(seed, choice) for seed in seeds for choice in chosen]
    for seed, choice in tqdm(turns, desc="choices", disable=not progress, leave=False):
        if choice is REFERENCE:  # the first of every seed
            usual = run_choice(model, parts, choice, n, seed, years, preview)
        # Metric and lens only read what is there: they need no forward pass of their own.
        same = all(
            getattr(choice, x) == getattr(REFERENCE, x) for x in ("draw", "patching", "nodes")
        )
        found = usual if same else run_choice(model, parts, choice, n, seed, years, preview)
        outcomes[choice.name].append(outcome(parts, choice, found))
    return outcomes


@torch.no_grad()
def run_choice(
    model: Transformer,
    parts: CircuitParts,
    choice: Choice,
    n: int,
    seed: int = 0,
    years: Years = (1100, 1800),
    preview: bool = False,
) -> ChoiceRun:
    """One choice's forward passes and sweeps on ``n`` prompts drawn from a seed."""
    dataset = choice.draw(model.tokenizer, n, seed, years)
    bases = (Preview, choice.patching) if preview else (choice.patching,)
    patching = type(choice.patching.__name__, bases, {})(model, dataset)
    back = patching.reversed()
    cache = cache_activations(model, dataset.clean, start=dataset.positions["END"])
    answers = {"clean": patching.base_log_probs, "corrupted": back.base_log_probs}
    if choice.nodes == "activations":
        answers["partial"] = overwritten_log_probs(model, dataset, [list(parts.heads)])[0]
        return ChoiceRun(dataset, cache, answers, _overwritten(patching))
    of_heads = choice.nodes == "heads"
    circuit = _circuit_of_heads(parts, patching.shape) if of_heads else partial_circuit(parts)
    answers["partial"] = back.evaluate(circuit).log_probs
    sweeps = (_sweeps_of_heads if of_heads else _sweeps)(patching, parts)
    error = max(getattr(one, "error", 0.0) for one in (patching, back))  # which only previews have
    return ChoiceRun(dataset, cache, answers, sweeps, error)


def outcome(parts: CircuitParts, choice: Choice, run: ChoiceRun) -> Outcome:
    """A choice's metric of what was answered, and its lens on the clean prompts."""
    YY, years = run.dataset.YY, run.dataset.year_tokens
    values = {name: choice.metric(one.exp(), YY) for name, one in run.answers.items()}
    clean, corrupted, partial = (values[name] for name in ("clean", "corrupted", "partial"))
    share = recovered(partial, clean).value
    by_prompt = torch.full_like(clean, share) if math.isnan(share) else linearised(partial, clean)
    return Outcome(
        {
            **{name: float(one.mean()) for name, one in values.items()},
            "recovered": share,
            "above_corrupted": recovered(partial, clean, corrupted).value,
        },
        {
            name: (choice.metric(one.exp(), YY) - clean).mean(-1).double()
            for name, one in run.sweeps.items()
        },
        {
            name: mean_by_YY(choice.lens(run.cache, name, years), YY)
            for name in (*parts.heads, *parts.mlps)
        },
        run.error,
        {"clean": clean, "corrupted": corrupted, "recovered": by_prompt},
        run.dataset.strata,
    )


def _sweeps(patching: PathPatching, parts: CircuitParts) -> dict[str, Tensor]:
    """The paper's sweeps; the one into the heads' queries is left out, which is always 0."""
    sweep = patching.sweep_log_probs
    found = end_sweeps(sweep, parts.mlps)
    into = attention_sweeps(sweep, parts)
    found |= {"keys": into["k"], "values": into["v"]}
    early = early_sweeps(sweep, parts, parts.early_mlps)
    return found | {f"{mlp}@YY": one for mlp, one in early.items()}


def _sweeps_of_heads(patching: PathPatching, parts: CircuitParts) -> dict[str, Tensor]:
    """The sweeps that exist where MLPs are no nodes: into the logits, and the heads' values.

    From the values on only MLPs recompute; the other paper lets later heads run freely there.
    """
    mlps = [f"m{layer}" for layer in range(patching.shape.n_layers)]
    at_YY = [f"{mlp}@YY" for mlp in mlps]
    values = [f"{head}.v[YY]" for head in parts.heads]
    sweep = patching.sweep_log_probs
    return {
        "logits": sweep(["logits", *mlps], mlps),
        "values": sweep([*values, *at_YY], [*values, *at_YY, *mlps], "YY"),
    }


def _circuit_of_heads(parts: CircuitParts, shape: Shape) -> Circuit:
    """The circuit's heads, and every MLP at END that they reach."""
    mlps = [f"m{layer}" for layer in range(shape.n_layers)]
    targets = [*mlps, "logits"]
    from_heads = connect(parts.heads, targets, parts.parallel)
    edges = (*from_heads.edges, *connect(mlps, targets).edges)
    return Circuit(edges, "partial circuit, MLPs free", parts.heads)


def _overwritten(patching: PathPatching) -> dict[str, Tensor]:
    """Activation patching has no receivers: one map per position stands beside one sweep."""
    found = {}
    for name, position in (("logits", "END"), ("values", "YY")):
        *sites, _ = patching.shape.senders(position)
        names = [*(one.name for one in sites), f"stream0@{position}"]
        found[name] = overwritten_log_probs(patching.model, patching.dataset, names, patching.base)
    return found
