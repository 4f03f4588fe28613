"""Oracle: the engine against literal path-by-path evaluation, hooked passes, and itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from literal import (
    FIRST_CHANGED,
    POSITIONS,
    Literal,
    close,
    log_probs_of_edges,
    paths_of_edges,
    paths_of_sweep,
    random_prompts,
    sweep_effects,
    year_log_probs,
    year_prob_diff,
)
from torch import Tensor
from transformers import GPT2LMHeadModel

from gt_helpers.metrics import cutoff_sharpness
from gt_helpers.model import transformer
from gt_helpers.model.components import Shape, edges
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching import engine as path_patching
from gt_helpers.patching.circuits import Circuit, connect
from gt_helpers.patching.engine import PathPatching, Sweep
from gt_helpers.patching.paper import CircuitParts, full_circuit, partial_circuit

BASES = ("clean", "corrupted")
N_LAYERS = N_HEADS = 3
PROMPTS = random_prompts()
SHAPE = Shape(N_LAYERS, N_HEADS, POSITIONS)
END = len(POSITIONS) - 1
HEADS = [f"a{layer}.h{head}" for layer in range(N_LAYERS) for head in range(N_HEADS)]
MLPS = [f"m{layer}" for layer in range(N_LAYERS)]
SENDERS = [*HEADS, *MLPS, "embed"]
EVERYWHERE = [f"{sender}@{position}" for position in POSITIONS for sender in SENDERS]
# Sweep routes: receivers, via, senders' position.
ROUTES: list[tuple[list[str], list[str], str]] = [
    (["logits"], [], "END"),
    (["logits"], [], "YY"),  # nothing at YY reaches the logits directly
    (["m2"], [], "END"),
    (["m1"], ["m2"], "END"),
    (["m0"], ["m1", "m2"], "END"),
    (["m0"], ["m2", "a1.h0", "a2.h1.v"], "END"),
    (["logits", "m2"], [], "END"),
    (["logits", "m1", "a1.h2.q"], ["m2", "a2.h0"], "END"),
    (["a1.h1.v", "a2.h0.v"], ["m1", "m2"], "YY"),
    (["a1.h1.k", "a2.h0.k"], ["m1", "m2"], "YY"),
    (["a1.h1", "a2.h2"], ["a2.h0", "m2"], "YY"),
    (["a2.h2.k", "a2.h1.v"], [], "XX"),
    (["a1.h1.v[YY]", "a2.h0.v"], ["m1", "m2"], "XX"),
    (["m0@YY"], ["a1.h0.v[YY]", "a2.h1.v[YY]", "m1", "m2"], "YY"),
    (["m0@YY"], ["a1.h0.v", "a2.h1.v", "m1", "m2"], "YY"),
    (["m0@YY", "a1.h0.k"], ["m1@YY", "a2.h1.k[YY]", "a2.h1.v", "m2", "a1.h0.v@XX"], "YY"),
    (["a0.h1@to", "a1.h2.k@XX"], ["a2.h0", "a1.h0.k@XX", "m1@XX", "m0@to"], "YY"),
    (["a1.h0.k[XX]@XX", "m1@XX"], ["a2.h0.k[XX]", "a2.h1.q@XX", "m2"], "XX"),
    (["a1.h0.q"], ["a2.h0.v", "a2.h1.v[YY]"], "END"),
    (["a2.h0.v", "m1@The"], ["a2.h0.k"], "The"),  # before the first change
]


@pytest.fixture(scope="module")
def model(random_model: Transformer) -> Transformer:
    return random_model


@pytest.fixture(scope="module")
def hf(folder: Path) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def engines(model: Transformer) -> dict[str, PathPatching]:
    return {base: PathPatching(model, PROMPTS, base) for base in BASES}


@pytest.fixture(scope="module")
def literals(hf: Any) -> dict[str, Literal]:
    clean, corrupted = PROMPTS.clean, PROMPTS.corrupted
    return {"clean": Literal(hf, clean, corrupted), "corrupted": Literal(hf, corrupted, clean)}


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def engine(engines: dict[str, PathPatching], base: str) -> PathPatching:
    return engines[base]


@pytest.fixture
def literal(literals: dict[str, Literal], base: str) -> Literal:
    return literals[base]


@pytest.fixture(scope="module")
def patching(engines: dict[str, PathPatching]) -> PathPatching:
    return engines["clean"]


def at(names: Sequence[str], position: str) -> list[str]:
    return [f"{name}@{position}" for name in names]


def answers(engine: PathPatching, circuit: Sequence[str] | Circuit) -> Tensor:
    circuit = circuit if isinstance(circuit, Circuit) else Circuit(circuit)
    return engine.evaluate(circuit).log_probs


# ---------------------------------------------------------------- equal to the literal tree


def random_edges(rng: random.Random) -> list[str]:
    """A random set of possible edges, biased towards long routes that end at the logits."""
    positions = ["The", "YY", "to", "XX", "END", "END", "END"]
    receivers = ["logits"]
    receivers += [f"{rng.choice(MLPS)}@{rng.choice(positions)}" for _ in range(3)]
    receivers += [
        f"{rng.choice(HEADS[3:])}{rng.choice(['', '.q', '.k', '.v', '.k', '.v'])}@{position}"
        for position in rng.choices(positions, k=5)
    ]
    nodes = [name.replace(".q", "").replace(".k", "").replace(".v", "") for name in receivers[1:]]
    found: set[str] = set()
    for receiver in receivers:
        local = receiver.partition("@")[2] or "END"
        senders = nodes + [
            f"{rng.choice(SENDERS)}@{rng.choice([local, local, *positions])}" for _ in range(6)
        ]
        for sender in senders:
            for edge in edges(f"{sender} -> {receiver}"):
                if SHAPE.reaches(edge.sender, edge.receiver) and rng.random() < 0.8:
                    found.add(edge.name)
    return sorted(found)


def with_whole_inputs(rng: random.Random, names: list[str]) -> list[str]:
    """Replace what some inputs read at some row by the whole patched stream there."""
    kept = []
    for name in names:
        (edge,) = edges(name)
        if rng.random() < 0.15:
            whole = f"all@{edge.sender.position} -> {edge.receiver.name}"
            receiver, row = edge.receiver.name, f"@{edge.sender.position} ->"
            kept = [k for k in kept if not (k.endswith(f"-> {receiver}") and row in k)] + [whole]
        elif f"all@{edge.sender.position} -> {edge.receiver.name}" not in kept:
            kept.append(name)
    return sorted(set(kept))


def test_p16_random_edge_sets(base: str, engine: PathPatching, literal: Literal) -> None:
    rng = random.Random(base)
    seen, moved = "", 0
    for attempt in range(32):
        names = random_edges(rng)
        if attempt % 2:
            names = with_whole_inputs(rng, names)
        logits = literal.answer(paths_of_edges(names))
        measured = engine.evaluate(Circuit(names))
        close(measured.log_probs, year_log_probs(logits, PROMPTS))
        close(measured.prob_diff, year_prob_diff(logits, PROMPTS))
        moved += bool((measured.log_probs - engine.base_log_probs).abs().max() > 1e-3)
        seen += " ".join(names) + " "
    assert moved > 24  # the comparison means something
    for needed in ("embed@", "all@", "@The ->", "m0@", ".q@", ".k@", ".v@", "@to ->", "-> logits"):
        assert needed in seen


@pytest.mark.parametrize("route", ROUTES)
def test_p16_every_sweep_cell(route: tuple, engine: PathPatching, literal: Literal) -> None:
    receivers, via, senders_at = route
    measured = engine.sweep(*route)
    close(measured.values, sweep_effects(literal, PROMPTS, measured.senders, receivers, via))
    live = [bool(paths_of_sweep(sender, receivers, via)) for sender in measured.senders]
    assert not measured.values[[not one for one in live]].any()
    assert bool(measured.values.any()) == (any(live) and senders_at != "The")


def test_p16_random_sweeps(patching: PathPatching, literals: dict[str, Literal]) -> None:
    rng = random.Random(5)
    for _ in range(12):
        senders_at = rng.choice(["YY", "to", "XX", "END"])
        row = rng.choice(["", f"[{senders_at}]"])
        receivers = [f"{h}.{rng.choice('kv')}{row}" for h in rng.sample(HEADS[3:], 2)]
        receivers.append(f"{rng.choice(MLPS)}@{senders_at}")
        via = [f"{head}.{rng.choice('kv')}{row}" for head in rng.sample(HEADS[3:], 2)]
        via += [*rng.sample(MLPS, 2), *at(rng.sample(MLPS, 1), senders_at)]
        found = patching.sweep(receivers, via, senders_at)
        expected = sweep_effects(literals["clean"], PROMPTS, found.senders, receivers, via)
        close(found.values, expected)


def test_the_literal_tree_is_the_model(literals: dict[str, Literal], hf: Any) -> None:
    close(literals["clean"].answer([]), hf(PROMPTS.clean).logits[:, -1])
    every = paths_of_edges([f"{sender} -> logits" for sender in SENDERS])
    close(literals["clean"].answer(every), hf(PROMPTS.corrupted).logits[:, -1])


def test_p16_edge_sets_with_named_sources(base, engine: PathPatching, literal: Literal) -> None:
    """Senders that nothing enters and that are no sources stay on the base run."""
    rng = random.Random(f"sources {base}")
    moved = 0
    for _ in range(12):
        names = random_edges(rng)
        free = [source.name for source in Circuit(names).sources]
        sources = [name for name in free if rng.random() < 0.6]
        expected = log_probs_of_edges(literal, PROMPTS, names, sources)
        close(answers(engine, Circuit(names, sources=sources)), expected)
        moved += bool((expected - answers(engine, names)).abs().max() > 1e-3)
    assert moved > 6  # which senders are sources matters


# ---------------------------------------------------------------- equal to hooked passes


@contextmanager
def hooks(hf: Any, replaced: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Hooks that may replace what output projections read ("a0") and what MLPs write ("m0")."""
    with ExitStack() as stack:
        for index, block in enumerate(hf.transformer.h):

            def read(_: Any, args: tuple, key: str = f"a{index}") -> tuple | None:
                now = replaced(key, args[0])
                return None if now is None else (now,)

            def written(_: Any, args: tuple, out: Tensor, key: str = f"m{index}") -> Tensor | None:
                return replaced(key, out)

            stack.callback(block.attn.c_proj.register_forward_pre_hook(read).remove)
            stack.callback(block.mlp.register_forward_hook(written).remove)
        yield


