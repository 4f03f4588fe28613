"""Does the scorecard judge right? Simulated runs on GPT-2 small, correct ones and faulty ones.

    python benchmarks/judge.py                   # 500 correct runs, 40 of each fault: two tables
    python benchmarks/judge.py --json            # one line: correct_failed and faulty_caught
    python benchmarks/judge.py --coverage        # of the intervals, on the model mini

Of every claim both sides are drawn: the sample behind the reported value, as large as the source's,
and ours, of the scorecard's size, from one population. Its means are those that are reported
(tests/made_results.py), its spreads over prompts the reported ones where they are known. A fault
changes our sample only, by what greater-than studies report or what follows from a definition.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import made_results

from gt_helpers import PathPatching, YearDataset, circuit_parts, load_model, partial_circuit
from gt_helpers.dataset.prompts import PAPER_TEMPLATE, Prompt, fill, load_nouns, valid_years
from gt_helpers.dataset.published import YEARS
from gt_helpers.metrics import bootstrap_ci, linearised, prob_diff, strata_by_YY
from gt_helpers.model.components import component
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import Evaluation
from gt_helpers.scorecard import claims as card
from gt_helpers.scorecard.registry import Claim, Evidence, circuit_log_probs, prob_diffs
from gt_helpers.scorecard.results import Outcome, Results
from gt_helpers.scorecard.verdicts import JUDGED

GPT2 = made_results.ALL  # what a run on GPT-2 small would give, every prompt alike
MASS = 0.999  # of the hundred years
SIZES = {name: one.prompts for name, one in card.EXPERIMENTS.items()}
BALANCED = {"discovery", "bos", "controls", "families", "attribution", "neurons", "edges"}
# Standard deviation over prompts, and which part of the variance is not YY's.
SPREAD = {"clean": (0.193, 0.066), "corrupted": (0.47, 0.001), "reverse": (0.47, 0.002)}
OF_CIRCUITS = (0.28, 0.004)
OF_SWEEPS = (0.6, 0.1)  # relative to the mean effect
HEADS = {  # of the share that one head brings back
    claim["id"].removeprefix("denoise_"): claim["sd"]
    for claim in card.claims()
    if claim["id"].startswith("denoise_") and "sd" in claim
}

# ---- a population of prompts ------------------------------------------------------------------


class Sample:
    """Prompts drawn from the population, and what is measured on them."""

    def __init__(self, n: int, balanced: bool, generator: torch.Generator) -> None:
        self.generator = generator
        in_turn = torch.arange(n) % 97 + 2
        self.YY = in_turn if balanced else torch.randint(2, 99, (n,), generator=generator)
        # the clean score falls steeply towards 98, the others evenly
        self.steep = (27.6 - (self.YY / 20).exp()) / 33.6
        self.even = (50 - self.YY) / 28.0

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, len(self.YY), generator=self.generator)

    def scores(self, name: str, mean: Tensor) -> Tensor:
        """Probability differences [..., prompt] of these means [...]."""
        kind = name.split("_")[-1]
        if mean.ndim:
            return torch.stack([self.scores(name, one) for one in mean])
        return _bounded(_offset(kind, float(mean)) + self._varied(kind))

    def _varied(self, kind: str) -> Tensor:
        sd, within = SPREAD.get(kind, OF_CIRCUITS)
        by_YY = self.even if kind in ("corrupted", "reverse") else self.steep
        return sd * (math.sqrt(1 - within) * by_YY + math.sqrt(within) * self.noise())

    def log_probs(self, name: str, of: Tensor, YY: Tensor) -> Tensor:
        """Answers [prompt, year] of the mean scores that these log-probabilities have."""
        found = Evaluation(name, of, YY)
        diff = self.scores(name, found.prob_diff.mean())
        sharp = found.cutoff_sharpness.mean() + 0.06 * self.noise()
        right, wrong, after = (MASS + diff) / 2, (MASS - diff) / 2, (98 - self.YY).clamp_min(1)
        first = torch.minimum((wrong / (self.YY + 1) + sharp).clamp_min(1e-4), 0.9 * right)
        first = torch.where(self.YY == 98, right, first)
        years, YY = torch.arange(100), self.YY[:, None]
        probs = torch.where(
            years > YY, ((right - first) / after)[:, None], (wrong / (self.YY + 1))[:, None]
        )
        return torch.where(years == YY + 1, first[:, None], probs).clamp_min(1e-9).log()

    def effects(self, mean: Tensor) -> Tensor:
        """Effects [sender, prompt] of these means; 0 stays 0."""
        sd, within = OF_SWEEPS
        by_YY = torch.linspace(-1, 1, len(mean))[:, None] * self.even
        unit = math.sqrt(1 - within) * by_YY + math.sqrt(within) * self.noise(len(mean))
        return mean[:, None] * (1 + sd * unit)


def _bounded(scores: Tensor) -> Tensor:
    return scores.clamp(-0.98, 0.98)


@cache
def _offset(kind: str, mean: float) -> float:
    """What bounded scores vary about, so that the population's mean is this one."""
    large = Sample(97 * 200, True, torch.Generator().manual_seed(0))._varied(kind)
    offset = mean
    for _ in range(20):
        offset += mean - float(_bounded(offset + large).mean())
    return offset


