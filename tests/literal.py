"""Oracle: path patching written down literally, slowly, without the package; the engine equals it.

The circuit is a tree: the logits read every component, each of which reads every component below
it, down to the tokens. A patch is a set of *paths* from the logits down to a component; the
component that a path ends at is computed from the patch prompts, everything else from the base
prompts, and whatever lies on a path is recomputed from the sum of all that it reads. Components are
evaluated anew for every path that meets them, nothing patched is remembered. The forward pass is
this module's own, in float64, from the weights of a Hugging Face GPT-2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY = 131
POSITIONS = ("eos", "The", "YY", "to", "XX", "END")
FIRST_CHANGED = POSITIONS.index("YY")

# A component is ("embed" | "head" | "mlp" | "all", layer, head, position), the logits are LOGITS.
# A step of a path is (input, row, sender): input is "q", "k" or "v" of a head, "" otherwise, and
# row the position of the stream that is read. A path is a tuple of steps from the logits down.
Node = tuple[str, int, int, int]
Step = tuple[str, int, Node]
Steps = tuple[Step, ...]
LOGITS: Node = ("logits", 10**6, 0, len(POSITIONS) - 1)


@dataclass
class Prompts:
    """The parts of a dataset that the engine reads: random tokens, changed at YY and at XX."""

    clean: Tensor
    corrupted: Tensor
    YY: Tensor
    positions: dict[str, int]
    year_tokens: Tensor
    strata = None

    def __len__(self) -> int:
        return len(self.YY)


def close(measured: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    """Equal to float64 precision."""
    torch.testing.assert_close(measured, expected, atol=atol, rtol=0.0)


def random_prompts(n: int = 5, seed: int = 0) -> Prompts:
    """Prompts of six random tokens; clean and corrupted ones differ at YY and XX, not at END."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(VOCABULARY, (n, len(POSITIONS)), generator=generator)
    corrupted = clean.clone()
    for column in (POSITIONS.index("YY"), POSITIONS.index("XX")):
        step = torch.randint(1, VOCABULARY, (n,), generator=generator)
        corrupted[:, column] = (clean[:, column] + step) % VOCABULARY
    YY = torch.randint(2, 99, (n,), generator=generator)
    positions = {name: index for index, name in enumerate(POSITIONS)}
    year_tokens = torch.randperm(VOCABULARY, generator=generator)[:100]
    return Prompts(clean, corrupted, YY, positions, year_tokens)


def save_random_gpt2(folder: Path, n_layer: int = 3) -> Path:
    """Save a GPT-2 whose every weight, gain and bias is random and large enough to matter."""
    sizes = {"vocab_size": VOCABULARY, "n_positions": 16, "n_embd": 12, "n_head": 3}
    model = GPT2LMHeadModel(GPT2Config(**sizes, n_layer=n_layer, bos_token_id=0, eos_token_id=0))
    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if name.endswith("bias"):
            weight.data = 0.5 * noise
        elif ".ln_" in name:
            weight.data = 1 + 0.4 * noise
        else:
            weight.data = noise * (1.0 if "wte" in name or "wpe" in name else 1.5 / 12**0.5)
    model.save_pretrained(folder)
    return folder


def parse(name: str) -> tuple[Node, str]:
    """``a1.h2.k@YY`` -> (("head", 1, 2, position of YY), "k"), with the tests' own few rules."""
    if name == "logits":
        return LOGITS, ""
    label, _, position = name.partition("@")
    at = POSITIONS.index(position or "END")
    if label in ("embed", "all"):
        return (label, -1, 0, at), ""
    if label.startswith("m"):
        return ("mlp", int(label[1:]), 0, at), ""
    layer, head, *part = label[1:].split(".")
    return ("head", int(layer), int(head[1:]), at), part[0] if part else ""


def below(sender: Node, receiver: Node, parallel: bool = False) -> bool:
    """Whether the sender is among the summands of the stream that the receiver reads.

    In a parallel layer the MLP reads what the heads read.
    """
    if receiver[0] == "logits" or sender[0] in ("embed", "all"):
        return sender[0] != "logits"
    heads_come_first = sender[0] == "head" and receiver[0] == "mlp" and not parallel
    return sender[1] < receiver[1] or (heads_come_first and sender[1] == receiver[1])


def rows(node: Node, part: str) -> range:
    """The positions of the stream that an input of a component reads."""
    return range(node[3] + 1) if part in ("k", "v") else range(node[3], node[3] + 1)