def hooked(
    hf: Any,
    base: str,
    patched: Sequence[str] = (),
    live: Sequence[int] | None = (),
    into_m1: Tensor | float = 0.0,
) -> Tensor:
    """END logits of one pass on the base prompts: heads and MLPs are held at the base run.

    Those ``patched`` are at END held at the patch run. MLPs of the layers ``live`` run freely; with
    ``live=None`` so does everything not patched. ``into_m1`` is added to what m1 reads at END.
    """
    one, other = PROMPTS.clean, PROMPTS.corrupted
    one, other = (one, other) if base == "clean" else (other, one)
    kept: list[dict[str, Tensor]] = [{}, {}]
    for tokens, store in zip((one, other), kept, strict=True):
        with hooks(hf, store.__setitem__):
            hf(tokens)

    def hold(key: str, now: Tensor) -> Tensor:
        free = live is None or (key[0] == "m" and int(key[1:]) in live)
        held = (now if free else kept[0][key]).clone()
        width = now.shape[-1] // N_HEADS
        for name in patched:
            if name == key:
                held[:, -1] = kept[1][key][:, -1]
            elif name.startswith(f"{key}.h"):
                part = slice(int(name[-1]) * width, (int(name[-1]) + 1) * width)
                held[:, -1, part] = kept[1][key][:, -1, part]
        return held

    def add(_: Any, args: tuple) -> tuple:
        return (torch.cat([args[0][:, :-1], args[0][:, -1:] + into_m1], dim=1),)

    with hooks(hf, hold), ExitStack() as stack:
        stack.callback(hf.transformer.h[1].ln_2.register_forward_pre_hook(add).remove)
        return hf(one).logits[:, -1]


