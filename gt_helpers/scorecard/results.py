"""Results of one reproduction: kept on disk as they are finished, loaded by one call.

A results folder holds ``results.json`` (settings, versions, circuit, routes) and one safetensors
file per experiment; the axes of every tensor are given by the class that it is loaded into.
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..dataset.prompts import load_nouns, valid_years
from ..dataset.year_dataset import YearDataset
from ..model.components import Shape
from ..model.load import is_gpt2_small
from ..model.transformer import Transformer
from ..patching.engine import Evaluation, Sweep
from ..patching.paper import CircuitParts
from ..processes import is_main, world_size, write_tensors

FORMAT = 1


@dataclass(frozen=True)
class Outcome:
    """What one experiment of ``experiments.py`` measured: named tensors, and on which data.

    ``settings`` says which prompts: their number, seed, years, whether balanced, the template.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass
class Results:
    """Everything that one reproduction measured.

    ``settings`` says how: model, gpt2_small, prompts, seed, years, device, versions. ``sweeps`` are
    keyed "logits", "m11", ..., "q", "k", "v", "m0@YY", ...; ``evaluations`` "clean", "corrupted",
    "partial", "full", "reverse". ``softmax_of_mean`` [YY, year] holds the probabilities of the mean
    logits of equal YY, the paper's other averaging order. Of the clean prompts, ``attention``
    [layer, head, prompt] is every head's from END to YY, and ``lens`` holds the logit lens
    [YY, year] of components by their labels. ``experiments`` are those beyond the discovery of the
    circuit, by their names in ``experiments.py``.
    """

    settings: dict[str, Any]
    YY: Tensor
    parts: CircuitParts | None = None
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    softmax_of_mean: Tensor | None = None
    attention: Tensor | None = None
    lens: dict[str, Tensor] = field(default_factory=dict)
    experiments: dict[str, Outcome] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write what is not yet on disk, so that an interrupted run keeps what it has finished.

        Of several processes, the main one does.
        """
        if not is_main():
            return
        folder.mkdir(parents=True, exist_ok=True)
        routes = {}
        for name, sweep in self.sweeps.items():
            routes[name] = {
                "receivers": sweep.receivers,
                "via": sweep.via,
                "senders": sweep.senders,
                "n_layers": sweep.shape.n_layers,
                "n_heads": sweep.shape.n_heads,
                "positions": sweep.shape.positions,
                "parallel": sweep.shape.parallel,
            }
        for name, tensors in self._tensors():
            path = folder / f"{name}.safetensors"
            if not path.exists():
                write_tensors(path, tensors)
        text = {
            "format": FORMAT,
            "settings": self.settings,
            "parts": asdict(self.parts) if self.parts else None,
            "sweeps": routes,
            "evaluations": {key: e.name for key, e in self.evaluations.items()},
            "experiments": {name: outcome.settings for name, outcome in self.experiments.items()},
            "seconds": self.seconds,
        }
        temporary = folder / "results.json.part"
        temporary.write_text(json.dumps(text, indent=1) + "\n")
        temporary.replace(folder / "results.json")

    def _tensors(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        prompts = {"YY": self.YY}
        if self.softmax_of_mean is not None:
            prompts["softmax_of_mean"] = self.softmax_of_mean
            yield "behaviour", prompts
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

    def drop(self, name: str, folder: Path) -> None:
        """Forget one experiment, here and on disk, so that it can be measured anew."""
        self.experiments.pop(name, None)
        if is_main():
            (folder / f"experiment_{name}.safetensors").unlink(missing_ok=True)


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
    evaluations = {
        key: Evaluation(name, **load_file(folder / f"evaluation_{key}.safetensors"))
        for key, name in text["evaluations"].items()
    }
    sweeps = {
        key: Sweep(
            receivers=tuple(route["receivers"]),
            via=tuple(route["via"]),
            senders=tuple(route["senders"]),
            values=load_file(folder / f"sweep_{key}.safetensors")["values"],
            shape=Shape(
                route["n_layers"],
                route["n_heads"],
                tuple(route["positions"]),
                route.get("parallel", False),
            ),
        )
        for key, route in text["sweeps"].items()
    }
    behaviour, attention, lens = (
        load_file(path) if (path := folder / f"{name}.safetensors").exists() else {}
        for name in ("behaviour", "attention", "lens")
    )
    any_YY = next((e.YY for e in evaluations.values()), torch.zeros(0, dtype=torch.int64))
    return Results(
        settings=text["settings"],
        YY=behaviour.get("YY", any_YY),
        parts=_parts(text["parts"]) if text["parts"] else None,
        sweeps=sweeps,
        evaluations=evaluations,
        softmax_of_mean=behaviour.get("softmax_of_mean"),
        attention=attention.get("END_to_YY"),
        lens=lens,
        experiments={
            name: Outcome(settings, load_file(path))
            for name, settings in text.get("experiments", {}).items()
            if (path := folder / f"experiment_{name}.safetensors").exists()
        },
        seconds=text["seconds"],
    )


def _parts(saved: dict[str, Any]) -> CircuitParts:
    members: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()
    }
    return CircuitParts(**members)


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
            **{name: _version(name) for name in _PACKAGES},
        },
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m gt_helpers", *sys.argv[1:]]),
    }
    return Results(settings, dataset.YY)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
