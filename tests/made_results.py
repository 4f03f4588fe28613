"""Made-up results that meet every claim, as GPT-2 small would, for tests of what is made of them.

``AGREEING`` holds the discovery, ``ALL`` every experiment.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from gt_helpers.model.components import Shape, component, inputs
from gt_helpers.patching.engine import Evaluation, Sweep
from gt_helpers.patching.paper import PAPER
from gt_helpers.scorecard.results import Outcome, Results

N = 400
_FORTY = torch.arange(N) % 40
YY = torch.tensor([60] * 4 + [9, 60] + list(range(26, 60))).repeat(10)
SHAPE = Shape(12, 12, ("eos", "The", "NOUN", "lasted", "from", "XX1", "YY", "to", "END"))
SEVEN = ("a5.h1", "a5.h5", "a6.h9", "a7.h10", "a8.h8", "a8.h11", "a9.h1")
LATE = ("m8", "m9", "m10", "m11")


def evaluation(
    name: str, diff: float | Tensor, sharpness: float | Tensor = 0.0, mass: float = 0.999
) -> Evaluation:
    """An evaluation with these probability differences and cutoff sharpnesses, exactly."""
    diffs, sharp = (torch.as_tensor(x, dtype=torch.float64).expand(N) for x in (diff, sharpness))
    probs = torch.zeros(N, 100, dtype=torch.float64)
    for i, y in enumerate(YY.tolist()):
        valid, invalid = (mass + diffs[i]) / 2, (mass - diffs[i]) / 2
        before = torch.clamp(invalid / (y + 1), min=0.012)
        after = before + sharp[i]
        probs[i, :y] = probs[i, y] = (invalid - before) / y
        probs[i, y - 1] = before
        probs[i, y + 1 :] = (valid - after) / (98 - y)
        probs[i, y + 1] = after
    assert (probs > 0).all()
    return Evaluation(name, probs.log(), YY)


def a_sweep(
    receivers: list[str], at: str, effects: dict[str, float], via: tuple[str, ...]
) -> Sweep:
    senders = SHAPE.senders(at)
    jitter = torch.linspace(-1e-4, 1e-4, N, dtype=torch.float64)
    values = torch.zeros(len(senders), N, dtype=torch.float64)
    targets = inputs(receivers)
    for i, sender in enumerate(senders):
        if any(SHAPE.reaches(sender, target) for target in targets):
            values[i] = effects.get(sender.label, 0.0005) + jitter
    return Sweep(tuple(receivers), via, tuple(s.name for s in senders), values, SHAPE)


def lenses() -> dict[str, Tensor]:
    """Logit lenses [YY, year] of the shapes that the paper describes."""
    after = torch.arange(100) - torch.arange(2, 99)[:, None]
    shapes = {"diagonal": after == 0, "peak": after.abs() <= 4, "step": after > 0}
    shapes["band"] = (after > 0) & (after <= 50)
    of = {"a7.h10": "diagonal", "a8.h11": "diagonal", "m8": "peak", "m9": "step", "m10": "step"}
    return {name: shapes[kind].double() for name, kind in (of | {"m11": "band"}).items()}


def agreeing_results() -> Results:
    """Results that meet every claim, as a run on GPT-2 small would."""
    rare = _FORTY < 4
    clean = torch.where(rare, 0.244, 0.879)
    sharpness = 0.06 + 0.0711 * torch.tensor([1.0, -1.0]).repeat(N // 2)
    corrupted = torch.where(_FORTY < 6, 0.3, -0.5906)
    evaluations = {
        "clean": evaluation("clean", clean, sharpness),
        "corrupted": evaluation("corrupted", corrupted, -0.001),
        "partial": evaluation("partial", 0.726, 0.08),
        "full": evaluation("full", 0.715, 0.07),
        "reverse": evaluation("reverse", -0.366, -0.001),
    }
    values = {f"m{i}": -0.03 for i in (1, 2, 3)} | dict.fromkeys(("a0.h1", "a0.h3", "a0.h5"), -0.02)
    early = {"m0": -0.2, "a0.h1": -0.05, "embed": -0.3}
    six = dict.fromkeys(SEVEN[:-1], -0.03)
    heads_values = tuple(f"{head}.v[YY]" for head in SEVEN)
    ends: dict[str, dict[str, float]] = {
        "logits": {
            **{"m8": -0.05, "m9": -0.2, "m10": -0.4, "m11": -0.1},
            **{"a9.h1": -0.06, "a10.h7": 0.02},
        },
        "m11": {"m8": -0.01, "m9": -0.02, "m10": -0.05, "a9.h1": -0.01},
        "m10": {"m8": -0.02, "m9": -0.05, "a9.h1": -0.03},
        "m9": {"m8": -0.08, "a9.h1": -0.1},
        "m8": six,
    }
    sweeps = {
        name: a_sweep([name], "END", effects, LATE[LATE.index(name) + 1 :] if name in LATE else ())
        for name, effects in ends.items()
    }
    sevens: dict[str, dict[str, float]] = {"q": {}, "k": {"m0": -0.01}, "v": {"m0": -0.3, **values}}
    for part, effects in sevens.items():
        sweeps[part] = a_sweep([f"{head}.{part}" for head in SEVEN], "YY", effects, LATE)
    for name in ("m3", "m2", "m1"):
        sweeps[f"{name}@YY"] = a_sweep([f"{name}@YY"], "YY", early, (*heads_values, *LATE))
    sweeps["m0@YY"] = a_sweep(["m0@YY"], "YY", {"embed": -0.5}, (*heads_values, *LATE))
    settings = {
        "model": "gpt2-small",
        "gpt2_small": True,
        "prompts": N,
        "years": [1100, 1800],
        "balanced": True,
    }
    attention = torch.full((12, 12, N), 0.1, dtype=torch.float64)
    for head in map(component, SEVEN):
        attention[head.layer, head.head] = torch.where(YY < 10, 0.6, 0.8)
    return Results(settings, YY, PAPER, sweeps, evaluations, attention=attention, lens=lenses())


AGREEING = agreeing_results()


CLEAN = torch.full((N,), 0.833, dtype=torch.float64)
CORRUPTED = torch.where(_FORTY < 6, 0.3, -0.672).double()  # some are positive; the mean is -0.526
HEADS = {
    **{"a9.h1": 0.286, "a7.h10": 0.151, "a8.h11": 0.091, "a6.h9": 0.085},
    **{"a5.h1": 0.064, "a5.h5": 0.058, "a8.h8": 0.035, "a10.h7": -0.049},
}


def constant(*values: float) -> Tensor:
    """The same score for every prompt, one row per value."""
    return torch.tensor(values, dtype=torch.float64)[:, None].expand(len(values), N).clone()


def recovered(*shares: float) -> Tensor:
    """Scores that recover these shares of every prompt's gap, one row per share."""
    return CORRUPTED + constant(*shares) * (CLEAN - CORRUPTED)


