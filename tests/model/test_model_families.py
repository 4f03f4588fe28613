"""Oracle: other families than GPT-2; on small random models of each all equals slow evaluations.

The references are transformers' own modules: the literal evaluator over them (model_families.py),
and hooks on a plain forward pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from literal import (
    POSITIONS,
    Prompts,
    close,
    log_probs_of_edges,
    random_prompts,
    sweep_effects,
    year_log_probs,
    year_prob_diff,
)
from made_edges import one_edge
from model_families import (
    FAMILIES,
    N_HEADS,
    N_LAYERS,
    Family,
    FamilyLiteral,
    Modules,
    in_double,
    save_random,
)
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPTNeoConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3Config,
)

from gt_helpers.analysis.attention import attention_map, attention_pattern
from gt_helpers.analysis.geometry import (
    edited_streams,
    erase_directions,
    pca_places,
    random_directions,
    read_stream,
)
from gt_helpers.analysis.logit_lens import bias_effect, depth_view, direct_effect
from gt_helpers.analysis.neurons import Neurons
from gt_helpers.edges.attribution import eap
from gt_helpers.edges.effects import edge_effects
from gt_helpers.edges.graph import EdgeGraph, evaluate_edges
from gt_helpers.edges.rerun import Rerun, sender_changes
from gt_helpers.metrics import prob_diff
from gt_helpers.model.cache import cache_activations
from gt_helpers.model.components import component, edges, inputs
from gt_helpers.model.load import load_model
from gt_helpers.model.self_checks import UnsupportedModelError
from gt_helpers.model.transformer import FrozenNorm, Transformer
from gt_helpers.patching.activation import Site, activation_patching, site
from gt_helpers.patching.circuits import Circuit, connect
from gt_helpers.patching.engine import PathPatching
from gt_helpers.patching.paper import CircuitParts, find_circuit, full_circuit, partial_circuit
from gt_helpers.scorecard.results import Results, load_results

END = 5
ROUTES: list[tuple[list[str], list[str], str]] = [
    (["logits"], [], "END"),
    (["m1"], ["m2"], "END"),
    (["a1.h1.k", "a1.h2.v", "a2.h3.q"], ["m2", "a2.h0.k"], "YY"),
    (["m0@YY"], ["a1.h0.k[YY]", "a1.h0.v[YY]", "a2.h2.k", "m2"], "YY"),
]


@dataclass(frozen=True)
class Case:
    """One family's model, in transformers and in the engine, and what both make of some prompts."""

    name: str
    folder: Path

    @property
    def family(self) -> Family:
        return FAMILIES[self.name]

    @cached_property
    def modules(self) -> Modules:
        return Modules(self.family, self.folder)

    @cached_property
    def model(self) -> Transformer:
        return load_model(self.folder, "cpu", torch.float64)

    @cached_property
    def prompts(self) -> Prompts:
        return random_prompts(3)

    @cached_property
    def engine(self) -> PathPatching:
        return PathPatching(self.model, self.prompts)

    @cached_property
    def literal(self) -> FamilyLiteral:
        return FamilyLiteral(self.modules, self.prompts.clean, self.prompts.corrupted)

    def captured(self, tokens: Tensor, modules: list[nn.Module]) -> list[Tensor]:
        """What modules are given when transformers runs the model."""
        calls = [self.modules.first_call(tokens, module) for module in modules]
        given = [args[0] if args else kwargs["hidden_states"] for args, kwargs in calls]
        return [x.unflatten(0, (len(tokens), -1)) if x.ndim == 2 else x for x in given]


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    family = FAMILIES[request.param]
    return Case(request.param, save_random(family, tmp_path_factory.mktemp("family")))


# ---------------------------------------------------------------- the model


def test_it_is_the_model_of_transformers(case: Case) -> None:
    """In double precision, and as transformers itself computes, with its casts to float32."""
    tokens = case.prompts.clean
    assert max(case.model.check_report.values()) < 1e-10
    logits = case.model.unembed(cache_activations(case.model, tokens).at_layer(N_LAYERS, END))
    close(logits, case.modules.logits(tokens))
    close(case.literal.answer([]), case.modules.logits(tokens))
    plain = case.modules.hf(tokens).logits[:, -1]
    torch.testing.assert_close(logits, plain, atol=1e-4, rtol=0)
    single = load_model(case.folder, "cpu")
    assert max(single.check_report.values()) < 1e-5
    hf = AutoModelForCausalLM.from_pretrained(case.folder, dtype=torch.float32)
    logits = single.unembed(cache_activations(single, tokens).at_layer(N_LAYERS, END))
    torch.testing.assert_close(logits, hf(tokens).logits[:, -1], atol=1e-3, rtol=1e-4)