def test_p4_a_direct_patch_with_all_else_frozen(base: str, engine: PathPatching, hf: Any) -> None:
    for sender in [*HEADS, *MLPS]:
        logits = hooked(hf, base, patched=[sender])
        close(answers(engine, [f"{sender} -> logits"]), year_log_probs(logits, PROMPTS))


def test_p5_only_the_last_mlp_is_plain_activation_patching(patching: PathPatching, hf: Any) -> None:
    def plain(name: str) -> Tensor:
        return year_log_probs(hooked(hf, "clean", patched=[name], live=None), PROMPTS)

    close(answers(patching, ["m2 -> logits"]), plain("m2"))
    for head in HEADS[-N_HEADS:]:
        both = answers(patching, [f"{head} -> logits", f"{head} -> m2", "m2 -> logits"])
        close(both, plain(head))
        assert (answers(patching, [f"{head} -> logits"]) - plain(head)).abs().max() > 1e-3


def test_p8_a_partial_circuit_with_live_late_mlps(base: str, engine: PathPatching, hf: Any) -> None:
    heads = ["a0.h2", "a1.h0", "a1.h1", "a2.h2"]
    circuit = partial_circuit(CircuitParts(tuple(heads), ("m1", "m2"), (), ()))
    # The hooked pass lets m1 read every patched head below it, as the circuit's edges do.
    logits = hooked(hf, base, patched=heads, live=[1, 2])
    close(answers(engine, circuit), year_log_probs(logits, PROMPTS))


