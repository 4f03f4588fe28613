"""Notebook 6, neurons and geometry: ranked effects, how many carry how much, PCA's panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from ..analysis.geometry import fit_pca, nearest_gap, read_stream
from ..analysis.neurons import Neurons, counts_up_to, neuron_ranking
from ..dataset.year_dataset import YearDataset
from ..formatting import in_words
from ..metrics import mean_by_YY
from ..model.cache import ActivationCache
from .kit import style
from .kit.explorer import Explorer, View, circuit_first
from .kit.html import html_table
from .lens import lens_heatmap, lens_table


def neuron_effects(effects: Float[Tensor, " neuron"], mlp: str) -> go.Figure:
    """Mean effect of every neuron against its rank by size, the ranks on a log axis.

    Effects are changes of the probability difference: red, below 0, is a neuron that helps.
    """
    values = 100 * style.array(effects)
    order = np.argsort(-np.abs(values), kind="stable")
    colours = np.where(values[order] < 0, style.COLOURS["corrupted"], style.COLOURS["clean"])
    figure = go.Figure(
        go.Scattergl(
            x=np.arange(1, len(order) + 1),
            y=values[order],
            mode="markers",
            customdata=order,
            marker={"size": 6, "color": colours},
            hovertemplate=f"{mlp} neuron %{{customdata}}<br>rank %{{x}}<br>%{{y:+.3f}} percentage "
            "points<extra></extra>",
        )
    )
    style.horizontal_lines(figure)
    y_title = "change in probability<br>difference (pp)"
    style.lay_out(figure, None, 860, 340, f"neurons of {mlp}, by size of effect", y_title)
    figure.update_xaxes(style.counts_axis(len(order)))
    return figure


def share_curves(
    counts: Sequence[int], shares: Mapping[str, Sequence[float]], mlp: str
) -> go.Figure:
    """Shares of an MLP's direct effect that its first k neurons carry, a line per way to count."""
    figure = style.lines(shares, counts, f"%{{x}} neurons<br>%{{y:.1%}} of {mlp}", "lines+markers")
    style.horizontal_lines(figure, 0, 1)
    titles = f"number of neurons of {mlp}", f"share of {mlp}’s direct effect"
    style.lay_out(figure, None, 860, 380, *titles, legend=True)
    figure.update_xaxes(style.counts_axis(counts[-1]))
    figure.update_yaxes(tickformat=".0%")
    return figure


def pca_panels(
    points: Mapping[str, Float[Tensor, "prompt component"]],
    explained: Mapping[str, Float[Tensor, " component"]],
    YY: Int[Tensor, " prompt"],
) -> go.Figure:
    """Prompts in the plane of the first two principal components, coloured by YY, a panel a place.

    ``explained`` are shares of variance by the same names. Every tenth YY is written beside a
    prompt of it.
    """
    years = YY.tolist()
    tenths = {*range(10, 99, 10), min(years), max(years)} & {*years}
    labelled = {years.index(year) for year in tenths}
    figure, places = style.panels(points, 2, panel=(325, 275), between=(90, 95))
    for place, (name, xy) in zip(places, points.items(), strict=True):
        x, y = style.array(xy)[:, :2].T
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers+text",
            text=[f"{year:02d}" if n in labelled else "" for n, year in enumerate(years)],
            customdata=years,
            marker={"size": 7, "color": years, "coloraxis": "coloraxis"},
            hovertemplate="YY = %{customdata:02d}<extra></extra>",
            **place,
        )
        shares = [f"{100 * float(share):.0f} %" for share in explained[name][:2]]
        figure.update_xaxes(title={"text": f"component 1 ({shares[0]} of variance)"}, **place)
        figure.update_yaxes(title={"text": f"component 2 ({shares[1]})"}, **place)
    scale = {"colorscale": "Viridis", "cmin": 2, "cmax": 98}
    figure.update_layout(coloraxis=scale, coloraxis_colorbar_title_text="start year YY")
    return figure


def neuron_explorer(neurons: Neurons, effects: Float[Tensor, "neuron prompt"]) -> Explorer:
    """Choose a rank and how many neurons from there on; see what they write for every YY.

    ``effects`` are those of `Neurons.effects`, which rank the neurons.
    """
    order, YY = neuron_ranking(effects), neurons.dataset.YY
    shown_as = {"logit lens": neurons.lens, "direct effect": neurons.year_effect}

    def draw(from_rank: int, how_many: int, shown: str) -> View:
        chosen = order[from_rank - 1 :][:how_many]
        cells = mean_by_YY(shown_as[shown](chosen), YY)
        last = from_rank - 1 + len(chosen)
        ranks = f"rank {from_rank}" if last == from_rank else f"ranks {from_rank} to {last}"
        title = f"{neurons.mlp}, {ranks} of {len(neurons)}: {shown}, less 00’s"
        joint = in_words(float(neurons.joint_effect(chosen).mean()), "points", 3)
        single = in_words(float(effects[chosen].mean(-1).sum()), "points", 3)
        head = ("neurons", "patched together", "single effects added up")
        listed = ", ".join(map(str, chosen[:10].tolist())) + (" …" if len(chosen) > 10 else "")
        note = "Changes of the probability difference; negative: the neurons help."
        text = html_table(head, [(listed, joint, single)], note) + lens_table({ranks: cells})
        return View(lens_heatmap(cells, title), text)

    return Explorer(
        draw,
        from_rank=widgets.IntSlider(1, 1, len(neurons)),
        how_many=counts_up_to(len(neurons)),
        shown=tuple(shown_as),
    )


def pca_explorer(
    fitted: ActivationCache, shown: ActivationCache, dataset: YearDataset, heads: Sequence[str]
) -> Explorer:
    """Choose a place at END or YY; see the prompts that PCA was not fitted on in its plane.

    ``shown`` holds the dataset's clean prompts, ``fitted`` others of the same template, both from
    the first position on; ``heads``, such as a circuit's, are listed first.
    """
    senders = [sender.label for sender in shown.model.shape(["END"]).senders("END")]
    inputs = [f"m{layer} input" for layer in range(shown.model.n_layers)]
    places = circuit_first(heads, [*inputs, *senders])

    def draw(place: str, position: str) -> View:
        name, _, word = place.partition(" ")
        at = f"{name}@{position} {word}".strip()
        train, test = (read_stream(cache, at, dataset.positions) for cache in (fitted, shown))
        pca = fit_pca(train)
        points, explained = pca.project(test), pca.explained(test)
        shares = [in_words(float(share), digits=0) for share in explained]
        row = (*shares, f"{nearest_gap(points, dataset.YY):.1f}")
        head = ("component 1", "component 2", "years to the nearest of another YY (chance: 33)")
        return View(pca_panels({at: points}, {at: explained}, dataset.YY), html_table(head, [row]))

    return Explorer(draw, place=places, position=("END", "YY"))
