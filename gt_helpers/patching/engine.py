"""The engine: path-patching sweeps and the evaluation of edge sets, exact and without hooks.

Transformers add: the residual stream at a position is the sum of what components wrote. So patching
an edge changes its receiver's input by the difference of two cached tensors. A receiver whose input
changed is recomputed (norm, then MLP or attention), its own output's change flows on along the
route, and at the end one final norm and one unembedding at END turn the changed stream into the
answers: log-probabilities of the year tokens. Nothing is frozen or linearised. Senders are a batch
dimension (paper, section 3.1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..dataset.year_dataset import YearDataset
from ..metrics import Metric, prob_diff
from ..model.cache import PROMPTS_AT_ONCE, ActivationCache, cache_activations
from ..model.components import END, Component, Edge, Input, inputs
from ..model.transformer import Block, Transformer
from ..processes import Tensors, chunks, is_main, over_prompts
from .circuits import Circuit, leading_to_logits
from .outcome import Evaluation, Sweep

# What arrives at an input [sender, prompt, d_model], by the position that the input reads it at.
Changes = dict[tuple[Input, str], Tensor]

LOGITS = Input(Component("logits"))
_CELLS = 8192  # senders x prompts that are recomputed together: 25 MB a tensor at d_model 768
_CACHE_BYTES = 1_500_000_000  # caches beyond this are computed anew whenever they are needed


@dataclass(frozen=True)
class _Chunk:
    """The caches of base and patch run over one chunk of prompts."""

    base: ActivationCache
    patch: ActivationCache
    prompts: slice

    def change(self, node: Component, position: int) -> Float[Tensor, "prompt d_model"]:
        """Patch minus base output of a component."""
        return self.patch.output(node, position) - self.base.output(node, position)

    def stream_change(self, receiver: Component, position: int) -> Float[Tensor, "prompt d_model"]:
        """Patch minus base residual stream that a receiver reads."""
        if receiver.kind == "mlp":
            patch, base = (c.before_mlp(receiver.layer, position) for c in (self.patch, self.base))
        else:
            layer = len(self.base.z) if receiver.kind == "logits" else receiver.layer
            patch, base = (c.at_layer(layer, position) for c in (self.patch, self.base))
        return patch - base


@dataclass(frozen=True)
class _Route:
    """What a sweep patches: senders at one position, into receivers, and from there along flow."""

    receivers: list[Input]
    via: list[Input]
    senders: list[Component]
    senders_at: str
    flow: list[Edge]  # the edges above the senders
    live: list[Input]  # the receivers from which a change arrives at the logits


class PathPatching:
    """Path patching between the two runs of a dataset; their caches are kept as far as they fit.

    ``base="clean"`` patches corrupted values into the clean run (noising, the paper's heatmaps);
    ``base="corrupted"`` patches clean values into the corrupted run (denoising, its circuits).
    Of several processes each computes on its own part of the prompts (see ``processes.py``).
    Raises ValueError for prompts that are none, or not of this model.
    """

    def __init__(
        self, model: Transformer, dataset: YearDataset, base: str = "clean", progress: bool = False
    ) -> None:
        if base not in ("clean", "corrupted"):
            raise ValueError(f"base must be 'clean' or 'corrupted', e.g. 'clean'; got {base!r}.")
        _check_prompts(model, dataset)
        self.model, self.dataset, self.base = model, dataset, base
        self.progress = progress and is_main()
        self.shape = model.shape(dataset.positions)
        different = (dataset.clean != dataset.corrupted).any(0).nonzero()
        # By causality nothing differs before the first changed token, so nothing is cached there.
        self._start = int(different[0]) if len(different) else dataset.clean.shape[1] - 1
        # Clean and corrupted cache, by the first prompt and the one after the last.
        self._cache: dict[tuple[int, int], tuple[ActivationCache, ActivationCache]] = {}
        self._base_log_probs: Tensor | None = None

    def reversed(self) -> Self:
        """The same prompts with base and patch run exchanged; the caches are shared."""
        twin = copy.copy(self)
        twin.base = "corrupted" if self.base == "clean" else "clean"
        twin._base_log_probs = None
        return twin

    @property
    def first_changed(self) -> str:
        """The first position at which the two runs may differ; END if the prompts are equal."""
        return self.shape.positions[self._start]

    @property
    def base_log_probs(self) -> Float[Tensor, "prompt year"]:
        """Log-probabilities of the base run."""
        if self._base_log_probs is None:
            self._base_log_probs = self._collect(
                f"{self.base} run", lambda chunk: self._propagate(chunk, {}, [])
            )
        return self._base_log_probs

    @property
    def base_probs(self) -> Float[Tensor, "prompt year"]:
        """Year probabilities of the base run."""
        return self.base_log_probs.exp()

    @property
    def patch_probs(self) -> Float[Tensor, "prompt year"]:
        """Year probabilities of the patch run."""
        # The whole stream at END of the patch run, into the logits: everything is patched.
        return self._with_edges(Circuit([Edge(Component("all"), LOGITS)])).exp()

    # ---- sweeps ---------------------------------------------------------------------------------

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
        ``metric`` maps probabilities [..., prompt, year] and YY [prompt] to [..., prompt]. Raises
        ValueError for unknown or impossible names and for no receivers.
        """
        if not callable(metric):
            raise ValueError(f"metric is {metric!r}; give a function, e.g. metric=prob_diff.")
        route = self._route(receivers, via, senders_at)
        base = metric(self.base_probs, self.dataset.YY)
        # Senders that cannot reach the route stay at 0.
        values = torch.zeros(len(route.senders), len(self.dataset), dtype=self.model.dtype)

        def measure(some: slice) -> Tensors:
            for senders, prompts, log_probs in self._swept(route, some):
                patched = metric(log_probs.exp(), self.dataset.YY[prompts])
                values[senders, prompts] = (patched - base[prompts]).to(values)
            return {"values": values[:, some]}

        return Sweep(
            tuple(receiver.name for receiver in route.receivers),
            tuple(receiver.name for receiver in route.via),
            tuple(sender.name for sender in route.senders),
            self.over_prompts("sweep", measure, dim=1)["values"],
            self.shape,
            self.dataset.strata,
        )

    def sweep_log_probs(
        self, receivers: str | Iterable[str], via: str | Iterable[str] = (), senders_at: str = END
    ) -> Float[Tensor, "sender prompt year"]:
        """What a `sweep`'s metric is taken of; 400 bytes per sender and prompt.

        Senders are those of `Shape.senders`. Raises ValueError as `sweep` does.
        """
        route = self._route(receivers, via, senders_at)
        # Senders that cannot reach the route leave the base run as it is.
        found = self.base_log_probs.repeat(len(route.senders), 1, 1)

        def measure(some: slice) -> Tensors:
            for senders, prompts, log_probs in self._swept(route, some):
                found[senders, prompts] = log_probs
            return {"log_probs": found[:, some]}

        return self.over_prompts("swept log-probabilities", measure, dim=1)["log_probs"]

    def _route(
        self, receivers: str | Iterable[str], via: str | Iterable[str], senders_at: str
    ) -> _Route:
        """The route of these names; ValueError if a name is wrong or nothing could arrive."""
        entered, onward = inputs(receivers), inputs(via)
        if not entered:
            raise ValueError("A sweep needs at least one receiver, e.g. sweep('logits').")
        for receiver in (*entered, *onward):
            self.shape.check_input(receiver)
        senders = self.shape.senders(senders_at)
        self.shape.check(senders[-1])  # is there such a position?
        flow = self._flow(entered, onward)
        leading = leading_to_logits(flow)
        live = [r for r in entered if r.component in leading]
        if not live:
            raise ValueError(
                f"No change at {entered[0].name} can arrive at the logits through via="
                f"{[r.name for r in onward]}; add what it flows through, e.g. via=['a9.h1.v']."
            )
        return _Route(entered, onward, senders, senders_at, flow, live)

    def _flow(self, receivers: Sequence[Input], via: Sequence[Input]) -> list[Edge]:
        """The route's edges above the senders: receivers' components to via and the logits."""
        nodes = dict.fromkeys(r.component for r in (*receivers, *via) if r != LOGITS)
        found = (
            Edge(node, receiver.any_row)
            for node in nodes
            for receiver in (*via, LOGITS)
            if self.shape.reaches(node, receiver)
        )
        return list(dict.fromkeys(found))

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
            desc=f"sweep to {', '.join(r.name for r in route.receivers[:3])}",
            unit="cell",
            disable=not self.progress,
            leave=False,
        )
        for chunk in self._chunks(some) if active else ():
            n_prompts = chunk.prompts.stop - chunk.prompts.start
            size = max(1, _CELLS // n_prompts)
            for senders in (active[i : i + size] for i in range(0, len(active), size)):
                change = torch.stack([chunk.change(route.senders[i], position) for i in senders])
                # `reach` has heeded a row that a receiver names; edges name none.
                arriving = {
                    (receiver.any_row, route.senders_at): _where(reached, change)
                    for receiver, reached in zip(route.live, reach[senders].T, strict=True)
                    if reached.any()
                }
                yield senders, chunk.prompts, self._propagate(chunk, arriving, route.flow).cpu()
                bar.update(len(senders) * n_prompts)
        bar.close()

    # ---- circuits -------------------------------------------------------------------------------

    def evaluate(self, circuit: Circuit) -> Evaluation:
        """Answer with the circuit's edges on the patch run and everything else on the base run.

        The circuit's sources hold their patch-run value; every other component of the circuit is
        recomputed from the mixed input (paper, section 3.2). Edges from which no path leads to the
        logits change nothing. Raises ValueError for what is no circuit, or not one of this model.
        """
        if not isinstance(circuit, Circuit):
            raise ValueError("evaluate takes a circuit, e.g. Circuit(['a9.h1 -> logits']).")
        return Evaluation(circuit.name, self._with_edges(circuit), self.dataset.YY)

    def _with_edges(self, circuit: Circuit) -> Float[Tensor, "prompt year"]:
        """Log-probabilities with the circuit's edges on the patch run."""
        for source in circuit.sources:
            self.shape.check(source)
        for edge in circuit.edges:
            self.shape.check_edge(edge)
        entering = [edge for edge in circuit.edges if edge.sender in circuit.sources]
        flow = [edge for edge in circuit.edges if edge.sender not in circuit.sources]
        _check_replaced_once(circuit.edges, entering)
        return self._collect(
            "answers", lambda chunk: self._propagate(chunk, self._arriving(chunk, entering), flow)
        )

    def _arriving(self, chunk: _Chunk, entering: Sequence[Edge]) -> Changes:
        """What the sources bring to their receivers, each [1, prompt, d_model]."""
        arriving: Changes = {}
        outputs: dict[Component, Tensor] = {}  # a source's change, computed for its first edge
        for edge in entering:
            sender, receiver = edge.sender, edge.receiver
            position = self._index(sender.position)
            if position < self._start:
                continue  # identical in both runs
            if sender.kind == "all":  # the receiver's input is replaced whole
                change = chunk.stream_change(receiver.component, position)[None]
            elif sender in outputs:
                change = outputs[sender]
            else:
                change = outputs[sender] = chunk.change(sender, position)[None]
            _add(arriving, (receiver, sender.position), change)
        return arriving

    # ---- one pass: recompute what changed, from the input up ------------------------------------

    @torch.no_grad()
    def _propagate(self, chunk: _Chunk, arriving: Changes, flow: Sequence[Edge]) -> Tensor:
        """Log-probabilities [sender, prompt, year] once the arriving changes flowed on."""
        changes: Changes = dict(arriving)
        nodes = {receiver.component for receiver, _ in arriving}
        nodes |= {edge.receiver.component for edge in flow}
        nodes &= leading_to_logits(flow) - {LOGITS.component}
        # What lies deeper is final before anything above reads it.
        for node in sorted(nodes, key=lambda n: (n.depth, n.name)):
            incoming = {
                (receiver.part, position): change
                for (receiver, position), change in changes.items()
                if receiver.component == node
            }
            if not incoming:
                continue
            output = self._recompute(chunk.base, node, incoming)
            for edge in flow:
                if edge.sender == node:
                    _add(changes, (edge.receiver, node.position), output)
        return self._log_probs(chunk, changes.get((LOGITS, END)))

    def _recompute(
        self, base: ActivationCache, node: Component, incoming: dict[tuple[str, str], Tensor]
    ) -> Float[Tensor, "sender prompt d_model"]:
        """The change of a component's output when its inputs change."""
        position = self._index(node.position)
        if node.kind == "mlp":
            (change,) = incoming.values()  # an MLP has one input, read at its own position
            stream = base.before_mlp(node.layer, position)
            block = self._block(node.layer, stream)
            return block.mlp(stream + change) - base.output(node, position)
        z = self._mixed(base, node, incoming)
        W_O = self.model.blocks[node.layer].W_O[node.head]
        return (z - base.z[node.layer, :, position - base.start, node.head]) @ W_O

    def _mixed(
        self, base: ActivationCache, node: Component, incoming: dict[tuple[str, str], Tensor]
    ) -> Float[Tensor, "sender prompt d_head"]:
        """What a head mixes from the values when changes arrive at its q, k or v.

        Each part reads the stream on its own: a change of the values alone leaves the attention.
        """
        block, head, end = self.model.blocks[node.layer], node.head, self._index(node.position)
        stream = base.stream[node.layer, :, : end + 1]
        query = block.query(head, stream[:, end], end)[None]
        keys, values = block.key(head, stream, slice(end + 1)), block.value(head, stream)
        new_keys, new_values = {}, {}
        for (part, name), change in incoming.items():
            position = self._index(name)
            here = stream[:, position]
            changed = self._block(node.layer, here)
            if part == "q":
                query = changed.query(head, here + change, end)
            elif part == "k":
                new_keys[position] = changed.key(head, here + change, position)
            else:
                new_values[position] = changed.value(head, here + change)
        return block.mix_changed(query, keys, values, new_keys, new_values)

    def _log_probs(self, chunk: _Chunk, change: Tensor | None) -> Tensor:
        """Log-probabilities [sender, prompt, year] of the base run's final stream and a change."""
        stream = chunk.base.at_layer(self.model.n_layers, self._index(END))
        return self.model.log_probs_of(self._normed(stream, change), self.dataset.year_tokens)

    def _normed(self, stream: Tensor, change: Tensor | None) -> Tensor:
        """The final norm [sender, prompt, d_model] of a stream [prompt, d_model] and a change."""
        return self.model.ln_final(stream[None] if change is None else stream + change)

    def _block(self, layer: int, stream: Tensor) -> Block:
        """The layer as it treats changes of the base run's stream [prompt, d_model].

        Like `_normed` a seam: subclasses do otherwise here, e.g. with norms that are frozen.
        """
        return self.model.blocks[layer]

    def _index(self, position: str) -> int:
        return self.dataset.positions[position]

    # ---- chunk by chunk, in every process -------------------------------------------------------

    def over_prompts(
        self, name: str, measure: Callable[[slice], Tensors], dim: int = 0
    ) -> dict[str, Tensor]:
        """What ``measure`` finds on slices of the prompts, joined on axis ``dim``.

        Several processes share the prompts here (`processes.over_prompts`).
        """
        return over_prompts(name, len(self.dataset), measure, dim)

    def caches(
        self, size: int, some: slice | None = None
    ) -> Iterator[tuple[ActivationCache, ActivationCache, slice]]:
        """Caches of base and patch run, ``size`` prompts or fewer at a time, and which these are.

        ``some`` are the prompts that `over_prompts` asks for; by default all.
        """
        for chunk in self._chunks(some):
            first = chunk.prompts.start
            for prompts in chunks(chunk.prompts, size):
                here = slice(prompts.start - first, prompts.stop - first)
                yield chunk.base.take(here), chunk.patch.take(here), prompts

    def _collect(
        self, name: str, answers: Callable[[_Chunk], Tensor]
    ) -> Float[Tensor, "prompt year"]:
        """Join the answers [1, prompt, year] of every chunk, on the CPU."""

        def measure(some: slice) -> Tensors:
            return {"found": torch.cat([answers(chunk)[0].cpu() for chunk in self._chunks(some)])}

        return self.over_prompts(name, measure)["found"]

    def _chunks(self, some: slice | None = None) -> Iterator[_Chunk]:
        """Both runs over some or all prompts, chunk by chunk, from the cache if it has them."""
        for prompts in chunks(some or slice(0, len(self.dataset)), PROMPTS_AT_ONCE):
            key = prompts.start, prompts.stop
            both = self._cache.get(key) or self._compute_caches(prompts)
            held = sum(cache.nbytes for pair in self._cache.values() for cache in pair)
            if key not in self._cache and held + sum(c.nbytes for c in both) <= _CACHE_BYTES:
                self._cache[key] = both
            base, patch = both if self.base == "clean" else both[::-1]
            yield _Chunk(base, patch, prompts)

    def _compute_caches(self, prompts: slice) -> tuple[ActivationCache, ActivationCache]:
        clean, corrupted = self.dataset.clean[prompts], self.dataset.corrupted[prompts]
        return (
            cache_activations(self.model, clean, self._start),
            cache_activations(self.model, corrupted, self._start),
        )


def _check_prompts(model: Transformer, dataset: YearDataset) -> None:
    """Raise ValueError for prompts that cannot be patched into each other, or not in this model."""
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


def _check_replaced_once(edges: Sequence[Edge], entering: Sequence[Edge]) -> None:
    """Raise ValueError if an input is replaced whole and by single edges at the same position."""
    whole = {(e.receiver, e.sender.position) for e in entering if e.sender.kind == "all"}
    for edge in edges:
        if edge.sender.kind != "all" and (edge.receiver, edge.sender.position) in whole:
            raise ValueError(
                f"{edge.name}: this input is already replaced whole by "
                f"all@{edge.sender.position}; keep one of the two edges."
            )


def _add(changes: Changes, key: tuple[Input, str], change: Tensor) -> None:
    changes[key] = changes[key] + change if key in changes else change


def _where(reached: Tensor, change: Tensor) -> Tensor:
    """The change [sender, prompt, d_model], zero for the senders that do not reach the receiver."""
    return change if reached.all() else change * reached.to(change)[:, None, None]
