"""What do components write? Logit lens, direct effects and the residual stream's depth (section 3).

Everything is read at END, as logits or probabilities of the year tokens. Heads come without b_O and
MLPs without b_out, as in the paper's code: output biases belong to no component.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
import torch
from torch import Tensor

from ..metrics import FIRST_YY, LAST_YY
from ..model.cache import ActivationCache
from ..model.components import END, component


@torch.no_grad()
def logit_lens(run: ActivationCache, name: str, tokens: Tensor) -> Tensor:
    """The paper's logit lens of one component: logits [prompt, token] of its output alone.

    The whole final norm, with the component's own mean and scale, gain and bias, then the
    unembedding (section 3 and the released code). ``tokens`` are ids, e.g. ``dataset.year_tokens``.
    Raises ValueError for what is no head, MLP or ``embed`` of the model.
    """
    model = run.model
    return unembedded(run, model.ln_final(written(run, name)), tokens, model.b_U)


@torch.no_grad()
def direct_effect(run: ActivationCache, name: str, tokens: Tensor) -> Tensor:
    """The part [prompt, token] of the model's own logits that one component writes (Appendix E).

    Its output goes through the final norm with the scale of the whole final stream. The direct
    effects of ``embed``, all heads and all MLPs, and `bias_effect`, add up to the model's logits.
    Raises ValueError as `logit_lens` does.
    """
    return unembedded(run, _in_final_norm(run, written(run, name)), tokens)


@torch.no_grad()
def bias_effect(run: ActivationCache, tokens: Tensor) -> Tensor:
    """The part [prompt, token] of the model's logits that no component writes (Appendix E).

    All output biases b_O and b_out in the final norm, its bias, and the unembedding's.
    """
    model = run.model
    biases = torch.stack([block.b_O + block.b_out for block in model.blocks]).sum(0)
    normed = _in_final_norm(run, biases) + model.ln_final.bias
    return unembedded(run, normed, tokens, model.b_U)


def relative_to_00(logits: Tensor) -> Tensor:
    """Year logits [..., year] less that of the year 00, as the paper shows MLPs (section 3)."""
    return logits - logits[..., :1]


def step_height(logits: Tensor, YY: Tensor) -> Tensor:
    """By how much years above YY exceed the others [prompt], mean of either, in year logits.

    ``logits`` are [prompt, year]. Linear, so that the heights of all `direct_effect`s and
    `bias_effect` add up to that of the model's own logits.
    """
    later = torch.arange(100) > YY[:, None]
    return _mean_where(logits, later) - _mean_where(logits, ~later)


def beyond_mean_row(table: Tensor) -> Tensor:
    """A table [YY, year] less its mean over YY: what of it depends on YY at all.

    Years that a component favours whatever YY is make a `triangle` as well; they are gone here.
    """
    return table - table.nanmean(0)


@torch.no_grad()
def depth_view(run: ActivationCache, tokens: Tensor) -> tuple[list[str], Tensor]:
    """What the model would answer after each stage: names, probabilities [stage, prompt, token].

    Stages are "embed", then "a0" after all heads of layer 0, "m0" after its MLP, and so on; the
    last one is the model's own answer. Each reads the residual stream, output biases included,
    through the final norm and the softmax over the full vocabulary.
    """
    names, probs = [], []
    for name, stream in _stages(run):
        names.append(name)
        probs.append(run.model.log_probs(stream, tokens).exp().cpu())
    return names, torch.stack(probs)


def _stages(run: ActivationCache) -> Iterator[tuple[str, Tensor]]:
    end = _end(run)
    yield "embed", run.at_layer(0, end)
    for layer in range(run.model.n_layers):
        yield f"a{layer}", run.after_heads(layer, end)
        yield f"m{layer}", run.at_layer(layer + 1, end)


def _end(run: ActivationCache) -> int:
    return run.stream.shape[2] - 1  # END is every prompt's last token


def written(run: ActivationCache, name: str) -> Tensor:
    """What a component wrote at END [prompt, d_model].

    Raises ValueError for what is no head, MLP or ``embed`` of the model.
    """
    node = component(name)
    if node.kind not in ("embed", "head", "mlp") or node.position != END:
        raise ValueError(
            f"{name!r} has no logit lens: give a head, an MLP or the embedding at END, e.g. "
            "'a7.h10', 'm10' or 'embed'."
        )
    run.model.shape([END]).check(node)
    return run.output(node, _end(run))


def _in_final_norm(run: ActivationCache, written: Tensor) -> Tensor:
    """A part of the final stream, normalised with the scale of the whole one, without the bias."""
    stream = run.at_layer(run.model.n_layers, _end(run))
    return run.model.ln_final.frozen_at(stream).part(written)


def unembedded(
    run: ActivationCache, normed: Tensor, tokens: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Logits [prompt, token] of a normalised stream [prompt, d_model]; biases only if given."""
    tokens = tokens.to(run.model.device)
    logits = normed @ run.model.W_U[:, tokens]
    return (logits if bias is None else logits + bias[tokens]).cpu()


