"""How much of other prompt families the circuit does (section 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..dataset.families import PromptFamily
from ..dataset.prompts import listed, token_text
from ..dataset.year_dataset import YearDataset
from ..metrics import YYs, average, recovered
from ..model.cache import end_logits
from ..model.components import component
from ..model.transformer import Transformer
from ..patching.engine import PathPatching, Sweep
from ..patching.paper import CircuitParts, partial_circuit


@torch.no_grad()
def top_numbers(
    model: Transformer, tokens: Int[Tensor, "prompt position"], values: YYs, k: int = 100
) -> pd.DataFrame:
    """What the ``k`` most probable next tokens of some prompts are, beside each prompt's value.

    One row per prompt; of tokens that are whole numbers, with or without a space in front: columns
    ``numbers``, their mass under the full softmax, ``above``, ``equal`` and ``below``, the mass of
    those above, equal to and below the prompt's of ``values``, and ``count_above``. Raises
    ValueError unless there is one value per prompt and ``k`` is 1 or more.
    """
    if values.shape != tokens.shape[:1] or not 1 <= k <= model.W_U.shape[1]:
        raise ValueError(
            f"{len(values)} values and k={k} do not fit {len(tokens)} prompts; give one number per "
            "prompt and k from 1 on, e.g. top_numbers(model, dataset.clean, dataset.YY, k=5)."
        )
    best = [logits.softmax(-1).topk(k) for logits in end_logits(model, tokens)]
    probs = torch.cat([top.values for top in best]).cpu()
    ids = torch.cat([top.indices for top in best]).cpu()
    texts = {token: token_text(model.tokenizer, token) for token in ids.unique().tolist()}
    number = {t: int(text) for t, text in texts.items() if re.fullmatch(r" ?[0-9]{1,9}", text)}
    read = ids.clone().apply_(lambda token: number.get(token, -1))  # [prompt, k], -1: no number
    value = values.cpu()[:, None]
    chosen = {"numbers": read >= 0, "above": read > value, "equal": read == value}
    chosen["below"] = (read >= 0) & (read < value)
    table = {name: (probs * which).sum(-1).tolist() for name, which in chosen.items()}
    return pd.DataFrame(table | {"count_above": chosen["above"].sum(-1).tolist()})


def year_masses(probs: Float[Tensor, "prompt year"], YY: YYs) -> dict[str, Tensor]:
    """Masses [prompt] of year probabilities: above YY, up to YY, on YY + 1 (YY below 99)."""
    above = torch.arange(100, device=probs.device) > YY[:, None]
    return {
        "above YY": (probs * above).sum(-1),
        "up to YY": (probs * ~above).sum(-1),
        "YY + 1": probs.gather(-1, YY[:, None] + 1).squeeze(-1),
    }


@dataclass(frozen=True)
class FamilyStudy:
    """What a model and a circuit do with the prompts of one family.

    ``log_probs`` are those of the runs "clean" and "corrupted", "partial" (the partial circuit on
    clean data, everything else corrupted) and "reverse" (the other way round: the circuit is
    impaired); ``sweep`` is every component's effect on the logits, in the family's own metric.
    """

    family: PromptFamily
    dataset: YearDataset
    log_probs: dict[str, Float[Tensor, "prompt year"]]
    sweep: Sweep

    def score(self, run: str) -> Float[Tensor, " prompt"]:
        """The family's metric in one of the four runs, in [-1, 1]."""
        return self.family.metric(self.log_probs[run].exp(), self.dataset.YY)


def study_family(family: PromptFamily, patching: PathPatching, parts: CircuitParts) -> FamilyStudy:
    """Run a family's prompts clean, corrupted, through the circuit and without it (section 5).

    ``patching`` holds prompts of the family, clean base. Raises ValueError for another base, and
    for a circuit without heads.
    """
    if patching.base != "clean":
        raise ValueError(
            "The base is corrupted; give a clean one, e.g. PathPatching(model, prompts)."
        )
    if not parts.heads:
        raise ValueError("The circuit has no heads at END; give parts with some, e.g. PAPER.")
    circuit, denoising = partial_circuit(parts), patching.reversed()
    log_probs = {
        "clean": patching.base_log_probs,
        "corrupted": denoising.base_log_probs,
        "partial": denoising.evaluate(circuit).log_probs,
        "reverse": patching.evaluate(circuit).log_probs,
    }
    sweep = patching.sweep("logits", metric=family.metric)
    return FamilyStudy(family, patching.dataset, log_probs, sweep)


def family_summary(studies: Iterable[FamilyStudy]) -> pd.DataFrame:
    """One row per family: its score in every run, what the circuit recovers, and the top years.

    Columns: ``family``, ``asks``, ``prompts``; the mean score ``clean``, ``corrupted``, ``partial``
    and ``reverse``; ``recovered`` (partial / clean, the paper's) and ``above_corrupted`` (the same
    with the corrupted score taken from both), NaN where the interval of what they are divided by
    includes 0; ``change`` (reverse minus clean: positive where impairing the circuit helps). Each
    has a 95 % interval in ``_low`` and ``_high``. Then ``top_right`` and ``top_YY``, the shares of
    clean prompts whose most probable end year is right, or YY itself, and ``expects``.
    """
    return pd.DataFrame([_summary_row(study) for study in studies])


def _summary_row(study: FamilyStudy) -> dict[str, object]:
    family, scores = study.family, {run: study.score(run) for run in study.log_probs}
    clean, corrupted, partial = scores["clean"], scores["corrupted"], scores["partial"]
    changes, strata = {"change": scores["reverse"] - clean}, study.dataset.strata
    measured = {name: average(x, strata=strata) for name, x in (scores | changes).items()} | {
        "recovered": recovered(partial, clean, strata=strata),
        "above_corrupted": recovered(partial, clean, corrupted, strata),
    }
    row = {"family": family.name, "asks": family.asks, "prompts": len(study.dataset)}
    for name, value in measured.items():
        row |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
    top, YY = study.log_probs["clean"].argmax(-1), study.dataset.YY
    right = top < YY if family.below else top > YY
    shares = {"top_right": right, "top_YY": top == YY}
    row |= {name: float(share.double().mean()) for name, share in shares.items()}
    return row | {"expects": family.expects}


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