def test_p8_a_sweep_through_mlps(patching: PathPatching, hf: Any) -> None:
    """X -> m1 -> {m2, logits}: m1's input is changed by hand, m1 and m2 run, the rest is frozen."""
    before = year_prob_diff(hf(PROMPTS.clean).logits[:, -1], PROMPTS)
    sweep = patching.sweep("m1", via=["m2"])
    (chunk,) = patching._chunks()
    for node, values in zip(SHAPE.senders("END"), sweep.values, strict=True):
        if node.depth >= 3:  # not below m1
            assert not values.any()
            continue
        change = chunk.change(node, END)[:, None]
        logits = hooked(hf, "clean", live=[1, 2], into_m1=change)
        close(values, year_prob_diff(logits, PROMPTS) - before)


# ---------------------------------------------------------------- identities


def test_p1_equal_runs_change_nothing(model: Transformer) -> None:
    same = PathPatching(model, replace(PROMPTS, corrupted=PROMPTS.clean))
    for route in ROUTES:
        close(same.sweep(*route).values, torch.zeros(13, len(PROMPTS)).double())
    close(same.patch_probs, same.base_probs)
    rng = random.Random(1)
    for _ in range(5):
        close(answers(same, random_edges(rng)), same.base_log_probs)


def test_p2_without_a_path_to_the_logits_nothing_changes(patching: PathPatching) -> None:
    for dead in (
        ["a0.h1@YY -> m1@YY"],
        ["m0 -> m1", "a1.h1 -> m2"],
        ["embed@YY -> a1.h0.v@END", "a1.h0@END -> a2.h1.q@END"],
    ):
        assert torch.equal(answers(patching, dead), patching.base_log_probs)


def test_p3_all_direct_senders_are_the_patch_run(base: str, engine: PathPatching, hf: Any) -> None:
    tokens = PROMPTS.corrupted if base == "clean" else PROMPTS.clean
    expected = hf(tokens).logits[:, -1].log_softmax(-1)[:, PROMPTS.year_tokens]
    close(answers(engine, connect(SENDERS, ["logits"])), expected)
    close(answers(engine, ["all -> logits"]), expected)
    close(engine.patch_probs, expected.exp())