def test_what_mlps_and_layers_read(case: Case) -> None:
    """Streams, and the neurons between an MLP's nonlinearity and its output weights."""
    tokens, names = case.prompts.clean, case.family.norms
    cache = cache_activations(case.model, tokens)
    hf = case.modules
    norms = [layer.get_submodule(names[1]) for layer in hf.layers]
    places = (case.captured(tokens, m) for m in (hf.layers, norms, hf.mlp_output))
    for layer, (before, after, neurons) in enumerate(zip(*places, strict=True)):
        close(read_stream(cache, f"a{layer}.h0 input", case.prompts.positions), before[:, END])
        close(read_stream(cache, f"m{layer} input", case.prompts.positions), after[:, END])
        close(case.model.blocks[layer].neurons(cache.before_mlp(layer, END)), neurons[:, END])
        assert torch.allclose(before, after) == case.family.parallel


# ---------------------------------------------------------------- path patching


def test_heads_reach_the_mlp_of_their_layer_unless_it_is_parallel(case: Case) -> None:
    parallel = case.family.parallel
    shape = case.engine.shape
    assert case.model.parallel == shape.parallel == parallel
    for layer in range(N_LAYERS):
        for mlp in range(N_LAYERS):
            reaches = shape.reaches(component(f"a{layer}.h1"), inputs(f"m{mlp}")[0])
            assert reaches == (layer < mlp if parallel else layer <= mlp)
    values = case.engine.sweep("m1", "m2").values.reshape(-1, len(case.prompts))
    own = slice(N_HEADS + 1, 2 * N_HEADS + 1)
    assert bool(values[own].any()) != parallel
    assert values[:N_HEADS].abs().max() > 1e-4 and not values[own.stop : -1].any()
    if parallel:
        with pytest.raises(ValueError, match="heads and MLPs of this model read lower layers only"):
            case.engine.evaluate(Circuit(["a1.h1 -> m1", "m1 -> logits"]))


@pytest.mark.parametrize("route", ROUTES)
def test_every_sweep_cell_equals_the_literal_evaluation(case: Case, route: tuple) -> None:
    measured = case.engine.sweep(*route)
    expected = sweep_effects(case.literal, case.prompts, measured.senders, *route[:2])
    close(measured.values, expected)
    assert measured.values.abs().max() > 1e-3


def random_edges(case: Case, rng: random.Random) -> list[str]:
    """Some of the edges that exist, and all that let late components answer."""
    shape = case.engine.shape
    nodes = [n for position in ("YY", "to", "END") for n in shape.senders(position)]
    found = [f"{node.name} -> logits" for node in shape.senders("END") if rng.random() < 0.5]
    receivers = [one for node in nodes if node.kind != "embed" for one in inputs(node.name)]
    possible = [f"{s.name} -> {r.name}" for r in receivers for s in nodes if shape.reaches(s, r)]
    return found + rng.sample(possible, 60)


def test_random_circuits_equal_the_literal_evaluation(case: Case) -> None:
    rng = random.Random(case.name)
    moved = 0.0
    for _ in range(4):
        names = random_edges(case, rng)
        measured = case.engine.evaluate(Circuit(names)).log_probs
        close(measured, log_probs_of_edges(case.literal, case.prompts, names))
        moved = max(moved, float((measured - case.engine.base_log_probs).abs().max()))
    assert moved > 1e-2