class Literal:
    """A Hugging Face GPT-2 on base and patch prompts, evaluated path by path in float64."""

    parallel = False

    def __init__(self, hf: GPT2LMHeadModel, base: Tensor, patch: Tensor) -> None:
        self.weights = {k: v.double() for k, v in hf.state_dict().items()}
        self.config = hf.config
        self.n_layers, self.n_heads = hf.config.n_layer, hf.config.n_head
        self.base, self.patch = self._run(base), self._run(patch)

    # The model, one function per part.
    def _norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + self.config.layer_norm_epsilon).sqrt()
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return centred / scale * weight + bias

    def _project(self, layer: int, head: int, part: str, x: Tensor) -> Tensor:
        """Query, key or value [..., d_head] of the stream x."""
        name, d_head = f"transformer.h.{layer}", self.config.n_embd // self.n_heads
        first = "qkv".index(part) * self.config.n_embd + head * d_head
        weight = self.weights[f"{name}.attn.c_attn.weight"][:, first : first + d_head]
        bias = self.weights[f"{name}.attn.c_attn.bias"][first : first + d_head]
        return self._norm(f"{name}.ln_1", x) @ weight + bias

    def _attend(self, layer: int, head: int, query: Tensor, keys: list, values: list) -> Tensor:
        scores = torch.stack([(query * key).sum(-1) for key in keys]) / math.sqrt(query.shape[-1])
        weights = scores.exp() / scores.exp().sum(0)
        z = sum(w[..., None] * value for w, value in zip(weights, values, strict=True))
        first = head * z.shape[-1]
        out = self.weights[f"transformer.h.{layer}.attn.c_proj.weight"]
        return z @ out[first : first + z.shape[-1]]

    def _mlp(self, layer: int, x: Tensor) -> Tensor:
        name = f"transformer.h.{layer}.mlp"
        x = self._norm(f"transformer.h.{layer}.ln_2", x)
        x = x @ self.weights[f"{name}.c_fc.weight"] + self.weights[f"{name}.c_fc.bias"]
        gelu = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return gelu @ self.weights[f"{name}.c_proj.weight"]

    def logits(self, x: Tensor) -> Tensor:
        """Logits [prompt, vocabulary] of the last stream, its norm live."""
        return self._norm("transformer.ln_f", x) @ self.weights["lm_head.weight"].T

    def _embed(self, tokens: Tensor) -> Tensor:
        """What the embedding writes [prompt, position, d_model]."""
        positions = self.weights["transformer.wpe.weight"][: tokens.shape[1]]
        return self.weights["transformer.wte.weight"][tokens] + positions

    def _output_bias(self, kind: str, layer: int) -> Tensor | float:
        part = {"head": "attn", "mlp": "mlp"}[kind]
        return self.weights[f"transformer.h.{layer}.{part}.c_proj.bias"]

    def _biases(self, node: Node) -> Tensor:
        """Output biases of everything below a node: they belong to no component."""
        every = [(kind, layer, 0, 0) for layer in range(self.n_layers) for kind in ("head", "mlp")]
        found = [self._output_bias(*n[:2]) for n in every if below(n, node, self.parallel)]
        return sum(found, torch.zeros((), dtype=torch.float64))

    def writers(self, node: Node, row: int) -> list[Node]:
        """Every component that adds to the stream which a node reads at a row."""
        every: list[Node] = [("embed", -1, 0, row)]
        for layer in range(self.n_layers):
            every += [("head", layer, head, row) for head in range(self.n_heads)]
            every += [("mlp", layer, 0, row)]
        return [sender for sender in every if below(sender, node, self.parallel)]

    def _run(self, tokens: Tensor) -> dict[Node, Tensor]:
        """What every component writes [prompt, d_model] at every position."""
        embedded, every = self._embed(tokens), range(tokens.shape[1])
        values: dict[Node, Tensor] = {("embed", -1, 0, row): embedded[:, row] for row in every}
        for layer in range(self.n_layers):
            nodes = [("head", layer, head, row) for head in range(self.n_heads) for row in every]
            for node in nodes + [("mlp", layer, 0, row) for row in every]:
                values[node] = self._reading(node, lambda n, _, row: self._stream(n, row, values))
        return values

    def _stream(self, node: Node, row: int, values: dict[Node, Tensor]) -> Tensor:
        return sum((values[s] for s in self.writers(node, row)), self._biases(node))

    def _reading(self, node: Node, read: Callable[[Node, str, int], Tensor]) -> Tensor:
        """A component's output when each of its inputs reads these streams, row by row."""
        parts = ("q", "k", "v") if node[0] == "head" else ("",)
        return self._compute(node, {(p, r): read(node, p, r) for p in parts for r in rows(node, p)})

    def _compute(self, node: Node, streams: dict[tuple[str, int], Tensor]) -> Tensor:
        """A component's output, given the stream that each of its inputs reads at each row."""
        kind, layer, head, position = node
        if kind == "mlp":
            return self._mlp(layer, streams["", position])
        q, k, v = (
            [self._project(layer, head, part, streams[part, row]) for row in rows(node, part)]
            for part in ("q", "k", "v")
        )
        return self._attend(layer, head, q[0], k, v)

    # The tree.
    def value(self, node: Node, paths: list[Steps]) -> Tensor:
        """What this instance of a component writes, given the paths that go on below it."""
        if not paths:
            return self.base[node]
        if () in paths:
            return self.patch[node]
        return self._reading(node, lambda n, part, row: self._read(n, part, row, paths))

    def _read(self, node: Node, part: str, row: int, paths: list[Steps]) -> Tensor:
        here = [path for path in paths if path[0][:2] == (part, row)]
        if any(path[0][2][0] == "all" for path in here):
            return self._stream(node, row, self.patch)
        total = self._biases(node)
        for sender in self.writers(node, row):
            total = total + self.value(sender, [path[1:] for path in here if path[0][2] == sender])
        return total

    def answer(self, paths: Iterable[Steps]) -> Tensor:
        """Logits [prompt, vocabulary] at END with every path's end on the patch prompts."""
        return self.logits(self._read(LOGITS, "", LOGITS[3], list(paths)))