def test_p6_all_heads_and_recomputed_mlps_give_the_patch_run(engine: PathPatching) -> None:
    circuit = connect(HEADS, [*MLPS, "logits"]) | connect(MLPS, [*MLPS, "logits"])
    close(answers(engine, circuit).exp(), engine.patch_probs)


def test_p7_no_heads_give_the_base_run(patching: PathPatching) -> None:
    for nothing in (Circuit(), connect([], [*MLPS, "logits"])):
        assert torch.equal(answers(patching, nothing), patching.base_log_probs)
    no_heads = partial_circuit(CircuitParts((), ("m1", "m2"), (), ()))
    close(answers(patching, no_heads), patching.base_log_probs)


@pytest.mark.parametrize("left", ["a2.h2", "a1.h1"])
def test_p7_a_single_head_left(patching: PathPatching, hf: Any, left: str) -> None:
    """With a2.h2 alone nothing flows into m1, which then is as in the base run."""
    parts = CircuitParts(("a0.h2", "a1.h1", "a2.h2"), ("m0", "m1", "m2"), (), ())
    gone = [head for head in parts.heads if head != left]
    logits = hooked(hf, "clean", patched=[left], live=[0, 1, 2])
    circuit = partial_circuit(parts).without(*gone)
    close(answers(patching, circuit), year_log_probs(logits, PROMPTS))


def test_an_input_named_with_and_without_row_is_one_input(patching: PathPatching) -> None:
    once = patching.sweep("m0@YY", ["a1.h0.v", "m2"], "YY")
    twice = patching.sweep("m0@YY", ["a1.h0.v", "a1.h0.v[YY]", "m2"], "YY")
    close(twice.values, once.values)


def test_p9_the_embedding_at_end_changes_nothing(patching: PathPatching) -> None:
    for route in ROUTES:
        if route[-1] == "END":
            assert abs(patching.sweep(*route).embed) < 1e-14


@pytest.mark.parametrize("position", POSITIONS[:FIRST_CHANGED])
def test_p10_nothing_before_the_first_change_matters(patching: PathPatching, position: str) -> None:
    for part in "kv":
        receivers = [f"{head}.{part}" for head in HEADS]
        assert not patching.sweep(receivers, MLPS, position).values.any()
    circuit = connect(at(SENDERS, position), [f"a1.h1.{p}" for p in "kv"])
    circuit |= connect(["a1.h1"], ["logits"])
    assert torch.equal(answers(patching, circuit), patching.base_log_probs)


def test_p11_heads_read_yy_through_keys_and_values_only(patching: PathPatching) -> None:
    def sweep(part: str) -> Sweep:
        return patching.sweep([f"{head}.{part}" for head in HEADS[3:]], MLPS, "YY")

    assert not sweep("q").values.any()
    for part in "kv":
        assert (sweep(part).effect[0].abs() > 1e-6).all()
        assert abs(sweep(part).embed) > 1e-6


@pytest.mark.parametrize("head", ["a0.h0", "a1.h2", "a2.h1"])
def test_p11_a_head_with_all_inputs_patched(patching: PathPatching, head: str) -> None:
    inputs = [f"all@{p} -> {head}.{part}" for p in POSITIONS for part in "kv"]
    whole = [*inputs, f"all -> {head}.q", f"{head} -> logits"]
    close(answers(patching, whole), answers(patching, [f"{head} -> logits"]))
    writers = connect(EVERYWHERE, [f"{head}.{part}" for part in "qkv"])
    close(answers(patching, writers | Circuit([f"{head} -> logits"])), answers(patching, whole))


def test_p12_heads_feed_the_mlp_of_their_layer_and_not_its_heads(patching: PathPatching) -> None:
    into_mlp = patching.sweep("m1").effect
    assert into_mlp[1, :N_HEADS].all() and not into_mlp[1, N_HEADS]
    into_head = patching.sweep("a1.h1").effect
    assert into_head[0].all() and not into_head[1:].any()


