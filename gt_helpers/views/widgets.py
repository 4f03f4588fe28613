"""The notebooks' explorers, one function each: controls over the package's functions and figures.

Nothing new is computed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from typing import Any

import ipywidgets as widgets
import pandas as pd
import torch
from torch import Tensor

from ..analysis.attention import attention_pattern
from ..analysis.generalization import FamilyStudy, family_summary, study_family
from ..analysis.geometry import fit_pca, nearest_gap, read_stream
from ..analysis.logit_lens import beyond_mean_row, direct_effect, logit_lens, relative_to_00
from ..analysis.neurons import Neurons, counts_up_to, neuron_ranking
from ..dataset.corruptions import CORRUPTIONS
from ..dataset.families import FAMILIES, PromptFamily
from ..dataset.prompts import YEAR_STRINGS, load_nouns
from ..dataset.year_dataset import YearDataset
from ..differences.choices import CHOICES, REFERENCE
from ..differences.comparison import Comparison
from ..differences.diagnosis.dataset import diagnose
from ..differences.diagnosis.examples import MISTAKES
from ..edges.discovery import FoundCircuit, agreement, greedy_edges
from ..edges.quality import faithfulness
from ..edges.scores import EdgeScores
from ..formatting import in_words
from ..metrics import cutoff_sharpness, mean_by_YY, per_YY_probs, prob_diff
from ..model.cache import ActivationCache
from ..model.transformer import Transformer
from ..patching.circuits import Circuit
from ..patching.engine import Evaluation, PathPatching
from ..patching.paper import CircuitParts, full_circuit, partial_circuit
from ..patching.preview import Preview
from ..scorecard.claims import VERDICTS, scorecard
from ..scorecard.results import Results
from .attention import pattern_heatmap
from .choices import effects_against
from .claims import interval_plot, scorecard_plot
from .kit.drawing import circuit_svg, edges_svg
from .kit.explorer import Explorer, View
from .lens import lens_heatmap
from .neurons import pca_panels
from .sweeps import sweep_heatmap
from .tables import (
    agreement_table,
    beside_the_paper,
    choice_scores,
    diagnosis_table,
    family_recovery,
    headline_table,
    html_table,
    lens_table,
    quality_table,
    token_table,
    top_components,
)
from .years import year_curve, year_heatmaps


def prompt_tracer(model: Transformer) -> Explorer:
    """Choose noun, start year and corruption; see both prompts and the model's end years."""

    def draw(noun: str, year: int, corruption: str) -> View:
        other = next(word for word in load_nouns() if word != noun)  # for the corruption "noun"
        drawn = YearDataset(
            model.tokenizer, 16, years=[year], nouns=[noun, other], corruption=corruption
        )
        dataset = drawn[drawn.nouns.index(noun)]
        patching = PathPatching(model, dataset)
        runs = {"clean": patching.base_probs, "corrupted": patching.patch_probs}
        rows = [
            (
                f"<b>{name}</b>",
                escape(text),
                f"{YEAR_STRINGS[int(probs[0].argmax())]} ({float(probs.max()):.1%})",
                in_words(float(prob_diff(probs, dataset.YY)), digits=1),
            )
            for (name, probs), text in zip(
                runs.items(), (dataset.clean_text[0], dataset.corrupted_text[0]), strict=True
            )
        ]
        head = ("", "prompt", "top end year", f"probability difference for YY = {year % 100:02d}")
        figure = year_curve({name: probs[0] for name, probs in runs.items()}, year % 100)
        return View(figure, html_table(head, rows) + token_table(dataset, 0, model.tokenizer))

    return Explorer(
        draw,
        {
            "noun": widgets.Dropdown(options=load_nouns(), value="plague", description="noun"),
            "year": widgets.IntSlider(
                1732, 1000, 1899, description="start year", continuous_update=False
            ),
            "corruption": widgets.Dropdown(options=list(CORRUPTIONS), description="corruption"),
        },
    )


_FEW = 32  # prompts that are enough to look at without a GPU


def _spread(n: int, some: int) -> Tensor:
    """Some of n prompts, evenly spread, so that they cover all YY."""
    return torch.linspace(0, n - 1, some).round().long()