def run(generator: torch.Generator, sizes: dict[str, int]) -> Results:
    """What a correct run of these experiments measures, each on its own sample."""
    results = Results(dict(GPT2.settings), GPT2.YY, GPT2.parts, lens=GPT2.lens)
    for name, n in sizes.items():
        sample = Sample(n, name in BALANCED, generator)
        if name == "discovery":
            _discover(results, sample)
            continue
        settings = GPT2.experiments[name].settings | {"prompts": n, "balanced": name in BALANCED}
        results.experiments[name] = Outcome(settings, dict(_measured(name, sample)))
    return results


def _discover(results: Results, sample: Sample) -> None:
    results.YY = sample.YY
    results.settings["prompts"] = len(sample.YY)
    for name, sweep in GPT2.sweeps.items():
        values = sample.effects(sweep.values.float().mean(-1))
        results.sweeps[name] = replace(sweep, values=values)
    for name, found in GPT2.evaluations.items():
        answers = sample.log_probs(name, found.log_probs, found.YY)
        results.evaluations[name] = Evaluation(name, answers, sample.YY)
    mean = GPT2.attention.float().mean(-1)
    attention = mean[..., None] * (1 - 0.2 * (sample.YY < 10)) + 0.05 * sample.noise(12, 12)
    results.attention = attention.clamp(0, 1)


def _measured(experiment: str, sample: Sample) -> Iterator[tuple[str, Tensor]]:
    tensors = GPT2.experiments[experiment].tensors
    n, last, ends = len(made_results.YY), torch.zeros(0), {}
    if experiment == "activation":
        ends = {x: sample.scores(x, tensors[x].float().mean()) for x in ("clean", "corrupted")}
        yield from ends.items()
    for name, tensor in tensors.items():
        if name == "YY" or name.endswith("_YY"):
            yield name, sample.YY
        elif name in ends:
            continue
        elif name == "smaller_clean":  # repeats YY
            yield name, torch.eye(100)[sample.YY].mul(0.9).clamp_min(0.001).log()
        elif name == "last_mlp_path":  # the same as last_mlp, which comes first
            yield name, last + 1e-7
        elif tensor.shape == (n, 100):
            yield name, sample.log_probs(name.removesuffix("_log_probs"), tensor, made_results.YY)
        elif tensor.shape[-1] != n:  # no prompts: lenses, grids, edges
            yield name, tensor
        elif "@" in name or name == "together":
            yield name, _patched(name, tensor, sample, ends)
        elif experiment == "neurons":
            yield name, tensor[..., : len(sample.YY)]
        else:
            last = sample.scores(name, tensor.float().mean(-1))
            yield name, last


def _patched(name: str, tensor: Tensor, sample: Sample, ends: dict[str, Tensor]) -> Tensor:
    """Scores of activation patching, made of the shares that they bring back."""
    own = GPT2.experiments["activation"].tensors
    share = ((tensor - own["corrupted"]) / (own["clean"] - own["corrupted"])).float().mean(-1)
    sd = 0.02 + 0.5 * (share * (1 - share)).abs()  # what brings back all of it hardly varies
    if name == "heads@END":
        for head, spread in HEADS.items():
            node = component(head)
            sd[12 * node.layer + node.head] = spread
    shares = share[:, None] + sd[:, None] * (0.8 * sample.even + 0.6 * sample.noise(len(share)))
    return ends["corrupted"] + shares * (ends["clean"] - ends["corrupted"])


# ---- replications -----------------------------------------------------------------------------


def reported(generator: torch.Generator) -> tuple[Claim, ...]:
    """The claims, each with the value that its source's own sample gives."""
    samples: dict[tuple[str, int], Results] = {}
    found = []
    for claim in card.claims():
        if claim["kind"] == "value" and "n" in claim and "missing" not in claim:
            key = (claim["experiment"], claim["n"])
            if key not in samples:
                samples[key] = run(generator, {key[0]: key[1]})
            theirs = card.MEASURES[claim["id"]](Evidence(samples[key], claim["experiment"]))
            claim = {**claim, "value": theirs.mean}
        found.append(claim)
    return tuple(found)


Fault = Callable[[Results], None]


class Judgement(NamedTuple):
    """Why a simulated run is contradicted, and the claims that disagree or stay open."""

    why: list[str]
    disagree: list[str]
    open: list[str]


