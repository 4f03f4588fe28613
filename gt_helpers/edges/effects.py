"""The exact effect of every single edge: what activation patching of that edge alone does.

One receiver's input carries the sender's patch-run value through one edge, and everything
downstream is computed anew (Conmy et al. 2023). Attribution methods estimate these numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Metric, bootstrap_ci, prob_diff
from ..model.cache import ActivationCache
from ..model.components import Component, Input, Shape
from ..patching.engine import PathPatching
from ..processes import Tensors, is_main, main_first, over_prompts, share, write_tensors
from .graph import EdgeGraph, after, check_graph, output_change

_PROMPTS = 32  # prompts for which the senders' changes are kept at once
_CPU_ITEMS, _GPU_ITEMS = 1024, 4096  # edges x prompts whose layers are computed anew together
_EDGES = 2048  # edges whose bootstrap resamples are kept at once


@dataclass(frozen=True)
class EdgeScores:
    """A score for every edge of a graph and every prompt, measured or estimated.

    ``values`` [edge, prompt] are patched less base metric, or what a method takes for it: negative
    means that the edge matters (with the clean base). Edges that were not measured are NaN.
    ``settings`` say of what model, prompts and metric they are.
    """

    method: str
    graph: EdgeGraph
    values: Tensor
    settings: dict[str, Any]

    @property
    def mean(self) -> Tensor:
        """Mean over the prompts [edge]; NaN for an edge that was not measured."""
        return self.values.mean(-1)

    @property
    def measured(self) -> Tensor:
        """Which edges were measured [edge]."""
        return ~self.values.isnan().any(-1)

    def to_frame(self, top: int | None = None, level: float | None = None) -> pd.DataFrame:
        """The measured edges, or the ``top`` strongest: edge, effect; strongest first.

        With a ``level``, e.g. 0.95, there are also the ends of the bootstrap interval of that
        level, low and high.
        """
        numbers = self.measured.nonzero().flatten()
        order = self.mean[numbers].abs().argsort(descending=True, stable=True)
        numbers = numbers[order[:top]]
        table: dict[str, Any] = {"edge": [self.graph.names[n] for n in numbers.tolist()]}
        table["effect"] = self.mean[numbers]
        if level is not None:
            parts = [bootstrap_ci(self.values[some], level) for some in numbers.split(_EDGES)]
            _, table["low"], table["high"] = map(torch.cat, zip(*parts, strict=True))
        return pd.DataFrame(table)

    def save(self, path: str | Path) -> None:
        """Write the scores to one safetensors file."""
        graph = {"shape": asdict(self.graph.shape), "first": self.graph.first}
        text = {
            "method": self.method,
            "graph": {**graph, "summed": self.graph.summed},
            "settings": self.settings,
        }
        save_file({"values": self.values.contiguous()}, path, {"scores": json.dumps(text)})

    @classmethod
    def load(cls, path: str | Path) -> EdgeScores:
        """Read what `save` wrote; raises ValueError for another file."""
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if "scores" not in metadata:
                raise ValueError(f"{path} holds no edge scores; give a file that save() wrote.")
            text, values = json.loads(metadata["scores"]), file.get_tensor("values")
        shape = text["graph"]["shape"]
        shape = Shape(**{**shape, "positions": tuple(shape["positions"])})
        graph = EdgeGraph(shape, text["graph"]["first"], text["graph"]["summed"])
        return cls(text["method"], graph, values, text["settings"])


@torch.no_grad()
def edge_effects(
    patching: PathPatching,
    graph: EdgeGraph,
    metric: Metric = prob_diff,
    budget: int | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
) -> EdgeScores:
    """Patch every edge alone and run anew what lies above it: values [edge, prompt].

    Patched less base metric, exactly. ``budget`` is a number of edges to draw (by the ``seed``)
    when all are too many. With a ``folder``, which all processes must see, finished receivers are
    kept there and an interrupted run continues. The 32,491 edges of GPT-2 small take 10.6 TFLOP per
    prompt of 5 changed positions, a quarter of it the unembedding. Raises ValueError for a graph of
    another model or other prompts, a budget below 1, and a folder of other settings.
    """
    check_graph(patching, graph)
    if budget is not None and (not isinstance(budget, int) or budget < 1):
        raise ValueError(f"budget is {budget!r}; it is a number of edges, e.g. budget=2000.")
    data, all_edges = patching.dataset, budget is None or budget >= len(graph)
    drawn = torch.randperm(len(graph), generator=torch.Generator().manual_seed(seed))
    chosen = drawn[:budget].sort().values
    settings = score_settings(patching, graph, metric)
    settings |= {"edges": len(chosen), "seed": None if all_edges else seed}
    with main_first():
        store = _Store(folder, settings) if folder is not None else None
    base_metric = metric(patching.base_probs, data.YY)
    values = torch.full((len(graph), len(data)), math.nan, dtype=patching.model.dtype)
    bar = tqdm(
        total=len(chosen),
        desc="all edges" if all_edges else f"{budget} of {len(graph)} edges, drawn at random",
        unit="edge",
        unit_scale=True,
        disable=not patching.progress,
        leave=False,
    )

    def effects(numbers: Tensor, mine: slice) -> Tensors:
        found = torch.empty(len(numbers), len(data), dtype=patching.model.dtype)
        for base, patch, prompts in patching.caches(_PROMPTS, mine):
            for some, stream in _patched(graph, base, patch, numbers):
                probs = patching.model.log_probs(stream, data.year_tokens).exp().cpu()
                effect = metric(probs, data.YY[prompts]) - base_metric[prompts]
                found[some, prompts] = effect.to(found)
                bar.update(effect.numel() / (mine.stop - mine.start))
        return {"values": found[:, mine]}

    receivers = graph.index[chosen, 2]
    for receiver in receivers.unique().tolist():
        name, numbers = graph.receivers[receiver], chosen[receivers == receiver]
        if store and share(name in store):
            values[numbers] = store.load(name)
            bar.update(len(numbers))
            continue
        found = over_prompts(f"edges into {name}", len(data), partial(effects, numbers), dim=1)
        values[numbers] = found["values"]
        if store and is_main():
            store.save(name, values[numbers])
    bar.close()
    return EdgeScores("exact", graph, values, settings)


def sender_changes(
    base: ActivationCache, patch: ActivationCache, nodes: Sequence[Component]
) -> Tensor:
    """Patch less base output [sender, prompt, position, d_model], from the run's start on."""
    z = patch.z - base.z
    of_layer: dict[int, Tensor] = {}
    changes = []
    for node in nodes:
        if node.kind == "embed":
            changes.append((patch.stream[0] - base.stream[0])[:, base.start :])
        elif node.kind == "mlp":
            changes.append(patch.mlp[node.layer] - base.mlp[node.layer])
        else:
            if node.layer not in of_layer:
                W_O = base.model.blocks[node.layer].W_O
                of_layer[node.layer] = torch.einsum("nphe,hed->hnpd", z[node.layer], W_O)
            changes.append(of_layer[node.layer][node.head])
    return torch.stack(changes)


