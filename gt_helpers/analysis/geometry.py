"""How is the start year laid out in the stream? PCA, a linear probe, and erasing it (section 4).

Everything is read at named places, e.g. the input of `m8` at END, for prompts whose YY is known.
Whatever is fitted is judged on prompts that it was not fitted on. All fits are made on the CPU, in
double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ..dataset.prompts import NO_BOS_TEMPLATE
from ..metrics import YYs
from ..model.cache import ActivationCache
from ..model.components import END, Shape, below, component
from ..model.transformer import Block
from ..patching.paper import PAPER, CircuitParts
from .logit_lens import end_of
from .neurons import end_mlp

Vectors = Float[Tensor, "prompt d_model"]

# The paper's PCA reads prompts without <|endoftext|>.
PCA_TEMPLATE = NO_BOS_TEMPLATE
_PENALTIES = torch.logspace(-8, 1, 10, dtype=torch.float64)  # of the mean variance of a direction


def late_mlps(parts: CircuitParts, n_layers: int) -> list[str]:
    """The circuit's MLPs in the upper half of the model: GPT-2 small's m8 to m11.

    Raises ValueError if there are none.
    """
    late = [name for name in parts.mlps if component(name).layer >= n_layers // 2]
    if not late:
        raise ValueError("The circuit has no MLP in the model's upper half; name one, e.g. 'm8'.")
    return late


def pca_places(parts: CircuitParts, shape: Shape) -> list[str]:
    """Where to look: into the lowest late MLP, a head's output, a control head's, the embedding.

    The paper's on GPT-2 small: m8, a7.h10, a7.h8. Elsewhere the highest head of the circuit that
    the MLP can read, and the first one of its layer outside the circuit; a circuit without such a
    head leaves both out. Raises ValueError if its layer has no other head.
    """
    mlp = late_mlps(parts, shape.n_layers)[0]
    if parts == PAPER:
        return [f"{mlp} input", "a7.h10", "a7.h8", "embed@YY"]
    nodes = [component(name) for name in parts.heads]
    readable = [node for node in nodes if below(node, component(mlp), shape.parallel)]
    if not readable:
        return [f"{mlp} input", "embed@YY"]
    head = readable[-1]
    layer = [f"a{head.layer}.h{i}" for i in range(shape.n_heads)]
    free = [name for name in layer if name not in parts.heads]
    if not free:
        raise ValueError(f"The circuit has every head of layer {head.layer}; none is a control.")
    return [f"{mlp} input", head.label, free[0], "embed@YY"]


def read_stream(cache: ActivationCache, place: str, positions: Mapping[str, int]) -> Vectors:
    """What stands at a place: "m8 input" or the output of "a7.h10", "embed@YY".

    An input is the residual stream before the component's norm. A name without position is at END.
    Raises ValueError for names that the model or the prompts lack.
    """
    name, _, word = place.partition(" ")
    node = component(name)
    cache.model.shape(positions).check(node)
    position = positions[node.position]
    if not word and node.kind in ("head", "mlp", "embed"):
        return cache.output(node, position)
    if word == "input" and node.kind == "mlp":
        return cache.before_mlp(node.layer, position)
    if word == "input" and node.kind == "head":
        return cache.at_layer(node.layer, position)
    raise ValueError(f"{place!r} is no place; write e.g. 'm8 input', 'a7.h10' or 'embed@YY'.")


@dataclass(frozen=True)
class PCA:
    """Directions of largest variance of some vectors, and their mean."""

    mean: Float[Tensor, " d_model"]
    directions: Float[Tensor, "direction d_model"]

    def project(self, x: Vectors) -> Float[Tensor, "prompt direction"]:
        """Coordinates of x."""
        return (x.double().cpu() - self.mean) @ self.directions.T

    def explained(self, x: Vectors) -> Float[Tensor, " direction"]:
        """Share of the variance of x, around its own mean, along each direction."""
        x = x.double().cpu()
        centred = x - x.mean(0)
        return (centred @ self.directions.T).square().sum(0) / centred.square().sum()


def fit_pca(x: Vectors, n: int = 2) -> PCA:
    """The first n principal directions of x; ValueError for too few prompts."""
    if not 1 <= n < len(x):
        raise ValueError(f"{n} directions need {n + 1} prompts or more, these are {len(x)}.")
    x = x.double().cpu()
    _, _, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    return PCA(x.mean(0), directions[:n])


def nearest_gap(points: Float[Tensor, "prompt direction"], YY: YYs) -> float:
    """How many years off YY is at the nearest point of another YY, the mean over points.

    Points are e.g. PCA coordinates. 1 where points of all YYs lie in order
    along whatever curve; about 33 without any order. Raises ValueError if all YYs are the same.
    """
    gaps = (YY[:, None] - YY).abs()
    if not gaps.any():
        raise ValueError("All prompts have the same YY, so none is near another.")
    distances = torch.cdist(points.double(), points.double()).cpu()
    nearest = distances.masked_fill(gaps == 0, torch.inf).argmin(-1)
    return float(gaps.gather(1, nearest[:, None]).double().mean())


@dataclass(frozen=True)
class Probe:
    """A linear guess of YY: (x - mean) @ weights + YY's mean."""

    mean: Float[Tensor, " d_model"]
    weights: Float[Tensor, " d_model"]
    mean_YY: Float[Tensor, ""]

    def r2(self, x: Vectors, YY: YYs) -> float:
        """Share of the variance of YY that the guesses explain; 0: as always guessing its mean."""
        guess = (x.double().cpu() - self.mean) @ self.weights + self.mean_YY
        z = YY.double()
        return float(1 - (z - guess).square().sum() / (z - z.mean()).square().sum())