def test_p13_direct_effects_add_up_under_a_frozen_norm_only(patching, model) -> None:
    (chunk,) = patching._chunks()
    base = chunk.base.at_layer(N_LAYERS, END)
    changes = [chunk.change(node, END) for node in SHAPE.senders("END")]

    def frozen_logits(stream: Tensor) -> Tensor:
        return model.ln_final.frozen_at(base)(stream) @ model.W_U + model.b_U

    for unembed, adds_up in ((frozen_logits, True), (model.unembed, False)):
        alone = sum(unembed(base + change) - unembed(base) for change in changes)
        together = unembed(base + sum(changes)) - unembed(base)
        assert ((alone - together).abs().max() < 1e-10) == adds_up
    close(unembed(base), frozen_logits(base))


def test_p14_paths_together_are_not_their_sum(patching: PathPatching) -> None:
    alone = [patching.sweep(receiver).values for receiver in ("logits", "m2")]
    both = patching.sweep(["logits", "m2"]).values
    assert ((alone[0] + alone[1] - both).abs().max(-1).values > 1e-6)[:-2].all()


PARTS = CircuitParts(
    heads=("a1.h0", "a2.h1", "a2.h2"),
    mlps=("m1", "m2"),
    readers_of_YY=("a0.h0", "a0.h2", "m0", "m1"),
    early_inputs=("embed", "a0.h0"),
)


def test_p15_the_full_circuit_is_the_literal_tree(engine: PathPatching, literal: Literal) -> None:
    circuit = full_circuit(PARTS)
    expected = log_probs_of_edges(literal, PROMPTS, [edge.name for edge in circuit.edges])
    close(answers(engine, circuit), expected)
    partial = answers(engine, partial_circuit(PARTS))
    assert (answers(engine, circuit) - partial).abs().max() > 1e-3


def test_p15_with_every_sender_below_it_is_the_partial_circuit(patching: PathPatching) -> None:
    keys_and_values = [f"{head}.{part}" for head in PARTS.heads for part in "kv"]
    queries = connect(["all"], [f"{head}.q" for head in PARTS.heads])
    # Late MLPs at END would be senders too; m1 is one of the circuit's own, so it is left whole.
    heads_only = replace(PARTS, mlps=("m2",))
    below = connect(EVERYWHERE, keys_and_values)
    whole = answers(patching, partial_circuit(heads_only) | queries | below)
    close(whole, answers(patching, partial_circuit(heads_only)))


def test_p17_norms_on_the_way_are_recomputed(patching: PathPatching, model: Transformer) -> None:
    (chunk,) = patching._chunks()
    block, mid = model.blocks[2], chunk.base.before_mlp(2, END)
    base = chunk.base.at_layer(N_LAYERS, END)
    before = year_prob_diff(model.unembed(base), PROMPTS)
    direct, through = patching.sweep("logits").values, patching.sweep("m2").values
    for index, node in enumerate(SHAPE.senders("END")[:-2]):
        change = chunk.change(node, END)
        stream = model.ln_final.frozen_at(base)(base + change)
        frozen_direct = year_prob_diff(stream @ model.W_U, PROMPTS) - before
        assert (frozen_direct - direct[index]).abs().max() > 1e-6
        hidden = block.ln2.frozen_at(mid)(mid + change) @ block.W_in + block.b_in
        stream = base + block.act(hidden) @ block.W_out - block.mlp(mid)
        frozen_through = year_prob_diff(model.unembed(stream), PROMPTS) - before
        assert (frozen_through - through[index]).abs().max() > 1e-6


def test_p18_all_neurons_are_the_mlp(patching: PathPatching, model: Transformer) -> None:
    (chunk,) = patching._chunks()
    block = model.blocks[2]
    patch, base = (
        block.act(block.ln2(cache.before_mlp(2, END)) @ block.W_in + block.b_in)
        for cache in (chunk.patch, chunk.base)
    )
    stream = chunk.base.at_layer(N_LAYERS, END) + (patch - base) @ block.W_out
    expected = model.log_probs(stream, PROMPTS.year_tokens)
    close(answers(patching, ["m2 -> logits"]), expected)


