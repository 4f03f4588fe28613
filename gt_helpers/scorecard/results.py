"""Results of one reproduction: kept on disk as they are finished, loaded by one call.

A results folder holds ``results.json`` (settings, versions, circuit, routes) and a safetensors file
to each sweep, evaluation, experiment, ...; ``docs/results.md`` says what each holds.
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from ..dataset.prompts import load_nouns, valid_years
from ..dataset.year_dataset import YearDataset
from ..metrics import Strata, strata_by_YY
from ..model.components import Shape
from ..model.load import is_gpt2_small
from ..model.transformer import Transformer
from ..patching.engine import Evaluation, Sweep
from ..patching.paper import CircuitParts
from ..processes import Tensors, is_main, resumable, world_size, write_tensors

FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """What one experiment beyond the discovery measured: named tensors, and on which data.

    ``settings`` says which prompts: their number, seed, years, whether balanced, the template.
    """

    settings: dict[str, Any]
    tensors: Tensors


@dataclass
class Results:
    """Everything that one reproduction measured.

    ``settings`` says how: model, gpt2_small, prompts, seed, years, device, versions. ``sweeps`` are
    keyed "logits", "m11", ..., "q", "k", "v", "m0@YY", ...; ``evaluations`` "clean", "corrupted",
    "partial", "full", "reverse". ``softmax_of_mean`` holds the probabilities of the mean logits of
    equal YY, the paper's other averaging order. Of the clean prompts, ``attention`` is every head's
    from END to YY, and ``lens`` holds the logit lens of components by their labels. ``experiments``
    are those beyond the discovery of the circuit, by their names.
    """

    settings: dict[str, Any]
    YY: Int[Tensor, " prompt"]
    parts: CircuitParts | None = None
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    softmax_of_mean: Float[Tensor, "YY year"] | None = None
    attention: Float[Tensor, "layer head prompt"] | None = None
    lens: dict[str, Float[Tensor, "YY year"]] = field(default_factory=dict)
    experiments: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def strata(self) -> Strata | None:
        """What the discovery's prompts are resampled within, as `YearDataset.strata`."""
        balanced = self.settings.get("balanced") and len(self.YY)
        return strata_by_YY(self.YY) if balanced else None

    def save(self, folder: Path) -> None:
        """Write what is not yet on disk, so that an interrupted run keeps what it has finished.

        Of several processes, the main one does.
        """
        if not is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in self._tensors():
            path = folder / f"{name}.safetensors"
            if not path.exists():
                write_tensors(path, tensors)
        text = {
            "format": FORMAT,
            "settings": self.settings,
            "parts": asdict(self.parts) if self.parts else None,
            "sweeps": {name: _route(sweep) for name, sweep in self.sweeps.items()},
            "evaluations": {key: e.name for key, e in self.evaluations.items()},
            "experiments": {name: outcome.settings for name, outcome in self.experiments.items()},
            "seconds": self.seconds,
        }
        temporary = folder / "results.json.part"
        temporary.write_text(json.dumps(text, indent=1) + "\n")
        temporary.replace(folder / "results.json")

    def _tensors(self) -> Iterator[tuple[str, Tensors]]:
        """Each file's name and what it holds."""
        if self.softmax_of_mean is not None:
            yield "behaviour", {"YY": self.YY, "softmax_of_mean": self.softmax_of_mean}
        for name, sweep in self.sweeps.items():
            yield f"sweep_{name}", {"values": sweep.values}
        for name, evaluation in self.evaluations.items():
            yield f"evaluation_{name}", {"log_probs": evaluation.log_probs, "YY": evaluation.YY}
        if self.attention is not None:
            yield "attention", {"END_to_YY": self.attention}
        if self.lens:
            yield "lens", self.lens
        for name, outcome in self.experiments.items():
            yield f"experiment_{name}", outcome.tensors