def fit_probe(x: Vectors, YY: YYs) -> Probe:
    """A ridge regression of YY, its penalty that of least leave-one-out error among ten."""
    x, z = x.double().cpu(), YY.double()
    mean, mean_YY = x.mean(0), z.mean()
    U, S, Vh = torch.linalg.svd(x - mean, full_matrices=False)
    rotated = U.T @ (z - mean_YY)
    penalties = _PENALTIES * S.square().mean().clamp(min=1e-30)
    shrunk = S.square() / (S.square() + penalties[:, None])  # [penalty, direction]
    # Leaving a prompt out divides its residual by 1 - leverage: no second fit is needed.
    residuals = z - mean_YY - shrunk * rotated @ U.T  # [penalty, prompt]
    left_out = residuals / (1 - 1 / len(x) - shrunk @ U.T.square()).clamp(min=1e-9)
    best = penalties[left_out.square().mean(-1).argmin()]
    return Probe(mean, Vh.T @ (S / (S.square() + best) * rotated), mean_YY)


def probe_scores(x: Vectors, YY: YYs, others: Vectors, YY_others: YYs) -> dict[str, float]:
    """R² of probes that are fitted on x and judged on others, each beside that of permuted YYs.

    A probe of YYs that others have too can learn them one by one. So the baseline gives every YY
    another's value, in all its prompts, and held-out YYs are the odd ones of a fit on the even.
    """
    permuted = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    even, odd = YY % 2 == 0, YY_others % 2 == 1
    found, held_out = {}, {}
    for suffix, value in (("", torch.arange(100)), (", permuted", permuted)):
        z, z_others = value[YY], value[YY_others]
        found[f"same YYs{suffix}"] = fit_probe(x, z).r2(others, z_others)
        probe = fit_probe(x[even], z[even])
        held_out[f"held-out YYs{suffix}"] = probe.r2(others[odd], z_others[odd])
    return found | held_out