# ---------------------------------------------------------------- chunks, sharing, cost


def everything(engine: PathPatching) -> list[Tensor]:
    found = [engine.base_probs, engine.patch_probs]
    found += [engine.sweep(*route).values for route in ROUTES[3:20:4]]
    rng = random.Random(11)
    return [*found, *(answers(engine, random_edges(rng)) for _ in range(3))]


@pytest.mark.parametrize(
    "limits",
    [
        {"PROMPTS_AT_ONCE": 2},
        {"PROMPTS_AT_ONCE": 2, "_CACHE_BYTES": 0},
        {"_CELLS": 1},
        {"PROMPTS_AT_ONCE": 3, "_CELLS": 7, "_CACHE_BYTES": 60_000},
    ],
)
def test_results_do_not_depend_on_chunks(limits: dict, patching, model, monkeypatch) -> None:
    expected = everything(patching)
    for name, value in limits.items():
        monkeypatch.setattr(path_patching, name, value)
    monkeypatch.setattr(transformer, "_CPU_BLOCK", (3, 17))
    chunked = PathPatching(model, PROMPTS)
    for value, same in zip(everything(chunked), expected, strict=True):
        close(value, same)
    if limits.get("_CACHE_BYTES") == 0:
        assert not chunked._cache


def test_reversed_shares_the_caches(model, engines: dict, monkeypatch) -> None:
    computed = mock.Mock(side_effect=path_patching.cache_activations)
    monkeypatch.setattr(path_patching, "cache_activations", computed)
    one = PathPatching(model, PROMPTS)
    twin = one.reversed()
    found = [everything(engine) for engine in (one, twin)]
    assert computed.call_count == 2
    assert (twin.base, twin.reversed().base) == ("corrupted", "clean")
    for base, measured in zip(BASES, found, strict=True):
        for value, expected in zip(measured, everything(engines[base]), strict=True):
            close(value, expected)
    close(one.patch_probs, twin.base_probs)


def test_what_cannot_reach_is_zero_and_free(patching: PathPatching, monkeypatch) -> None:
    assert patching.base_probs is not None  # before counting
    rows, original = [], Transformer.log_probs_of

    def counted(model: Transformer, normed: Tensor, tokens: Tensor) -> Tensor:
        rows.append(normed.shape[:-1].numel())
        return original(model, normed, tokens)

    monkeypatch.setattr(Transformer, "log_probs_of", counted)
    sweep = patching.sweep("m1", ["m2"])
    reach = [SHAPE.reaches(node, edges("m0 -> m1")[0].receiver) for node in SHAPE.senders("END")]
    assert sum(rows) == sum(reach) * len(PROMPTS) == 8 * len(PROMPTS)
    assert [bool(v.any()) for v in sweep.values[:-1]] == reach[:-1]
    rows.clear()
    for route in (("logits", (), "YY"), ("a1.h1.q", (), "XX"), ("a1.h1.v", (), "The")):
        assert not patching.sweep(*route).values.any()
    assert not rows


