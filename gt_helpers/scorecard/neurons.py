"""Single neurons of the last but one MLP, alone and the strongest together (section 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..analysis.logit_lens import beyond_mean_row, step_correlation, triangle
from ..analysis.neurons import Neurons, last_but_one, neuron_ranking
from ..formatting import in_words
from ..metrics import mean_by_YY
from ..model.cache import cache_activations
from ..model.components import END
from ..processes import Tensors
from .registry import Bench, Evidence, Found, NotMeasured, Topic, number

topic = Topic("neurons")


@topic.experiment
def _neurons(bench: Bench) -> Tensors:
    model = bench.model
    dataset = bench.dataset()
    end = dataset.positions[END]
    base, patch = (
        cache_activations(model, tokens, end) for tokens in (dataset.clean, dataset.corrupted)
    )
    neurons = Neurons(base, patch, dataset, last_but_one(bench.parts))
    effects = neurons.effects(progress=True)
    order = neuron_ranking(effects)

    def by_YY(values: Float[Tensor, "prompt year"]) -> Float[Tensor, "YY year"]:
        return mean_by_YY(values, dataset.YY)

    ten = order[:10].split(1)
    return {
        "YY": dataset.YY,
        "effects": effects,
        "ten_joint": by_YY(neurons.year_effect(order[:10])),
        "ten_added": torch.stack([by_YY(neurons.year_effect(one)) for one in ten]).sum(0),
        "all": neurons.joint_effect(order),
        "lens_single": torch.stack([by_YY(neurons.lens(one)) for one in ten]),
        "lens_sum": torch.stack([by_YY(neurons.lens(order[:n])) for n in (100, 200)]),
    }


@topic.measure
def _neurons_joint(e: Evidence) -> Found:
    joint = e["ten_joint"]
    gap, largest = (x.nan_to_num(0.0).abs().max() for x in (e["ten_added"] - joint, joint))
    if not largest > 0:
        raise NotMeasured("the ten neurons have no effect on the year logits")
    return number(float(gap / largest))


@topic.measure
def _neurons_single(e: Evidence) -> Found:
    single, sums = (
        [step_correlation(beyond_mean_row(lens)) for lens in e[name]]
        for name in ("lens_single", "lens_sum")
    )
    if not min(sums) > 0:
        raise NotMeasured("the sums have no step to compare with")
    words = ", ".join(f"{likeness:.2f}" for likeness in (max(single), *sums))
    detail = f"correlation with a step at YY: best of ten, sums of 100 and 200: {words}"
    return number(max(single) / min(sums), f"{detail}; a pure step has 0.68")


@topic.measure
def _neurons_sum(e: Evidence) -> Found:
    shares = [triangle(lens) for lens in e["lens_sum"]]
    words = " and ".join(map(in_words, shares))
    return number(min(shares), f"of the YYs, for 100 and 200: {words}")