@dataclass(frozen=True)
class Eraser:
    """Takes a few directions out of vectors: x - (x - mean) @ read @ write."""

    mean: Float[Tensor, " d_model"]
    read: Float[Tensor, "d_model direction"]
    write: Float[Tensor, "direction d_model"]

    def __call__(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Erase from x."""
        mean, read, write = (part.to(x.device) for part in (self.mean, self.read, self.write))
        double = x.double()
        return (double - (double - mean) @ read @ write).to(x)


def fit_leace(x: Vectors, z: Int[Tensor, "prompt ..."] | Float[Tensor, "prompt ..."]) -> Eraser:
    """LEACE: the least change of x that leaves no linear trace of z, one number or several.

    ``z`` is e.g. YY, or one-hot YY. In closed form (Belrose et al. 2023): whiten x, project out the
    covariance with z, undo the whitening. On the prompts it is fitted on, no linear guess of z from
    what is left beats z's mean.
    """
    x, z = x.double().cpu(), z.double().reshape(len(z), -1)
    centred, concept = x - x.mean(0), z - z.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = values > values[-1] * x.shape[1] * torch.finfo(torch.float64).eps
    scale, vectors = values[kept].sqrt(), vectors[:, kept]
    whitened = vectors.T @ (centred.T @ concept) / len(x) / scale[:, None]
    left, size, _ = torch.linalg.svd(whitened, full_matrices=False)
    left = left[:, size > size[0] * 1e-9]
    return Eraser(x.mean(0), vectors / scale @ left, left.T * scale @ vectors.T)


def erase_directions(
    mean: Float[Tensor, " d_model"], directions: Float[Tensor, "direction d_model"]
) -> Eraser:
    """Take orthonormal directions, e.g. a PCA's, out of x; the mean stays."""
    directions = directions.double().cpu()
    return Eraser(mean.double().cpu(), directions.T, directions)


def random_directions(n: int, d_model: int, seed: int = 0) -> Float[Tensor, "direction d_model"]:
    """Orthonormal directions drawn at random: what erasing any n directions does."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(d_model, n, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].T


def ways_to_erase(YY: YYs, n: int = 2) -> dict[str, Callable[[Tensor], Eraser]]:
    """What `fit_edits` can fit for prompts of these YYs: LEACE, n PCA directions, and controls.

    LEACE erases YY as one number, or as 100 classes, so that every year's own mean goes; its
    controls erase the YYs in random order.
    """
    shuffled = YY[torch.randperm(len(YY), generator=torch.Generator().manual_seed(0))]
    return {
        "LEACE, YY as a number": lambda x: fit_leace(x, YY),
        "LEACE, YY as classes": lambda x: fit_leace(x, one_hot(YY, 100)),
        "LEACE, shuffled YY (control)": lambda x: fit_leace(x, shuffled),
        "LEACE, shuffled classes (control)": lambda x: fit_leace(x, one_hot(shuffled, 100)),
        f"{n} PCA directions": lambda x: erase_directions(x.mean(0), fit_pca(x, n).directions),
        f"{n} random directions (control)": lambda x: erase_directions(
            x.mean(0), random_directions(n, x.shape[1])
        ),
    }


@torch.no_grad()
def edited_streams(cache: ActivationCache, edits: Mapping[str, Eraser]) -> dict[str, Vectors]:
    """What MLPs and logits read at END when the stream is edited on its way.

    ``edits`` name MLPs, e.g. {"m8": eraser}: the residual stream at END is edited where that MLP
    reads it (after the heads of its layer; in a parallel model before them), for it and for
    everything later, heads included, which is recomputed. The result begins at the first edited
    MLP, as edited, and ends with "logits". Raises ValueError for what is no MLP of the model.
    """
    model = cache.model
    by_layer = {end_mlp(model, name).layer: eraser for name, eraser in edits.items()}
    first = min(by_layer, default=model.n_layers)
    stream, found = cache.stream[first, :, -1], {}
    for layer in range(first, model.n_layers):
        block = model.blocks[layer]
        earlier = cache.stream[layer, :, :-1]  # cannot see END, so it keeps its values
        if not block.parallel:
            stream = stream + _heads_at_end(block, earlier, stream) + block.b_O
        read = by_layer[layer](stream) if layer in by_layer else stream
        found[f"m{layer}"] = read
        stream = read + block.mlp(read) + block.b_out
        if block.parallel:  # its heads read what the MLP reads
            stream = stream + _heads_at_end(block, earlier, read) + block.b_O
    return found | {"logits": stream}


def edited_log_probs(
    cache: ActivationCache, edits: Mapping[str, Eraser], tokens: Int[Tensor, " token"]
) -> Float[Tensor, "prompt token"]:
    """Log-probabilities of a few tokens when the stream is edited at END."""
    return cache.model.log_probs(edited_streams(cache, edits)["logits"], tokens).cpu()


def fit_edits(
    cache: ActivationCache, mlps: Iterable[str], fit: Callable[[Tensor], Eraser]
) -> dict[str, Eraser]:
    """An eraser before each MLP, from below, fitted on what the edits below it leave there."""
    edits: dict[str, Eraser] = {}
    for mlp in sorted(mlps, key=lambda name: end_mlp(cache.model, name).layer):
        unchanged = read_stream(cache, f"{mlp} input", {END: end_of(cache)})
        edits[mlp] = fit(edited_streams(cache, edits).get(mlp, unchanged))
    return edits


def _heads_at_end(
    block: Block, earlier: Float[Tensor, "prompt earlier d_model"], end: Vectors
) -> Vectors:
    """What all heads of a layer write at END, given the stream at earlier positions."""
    stream = torch.cat([earlier, end[:, None]], 1)
    written = torch.zeros_like(end)
    # Head by head: where every year is erased, rounding is all that is left for a probe to read.
    for head, W_O in enumerate(block.W_O):
        pattern = block.pattern(head, stream, [stream.shape[1] - 1])
        written += (pattern @ block.value(head, stream))[:, 0] @ W_O
    return written