def diagonal(table: Tensor) -> float:
    """Share of YYs whose highest year is YY itself; by chance 0.01."""
    return near_diagonal(table, 0)


def near_diagonal(table: Tensor, within: int = 10) -> float:
    """Share of YYs whose highest year is at most ``within`` years from YY; by chance about 0.2."""
    rows, YY = _rows(table)
    return _mean((rows.argmax(-1) - YY).abs() <= within)


def triangle(table: Tensor) -> float:
    """Share of YYs for which the mean over y > YY exceeds that over y <= YY; by chance 0.5.

    Also 1 where every row rises with the year, whatever YY is: see `beyond_mean_row`.
    """
    rows, YY = _rows(table)
    return _mean(step_height(rows, YY) > 0)


def step_correlation(table: Tensor) -> float:
    """Correlation over years of a row with a step from 0 to 1 at YY, mean over YYs; by chance 0.

    1 for a pure step, of which `beyond_mean_row` leaves 0.68. A row without variance counts as 0.
    """
    rows, YY = _rows(table)
    rows = rows - rows.mean(-1, keepdim=True)
    step = (torch.arange(100) > YY[:, None]).double()
    step = step - step.mean(-1, keepdim=True)
    norms = rows.norm(dim=-1) * step.norm(dim=-1)
    return _mean(torch.where(norms > 0, (rows * step).sum(-1) / norms, 0.0))


def band(table: Tensor, width: int = 50) -> float:
    """Share of YYs whose mean over YY < y <= YY + width exceeds that over later y; by chance 0.5.

    YYs without any later year do not count.
    """
    rows, YY = _rows(table)
    rows, YY = rows[YY + width < 99], YY[YY + width < 99][:, None]
    years = torch.arange(100)
    near, far = (years > YY) & (years <= YY + width), years > YY + width
    return _mean(_mean_where(rows, near) > _mean_where(rows, far))


def lens_numbers(tables: Mapping[str, Tensor]) -> pd.DataFrame:
    """All these numbers, one row per named table [YY, year]; "own" ones are `beyond_mean_row`."""
    columns = ["diagonal", "near diagonal", "triangle", "own triangle", "own step", "band"]
    rows = []
    for table in tables.values():
        own = beyond_mean_row(table)
        shares = (diagonal(table), near_diagonal(table), triangle(table), triangle(own))
        rows.append((*shares, step_correlation(own), band(table)))
    return pd.DataFrame(rows, index=list(tables), columns=columns)


def _rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """The rows [row, year] without NaN, and their YYs [row]."""
    if table.shape != (LAST_YY - FIRST_YY + 1, 100):
        raise ValueError(
            f"The table has the shape {list(table.shape)}; it must be [97, 100], rows YY 02 to 98, "
            "columns years 00 to 99, e.g. mean_by_YY(logit_lens(run, 'm10', years), YY)."
        )
    present = ~table.isnan().any(-1)
    return table[present].double(), torch.arange(FIRST_YY, LAST_YY + 1)[present]


def _mean_where(rows: Tensor, where: Tensor) -> Tensor:
    return (rows * where).sum(-1) / where.sum(-1)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())  # of nothing it is NaN


def processed_output(run: ActivationCache, name: str) -> Tensor:
    """What a component writes at END [prompt, d_model] once weights are processed.

    As TransformerLens does by default: what heads write whatever they attend to (the norm's and
    their own value bias, since attention sums to 1) moves to the layer's output bias, and every
    write is centred. The model's probabilities stay the same; what single components write does
    not. Raises ValueError as `written` does.
    """
    node, output = component(name), written(run, name)
    if node.kind == "head":
        block = run.model.blocks[node.layer]
        constant = block.b_V[node.head] + block.ln1.bias @ block.W_V[node.head]
        output = output - constant @ block.W_O[node.head]
    return run.model.ln_final.centre(output)