def log_probs(diff: float | Tensor, sharpness: float | Tensor = 0.0) -> Tensor:
    return evaluation("", diff, sharpness).log_probs


def activation() -> dict[str, Tensor]:
    heads = [HEADS.get(f"a{i // 12}.h{i % 12}", 0.001) for i in range(144)]
    mlps = {"YY": [0.862, 0.065, *[0.0] * 10], "END": [0.02] * 8 + [0.186, 0.486, 0.535, 0.131]}
    streams = {"YY": [1.0] * 8 + [0.519, 0.2, 0.0, 0.0], "END": [0.0] * 8 + [0.534, 0.7, 0.98, 1]}
    found = {"heads@END": recovered(*heads), "together": recovered(0.978)}
    found |= {f"mlps@{place}": recovered(*shares) for place, shares in mlps.items()}
    found |= {f"stream@{place}": recovered(*shares) for place, shares in streams.items()}
    found |= {
        f"{part}@{place}": recovered(*[0.01] * 7) for part in "qkv" for place in ("YY", "END")
    }
    found["k@YY"] = recovered(*[0.02] * 7)
    found["v@YY"] = recovered(*[0.05] * 7)
    found |= {"clean": CLEAN, "corrupted": CORRUPTED, "YY": YY}
    found["clean_log_probs"] = log_probs(CLEAN, 0.06)
    found["corrupted_log_probs"] = log_probs(torch.where(_FORTY < 4, 0.7, -0.66))
    return found | {"last_mlp": constant(0.5)[0], "last_mlp_path": constant(0.5 + 1e-7)[0]}


def controls() -> dict[str, Tensor]:
    scores = {"clean": 0.81, "partial": 0.727, "values_only": 0.62, "shifted": -0.3, "one_mlp": 0.3}
    scores |= {"direct_m8": 0.71, "indirect_m8": 0.51, "direct_m9": 0.53, "indirect_m9": 0.49}
    scores |= {"random_0": -0.4, "random_1": 0.1}
    return {name: constant(score)[0] for name, score in scores.items()}