def year_log_probs(logits: Tensor, prompts: Prompts) -> Tensor:
    """Log-probabilities [prompt, year] under the full-vocabulary softmax."""
    shifted = logits - logits.max(-1, keepdim=True).values
    log_probs = shifted - shifted.exp().sum(-1, keepdim=True).log()
    return log_probs[:, prompts.year_tokens]


def year_prob_diff(logits: Tensor, prompts: Prompts) -> Tensor:
    """Probability difference [prompt], prompt by prompt and year by year."""
    pairs = zip(year_log_probs(logits, prompts).exp(), prompts.YY.tolist(), strict=True)
    return torch.stack([sum(p[y] if y > YY else -p[y] for y in range(100)) for p, YY in pairs])


def paths_of_edges(edges: Iterable[str], sources: Iterable[str] | None = None) -> list[Steps]:
    """Every path through a set of edges ``sender -> receiver`` from the logits to its very end.

    With ``sources`` only the paths that end at one of them.
    """
    ends = None if sources is None else {parse(name)[0] for name in sources}
    steps: dict[Node, list[Step]] = {}
    for edge in edges:
        left, right = (side.strip() for side in edge.split("->"))
        sender, (receiver, part) = parse(left)[0], parse(right)
        for one in [part] if part or receiver[0] != "head" else ["q", "k", "v"]:
            steps.setdefault(receiver, []).append((one, sender[3], sender))

    def paths(node: Node) -> list[Steps]:
        if node not in steps:
            return [()] if ends is None or node in ends else []
        return [(step, *rest) for step in steps[node] for rest in paths(step[2])]

    return paths(LOGITS) if LOGITS in steps else []


def paths_of_sweep(
    sender: str, receivers: Iterable[str], via: Iterable[str], parallel: bool = False
) -> list[Steps]:
    """Every path logits <- chain of via components <- receiver <- sender of one heatmap cell.

    ``a2.h1.v[YY]`` reads the row YY only; ``parallel`` as for `below`.
    """

    def listeners(names: Iterable[str]) -> dict[Node, list[tuple[str, list[int]]]]:
        found: dict[Node, list[tuple[str, list[int]]]] = {}
        for name in names:
            row = name[name.index("[") + 1 : name.index("]")] if "[" in name else ""
            node, part = parse(name.replace(f"[{row}]", ""))
            for one in [part] if part or node[0] != "head" else ["q", "k", "v"]:
                read = [POSITIONS.index(row)] if row else [*rows(node, one)]
                found.setdefault(node, []).append((one, read))
        return found

    first, onward = listeners(receivers), listeners(via)
    source = parse(sender)[0]
    nodes = [n for n in dict.fromkeys(itertools.chain(first, onward)) if n != LOGITS]

    def extend(node: Node) -> list[Steps]:
        """Paths from a component on a route down to the sender."""
        found: list[Steps] = []
        for part, read in first.get(node, []):
            if source[3] in read and below(source, node, parallel):
                found.append(((part, source[3], source),))
        inputs_read = [("", [LOGITS[3]])] if node == LOGITS else onward.get(node, [])
        for part, read in inputs_read:
            for other in nodes:
                if other[3] in read and below(other, node, parallel):
                    found += [((part, other[3], other), *rest) for rest in extend(other)]
        return list(dict.fromkeys(found))

    return extend(LOGITS)


def log_probs_of_edges(
    literal: Literal, prompts: Prompts, edges: Iterable[str], sources: Iterable[str] | None = None
) -> Tensor:
    """Log-probabilities [prompt, year] with a set of edges on the patch prompts."""
    return year_log_probs(literal.answer(paths_of_edges(edges, sources)), prompts)


def sweep_effects(
    literal: Literal,
    prompts: Prompts,
    senders: Iterable[str],
    receivers: Iterable[str],
    via: Iterable[str],
) -> Tensor:
    """Change [sender, prompt] of the probability difference in every cell of one heatmap."""
    before = year_prob_diff(literal.answer([]), prompts)
    cells = [paths_of_sweep(one, receivers, via, literal.parallel) for one in senders]
    return torch.stack([year_prob_diff(literal.answer(cell), prompts) - before for cell in cells])