def score_settings(patching: PathPatching, graph: EdgeGraph, metric: Metric) -> dict[str, Any]:
    """What scores were measured on: they belong together if all of this agrees.

    Raises ValueError for what is no metric.
    """
    if not callable(metric):
        raise ValueError(f"metric is {metric!r}; give a function, e.g. metric=prob_diff.")
    dataset, digest = patching.dataset, hashlib.sha256()
    for tensor in (dataset.clean, dataset.corrupted, dataset.YY, dataset.year_tokens):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return {
        "model": patching.model.name,
        "weights": patching.model.fingerprint(),
        "dtype": str(patching.model.dtype).removeprefix("torch."),
        "base": patching.base,
        "prompts": len(dataset),
        "tokens": digest.hexdigest()[:16],
        "positions": "summed" if graph.summed else "apart",
        "metric": getattr(metric, "__qualname__", type(metric).__name__),
        "base_metric": float(metric(patching.base_probs, dataset.YY).mean()),
        "patch_metric": float(metric(patching.patch_probs, dataset.YY).mean()),
    }


def _patched(
    graph: EdgeGraph, base: ActivationCache, patch: ActivationCache, numbers: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """One receiver's edges in chunks: which of them, and the final stream [edge, prompt, d_model].

    The stream is at END, with each edge patched alone.
    """
    n_prompts, on_cpu = base.stream.shape[1], base.stream.device.type == "cpu"
    size = max(1, (_CPU_ITEMS if on_cpu else _GPU_ITEMS) // n_prompts)
    receiver = graph.inputs[int(graph.index[numbers[0], 2])]
    first = 0
    for row, of_row in groupby(graph.index[numbers].tolist(), key=lambda edge: edge[0]):
        # By causality nothing before an edge's row changes.
        here, there = (run.take(start=run.start + row) for run in (base, patch))
        changes = sender_changes(here, there, [graph.nodes[edge[1]] for edge in of_row])
        if not graph.summed:
            changes[..., 1:, :] = 0
        above = _Above(graph, here, receiver)
        for some in changes.split(size):
            yield slice(first, first + len(some)), above.final_stream(some)
            first += len(some)


class _Above:
    """A receiver and the layers above it in the base run of a few prompts, to be run anew."""

    def __init__(self, graph: EdgeGraph, base: ActivationCache, receiver: Input) -> None:
        self.graph, self.base, self.receiver = graph, base, receiver
        self.layers = range(receiver.component.layer + 1, len(base.z))
        blocks = base.model.blocks
        earlier = slice(base.start)
        streams = {layer: base.stream[layer][:, earlier] for layer in self.layers}
        self.before = {n: blocks[n].qkv(streams[n], earlier)[1:] for n in self.layers}

    def final_stream(self, change: Tensor) -> Tensor:
        """The stream at END [edge, prompt, d_model] after a change of what the receiver reads.

        The change is [edge, prompt, position, d_model].
        """
        base, node = self.base, self.receiver.component
        if node.kind == "logits":
            return base.stream[-1][:, -1] + change[..., -1, :]
        change = output_change(base, node, {self.receiver.part: change})
        if node.kind == "head" and self.graph.mlp_reads_heads(node.layer):
            mlp = Component("mlp", node.layer)
            change = change + output_change(base, mlp, {"": change})
        rows = base.stream[node.layer + 1][:, base.start :] + change
        for layer in self.layers:
            rows = self._run(layer, rows)
        return rows[..., -1, :]

    def _run(self, layer: int, rows: Tensor) -> Tensor:
        """The stream after a layer, of that before it; both [edge, prompt, position, d_model]."""
        base, block = self.base, self.base.model.blocks[layer]
        query, *now = block.qkv(rows, slice(base.start, base.start + rows.shape[-2]))
        pairs = zip(self.before[layer], now, strict=True)
        key, value = (after(before, new, dim=-3) for before, new in pairs)
        if layer == self.layers[-1]:  # nothing reads it but the logits at END
            query, rows = query[..., -1:, :, :], rows[..., -1:, :]
        z = block.mix(query, key, value)
        middle = rows + z.flatten(-2) @ block.W_O.flatten(0, 1) + block.b_O
        into_mlp = middle if self.graph.mlp_reads_heads(layer) else rows
        return middle + block.mlp(into_mlp) + block.b_out


class _Store:
    """A folder that keeps the effects of finished receivers, of one setting only."""

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        self.folder = Path(folder)
        path = self.folder / "settings.json"
        if not path.is_file():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise ValueError(
                    f"{folder} holds other files and no settings.json; nothing was changed. Give "
                    "another folder, e.g. folder='edge-effects'."
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")  # so that it is there whole or not at all
            part.write_text(json.dumps(settings, indent=1) + "\n")
            part.replace(path)
        kept = json.loads(path.read_text())
        different = [key for key in settings if not _agree(kept.get(key), settings[key])]
        if different:
            raise ValueError(
                f"{folder} holds effects of other settings ({', '.join(different)}); nothing was "
                "changed. Give another folder, e.g. folder='more-edge-effects'."
            )

    def __contains__(self, receiver: str) -> bool:
        return self._path(receiver).exists()

    def load(self, receiver: str) -> Tensor:
        """Effects [edge, prompt] of a receiver's edges."""
        return load_file(self._path(receiver))["values"]

    def save(self, receiver: str, values: Tensor) -> None:
        """Keep the effects [edge, prompt] of a receiver's edges."""
        write_tensors(self._path(receiver), {"values": values})

    def _path(self, receiver: str) -> Path:
        return self.folder / f"{receiver}.safetensors"


def _agree(kept: Any, now: Any) -> bool:
    """Whether two settings are the same; numbers that were computed may differ by rounding."""
    if isinstance(kept, float) and isinstance(now, float):
        return math.isclose(kept, now, rel_tol=1e-4, abs_tol=1e-5)
    return bool(kept == now)
