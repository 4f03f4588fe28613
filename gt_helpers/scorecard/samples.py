"""Whole answers on other prompts than the discovery's: many, otherwise written, other families."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..dataset.families import FAMILIES
from ..dataset.prompts import ACDC_TEMPLATE
from ..dataset.published import acdc_years, eap_ig_prompts
from ..dataset.year_dataset import YearDataset
from ..formatting import in_words
from ..metrics import FIRST_YY, LAST_YY, prob_diff, prob_diff_below, strata_by_YY
from ..patching.paper import full_circuit, partial_circuit, with_components
from ..patching.published import acdc_circuit
from ..processes import Tensors
from .registry import Bench, Evidence, Found, NotMeasured, Topic, circuit_log_probs, recovered_share

topic = Topic("samples")

# ---- many prompts, and The without a space before it ------------------------------------------


@topic.experiment
def _large(bench: Bench) -> Tensors:
    dataset = bench.dataset()
    circuits = {"partial": partial_circuit(bench.parts), "full": full_circuit(bench.parts)}
    impaired = {"reverse": partial_circuit(bench.parts)}
    return circuit_log_probs(bench.model, dataset, circuits, impaired, "large sample")


@topic.experiment
def _bos(bench: Bench) -> Tensors:
    dataset = eap_ig_prompts(bench.model.tokenizer, bench.prompts, bench.seed)
    return circuit_log_probs(bench.model, dataset, label="The without a space")


def _diff(e: Evidence, name: str) -> Float[Tensor, " prompt"]:
    return e.evaluation(name).prob_diff.double()


def _sharpness(e: Evidence, name: str) -> Float[Tensor, " prompt"]:
    return e.evaluation(name).cutoff_sharpness.double()


def _deviation(values: Float[Tensor, " prompt"]) -> Found:
    """Standard deviation over prompts, linearised."""
    n = len(values)
    if n < 2:
        raise NotMeasured("one prompt has no standard deviation")
    squares = (values - values.mean()) ** 2 * n / (n - 1)
    sd = math.sqrt(float(squares.mean()))
    return Found(sd + (squares - sd**2) / (2 * sd) if sd else squares)


topic.measures |= {
    "clean_prob_diff": lambda e: Found(_diff(e, "clean")),
    "clean_prob_diff_sd": lambda e: _deviation(_diff(e, "clean")),
    "clean_cutoff_sharpness": lambda e: Found(_sharpness(e, "clean")),
    "clean_cutoff_sharpness_sd": lambda e: _deviation(_sharpness(e, "clean")),
    "clean_prob_diff_balanced": lambda e: Found(_diff(e, "clean")),
    "corrupted_prob_diff": lambda e: Found(_diff(e, "corrupted")),
    "partial_cutoff_sharpness": lambda e: Found(_sharpness(e, "partial")),
    "reverse_prob_diff": lambda e: Found(_diff(e, "reverse")),
    "full_prob_diff": lambda e: Found(_diff(e, "full")),
}


@topic.measure
def _top_year_valid(e: Evidence) -> Found:
    clean = e.evaluation("clean")
    return Found(clean.log_probs.argmax(-1) > clean.YY)


@topic.measure
def _partial_prob_diff(e: Evidence) -> Found:
    partial = _diff(e, "partial")
    share = recovered_share(partial, _diff(e, "clean"))
    return Found(partial, f"{in_words(float(share.mean()))} of the model's")


@topic.measure
def _full_below_partial(e: Evidence) -> Found:
    partial = _diff(e, "partial")
    return Found(partial - _diff(e, "full"), largest=abs(float(partial.mean())))


# ---- the prompts and the circuit of ACDC's paper ----------------------------------------------


@topic.experiment
def _acdc(bench: Bench) -> Tensors:
    model = bench.model
    dataset = YearDataset(
        model.tokenizer,
        bench.prompts,
        years=acdc_years(model.tokenizer),
        template=ACDC_TEMPLATE,
        balanced=False,
        seed=bench.seed,
    )
    late = list(dataset.positions)[dataset.positions["YY"] :]
    circuits = {}
    # Its heads feed MLPs of their own layer, which parallel ones cannot.
    if model.n_layers >= 12 and model.n_heads >= 12 and not model.parallel:
        circuits["circuit"] = acdc_circuit(late)
    return circuit_log_probs(model, dataset, circuits, label="ACDC's prompts")


topic.measures |= {
    "acdc_clean": lambda e: Found(prob_diff(e["clean"].exp(), e["YY"])),
    "acdc_corrupted": lambda e: Found(prob_diff(e["corrupted"].exp(), e["YY"])),
    "acdc_circuit": lambda e: Found(prob_diff(e["circuit"].exp(), e["YY"])),
}


@topic.measure
def _acdc_kl(e: Evidence) -> Found:
    clean, circuit = (_with_rest(e[name]) for name in ("clean", "circuit"))
    divergence = (clean * (clean.log() - circuit.log())).sum(-1)
    return Found(divergence, "of 101 outcomes: 100 years and the rest; a little below the full")


def _with_rest(log_probs: Float[Tensor, "prompt year"]) -> Float[Tensor, "prompt outcome"]:
    """Probabilities; the last is that of all other tokens."""
    probs = log_probs.exp()
    rest = (1 - probs.sum(-1, keepdim=True)).clamp_min(1e-9)
    return torch.cat([probs, rest], dim=-1)


# ---- other prompt families --------------------------------------------------------------------

_FAMILIES = ("started", "sequence", "smaller", "ended", "BC", "price")


@topic.experiment
def _families(bench: Bench) -> Tensors:
    found: Tensors = {}
    partial = partial_circuit(bench.parts)
    for name in _FAMILIES:
        dataset = FAMILIES[name].dataset(bench.model.tokenizer, seed=bench.seed)[: bench.prompts]
        circuits = {"partial": partial}
        if name == "sequence" and bench.model.n_layers > 7 and bench.model.n_heads > 11:
            circuits["extended"] = partial_circuit(with_components(bench.parts))
        one = circuit_log_probs(bench.model, dataset, circuits, {"reverse": partial}, name)
        found |= {f"{name}_{run}": log_probs for run, log_probs in one.items()}
    return found


def _score(e: Evidence, family: str, run: str) -> Float[Tensor, " prompt"]:
    """Probability difference of a run; of a less-than family, its own metric."""
    metric = prob_diff_below if family in ("ended", "BC") else prob_diff
    return metric(e[f"{family}_{run}"].exp(), e[f"{family}_YY"])


def _of_family(
    e: Evidence, family: str, values: Float[Tensor, " prompt"], largest: float = math.nan
) -> Found:
    """A family has one prompt of every YY; only its nouns are drawn, if it has any."""
    YY = e[f"{family}_YY"]
    if "{noun}" in FAMILIES[family].template or len(YY) <= LAST_YY - FIRST_YY:
        return Found(values, largest=largest, strata=strata_by_YY(YY))
    return Found(values.double().mean(), largest=largest, no_interval="every prompt of the family")


def _recovered(e: Evidence, family: str) -> Found:
    partial, clean = _score(e, family, "partial"), _score(e, family, "clean")
    return _of_family(e, family, recovered_share(partial, clean))


def _negative(e: Evidence, family: str) -> Found:
    score = _score(e, family, "clean")
    return _of_family(e, family, -score, float(score.abs().mean()))


def _impaired(e: Evidence, family: str) -> Found:
    """By how much the score rises when the circuit alone gets corrupted prompts."""
    score = _score(e, family, "clean")
    rise = _score(e, family, "reverse") - score
    return _of_family(e, family, rise, abs(float(score.mean())))


topic.measures |= {
    "started_recovered": lambda e: _recovered(e, "started"),
    "price_recovered": lambda e: _recovered(e, "price"),
    "sequence_recovered": lambda e: _recovered(e, "sequence"),
    "ended_negative": lambda e: _negative(e, "ended"),
    "ended_impaired": lambda e: _impaired(e, "ended"),
    "BC_negative": lambda e: _negative(e, "BC"),
    "BC_impaired": lambda e: _impaired(e, "BC"),
    "smaller_repeats": lambda e: _of_family(
        e, "smaller", e["smaller_clean"].argmax(-1) == e["smaller_YY"]
    ),
}


@topic.measure
def _sequence_gain(e: Evidence) -> Found:
    runs = ("extended", "partial", "clean")
    extended, partial, clean = (_score(e, "sequence", run) for run in runs)
    reached = in_words(float(recovered_share(extended, clean).mean()))
    gain = _of_family(e, "sequence", recovered_share(extended - partial, clean))
    return replace(gain, detail=f"to {reached}")
