"""Outcomes of choices and comparisons of them, made by hand for a model of two layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gt_helpers.differences.choices import REFERENCE, Outcome
from gt_helpers.differences.comparison import Comparison
from gt_helpers.model.components import Shape
from gt_helpers.patching.paper import CircuitParts

# Senders: a0.h0 a0.h1 m0 a1.h0 a1.h1 m1 embed.
SHAPE = Shape(2, 2, ("YY", "END"))
PARTS = CircuitParts(("a0.h1", "a1.h0"), ("m1",), ("m0",), ())
USUAL = (0.0, -0.5, 0.1, -0.3, 0.0, -0.9, 0.0)
SPREAD = torch.linspace(-0.3, 0.3, 7, dtype=torch.float64)  # of a score over prompts
LENS = torch.randn(97, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(
    effects: Sequence[float] = USUAL,
    scores: Sequence[float] = (0.8, -0.4, 0.6),
    lens: torch.Tensor = LENS,
    sweeps: Sequence[str] = ("logits", "values"),
) -> Outcome:
    values = torch.tensor(effects, dtype=torch.float64)
    clean, low, partial = scores
    gap = clean - low if clean - low > 0.05 else math.nan
    return Outcome(
        {
            **{"clean": clean, "corrupted": low, "partial": partial},
            **{"recovered": partial / clean, "above_corrupted": (partial - low) / gap},
        },
        dict.fromkeys(sweeps, values),
        dict.fromkeys(("a0.h1", "m1"), lens),
        per_prompt={
            name: mean + SPREAD
            for name, mean in (("clean", clean), ("corrupted", low), ("recovered", partial / clean))
        },
    )


def compared(**outcomes: Outcome | list[Outcome]) -> Comparison:
    found = {name.replace("_", " "): one for name, one in outcomes.items()}
    n = max(len(one) if isinstance(one, list) else 1 for one in found.values())
    every = {k: one if isinstance(one, list) else [one] * n for k, one in found.items()}
    return Comparison({REFERENCE.name: [made()] * n, **every}, PARTS, SHAPE)