def test_circuits_of_the_papers_form_equal_the_literal_evaluation(case: Case) -> None:
    """Their edges are those that the family has; what none of them enters stays as it is."""
    parts = CircuitParts(
        ("a1.h1", "a2.h0"),
        ("m1", "m2"),
        ("a0.h1", "m0", "m1"),
        ("embed", "a0.h2", "a1.h0"),
        parallel=case.family.parallel,
    )
    for circuit in (partial_circuit(parts), full_circuit(parts)):
        names, sources = ([one.name for one in n] for n in (circuit.edges, circuit.sources))
        measured = case.engine.evaluate(circuit).log_probs
        close(measured, log_probs_of_edges(case.literal, case.prompts, names, sources))
        own = edges("a1.h1 -> m1")[0] in circuit.edges
        assert own != case.family.parallel
    found = find_circuit(case.engine.sweep)
    assert found.parallel == case.family.parallel
    case.engine.evaluate(full_circuit(found))  # names no edge that the model lacks


def test_live_edges_equal_the_literal_evaluation(case: Case) -> None:
    graph = EdgeGraph.of(case.engine)
    assert ("a1.h1 -> m1" in graph.names) != case.family.parallel
    chosen = torch.rand(len(graph), generator=torch.Generator().manual_seed(2)) < 0.15
    names = [edge.name for edge in graph.circuit(chosen).edges]
    sources = [f"embed@{position}" for position in POSITIONS]
    measured = evaluate_edges(case.engine, graph, chosen).log_probs
    close(measured, log_probs_of_edges(case.literal, case.prompts, names, sources))
    assert (measured - case.engine.base_log_probs).abs().max() > 1e-2


def test_effects_of_single_edges_and_their_slopes(case: Case) -> None:
    """Each edge alone is a circuit of it and all downstream; EAP is its slope at the base run."""
    graph, YY, step = EdgeGraph.of(case.engine), case.prompts.YY, 1e-5
    exact, slopes = edge_effects(case.engine, graph, budget=12), eap(case.engine, graph)
    before = prob_diff(case.engine.base_probs, YY)
    ((base, patch, _),) = case.engine.caches(100)
    changes = sender_changes(base, patch)
    for number in exact.measured.nonzero().flatten().tolist():
        _, sender, receiver = graph.index[number].tolist()
        circuit = one_edge(graph, number)
        close(exact.values[number], case.engine.evaluate(circuit).prob_diff - before)
        moved = torch.stack([step * changes[sender], -step * changes[sender]])
        streams = Rerun(base).final_stream(graph.inputs[receiver], moved)
        more, less = case.model.log_probs(streams, case.prompts.year_tokens).exp()
        slope = (prob_diff(more, YY) - prob_diff(less, YY)) / (2 * step)
        close(slopes.values[number], slope, atol=1e-7)
    assert slopes.values.abs().max() > 1e-3


def test_patching_nothing_and_everything(case: Case) -> None:
    clean, corrupted = (
        year_log_probs(case.modules.logits(tokens), case.prompts)
        for tokens in (case.prompts.clean, case.prompts.corrupted)
    )
    close(case.engine.base_log_probs, clean)
    close(case.engine.evaluate(Circuit()).log_probs, clean)
    close(case.engine.patch_probs, corrupted.exp())
    every = connect([node.name for node in case.engine.shape.senders("END")], ["logits"])
    close(case.engine.evaluate(every).log_probs, corrupted)
    assert (clean - corrupted).abs().max() > 0.1


def test_prompts_longer_than_the_model_was_made_for_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="have 25 tokens; .* was made for 24 or fewer"):
        cache_activations(case.model, torch.zeros(2, 25, dtype=torch.long))


# ---------------------------------------------------------------- other measurements


