"""What do components write? Logit lens, direct effects and the residual stream's depth (section 3).

Everything is read at END, as logits or probabilities of the year tokens. Heads come without b_O and
MLPs without b_out, as in the paper's code: output biases belong to no component.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..metrics import FIRST_YY, LAST_YY, YYs, correlation
from ..model.cache import ActivationCache
from ..model.components import END, component
from ..model.transformer import Transformer

Tokens = Int[Tensor, " token"]  # ids, e.g. dataset.year_tokens
Logits = Float[Tensor, "prompt token"]
Stream = Float[Tensor, "prompt d_model"]
Table = Float[Tensor, "YY year"]


@torch.no_grad()
def logit_lens(cache: ActivationCache, name: str, tokens: Tokens) -> Logits:
    """The paper's logit lens of one component: logits of its output alone.

    The whole final norm, with the component's own mean and scale, gain and bias, then the
    unembedding (section 3 and the released code). Raises ValueError for what is no head, MLP or
    ``embed`` of the model.
    """
    model = cache.model
    return unembedded(model, model.ln_final(written(cache, name)), tokens, model.b_U)


@torch.no_grad()
def direct_effect(cache: ActivationCache, name: str, tokens: Tokens) -> Logits:
    """The part of the model's own logits that one component writes (Appendix E).

    Its output goes through the final norm with the scale of the whole final stream. The direct
    effects of ``embed``, all heads and all MLPs, and `bias_effect`, add up to the model's logits.
    Raises ValueError as `logit_lens` does.
    """
    return unembedded(cache.model, _in_final_norm(cache, written(cache, name)), tokens)


@torch.no_grad()
def bias_effect(cache: ActivationCache, tokens: Tokens) -> Logits:
    """The part of the model's logits that no component writes (Appendix E).

    All output biases b_O and b_out in the final norm, its bias, and the unembedding's.
    """
    model = cache.model
    biases = torch.stack([block.b_O + block.b_out for block in model.blocks]).sum(0)
    normed = _in_final_norm(cache, biases) + model.ln_final.bias
    return unembedded(model, normed, tokens, model.b_U)


@torch.no_grad()
def depth_view(
    cache: ActivationCache, tokens: Tokens
) -> tuple[list[str], Float[Tensor, "stage prompt token"]]:
    """What the model would answer after each stage: the stages' names, and probabilities.

    Stages are "embed", then "a0" after all heads of layer 0, "m0" after its MLP, and so on; the
    last one is the model's own answer. Each reads the residual stream, output biases included,
    through the final norm and the softmax over the full vocabulary.
    """
    model, end = cache.model, end_of(cache)
    stages = {"embed": cache.at_layer(0, end)}
    for layer in range(model.n_layers):
        stages[f"a{layer}"] = cache.after_heads(layer, end)
        stages[f"m{layer}"] = cache.at_layer(layer + 1, end)
    probs = [model.log_probs(stream, tokens).exp().cpu() for stream in stages.values()]
    return list(stages), torch.stack(probs)


# ---------------------------------------------------------------------- what a component writes


def end_of(cache: ActivationCache) -> int:
    """Index of END, every prompt's last token."""
    return cache.stream.shape[2] - 1


def written(cache: ActivationCache, name: str) -> Stream:
    """What a component wrote at END.

    Raises ValueError for what is no head, MLP or ``embed`` of the model.
    """
    node = component(name, "head", "mlp", "embed")
    cache.model.shape([END]).check(node)
    return cache.output(node, end_of(cache))


def processed_output(cache: ActivationCache, name: str) -> Stream:
    """What a component writes at END once weights are processed.

    As TransformerLens does by default: what heads write whatever they attend to (the norm's and
    their own value bias, since attention sums to 1) moves to the layer's output bias, and every
    write is centred. The model's probabilities stay the same; what single components write does
    not. Raises ValueError as `written` does.
    """
    node, output = component(name), written(cache, name)
    if node.kind == "head":
        block = cache.model.blocks[node.layer]
        constant = block.b_V[node.head] + block.ln1.bias @ block.W_V[node.head]
        output = output - constant @ block.W_O[node.head]
    return cache.model.ln_final.centre(output)


def _in_final_norm(cache: ActivationCache, written: Float[Tensor, "*prompt d_model"]) -> Stream:
    """A part of the final stream, normalised with the scale of the whole one, without the bias."""
    stream = cache.at_layer(cache.model.n_layers, end_of(cache))
    return cache.model.ln_final.frozen_at(stream).part(written)