def families() -> dict[str, Tensor]:
    scores = {
        **{"started_clean": 0.8, "started_partial": 0.79, "price_clean": 0.6},
        **{"price_partial": 0.533, "sequence_clean": 0.9, "sequence_partial": 0.6},
        **{"sequence_extended": 0.82, "ended_clean": 0.6, "ended_reverse": -0.3},
        **{"BC_clean": 0.5, "BC_reverse": -0.2},
    }
    found = {name: log_probs(score) for name, score in scores.items()}
    repeated = torch.full((N, 100), 0.001, dtype=torch.float64)
    repeated[torch.arange(N), YY] = 0.9
    found["smaller_clean"] = repeated.log()
    return found | {f"{name.split('_')[0]}_YY": YY for name in found}


def neurons() -> dict[str, Tensor]:
    effects = constant(*[-0.02] * 10, *[0.0] * 390)
    single = torch.stack([lenses()["m8"]] * 10)
    found = {"effects": effects, "all": constant(-0.2)[0]}
    found |= {"ten_joint": torch.ones(97, 100), "ten_added": torch.full((97, 100), 1.1)}
    return found | {"lens_single": single, "lens_sum": torch.stack([lenses()["m9"]] * 2)}


EAP = {100: 0.436, 200: 0.66, 300: 0.719, 500: 0.757, 1000: 0.769}
EAP_IG = {100: 0.6, 200: 0.746, 300: 0.758, 500: 0.777, 1000: 0.777}
NINETEEN = (*SEVEN, "a6.h1", *LATE, "a0.h1", "a0.h3", "a0.h5", "m0", "m1", "m2", "m3")
OTHERS = [f"a{layer}.h0" for layer in range(1, 11)]


def grid(*names: str, value: float = 1.0) -> Tensor:
    """A value for the named heads and MLPs [layer, n_heads + 1]; the last column is MLPs."""
    found = torch.zeros(12, 13)
    for node in map(component, names):
        found[node.layer, node.head] = value
    return found


def attribution() -> dict[str, Tensor]:
    found = {"clean": constant(0.814)[0], "corrupted": constant(-0.457)[0]}
    for method, scores in (("eap", EAP), ("eap_ig", EAP_IG)):
        found |= {f"{method}_{n}": constant(score)[0] for n, score in scores.items()}
        found |= {f"{method}_{n}_edges": torch.arange(n - 10) for n in scores}
    found["eap_top"] = grid(*NINETEEN[2:], *OTHERS)
    return found | {"eap_ig_top": grid(*NINETEEN[1:], *OTHERS[:4])}


def found_edges() -> dict[str, Tensor]:
    scores = {"clean": 0.8, "corrupted": -0.45, "found": 0.7, "full": 0.71}
    found = {name: constant(score)[0] for name, score in scores.items()}
    found["found@END"] = grid(*SEVEN[1:], *LATE) + grid("a10.h2", "m7", value=0.1)
    found["found@YY"] = grid(*NINETEEN[12:]) + grid("m4", value=0.1)
    return found | {"edges": torch.arange(120)}


def agreeing() -> Results:
    """Results that meet every claim, as a whole scorecard of GPT-2 small would."""
    results = copy.deepcopy(AGREEING)
    answers = {"large": {name: e.log_probs for name, e in results.evaluations.items()}}
    answers["bos"] = {"clean": log_probs(0.814), "corrupted": log_probs(-0.457)}
    answers["acdc"] = {"clean": log_probs(0.84), "corrupted": log_probs(-0.564)}
    answers["acdc"]["circuit"] = log_probs(0.72, 0.08)
    tensors = {name: runs | {"YY": YY} for name, runs in answers.items()}
    tensors |= {"controls": controls(), "activation": activation(), "families": families()}
    tensors |= {"neurons": neurons(), "attribution": attribution(), "edges": found_edges()}
    settings = {
        "large": {"prompts": 10_000, "balanced": False, "years": [1000, 1900]},
        "bos": {"prompts": 1000, "balanced": True, "years": [1100, 1800], "note": "written so"},
    }
    results.experiments = {
        name: Outcome(settings.get(name, {"prompts": N}), found) for name, found in tensors.items()
    }
    return results


ALL = agreeing()