def load_results(folder: str | Path) -> Results:
    """Load a results folder; raises FileNotFoundError or ValueError, saying what is missing."""
    folder = Path(folder)
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no results.json in {str(folder)!r}; give the folder that "
            "'python -m gt_helpers reproduce --out FOLDER' wrote."
        )
    text = json.loads(path.read_text())
    if text.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {text.get('format')!r}, this version reads {FORMAT}; run reproduce "
            "again into another folder, e.g. --out new-results."
        )
    files = {file.stem: load_file(file) for file in folder.glob("*.safetensors")}
    named = [f"{kind}_{key}" for kind in ("sweep", "evaluation") for key in text[f"{kind}s"]]
    if missing := [name for name in named if name not in files]:
        raise FileNotFoundError(
            f"{folder} has no {missing[0]}.safetensors, which its results.json names; give the "
            "whole folder, or run reproduce again into another, e.g. --out new-results."
        )
    behaviour, parts = files.get("behaviour", {}), text["parts"]
    evaluations = {
        key: Evaluation(name, **files[f"evaluation_{key}"])
        for key, name in text["evaluations"].items()
    }
    any_YY = next((e.YY for e in evaluations.values()), torch.zeros(0, dtype=torch.int64))
    results = Results(
        settings=text["settings"],
        YY=behaviour.get("YY", any_YY),
        parts=CircuitParts(**_with_tuples(parts)) if parts else None,
        evaluations=evaluations,
        softmax_of_mean=behaviour.get("softmax_of_mean"),
        attention=files.get("attention", {}).get("END_to_YY"),
        lens=files.get("lens", {}),
        experiments={
            name: Outcome(settings, files[f"experiment_{name}"])
            for name, settings in text.get("experiments", {}).items()  # older folders have none
            if f"experiment_{name}" in files
        },
        seconds=text["seconds"],
    )
    results.sweeps = {
        key: _sweep(route, files[f"sweep_{key}"]["values"], results.strata)
        for key, route in text["sweeps"].items()
    }
    return results


def _route(sweep: Sweep) -> dict[str, Any]:
    """All of a sweep but its values, as JSON keeps it."""
    names = {"receivers": sweep.receivers, "via": sweep.via, "senders": sweep.senders}
    return names | asdict(sweep.shape)


def _sweep(
    route: dict[str, Any], values: Float[Tensor, "sender prompt"], strata: Strata | None
) -> Sweep:
    """The inverse of `_route`."""
    shape = _with_tuples(route)  # what is left of it, once these are taken out
    names = {key: shape.pop(key) for key in ("receivers", "via", "senders")}
    return Sweep(**names, values=values, shape=Shape(**shape), strata=strata)


def _with_tuples(saved: dict[str, Any]) -> dict[str, Any]:
    """What JSON gives back as lists was tuples."""
    return {key: tuple(one) if isinstance(one, list) else one for key, one in saved.items()}


@dataclass
class Reproduction:
    """A reproduction in progress: model, prompts, and the folder that keeps what is finished."""

    model: Transformer
    dataset: YearDataset
    results: Results
    folder: Path
    say: Callable[[str], None]

    @contextmanager
    def step(self, name: str, kept_as: str | None = None) -> Iterator[None]:
        """One step, timed, and saved at the end of the block.

        Until then the folder keeps what each process has finished, under the step's name or under
        ``kept_as``, which says all that it depends on beyond the folder's settings.
        """
        started = time.perf_counter()
        with resumable(kept_as or name, self.folder):
            yield
            self.results.seconds[name] = round(time.perf_counter() - started, 2)
            self.results.save(self.folder)
        self.say(f"  {name}: {self.results.seconds[name]:.1f} s")


_PACKAGES = ("torch", "transformer_lens", "transformers", "numpy", "pandas", "plotly")


def new_results(
    model: Transformer, dataset: YearDataset, seed: int, years: tuple[int, int]
) -> Results:
    """Results that hold the settings of a run on balanced prompts, and no measurement yet."""
    settings = {
        "model": model.name,
        "gpt2_small": is_gpt2_small(model),
        "weights": model.fingerprint(),
        "prompts": len(dataset),
        "seed": seed,
        "years": list(years),
        "pool_size": len(valid_years(model.tokenizer, *years)),
        "nouns": len(load_nouns()),
        "balanced": True,
        "corruption": dataset.corruption.name,
        "changed_positions": list(dataset.changed_positions),
        "clean_example": dataset.clean_text[0],
        "corrupted_example": dataset.corrupted_text[0],
        "device": str(model.device),
        "processes": world_size(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "d_model": model.d_model,
        "check_report": model.check_report,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m gt_helpers", *sys.argv[1:]]),
    }
    return Results(settings, dataset.YY)