def judged(seed: int, fault: Fault | None = None) -> Judgement:
    """One simulated run, judged."""
    generator = torch.Generator().manual_seed(seed)
    theirs, ours = reported(generator), run(generator, SIZES)
    if fault:
        ours = copy.deepcopy(ours)
        fault(ours)
    with patch.object(card, "claims", lambda: theirs):
        table = card.scorecard(ours)
    if not fault:
        assert table["verdict"].isin(JUDGED).sum() > 90
    ids = table.groupby("verdict")["id"].agg(list)
    return Judgement(card.contradictions(table), ids.get("disagrees", []), ids.get("open", []))


# ---- faults, and what is known of their effect ------------------------------------------------


def _answers(results: Results) -> Iterator[tuple[dict[str, Tensor], str]]:
    """Every table of answers of the template's prompts: where it is, and its name."""
    for experiment in ("large", "bos"):
        tensors = results.experiments[experiment].tensors
        yield from ((tensors, name) for name in [*tensors] if name != "YY")


def acdc_prompts(results: Results) -> None:
    """No BOS and one "the year" less, as in ACDC's prompts: .840 clean, -.564 corrupted."""
    for tensors, name in _answers(results):
        if name in ("clean", "corrupted"):
            diff = prob_diff(tensors[name].exp(), tensors["YY"])
            goal = 0.84 if name == "clean" else -0.564
            _move(tensors, name, goal - diff.mean())


def _move(tensors: dict[str, Tensor], name: str, by: Tensor) -> None:
    """Move the mean score of answers by moving mass between right and wrong years."""
    probs, right = tensors[name].exp(), torch.arange(100) > tensors["YY"][:, None]
    up = (probs * right).sum(-1, keepdim=True)
    down = MASS - up
    goal = (up + by / 2).clamp(1e-3, MASS - 1e-3)
    tensors[name] = torch.where(right, probs * goal / up, probs * (MASS - goal) / down).log()


def year_kept(results: Results) -> None:
    """The corrupted prompt has another noun and the same year: nothing about YY is corrupted."""
    for tensors, name in _answers(results):
        tensors[name] = tensors["clean"]
    for name, sweep in results.sweeps.items():
        results.sweeps[name] = replace(sweep, values=torch.zeros_like(sweep.values))
    for experiment in ("controls", "activation", "acdc", "attribution"):
        tensors = results.experiments[experiment].tensors
        kept = tensors["clean"]
        tensors |= {k: kept.expand_as(x) for k, x in tensors.items() if x.shape == kept.shape}


def scored_by_01(results: Results) -> None:
    """Every run is scored against the corrupted prompt's YY, 01."""
    for tensors, _ in _answers(results):
        tensors["YY"] = torch.ones_like(tensors["YY"])


def head_shifted(results: Results) -> None:
    """a9.h1 is read one layer too high, at a10.h1."""
    old, new = 12 * 9 + 1, 12 * 10 + 1
    heads = results.experiments["activation"].tensors["heads@END"]
    heads[[old, new]] = heads[[new, old]]
    attention = results.attention.flatten(0, 1)
    attention[[old, new]] = attention[[new, old]]
    for sweep in results.sweeps.values():
        labels = [component(sender).label for sender in sweep.senders]
        rows = [labels.index("a9.h1"), labels.index("a10.h1")]
        sweep.values[rows] = sweep.values[rows[::-1]]


FREE = {"a9.h1": 0.246, "a7.h10": 0.163, "a8.h11": 0.098, "a6.h9": 0.091, "a5.h5": 0.071}


def mlps_free(results: Results) -> None:
    """Only heads are nodes: an effect on the logits runs through the MLPs, too."""
    sweep = results.sweeps["logits"]
    for name, share in FREE.items():
        row = sweep.values[sweep.senders.index(f"{name}@END")]
        row += -share * 1.274 - row.mean()  # the gap of the scores, .817 + .457


FAULTS: dict[str, Fault] = {
    "prompts of ACDC: no BOS, one 'the year' less": acdc_prompts,
    "corrupted by another noun, the year stays": year_kept,
    "scored against the corrupted YY": scored_by_01,
    "a9.h1 read one layer too high": head_shifted,
    "MLPs are not counted as receivers": mlps_free,
}


# ---- coverage of the intervals on mini --------------------------------------------------------