def unembedded(
    model: Transformer, normed: Stream, tokens: Tokens, bias: Tensor | None = None
) -> Logits:
    """Logits of a normalised stream; biases [vocab] only if given."""
    tokens = tokens.to(model.device)
    logits = normed @ model.W_U[:, tokens]
    return (logits if bias is None else logits + bias[tokens]).cpu()


# -------------------------------------------------------------------------- tables in numbers


def relative_to_00(logits: Float[Tensor, "*rows year"]) -> Float[Tensor, "*rows year"]:
    """Year logits less that of the year 00, as the paper shows MLPs (section 3)."""
    return logits - logits[..., :1]


def beyond_mean_row(table: Table) -> Table:
    """A table less its mean over YY: what of it depends on YY at all.

    Years that a component favours whatever YY is make a `triangle` as well; they are gone here.
    """
    return table - table.nanmean(0)


def step_height(logits: Logits, YY: YYs) -> Float[Tensor, " prompt"]:
    """By how much years above YY exceed the others, mean of either, in year logits.

    Linear, so that the heights of all `direct_effect`s and `bias_effect` add up to that of the
    model's own logits.
    """
    later = torch.arange(100) > YY[:, None]
    return _mean_where(logits, later) - _mean_where(logits, ~later)


def diagonal(table: Table) -> float:
    """Share of YYs whose highest year is YY itself; by chance 0.01."""
    return near_diagonal(table, 0)


def near_diagonal(table: Table, within: int = 10) -> float:
    """Share of YYs whose highest year is at most ``within`` years from YY; by chance about 0.2."""
    rows, YY = _rows(table)
    return _mean((rows.argmax(-1) - YY).abs() <= within)


def triangle(table: Table) -> float:
    """Share of YYs for which the mean over y > YY exceeds that over y <= YY; by chance 0.5.

    Also 1 where every row rises with the year, whatever YY is: see `beyond_mean_row`.
    """
    rows, YY = _rows(table)
    return _mean(step_height(rows, YY) > 0)


def step_correlation(table: Table) -> float:
    """Correlation over years of a row with a step from 0 to 1 at YY, mean over YYs; by chance 0.

    1 for a pure step, of which `beyond_mean_row` leaves 0.68. A row without variance counts as 0.
    """
    rows, YY = _rows(table)
    return _mean(correlation(rows, torch.arange(100) > YY[:, None]).nan_to_num(0.0))


def band(table: Table) -> float:
    """Share of YYs whose mean over YY < y <= YY + 50 exceeds that over later y; by chance 0.5.

    YYs without any later year do not count.
    """
    rows, YY = _rows(table)
    rows, YY = rows[YY < 49], YY[YY < 49][:, None]
    years = torch.arange(100)
    near, far = (years > YY) & (years <= YY + 50), years > YY + 50
    return _mean(_mean_where(rows, near) > _mean_where(rows, far))


def lens_numbers(tables: Mapping[str, Table]) -> pd.DataFrame:
    """All these numbers, one row per named table; "own" ones are `beyond_mean_row`."""
    every = pd.Series(tables, dtype=object)
    own = every.map(beyond_mean_row)
    numbers = {
        "diagonal": every.map(diagonal),
        "near diagonal": every.map(near_diagonal),
        "triangle": every.map(triangle),
        "own triangle": own.map(triangle),
        "own step": own.map(step_correlation),
        "band": every.map(band),
    }
    return pd.DataFrame(numbers)


def _rows(table: Table) -> tuple[Float[Tensor, "row year"], Int[Tensor, " row"]]:
    """The rows without NaN, and their YYs."""
    if table.shape != (LAST_YY - FIRST_YY + 1, 100):
        raise ValueError(
            f"The table has the shape {list(table.shape)}; it must be [97, 100], rows YY 02 to 98, "
            "columns years 00 to 99, e.g. mean_by_YY(logit_lens(cache, 'm10', years), YY)."
        )
    present = ~table.isnan().any(-1)
    return table[present].double(), torch.arange(FIRST_YY, LAST_YY + 1)[present]


def _mean_where(rows: Logits, where: Bool[Tensor, "row year"]) -> Float[Tensor, " row"]:
    return (rows * where).sum(-1) / where.sum(-1)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())  # of nothing it is NaN
