"""The engine: path-patching sweeps and the evaluation of edge sets, exact and without hooks.

Base and patch run are cached once. Patching an edge changes its receiver's input by the difference
of two cached tensors; the receiver is recomputed, its own change flows on along the route, and one
final norm and unembedding at END turn the changed stream into probabilities (paper, section 3.1).
Norms, attention and MLPs on the way are recomputed, nothing is frozen or linearised.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..metrics import Metric, bootstrap_ci, cutoff_sharpness, prob_diff
from ..model.cache import ActivationCache, cache_activations
from ..model.components import END, Component, Edge, Input, Shape, inputs
from ..model.transformer import Block, Transformer
from ..processes import Tensors, chunks, is_main, over_prompts

if TYPE_CHECKING:
    from ..dataset.year_dataset import YearDataset
    from .circuits import Circuit


# The change that arrives at an input, by the position that the input reads it at.
Changes = dict[tuple[Input, str], Tensor]

LOGITS = Input(Component("logits"))
_ROWS = 8192  # senders x prompts that are recomputed together
_PROMPTS = 256  # prompts whose two runs are computed together
_CACHE_BYTES = 1_500_000_000  # runs beyond this are computed anew whenever they are needed


@dataclass(frozen=True)
class Sweep:
    """One path-patching heatmap: every component in turn as the sender into one fixed route.

    ``values`` [sender, prompt] is the patched minus the base metric; senders that cannot reach the
    route are exactly 0. Negative means that the component matters (section 3.1).
    """

    receivers: tuple[str, ...]
    via: tuple[str, ...]
    senders: tuple[str, ...]
    values: Tensor
    shape: Shape = field(repr=False)

    @property
    def effect(self) -> Tensor:
        """Mean effect [layer, n_heads + 1]; the last column holds the MLPs."""
        return self.values[:-1].mean(-1).reshape(self.shape.n_layers, self.shape.n_heads + 1)

    @property
    def embed(self) -> float:
        """Mean effect of the embedding at the senders' position."""
        return float(self.values[-1].mean())

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per sender, strongest first: component, effect and its bootstrap interval."""
        mean, low, high = bootstrap_ci(self.values, level=level)
        table = {"component": self.senders, "effect": mean, "low": low, "high": high}
        frame = pd.DataFrame(table)
        order = frame["effect"].abs().sort_values(ascending=False, kind="stable").index
        return frame.loc[order].reset_index(drop=True)


@dataclass(frozen=True)
class Evaluation:
    """What the model answers when the chosen edges carry the patch run."""

    name: str
    log_probs: Tensor  # [prompt, year], under the full-vocabulary softmax at END
    YY: Tensor  # [prompt]

    @property
    def probs(self) -> Tensor:
        """Probabilities [prompt, year] of the year tokens at END."""
        return self.log_probs.exp()

    @property
    def prob_diff(self) -> Tensor:
        """Probability difference [prompt]."""
        return prob_diff(self.probs, self.YY)

    @property
    def cutoff_sharpness(self) -> Tensor:
        """Cutoff sharpness [prompt]."""
        return cutoff_sharpness(self.probs, self.YY)


@dataclass(frozen=True)
class _Pair:
    """The two cached runs over one chunk of prompts."""

    base: ActivationCache
    patch: ActivationCache
    prompts: slice

    def change(self, node: Component, position: int) -> Tensor:
        """Patch minus base output [prompt, d_model] of a component."""
        return self.patch.output(node, position) - self.base.output(node, position)

    def stream_change(self, receiver: Component, position: int) -> Tensor:
        """Patch minus base residual stream [prompt, d_model] that a receiver reads."""
        if receiver.kind == "mlp":
            patch, base = (r.before_mlp(receiver.layer, position) for r in (self.patch, self.base))
        else:
            layer = len(self.base.z) if receiver.kind == "logits" else receiver.layer
            patch, base = (run.at_layer(layer, position) for run in (self.patch, self.base))
        return patch - base


@dataclass(frozen=True)
class _Route:
    """What a sweep patches: senders at one position, into entries, and from there onward."""

    entries: list[Input]
    onward: list[Input]
    senders: list[Component]
    senders_at: str
    flow: list[Edge]
    live: list[Input]  # the entries from which a change arrives at the logits


class PathPatching:
    """Path patching between the two runs of a dataset; runs are computed once and cached.

    ``base="clean"`` patches corrupted values into the clean run (noising, the paper's heatmaps);
    ``base="corrupted"`` patches clean values into the corrupted run (denoising, its circuits).
    Of several processes each computes on its own part of the prompts (see ``distributed.py``).
    """

    def __init__(
        self, model: Transformer, dataset: YearDataset, base: str = "clean", progress: bool = False
    ) -> None:
        if base not in ("clean", "corrupted"):
            raise ValueError(f"base must be 'clean' or 'corrupted', e.g. 'clean'; got {base!r}.")
        if len(dataset) == 0:
            raise ValueError("The dataset holds no prompts; e.g. YearDataset(tokenizer, n=100).")
        if dataset.clean.shape != dataset.corrupted.shape:
            raise ValueError(
                f"Clean and corrupted prompts must have the same shape; got "
                f"{tuple(dataset.clean.shape)} and {tuple(dataset.corrupted.shape)}."
            )
        n_vocab = model.W_U.shape[1]
        highest = int(max(dataset.clean.max(), dataset.corrupted.max()))
        if highest >= n_vocab:
            raise ValueError(
                f"The prompts hold token id {highest} but {model.name} knows only {n_vocab} tokens"
                "; build the dataset with this model's tokenizer: YearDataset(model.tokenizer)."
            )
        self.model, self.dataset, self.base = model, dataset, base
        self.progress = progress and is_main()
        self.shape = model.shape(dataset.positions)
        different = (dataset.clean != dataset.corrupted).any(0).nonzero()
        # By causality nothing differs before the first changed token, so nothing is cached there.
        self._start = int(different[0]) if len(different) else dataset.clean.shape[1] - 1
        # Clean and corrupted run, by the first prompt and the one after the last.
        self._cache: dict[tuple[int, int], tuple[ActivationCache, ActivationCache]] = {}
        self._base_log_probs: Tensor | None = None

    def reversed(self) -> Self:
        """The same prompts with base and patch run exchanged; the cached runs are shared."""
        twin = copy.copy(self)
        twin.base = "corrupted" if self.base == "clean" else "clean"
        twin._base_log_probs = None
        return twin

    @property
    def first_changed(self) -> str:
        """The first position at which clean and corrupted prompts differ; END if none does."""
        return self.shape.positions[self._start]

    def caches(
        self, size: int, some: slice | None = None
    ) -> Iterator[tuple[ActivationCache, ActivationCache, slice]]:
        """Base and patch run, at most ``size`` prompts at a time, and which prompts these are.

        ``some`` are the prompts that `over_prompts` asks this process for; by default all.
        """
        for pair in self._pairs(some):
            first = pair.prompts.start
            for prompts in chunks(pair.prompts, size):
                here = slice(prompts.start - first, prompts.stop - first)
                yield pair.base.take(here), pair.patch.take(here), prompts

    @property
    def base_log_probs(self) -> Tensor:
        """Log-probabilities [prompt, year] of the base run."""
        if self._base_log_probs is None:
            self._base_log_probs = self._collect(
                f"{self.base} run", lambda pair: self._answer(pair, {}, [])
            )[0]
        return self._base_log_probs

    @property
    def base_probs(self) -> Tensor:
        """Year probabilities [prompt, year] of the base run."""
        return self.base_log_probs.exp()

    @property
    def patch_probs(self) -> Tensor:
        """Year probabilities [prompt, year] of the patch run."""
        stream = Component("all")
        return self._evaluate_edges([Edge(stream, LOGITS)], {stream}).exp()

    def sweep(
        self,
        receivers: str | Iterable[str],
        via: str | Iterable[str] = (),
        senders_at: str = END,
        metric: Metric = prob_diff,
    ) -> Sweep:
        """Patch every component in turn along sender -> receivers -> via -> logits.

        Each receiver's change flows directly to the logits and to every ``via`` input that it
        reaches, and from there on likewise. Heads among ``via`` read each other too; written with a
        row, ``a7.h10.v[YY]``, they read that position only (the paper's sweeps of m0 to m3).
        ``metric`` maps (probabilities [..., prompt, year], YY [prompt])
        to [..., prompt]. Raises ValueError for unknown or impossible names and for no receivers.
        """
        if not callable(metric):
            raise ValueError(f"metric is {metric!r}; give a function, e.g. metric=prob_diff.")
        route = self._route(receivers, via, senders_at)
        base = metric(self.base_probs, self.dataset.YY)
        values = torch.zeros(len(route.senders), len(self.dataset), dtype=self.model.dtype)

        def measure(some: slice) -> Tensors:
            for chunk, prompts, log_probs in self._swept(route, some):
                patched = metric(log_probs.exp(), self.dataset.YY[prompts])
                values[chunk, prompts] = (patched - base[prompts]).to(values)
            return {"values": values[:, some]}

        return Sweep(
            tuple(r.name for r in route.entries),
            tuple(r.name for r in route.onward),
            tuple(s.name for s in route.senders),
            over_prompts("sweep", len(self.dataset), measure, dim=1)["values"],
            self.shape,
        )

    def sweep_log_probs(
        self, receivers: str | Iterable[str], via: str | Iterable[str] = (), senders_at: str = END
    ) -> Tensor:
        """What a `sweep`'s metric is taken of: log-probabilities [sender, prompt, year].

        They take 400 bytes per sender and prompt. Senders are those of `Shape.senders`. Raises
        ValueError as `sweep` does.
        """
        route = self._route(receivers, via, senders_at)
        found = self.base_log_probs.repeat(len(route.senders), 1, 1)

        def measure(some: slice) -> Tensors:
            for chunk, prompts, log_probs in self._swept(route, some):
                found[chunk, prompts] = log_probs
            return {"log_probs": found[:, some]}

        return over_prompts("swept answers", len(self.dataset), measure, dim=1)["log_probs"]

    def _route(
        self, receivers: str | Iterable[str], via: str | Iterable[str], senders_at: str
    ) -> _Route:
        entries, onward = inputs(receivers), inputs(via)
        if not entries:
            raise ValueError("A sweep needs at least one receiver, e.g. sweep('logits').")
        for receiver in (*entries, *onward):
            self.shape.check_input(receiver)
        senders = self.shape.senders(senders_at)
        self.shape.check(senders[-1])
        flow = self._flow(entries, onward)
        leading = _leading_to_logits(flow)
        live = [r for r in entries if r == LOGITS or r.component in leading]
        if not live:
            raise ValueError(
                f"No change at {entries[0].name} can arrive at the logits through via="
                f"{[r.name for r in onward]}; add what it flows through, e.g. via=['a9.h1.v']."
            )
        return _Route(entries, onward, senders, senders_at, flow, live)

    def _swept(self, route: _Route, some: slice) -> Iterator[tuple[list[int], slice, Tensor]]:
        """Senders, prompts of a slice, and their log-probabilities [sender, prompt, year].

        Senders that cannot reach the route, and so leave the base run as it is, do not occur.
        """
        reach = torch.tensor(
            [[self.shape.reaches(s, r) for r in route.live] for s in route.senders]
        )
        position = self._index(route.senders_at)
        active = reach.any(1).nonzero().flatten().tolist() if position >= self._start else []
        bar = tqdm(
            total=len(active) * (some.stop - some.start),
            desc=f"sweep to {', '.join(r.name for r in route.entries[:3])}",
            unit="cell",
            disable=not self.progress,
            leave=False,
        )
        for pair in self._pairs(some) if active else ():
            n_prompts = pair.prompts.stop - pair.prompts.start
            size = max(1, _ROWS // n_prompts)
            for chunk in (active[i : i + size] for i in range(0, len(active), size)):
                change = torch.stack([pair.change(route.senders[i], position) for i in chunk])
                arriving = {
                    (receiver.any_row, route.senders_at): _where(reached, change)
                    for receiver, reached in zip(route.live, reach[chunk].T, strict=True)
                    if reached.any()
                }
                yield chunk, pair.prompts, self._answer(pair, arriving, route.flow).cpu()
                bar.update(len(chunk) * n_prompts)
        bar.close()

    def evaluate(self, circuit: Circuit) -> Evaluation:
        """Answer with the circuit's edges on the patch run and everything else on the base run.

        The circuit's sources hold their patch-run value; every other component of the circuit is
        recomputed from the mixed input (paper, section 3.2). Edges from which no path leads to the
        logits change nothing. Raises ValueError for what is no circuit, or not one of this model.
        """
        if not hasattr(circuit, "edges"):
            raise ValueError("evaluate takes a circuit, e.g. Circuit(['a9.h1 -> logits']).")
        for source in circuit.sources:
            self.shape.check(source)
        log_probs = self._evaluate_edges(circuit.edges, set(circuit.sources))
        return Evaluation(circuit.name, log_probs, self.dataset.YY)

    def _evaluate_edges(self, circuit: Sequence[Edge], sources: set[Component]) -> Tensor:
        for edge in circuit:
            self.shape.check_edge(edge)
        flow = [edge for edge in circuit if edge.sender not in sources]
        entering = [edge for edge in circuit if edge.sender in sources]
        whole = {(e.receiver, e.sender.position) for e in entering if e.sender.kind == "all"}
        for edge in circuit:
            if edge.sender.kind != "all" and (edge.receiver, edge.sender.position) in whole:
                raise ValueError(
                    f"{edge.name}: this input is already replaced whole by "
                    f"all@{edge.sender.position}; keep one of the two edges."
                )

        def answer(pair: _Pair) -> Tensor:
            return self._answer(pair, self._arriving(pair, entering), flow)

        return self._collect("answers", answer)[0]

    def _arriving(self, pair: _Pair, entering: Sequence[Edge]) -> Changes:
        """What the sources bring to their receivers, each [1, prompt, d_model]."""
        outputs: dict[Component, Tensor] = {}
        arriving: Changes = {}
        for edge in entering:
            position = self._index(edge.sender.position)
            if position < self._start:
                continue  # identical in both runs
            if edge.sender.kind == "all":
                change = pair.stream_change(edge.receiver.component, position)[None]
            else:
                if edge.sender not in outputs:
                    outputs[edge.sender] = pair.change(edge.sender, position)[None]
                change = outputs[edge.sender]
            _add(arriving, (edge.receiver, edge.sender.position), change)
        return arriving

    def _flow(self, entries: Sequence[Input], onward: Sequence[Input]) -> list[Edge]:
        """The route's edges above the sender: entries' components to via inputs and the logits."""
        nodes = dict.fromkeys(r.component for r in (*entries, *onward) if r != LOGITS)
        targets = list(dict.fromkeys((*onward, LOGITS)))
        found = (
            Edge(node, receiver.any_row)
            for node in nodes
            for receiver in targets
            if self.shape.reaches(node, receiver)
        )
        return list(dict.fromkeys(found))

    @torch.no_grad()
    def _answer(self, pair: _Pair, arriving: Changes, flow: Sequence[Edge]) -> Tensor:
        """Log-probabilities [sender, prompt, year] once the arriving changes flowed on."""
        changes: Changes = dict(arriving)
        useful = _leading_to_logits(flow)
        nodes = {r.component for r, _ in arriving} | {edge.receiver.component for edge in flow}
        for node in sorted(nodes & useful, key=lambda n: (n.depth, n.name)):
            incoming = {
                (receiver.part, position): change
                for (receiver, position), change in changes.items()
                if receiver.component == node
            }
            if not incoming:
                continue
            output = self._recompute(pair.base, node, incoming)
            for edge in flow:
                if edge.sender == node:
                    _add(changes, (edge.receiver, node.position), output)
        return self._log_probs(pair, changes.get((LOGITS, END)))

    def _log_probs(self, pair: _Pair, change: Tensor | None) -> Tensor:
        """Log-probabilities [sender, prompt, year] of the base run's final stream and a change."""
        stream = pair.base.at_layer(self.model.n_layers, self._index(END))
        return self.model.log_probs_of(self._normed(stream, change), self.dataset.year_tokens)

    def _normed(self, stream: Tensor, change: Tensor | None) -> Tensor:
        """The final norm [sender, prompt, d_model] of a stream [prompt, d_model] and a change."""
        return self.model.ln_final(stream[None] if change is None else stream + change)

    def _block(self, layer: int, rows: Tensor) -> Block:
        """The layer as it treats changes of the base run's rows [prompt, d_model]."""
        return self.model.blocks[layer]

    def _recompute(
        self, base: ActivationCache, node: Component, incoming: dict[tuple[str, str], Tensor]
    ) -> Tensor:
        """The change of a component's output [sender, prompt, d_model] when its inputs change."""
        position = self._index(node.position)
        if node.kind == "mlp":
            (change,) = incoming.values()
            rows = base.before_mlp(node.layer, position)
            return self._block(node.layer, rows).mlp(rows + change) - base.output(node, position)
        z = self._head(base, node, incoming)
        W_O = self.model.blocks[node.layer].W_O[node.head]
        return (z - base.z[node.layer, :, position - base.start, node.head]) @ W_O

    def _head(
        self, base: ActivationCache, node: Component, incoming: dict[tuple[str, str], Tensor]
    ) -> Tensor:
        """The head's mixed values z [sender, prompt, d_head] when its inputs change."""
        block, head, end = self.model.blocks[node.layer], node.head, self._index(node.position)
        stream = base.stream[node.layer, :, : end + 1]  # [prompt, position, d_model]
        keys, values = block.key(head, stream, slice(end + 1)), block.value(head, stream)
        query = block.query(head, stream[:, end], end)[None]
        new_keys, new_values = {}, {}
        for (part, name), change in incoming.items():
            row = self._index(name)
            rows = stream[:, row]
            changed = self._block(node.layer, rows)
            if part == "q":
                query = changed.query(head, rows + change, end)
            elif part == "k":
                new_keys[row] = changed.key(head, rows + change, row)
            else:
                new_values[row] = changed.value(head, rows + change)
        scores = torch.einsum("snd,npd->snp", query, keys)
        n_senders = max(map(len, new_keys.values()), default=1)
        if len(scores) < n_senders:
            scores = scores.repeat(n_senders, 1, 1)
        for row, key in new_keys.items():
            scores[..., row] = (query * key).sum(-1)
        pattern = (scores * block.scale).softmax(-1)
        z = torch.einsum("snp,npd->snd", pattern, values)
        for row, value in new_values.items():
            z = z + pattern[..., row, None] * (value - values[:, row])
        return z

    def _index(self, position: str) -> int:
        return self.dataset.positions[position]

    def _collect(self, what: str, answer: Callable[[_Pair], Tensor]) -> Tensor:
        """Join what is computed chunk by chunk [sender, prompt, year], on the CPU."""

        def measure(some: slice) -> Tensors:
            return {"found": torch.cat([answer(pair).cpu() for pair in self._pairs(some)], dim=1)}

        return over_prompts(what, len(self.dataset), measure, dim=1)["found"]

    def _pairs(self, some: slice | None = None) -> Iterator[_Pair]:
        """The two runs over some or all prompts, chunk by chunk, from the cache if it has them."""
        for prompts in chunks(some or slice(0, len(self.dataset)), _PROMPTS):
            key = prompts.start, prompts.stop
            runs = self._cache.get(key) or self._compute_caches(prompts)
            cached = sum(run.nbytes for pair in self._cache.values() for run in pair)
            if key not in self._cache and cached + sum(r.nbytes for r in runs) <= _CACHE_BYTES:
                self._cache[key] = runs
            base, patch = runs if self.base == "clean" else runs[::-1]
            yield _Pair(base, patch, prompts)

    def _compute_caches(self, prompts: slice) -> tuple[ActivationCache, ActivationCache]:
        clean, corrupted = self.dataset.clean[prompts], self.dataset.corrupted[prompts]
        return (
            cache_activations(self.model, clean, self._start),
            cache_activations(self.model, corrupted, self._start),
        )


def _add(changes: Changes, key: tuple[Input, str], change: Tensor) -> None:
    changes[key] = changes[key] + change if key in changes else change


def _where(reached: Tensor, change: Tensor) -> Tensor:
    """The change [sender, prompt, d_model], zero for the senders that do not reach the receiver."""
    return change if reached.all() else change * reached.to(change)[:, None, None]


def _leading_to_logits(flow: Sequence[Edge]) -> set[Component]:
    """The senders in ``flow`` from which a path of its edges ends at the logits."""
    useful: set[Component] = set()
    for edge in sorted(flow, key=lambda e: -e.sender.depth):
        if edge.receiver == LOGITS or edge.receiver.component in useful:
            useful.add(edge.sender)
    return useful