def overwritten(case: Case, names: list[str]) -> Tensor:
    """The probability difference when transformers runs under hooks that overwrite activations."""
    hf, base, other = case.modules, case.prompts.corrupted, case.prompts.clean
    inputs_of = {"stream": hf.layers, "head": hf.output}

    def hook(one: Site) -> RemovableHandle:
        position, kept = case.prompts.positions[one.position], []

        def part(value: Tensor) -> Tensor:
            """The view of a module's input or output that is overwritten."""
            value = value.view(*base.shape, -1)  # OPT's MLPs are given flat rows
            if one.kind == "head":
                value = value.unflatten(-1, (N_HEADS, -1))
            elif one.kind in ("q", "k", "v"):
                value = hf.split(value, one.kind)
            if one.head < 0:
                return value[:, position]
            return value[:, position, one.head * value.shape[2] // N_HEADS]

        def copied(value: Tensor) -> Tensor:
            if not kept:  # the first pass is on the other prompts
                kept.append(part(value).clone())
                return value
            value = value.clone()
            part(value).copy_(kept[0])
            return value

        if one.kind in inputs_of:
            return inputs_of[one.kind][one.layer].register_forward_pre_hook(
                lambda _, args, kwargs: ((copied(args[0]), *args[1:]), kwargs), with_kwargs=True
            )
        module = (
            hf.mlp_output[one.layer] if one.kind == "mlp" else hf.projection(one.layer, one.kind)
        )
        return module.register_forward_hook(lambda _, args, out: copied(out))

    hooks = [hook(site(name)) for name in names]
    hf.logits(other)
    return year_prob_diff(hf.logits(base, hooks), case.prompts)


def test_activation_patching_is_what_hooks_do(case: Case) -> None:
    shared = range(case.family.groups)  # heads with one key and value are overwritten together
    sites = [
        *(["a1.h1@END"], ["a0.h3@YY"], ["m1"], ["m0@YY"], ["stream1@YY"], ["stream2@END"]),
        *(["a2.h1.q@END"], ["a1.h3.q@to"]),
        [f"a1.h{head}.k@YY" for head in shared],
        [f"a2.h{head}.v@YY" for head in shared],
        ["a1.h2@YY", "m1@END", "stream2@YY"],
    ]
    found = activation_patching(case.model, case.prompts, sites)
    close(found, torch.stack([overwritten(case, names) for names in sites]))
    assert len(found.mean(-1).unique()) == len(sites)


def test_attention_is_that_of_transformers(case: Case) -> None:
    tokens = case.prompts.clean
    hf = AutoModelForCausalLM.from_pretrained(
        case.folder, dtype=torch.float64, attn_implementation="eager"
    )
    with in_double():
        expected = torch.stack(hf(tokens, output_attentions=True).attentions)
    cache = cache_activations(case.model, tokens)
    close(attention_pattern(cache, "a1.h2"), expected[1, :, 2])
    close(attention_map(cache, 4, 2), expected[:, :, :, 4, 2].transpose(1, 2))


def test_lenses(case: Case) -> None:
    """Direct effects add up to the logits, and stages are the model's streams."""
    tokens, years = case.prompts.clean, case.prompts.year_tokens
    cache = cache_activations(case.model, tokens)
    names = [node.name for node in case.model.shape(["END"]).senders("END")]
    logits = case.modules.logits(tokens)
    effects = sum(direct_effect(cache, name, years) for name in names) + bias_effect(cache, years)
    close(effects, logits[:, years])
    stages, probs = depth_view(cache, tokens=years)
    close(probs[-1], year_log_probs(logits, case.prompts).exp())
    output = case.modules.output[1]
    before, z = case.captured(tokens, [case.modules.layers[1], output])
    with in_double():
        stream = before[:, END] + output(z)[:, END]
    expected = year_log_probs(case.literal.logits(stream), case.prompts).exp()
    close(probs[stages.index("a1")], expected)


def test_neurons(case: Case) -> None:
    clean, corrupted = (
        cache_activations(case.model, tokens)
        for tokens in (case.prompts.clean, case.prompts.corrupted)
    )
    neurons = Neurons(clean, corrupted, case.prompts, "m1")
    whole = case.engine.evaluate(Circuit(["m1 -> logits"])).prob_diff
    before = year_prob_diff(case.modules.logits(case.prompts.clean), case.prompts)
    close(neurons.joint_effect(range(len(neurons))), whole - before)
    effects = neurons.effects()
    close(effects, torch.stack([neurons.joint_effect([i]) for i in range(len(neurons))]))
    assert effects.abs().max() > 1e-4


def test_erasing_edits_the_stream_where_the_mlp_reads_it(case: Case) -> None:
    middle, width = torch.full((case.model.d_model,), 0.3), case.model.d_model
    edits = {n: erase_directions(middle, random_directions(2, width, n)) for n in (1, 2)}
    hooks, seen = [], {}
    for layer, edit in edits.items():

        def edit_input(
            _: nn.Module, args: tuple, kwargs: dict, layer: int = layer, edit: Callable = edit
        ) -> tuple:
            seen[layer] = stream = args[0].clone()
            if case.family.parallel:
                stream[:, END] = edit(stream[:, END])
            return (stream, *args[1:]), kwargs

        def edit_output(
            _: nn.Module, args: tuple, output: Tensor, layer: int = layer, edit: Callable = edit
        ) -> Tensor:
            if case.family.parallel:
                return output
            output, stream = output.clone(), seen[layer][:, END]
            output[:, END] = edit(stream + output[:, END]) - stream
            return output

        module = case.modules.layers[layer]
        hooks.append(module.register_forward_pre_hook(edit_input, with_kwargs=True))
        hooks.append(case.modules.output[layer].register_forward_hook(edit_output))
    tokens = case.prompts.clean
    expected = case.modules.logits(tokens, hooks)
    cache, named = cache_activations(case.model, tokens), {f"m{n}": e for n, e in edits.items()}
    close(case.model.unembed(edited_streams(cache, named)["logits"]), expected)
    assert (expected - case.modules.logits(tokens)).abs().max() > 0.1


def test_norms(case: Case) -> None:
    """Live norms are the model's; frozen ones agree where they were frozen, and are linear."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, case.model.d_model, generator=generator, dtype=torch.float64)
    norm = case.model.ln_final
    final = case.modules.hf.get_submodule(case.family.final)  # not to be loaded in_double
    with in_double():
        close(norm(x), final(x))
    frozen = norm.frozen_at(x)
    assert isinstance(frozen, FrozenNorm)
    close(frozen(x), norm(x))
    close(frozen(x + y) - frozen(x), frozen.part(y))
    close(frozen.part(x) + frozen.part(y), frozen.part(x + y))


def test_saved_sweeps_and_circuits_know_what_the_model_is(case: Case, tmp_path: Path) -> None:
    sweep, parts = case.engine.sweep("m1", "m2"), find_circuit(case.engine.sweep)
    Results({}, case.prompts.YY, parts, {"m1": sweep}).save(tmp_path)
    loaded = load_results(tmp_path)
    assert loaded.sweeps["m1"].shape == case.engine.shape
    assert loaded.parts == parts


def test_the_mlp_whose_input_is_looked_at_reads_the_head_that_is(case: Case) -> None:
    parts = CircuitParts(("a1.h1", "a2.h0"), ("m2",), (), (), parallel=case.family.parallel)
    head = "a1.h1" if case.family.parallel else "a2.h0"
    assert pca_places(parts, case.engine.shape)[:2] == ["m2 input", head]


# ---------------------------------------------------------------- refusals

SMALL: dict[str, Any] = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 20}
SMALL |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
OLD: dict[str, Any] = {"vocab_size": 61, "hidden_size": 16}
LONG_ROPE = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
ALTERNATING = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 2}
POST_NORM = {"do_layer_norm_before": False, "ffn_dim": 16, "word_embed_proj_dim": 16}
REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "BLOOM": (BloomConfig(**OLD, n_layer=2, n_head=2), "ALiBi"),
    "MPT": (MptConfig(vocab_size=61, d_model=16, n_layers=2, n_heads=2), "ALiBi"),
    "GPT-Neo": (GPTNeoConfig(**OLD, **ALTERNATING), "its attention is local"),
    "Mistral": (MistralConfig(**SMALL, sliding_window=4), "its attention is local"),
    "Qwen3": (Qwen3Config(**SMALL, head_dim=8), "it normalises queries and keys"),
    "Gemma 2": (Gemma2Config(**SMALL, head_dim=8), "it normalises after its blocks"),
    "OPT-350m": (OPTConfig(**SMALL, **POST_NORM), "it normalises after its blocks"),
    "Mixtral": (MixtralConfig(**SMALL), "it is a mixture of experts"),
    "dynamic rotary": (LlamaConfig(**SMALL, rope_parameters=LONG_ROPE), "on the prompt's length"),
    "Granite": (GraniteConfig(**SMALL, residual_multiplier=0.5), "components add up"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_exact_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    config, reason = REFUSED[name]
    folder = save_random(Family(config), tmp_path)
    said = f"^{folder} cannot be patched exactly: .*{reason}.*Supported are GPT-2, OPT, Pythia"
    with pytest.raises(UnsupportedModelError, match=said):
        load_model(folder, "cpu")
