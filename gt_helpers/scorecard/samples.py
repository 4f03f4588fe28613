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
from ..metrics import Measurement, average, prob_diff, prob_diff_below, recovered
from ..patching.paper import acdc_circuit, full_circuit, partial_circuit, with_components
from ..processes import Tensors
from .registry import (
    Bench,
    NotMeasured,
    Topic,
    circuit_log_probs,
    evaluation,
    share_of,
    smallest,
    tensor,
)
from .results import Results

topic = Topic("samples")

# ---- many prompts, and The without a space before it ------------------------------------------


@topic.experiment("large")
def _large(bench: Bench) -> Tensors:
    dataset = bench.dataset()
    circuits = {"partial": partial_circuit(bench.parts), "full": full_circuit(bench.parts)}
    impaired = {"reverse": partial_circuit(bench.parts)}
    return circuit_log_probs(bench.model, dataset, circuits, impaired, "large sample")


@topic.experiment("bos")
def _bos(bench: Bench) -> Tensors:
    dataset = eap_ig_prompts(bench.model.tokenizer, bench.prompts, bench.seed)
    return circuit_log_probs(bench.model, dataset, label="The without a space")


def _diff(results: Results, name: str, experiment: str = "large") -> Float[Tensor, " prompt"]:
    return evaluation(results, name, experiment).prob_diff.double()


def _sharpness(results: Results, name: str) -> Float[Tensor, " prompt"]:
    return evaluation(results, name, "large").cutoff_sharpness.double()


def _deviation(values: Float[Tensor, " prompt"]) -> Measurement:
    """Standard deviation over prompts; its interval is that of the variance."""
    n = len(values)
    if n < 2:
        raise NotMeasured("one prompt has no standard deviation")
    variance = average((values - values.mean()) ** 2 * n / (n - 1))
    return Measurement(math.sqrt(variance.value), math.sqrt(variance.low), math.sqrt(variance.high))


topic.measures |= {
    "clean_prob_diff": lambda r: average(_diff(r, "clean")),
    "clean_prob_diff_sd": lambda r: _deviation(_diff(r, "clean")),
    "clean_cutoff_sharpness": lambda r: average(_sharpness(r, "clean")),
    "clean_cutoff_sharpness_sd": lambda r: _deviation(_sharpness(r, "clean")),
    "clean_prob_diff_balanced": lambda r: average(_diff(r, "clean", "bos")),
    "corrupted_prob_diff": lambda r: average(_diff(r, "corrupted", "bos")),
    "partial_prob_diff": lambda r: average(_diff(r, "partial")),
    "partial_recovered": lambda r: share_of(_diff(r, "partial"), _diff(r, "clean")),
    "partial_cutoff_sharpness": lambda r: average(_sharpness(r, "partial")),
    "partial_sharper": lambda r: average(_sharpness(r, "partial") - _sharpness(r, "clean")),
    "reverse_prob_diff": lambda r: average(_diff(r, "reverse")),
    "full_prob_diff": lambda r: average(_diff(r, "full")),
    "full_below_partial": lambda r: average(_diff(r, "partial") - _diff(r, "full")),
}


@topic.measure("reverse_sign")
def _reverse_sign(results: Results) -> Measurement:
    sides = {"reverse": -_diff(results, "reverse"), "clean": _diff(results, "clean")}
    name, side = smallest({name: average(one) for name, one in sides.items()})
    return replace(side, detail=f"the smaller side is {name}")


# ---- the prompts and the circuit of ACDC's paper ----------------------------------------------


@topic.experiment("acdc")
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


def _score(
    results: Results, experiment: str, run: str, family: str = ""
) -> Float[Tensor, " prompt"]:
    """Probability difference of a run; of a less-than family, its own metric."""
    log_probs, YY = (tensor(results, experiment, family + name) for name in (run, "YY"))
    metric = prob_diff_below if family in ("ended_", "BC_") else prob_diff
    return metric(log_probs.exp(), YY)


topic.measures |= {
    "acdc_clean": lambda r: average(_score(r, "acdc", "clean")),
    "acdc_corrupted": lambda r: average(_score(r, "acdc", "corrupted")),
    "acdc_circuit": lambda r: average(_score(r, "acdc", "circuit")),
}


@topic.measure("acdc_kl")
def _acdc_kl(results: Results) -> Measurement:
    clean, circuit = (_with_rest(tensor(results, "acdc", name)) for name in ("clean", "circuit"))
    divergence = (clean * (clean.log() - circuit.log())).sum(-1)
    return average(divergence, "of 101 outcomes: 100 years and the rest; a little below the full")


def _with_rest(log_probs: Float[Tensor, "prompt year"]) -> Float[Tensor, "prompt outcome"]:
    """Probabilities; the last is that of all other tokens."""
    probs = log_probs.exp()
    rest = (1 - probs.sum(-1, keepdim=True)).clamp_min(1e-9)
    return torch.cat([probs, rest], dim=-1)


# ---- other prompt families --------------------------------------------------------------------

_FAMILIES = ("started", "sequence", "smaller", "ended", "BC", "price")


@topic.experiment("families")
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


def _family(results: Results, family: str, run: str) -> Float[Tensor, " prompt"]:
    return _score(results, "families", run, f"{family}_")


def _family_recovered(results: Results, family: str) -> Measurement:
    return share_of(_family(results, family, "partial"), _family(results, family, "clean"))


def _impaired(results: Results, family: str) -> Measurement:
    """By how much the score rises when the circuit alone gets corrupted prompts."""
    return average(_family(results, family, "reverse") - _family(results, family, "clean"))


topic.measures |= {
    "started_recovered": lambda r: _family_recovered(r, "started"),
    "price_recovered": lambda r: _family_recovered(r, "price"),
    "sequence_recovered": lambda r: _family_recovered(r, "sequence"),
    "ended_negative": lambda r: average(-_family(r, "ended", "clean")),
    "ended_impaired": lambda r: _impaired(r, "ended"),
    "BC_negative": lambda r: average(-_family(r, "BC", "clean")),
    "BC_impaired": lambda r: _impaired(r, "BC"),
}


@topic.measure("sequence_gain")
def _sequence_gain(results: Results) -> Measurement:
    extended, partial, clean = (
        _family(results, "sequence", run) for run in ("extended", "partial", "clean")
    )
    reached = in_words(share_of(extended, clean).value)
    return replace(recovered(extended - partial, clean), detail=f"to {reached}")


@topic.measure("smaller_repeats")
def _smaller_repeats(results: Results) -> Measurement:
    top = tensor(results, "families", "smaller_clean").argmax(-1)
    return average((top == tensor(results, "families", "smaller_YY")).double())