def test_a_sweep_knows_its_senders_and_its_grid(patching: PathPatching) -> None:
    sweep = patching.sweep(["m1", "a2.h0"], via=["m2"], metric=cutoff_sharpness)
    assert sweep.receivers == ("m1@END", "a2.h0.q@END", "a2.h0.k@END", "a2.h0.v@END")
    assert sweep.via == ("m2@END",)
    assert sweep.effect.shape == (N_LAYERS, N_HEADS + 1) and sweep.values.shape == (13, 5)
    assert sweep.senders[:5] == ("a0.h0@END", "a0.h1@END", "a0.h2@END", "m0@END", "a1.h0@END")
    assert sweep.senders[-1] == "embed@END"
    close(sweep.effect[1, N_HEADS], sweep.values[sweep.senders.index("m1@END")].mean())
    frame = sweep.to_frame()
    assert set(frame["component"]) == set(sweep.senders)
    assert frame["effect"].abs().is_monotonic_decreasing
    assert (frame["low"] <= frame["effect"] + 1e-12).all()


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("circuit", "said"),
    [
        (["a3.h0 -> logits"], "a3.h0 .* e.g. m2"),
        (["m0@NOUN -> m1@NOUN"], "'NOUN'.*eos, The, YY"),
        (["m2 -> m1"], "m2@END -> m1@END is impossible: .*e.g."),
        (["all@YY -> a1.h0.v", "m0@YY -> a1.h0.v"], "m0@YY -> a1.h0.v.*all@YY"),
        (["m0 -> logits", "all -> logits"], "m0@END -> logits.*all@END"),
    ],
)
def test_impossible_circuits(patching: PathPatching, circuit: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        patching.evaluate(Circuit(circuit))


def test_what_is_no_circuit_or_no_metric_is_refused(patching: PathPatching) -> None:
    with pytest.raises(ValueError, match="e.g. Circuit"):
        patching.evaluate(["m2 -> logits"])
    with pytest.raises(ValueError, match="'prob_diff'.*e.g. metric="):
        patching.sweep("logits", metric="prob_diff")


def test_whole_and_single_edges_into_different_inputs(patching, literals: dict) -> None:
    names = ["all@YY -> a1.h0.v", "m0@YY -> a1.h0.k", "m0@XX -> a1.h0.v", "a1.h0 -> logits"]
    close(answers(patching, names), log_probs_of_edges(literals["clean"], PROMPTS, names))


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (([],), r"e.g. sweep\('logits'\)"),
        (("m3",), "m3 .* e.g. m2"),
        (("m1", ["m7"]), "m7 .* e.g. m2"),
        (("m1", [], "2"), "'2'.*eos, The"),
        (("a1.h1.v[END]@YY",), r"reads no row END.*e.g."),
        (("m0@YY",), r"m0@YY .*via=\[\].*e.g."),
        (("m1@YY", ["a1.h0.v"]), r"m1@YY .*via=\['a1.h0.v@END'\]"),
    ],
)
def test_impossible_sweeps(patching: PathPatching, route: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        patching.sweep(*route)


@pytest.mark.parametrize(
    ("changes", "base", "said"),
    [
        ({}, "foo", "e.g. 'clean'; got 'foo'"),
        ({"YY": torch.tensor([])}, "clean", r"no prompts; e.g. YearDataset"),
        ({"corrupted": torch.zeros(5, 5)}, "clean", r"\(5, 6\) and \(5, 5\)"),
        ({"clean": torch.full((5, 6), 131)}, "clean", "id 131 .* only 131 tokens"),
    ],
)
def test_unusable_datasets(model: Transformer, changes: dict, base: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PathPatching(model, replace(PROMPTS, **changes), base)


# ---------------------------------------------------------------- the softmax in blocks


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("block", [(1024, 4096), (7, 13), (64, 131), (5, 1)])
def test_float32_log_probs_are_a_float64_softmax(model, monkeypatch, scale: float, block) -> None:
    """Also with logits in the tens of thousands, whose exponentials exceed every float."""
    monkeypatch.setattr(transformer, "_CPU_BLOCK", block)
    norm, generator = model.ln_final, torch.Generator().manual_seed(3)
    norm = replace(norm, gain=norm.gain.float(), bias=norm.bias.float())
    W_U, b_U = scale * model.W_U.float(), scale * torch.randn(131, generator=generator)
    single = replace(model, ln_final=norm, W_U=W_U, b_U=b_U)
    stream = torch.randn(2, 17, model.d_model, generator=generator)
    tokens = torch.arange(30, 130)
    measured = single.log_probs(stream, tokens)
    assert measured.dtype == torch.float32 and measured.shape == (2, 17, 100)
    exact = norm(stream).double() @ W_U.double() + b_U.double()
    expected = exact.log_softmax(-1)[..., tokens]
    assert measured.isfinite().all()
    torch.testing.assert_close(measured.double(), expected, atol=5e-6 * max(1, scale), rtol=1e-6)