_METRICS = {"probability difference": prob_diff, "cutoff sharpness": cutoff_sharpness}


def path_explorer(patching: PathPatching, parts: CircuitParts) -> Explorer:
    """Choose a route, the senders' position, the direction and the metric; see the sweep.

    Sweeps are previews: their error, measured on a sample of exact cells, stands below.
    """
    routes, n = _routes(parts), len(patching.dataset)
    kept = {n: Preview.of(patching)}  # by number of prompts: all, and the last smaller choice
    if patching.base != "clean":
        kept[n] = Preview.of(patching.reversed())

    def some(prompts: int) -> Preview:
        if prompts not in kept:
            for number in kept.keys() - {n}:
                del kept[number]
            kept[prompts] = Preview(patching.model, patching.dataset.take(_spread(n, prompts)))
        return kept[prompts]

    def draw(
        receivers: str, via: str, senders_at: str, direction: str, metric: str, prompts: int
    ) -> View:
        chosen = some(prompts) if direction == "noising" else some(prompts).reversed()
        chosen.forget()
        sweep = chosen.sweep(_names(receivers), _names(via), senders_at, _METRICS[metric])
        marked = [*parts.heads, *parts.mlps] if senders_at == "END" else parts.readers_of_YY
        text = top_components(sweep, parts) + f"<p><small>{chosen.note()}</small></p>"
        return View(sweep_heatmap(sweep, marked=marked), text)

    wide = widgets.Layout(width="420px")
    controls: dict[str, Any] = {
        "receivers": widgets.Text("logits", description="receivers", continuous_update=False),
        "via": widgets.Text("", description="via", continuous_update=False, layout=wide),
        "senders_at": widgets.Dropdown(
            options=list(patching.dataset.positions), value="END", description="senders at"
        ),
        "direction": widgets.ToggleButtons(
            options=["noising", "denoising"], description="direction"
        ),
        "metric": widgets.Dropdown(options=list(_METRICS), description="metric"),
        "prompts": widgets.IntSlider(
            n if patching.model.device.type == "cuda" else min(n, _FEW),
            1,
            n,
            description="prompts",
            continuous_update=False,
        ),
    }
    own = "(as typed below)"
    route = widgets.Dropdown(options=[*routes, own], description="route", layout=wide)
    explorer = Explorer(draw, controls)
    fields = [controls[name] for name in ("receivers", "via", "senders_at")]

    def fill_in(change: dict[str, Any]) -> None:
        for field, value in zip(fields, routes.get(change["new"], ()), strict=False):
            field.value = value

    def follow(change: dict[str, Any]) -> None:  # so that every route can be chosen again
        chosen = routes.get(route.value)
        if chosen and change["new"] != chosen[fields.index(change["owner"])]:
            route.value = own

    route.observe(fill_in, names="value")
    for field in fields:
        field.observe(follow, names="value")
    explorer.children = (route, *explorer.children)
    return explorer