def every_prompt(model: Transformer, nouns: int) -> YearDataset:
    """The paper's prompts of every year of centuries 11 to 17 with each of some nouns."""
    prompts = [
        Prompt(noun, year, year // 100)
        for noun in load_nouns()[:nouns]
        for year in valid_years(model.tokenizer, *YEARS)
    ]
    pairs = [(one, one._replace(year=100 * one.XX + 1)) for one in prompts]
    clean, corrupted = (
        [fill(PAPER_TEMPLATE, one) for one in side] for side in zip(*pairs, strict=True)
    )
    return YearDataset.from_prompts(clean, corrupted, [p.year for p in prompts], model.tokenizer)


def coverage(draws: int = 1000, n: int = 490, nouns: int = 8) -> dict[str, tuple[float, float]]:
    """Of 95 % intervals of balanced draws: how many hold the value of all prompts, and by how much
    the plain bootstrap is wider."""
    model = load_model("mini", "cpu")
    dataset = every_prompt(model, nouns)
    patching = PathPatching(model, dataset, progress=True)
    circuit = partial_circuit(circuit_parts(PathPatching(model, dataset[:: len(dataset) // 97])))
    runs = circuit_log_probs(model, dataset, {"partial": circuit})
    values = {run: found.double() for run, found in prob_diffs(runs).items() if run != "YY"}
    sweep = patching.sweep("logits")
    strongest = sweep.values.mean(-1).abs().argsort(descending=True)[:4]
    values |= {f"{sweep.senders[i]} to the logits": sweep.values[i].double() for i in strongest}
    YY = torch.arange(n) % 97 + 2
    with_YY = [(dataset.YY == y).nonzero().flatten() for y in range(2, 99)]
    truth = {name: _by_design(one, with_YY, YY) for name, one in values.items()}
    truth["recovered"] = truth["partial"] / truth["clean"]
    generator, strata = torch.Generator().manual_seed(0), strata_by_YY(YY)
    held, widths = Counter(), {name: [0.0, 0.0] for name in truth}
    for _ in range(draws):
        picks = (torch.rand(n, generator=generator, dtype=torch.float64)).tolist()
        chosen = [
            with_YY[y - 2][int(x * len(with_YY[y - 2]))]
            for y, x in zip(YY.tolist(), picks, strict=True)
        ]
        drawn = {name: one[torch.stack(chosen)] for name, one in values.items()}
        drawn["recovered"] = linearised(drawn["partial"], drawn["clean"])
        for name, one in drawn.items():
            for i, design in enumerate((strata, None)):
                _, low, high = bootstrap_ci(one, strata=design)
                widths[name][i] += float(high - low)
                held[name] += (not i) and bool(low <= truth[name] <= high)
    return {name: (held[name] / draws, wide[1] / wide[0]) for name, wide in widths.items()}


def _by_design(values: Tensor, with_YY: list[Tensor], YY: Tensor) -> float:
    return float(torch.stack([values[with_YY[y - 2]].mean() for y in YY.tolist()]).mean())


# ---- the command ------------------------------------------------------------------------------


def replicate(n: int, label: str, fault: Fault | None = None) -> list[Judgement]:
    """``n`` runs, on all cores."""
    first = 0 if fault is None else 10_000
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        found = pool.map(judged, range(first, first + n), repeat(fault), chunksize=4)
        return list(tqdm(found, label, n, leave=False))


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--correct", type=int, default=500, metavar="N", help="correct runs")
    parser.add_argument("--faulty", type=int, default=40, metavar="N", help="runs of each fault")
    parser.add_argument("--json", action="store_true", help="one line: the two shares")
    parser.add_argument("--coverage", action="store_true", help="of the intervals, on mini")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.coverage:
        print("| mini | of 95 % intervals hold the value | plain bootstrap is wider by |")
        print("|---|---|---|")
        for name, (held, wider) in coverage().items():
            print(f"| {name} | {held:.1%} | {wider:.1f} x |")
        return
    correct = replicate(options.correct, "correct")
    faulty = {name: replicate(options.faulty, name, fault) for name, fault in FAULTS.items()}
    caught = {name: _share(found) for name, found in faulty.items()}
    shares = {
        "correct_failed": _share(correct),
        "faulty_caught": sum(caught.values()) / len(caught),
    }
    if options.json:
        print(json.dumps(shares))
        return
    print(
        f"Of {len(correct)} correct runs {shares['correct_failed']:.1%} are contradicted. In one,"
    )
    disagree, is_open = (sum(len(one[i]) for one in correct) / len(correct) for i in (1, 2))
    print(f"{disagree:.2f} claims disagree and {is_open:.1f} are open on average; most often open:")
    print(Counter(claim for one in correct for claim in one.open).most_common(8))
    print("\n| fault | caught | by |\n|---|---|---|")
    for name, found in faulty.items():
        claims = Counter(claim for one in found for claim in one.disagree)
        by = ", ".join(f"`{c}`" for c, k in claims.most_common() if k >= 0.95 * len(found))
        print(f"| {name} | {caught[name]:.0%} | {by} |")


def _share(found: list[Judgement]) -> float:
    return sum(bool(one.why) for one in found) / len(found)


if __name__ == "__main__":
    main()