def _routes(parts: CircuitParts) -> dict[str, tuple[str, str, str]]:
    """The paper's sweeps by name: receivers, via and the senders' position, as one types them."""
    late = list(parts.mlps)
    routes = {"to the logits": ("logits", "", "END")}
    for mlp in reversed(late):
        routes[f"to {mlp}"] = (mlp, ", ".join(late[late.index(mlp) + 1 :]), "END")
    if not parts.heads:
        return routes
    for part, word in (("q", "queries"), ("k", "keys"), ("v", "values")):
        heads = ", ".join(f"{head}.{part}" for head in parts.heads)
        routes[f"from YY to the heads' {word}"] = (heads, ", ".join(late), "YY")
    values = ", ".join([*(f"{head}.v[YY]" for head in parts.heads), *late])
    for mlp in reversed(parts.early_mlps):
        routes[f"from YY to {mlp} at YY"] = (f"{mlp}@YY", values, "YY")
    return routes


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _circuit_first(circuit: Sequence[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """A dropdown's labels and values: the circuit's names, marked so, then the others."""
    marked = [(f"{name} (circuit)", name) for name in circuit]
    return [*marked, *((name, name) for name in others if name not in circuit)]


_WEIGHTINGS = {"attention": False, "attention × norm moved": True}


def attention_explorer(
    run: ActivationCache, dataset: YearDataset, heads: Sequence[str] = ()
) -> Explorer:
    """Choose a head, plain or value-weighted attention and some YYs; see the mean pattern.

    ``run`` holds the dataset's clean prompts; ``heads``, such as a circuit's, are listed first.
    """
    names = list(dataset.positions)
    decades = {
        f"{YY:02d} to {YY + 9:02d}": (dataset.YY // 10 == YY // 10) for YY in range(0, 99, 10)
    }
    prompts = {"all": dataset.YY >= 0, **{name: d for name, d in decades.items() if d.any()}}

    def draw(head: str, shown: str, YY: str) -> View:
        chosen = prompts[YY]
        pattern = attention_pattern(run, head, _WEIGHTINGS[shown])[chosen].mean(0)
        rows = [
            (names[key], f"{float(pattern[-1, key]):.3f}")
            for key in pattern[-1].argsort(descending=True)[:5].tolist()
        ]
        title = f"{head}, mean over {int(chosen.sum())} prompts"
        zmax = None if _WEIGHTINGS[shown] else 1.0
        figure = pattern_heatmap(pattern, names, title, zmax, shown)
        return View(figure, html_table(("END looks at", shown), rows))

    others = [f"a{i}.h{j}" for i in range(run.model.n_layers) for j in range(run.model.n_heads)]
    listed = _circuit_first(heads, others)
    return Explorer(
        draw,
        {
            "head": widgets.Dropdown(options=listed, description="head"),
            "shown": widgets.Dropdown(options=list(_WEIGHTINGS), description="shown"),
            "YY": widgets.Dropdown(options=list(prompts), description="prompts YY"),
        },
    )


_LENSES = {"logit lens": logit_lens, "direct effect": direct_effect}
_SHOWN = {
    "as it is": lambda logits: logits,
    "relative to 00": relative_to_00,
    "without its mean row": beyond_mean_row,
}


def lens_explorer(
    run: ActivationCache, dataset: YearDataset, names: Sequence[str] = ()
) -> Explorer:
    """Choose a component, a lens and what it is shown relative to; see the years it writes.

    ``run`` holds the dataset's clean prompts; ``names``, such as a circuit's, are listed first.
    """

    def draw(component: str, lens: str, shown: str) -> View:
        logits = _LENSES[lens](run, component, dataset.year_tokens)
        cells = _SHOWN[shown](mean_by_YY(logits, dataset.YY))
        label = "logit" if lens == "logit lens" else "part of the logit"
        figure = lens_heatmap(cells, f"{component}: {lens}, {shown}", label=label)
        return View(figure, lens_table({component: cells}))

    others = [node.label for node in run.model.shape(["END"]).senders("END")]
    listed = _circuit_first(names, others)
    return Explorer(
        draw,
        {
            "component": widgets.Dropdown(options=listed, description="component"),
            "lens": widgets.ToggleButtons(options=list(_LENSES), description="lens"),
            "shown": widgets.Dropdown(options=list(_SHOWN), description="shown"),
        },
    )


_SENT = {"clean values into the corrupted run": 0, "corrupted values into the clean run": 1}


def circuit_builder(patching: PathPatching, parts: CircuitParts) -> Explorer:
    """Switch components and edges of a circuit off, or add edges; see how well it does, and it."""
    noising = patching if patching.base == "clean" else patching.reversed()
    partial, full = partial_circuit(parts), full_circuit(parts)
    starts = {"partial circuit": partial, "full circuit": full, "no edges": Circuit()}
    engines = (noising.reversed(), noising)
    runs = {"corrupted": engines[0].base_log_probs, "clean": noising.base_log_probs}
    YY, positions = patching.dataset.YY, patching.dataset.positions

    def draw(start: str, sends: str, without: Sequence[str], cut: Sequence[str], add: str) -> View:
        circuit = starts[start]
        for off in (without, cut):
            circuit = circuit.without(*{*off} & {*circuit.components, *circuit.links})
        circuit |= Circuit([e for e in Circuit(_names(add)).edges if e not in circuit.edges])
        name = "reverse of this circuit" if _SENT[sends] else "this circuit"
        answers = runs | {name: engines[_SENT[sends]].evaluate(circuit).log_probs}
        results = Results({}, YY, evaluations={k: Evaluation(k, v, YY) for k, v in answers.items()})
        heatmaps = {k: per_YY_probs(answers[k], YY) for k in ("clean", name)}
        drawing = circuit_svg(circuit, positions=positions)
        return View(year_heatmaps(heatmaps, zmax=None), headline_table(results) + drawing)

    wide = widgets.Layout(width="330px")
    controls = {
        "start": widgets.Dropdown(options=list(starts), description="start from"),
        "sends": widgets.Dropdown(options=list(_SENT), description="it sends", layout=wide),
        "without": widgets.SelectMultiple(
            options=[name for name in full.components if name != "logits"],
            description="without",
            rows=9,
        ),
        "cut": widgets.SelectMultiple(
            options=full.links, description="cut edges", rows=9, layout=wide
        ),
        "add": widgets.Text(
            description="add edges",
            placeholder="a9.h1 -> m9, m9 -> logits",
            continuous_update=False,
            layout=wide,
        ),
    }
    return Explorer(draw, controls)


def family_explorer(
    model: Transformer, parts: CircuitParts, tasks: Iterable[PromptFamily] = (), seed: int = 0
) -> Explorer:
    """Choose a prompt family and what is shown of it: end years, or a sweep into the circuit.

    ``tasks`` are families of one's own, listed before the ten.
    """
    known = {task.name: task for task in (*tasks, *FAMILIES.values())}
    late = list(parts.mlps)
    # The runs of a family take much memory: only those of the one on show are kept.
    kept: dict[str, tuple[PathPatching, FamilyStudy]] = {}

    def of(family: str) -> tuple[PathPatching, FamilyStudy]:
        if family not in kept:
            kept.clear()
            patching = PathPatching(model, known[family].dataset(model.tokenizer, seed=seed))
            kept[family] = patching, study_family(known[family], patching, parts)
        return kept[family]

    def draw(family: str, shown: str) -> View:
        patching, found = of(family)
        text = family_recovery(family_summary([found])) + token_table(
            found.dataset, 0, model.tokenizer
        )
        if shown == "end years":
            names = {"clean": "model", "partial": "circuit alone", "reverse": "circuit impaired"}
            answers = {
                name: per_YY_probs(found.log_probs[run], found.dataset.YY)
                for run, name in names.items()
            }
            return View(year_heatmaps(answers, zmax=None), text)
        sweep, receiver = found.sweep, shown.removeprefix("into ")
        if receiver in late:
            higher = late[late.index(receiver) + 1 :]
            sweep = patching.sweep(receiver, higher, metric=found.task.metric)
        figure = sweep_heatmap(sweep, f"{family}: {shown}", marked=[*parts.heads, *late])
        return View(figure, top_components(sweep, parts) + text)

    views = ["end years", "into the logits", *(f"into {mlp}" for mlp in reversed(late))]
    return Explorer(
        draw,
        {
            "family": widgets.Dropdown(options=list(known), description="family"),
            "shown": widgets.Dropdown(options=views, description="shown"),
        },
    )


def choice_explorer(comparison: Comparison) -> Explorer:
    """Choose a choice and a sweep; see every sender's effect against the reference's, in words."""
    summary = comparison.summary().set_index("choice")
    correlations, _, details = comparison.matrix()

    def draw(choice: str, sweep: str) -> View:
        text = f"<p><b>{escape(choice)}</b>: {escape(summary['words'][choice])}</p>"
        text += choice_scores(comparison, [choice])
        if sweep not in comparison.outcomes[choice][0].effects:
            note = f"<p>With this choice there is no sweep into {escape(sweep)}.</p>"
            return View(None, note + text)
        r, detail = correlations[sweep][choice], escape(details[sweep][choice])
        text = f"<p>Into {escape(sweep)} the correlation is {r} ({detail}).</p>" + text
        share = CHOICES[choice].unit == "share"
        figure = effects_against(
            comparison.senders(sweep),
            comparison.effects(REFERENCE.name, sweep).tolist(),
            comparison.effects(choice, sweep).tolist(),
            comparison.members(sweep),
            f"{choice}: into {sweep}",
            "percentage points" if share else "logits",
        )
        return View(figure, text)

    return Explorer(
        draw,
        {
            "choice": widgets.Dropdown(options=list(summary.index), description="choice"),
            "sweep": widgets.Dropdown(options=comparison.sweeps, description="sweep"),
        },
    )


def mistake_explorer(model: Transformer, dataset: YearDataset) -> Explorer:
    """Choose a mistake to plant in a correct dataset; see what `diagnose` says, and the scores."""

    def draw(mistake: str) -> View:
        planted = MISTAKES[mistake](dataset) if mistake in MISTAKES else {"data": dataset}
        diagnosis = diagnose(model=model, **planted)
        given, paper, _ = diagnosis.scores.to_dict("records")
        scores = pd.DataFrame(
            [
                (side, given[side], given[f"{side}_low"], given[f"{side}_high"], paper[side])
                for side in ("clean", "corrupted")
            ],
            columns=["label", "measured", "low", "high", "reported"],
        )
        figure = interval_plot(
            scores, "probability difference", f"With: {mistake}", "built as in the paper"
        )
        return View(figure, diagnosis_table(diagnosis))

    options = [*MISTAKES, "no mistake"]
    return Explorer(draw, {"mistake": widgets.Dropdown(options=options, description="mistake")})


_DRAWN = 300  # edges, of which more cannot be told apart


def discovery_explorer(
    patching: PathPatching,
    scores: Sequence[EdgeScores],
    circuits: Mapping[str, Circuit] | None = None,
) -> Explorer:
    """Choose a method and a number of edges; see the circuit, what it recovers, and its agreement.

    Scores give a greedy circuit of so many edges, a `FoundCircuit` its strongest ones; any other
    of the named ``circuits`` is shown whole. Without a GPU some of the prompts are evaluated.
    """
    rankings, given = {one.method: one for one in scores}, dict(circuits or {})
    graph, n = scores[0].graph, len(patching.dataset)
    few = patching
    if n > _FEW and patching.model.device.type != "cuda":
        few = PathPatching(patching.model, patching.dataset.take(_spread(n, _FEW)))

    @cache
    def circuit_of(method: str, edges: int) -> Circuit | Tensor:
        if method in rankings:
            return greedy_edges(rankings[method], edges)
        found = given[method]
        return found.strongest(edges) if isinstance(found, FoundCircuit) else found

    @cache
    def measured(method: str, edges: int) -> pd.DataFrame:
        return faithfulness(few, graph, {method: circuit_of(method, edges)})

    def drawing(method: str, edges: int) -> str:
        circuit, positions = circuit_of(method, min(edges, _DRAWN)), graph.shape.positions
        if not isinstance(circuit, Circuit):
            mean = rankings[method].mean
            drawn = circuit.nonzero().flatten().tolist()
            return edges_svg(graph, circuit, {graph.names[n]: float(mean[n]) for n in drawn})
        if len(circuit.links) > _DRAWN:
            return edges_svg(graph, graph.edges_of(circuit))
        effects = {}
        if isinstance(circuit, FoundCircuit):
            table = circuit.to_frame()
            effects = dict(zip(table["edge"], table["effect"], strict=True))
        return circuit_svg(circuit, effects, positions=positions)

    def draw(method: str, edges: int, against: str) -> View:
        ours, theirs = (circuit_of(name, edges) for name in (method, against))
        note = f"Measured on {len(few.dataset)} prompts; at most {edges:,} edges, but for circuits "
        note += (
            "that are given whole. The drawing's colours and numbers are the method's own scores"
        )
        note += f"; it stops at {_DRAWN} edges." if edges > _DRAWN else "."
        both = pd.concat([measured(name, edges) for name in dict.fromkeys((method, against))])
        quality = quality_table(both, note)
        shared = agreement_table(agreement(graph, ours, theirs), method, against)
        return View(None, quality + shared + drawing(method, edges))

    counts = [count for count in counts_up_to(len(graph)) if count >= 10]
    return Explorer(
        draw,
        {
            "method": widgets.Dropdown(options=[*rankings, *given], description="method"),
            "edges": widgets.Dropdown(
                options=[(f"{count:,}", count) for count in counts],
                value=min(100, counts[-1]),
                description="edges",
            ),
            "against": widgets.Dropdown(options=[*given, *rankings], description="against"),
        },
    )


def neuron_explorer(neurons: Neurons, effects: Tensor) -> Explorer:
    """Choose a rank and how many neurons from there on; see what they write for every YY.

    ``effects`` [neuron, prompt] are those of `Neurons.effects`, which rank the neurons.
    """
    order, YY = neuron_ranking(effects), neurons.dataset.YY
    shown_as = {"logit lens": neurons.lens, "direct effect": neurons.year_effect}

    def draw(rank: int, number: int, shown: str) -> View:
        chosen = order[rank - 1 : rank - 1 + number]
        cells = mean_by_YY(shown_as[shown](chosen), YY)
        last = rank - 1 + len(chosen)
        ranks = f"rank {rank}" if last == rank else f"ranks {rank} to {last}"
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
        {
            "rank": widgets.IntSlider(
                1, 1, len(neurons), description="from rank", continuous_update=False
            ),
            "number": widgets.Dropdown(
                options=counts_up_to(len(neurons)), value=1, description="how many"
            ),
            "shown": widgets.ToggleButtons(options=list(shown_as), description="shown"),
        },
    )


def pca_explorer(
    fitted: ActivationCache, shown: ActivationCache, dataset: YearDataset, heads: Sequence[str]
) -> Explorer:
    """Choose a place at END or YY; see the prompts that PCA was not fitted on in its plane.

    ``shown`` holds the dataset's clean prompts, ``fitted`` others of the same template, both from
    the first position on; ``heads``, such as a circuit's, are listed first.
    """
    model = shown.model
    others = [f"a{i}.h{j}" for i in range(model.n_layers) for j in range(model.n_heads)]
    inputs = [f"m{i} input" for i in range(model.n_layers)]
    mlps = [f"m{i}" for i in range(model.n_layers)]
    names = [*(f"{name} (circuit)" for name in heads), *inputs, *mlps, *others, "embed"]

    def draw(place: str, position: str) -> View:
        name, _, word = place.removesuffix(" (circuit)").partition(" ")
        at = f"{name}@{position} {word}".strip()
        train, test = (read_stream(run, at, dataset.positions) for run in (fitted, shown))
        pca = fit_pca(train)
        points, explained = pca.project(test), pca.explained(test)
        rows = [
            (
                *(in_words(float(share), digits=0) for share in explained),
                f"{nearest_gap(points, dataset.YY):.1f}",
            )
        ]
        head = ("component 1", "component 2", "years to the nearest of another YY (chance: 33)")
        return View(pca_panels({at: points}, {at: explained}, dataset.YY), html_table(head, rows))

    return Explorer(
        draw,
        {
            "place": widgets.Dropdown(options=names, description="place"),
            "position": widgets.ToggleButtons(options=["END", "YY"], description="position"),
        },
    )


def scorecard_explorer(results: Results) -> Explorer:
    """Choose a theme and a verdict; see these claims beside what the results show."""
    card = scorecard(results)

    def draw(theme: str, verdict: str) -> View:
        shown = card[card["theme"].isin([theme] if theme != "all" else card["theme"])]
        shown = shown[shown["verdict"].isin([verdict] if verdict != "all" else VERDICTS)]
        if shown.empty:
            return View(None, "No claim has this theme and this verdict.")
        values = shown.dropna(subset=["reported", "measured"])
        figure = scorecard_plot(shown) if "share" in set(values["unit"]) else None
        return View(figure, beside_the_paper(results, shown["id"]))

    themes = ["all", *card["theme"].unique()]
    return Explorer(
        draw,
        {
            "theme": widgets.Dropdown(options=themes, value=themes[1], description="theme"),
            "verdict": widgets.Dropdown(options=["all", *VERDICTS], description="verdict"),
        },
    )
