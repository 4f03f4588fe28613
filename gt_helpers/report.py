"""The report: one reproduction as a single HTML page that opens anywhere, without a network.

Here the values of its sections are prepared; ``data/templates`` holds their texts and layout.
Numbers are plain HTML tables and need no JavaScript; the figures are plotly's, inlined once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from torch import Tensor

from . import views
from .formatting import in_words, interval_in_words
from .metrics import FIRST_YY, mean_by_YY
from .model.components import END, Input, component, inputs
from .patching.engine import Sweep
from .patching.paper import CircuitParts, circuit_senders, full_circuit, partial_circuit
from .scorecard import claims as card
from .scorecard.results import Results

SLICE_YY = 41  # the paper's example
TOP = 10
_ZMAX = 0.25  # where the paper's colours end
_METRICS = {"prob_diff": "probability difference", "cutoff_sharpness": "cutoff sharpness"}
_PARTS = {"q": "queries", "k": "keys", "v": "values"}


def write_report(results: Results, path: str | Path) -> Path:
    """Write the report of these results to ``path`` and return it; missing experiments are named.

    The page loads nothing from elsewhere. An existing file is replaced once the new one is whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(report_html(results), encoding="utf-8")
    part.replace(path)
    return path


def report_html(results: Results) -> str:
    """The whole report as one HTML text."""
    about = _about(results)
    tables = {
        name: mean_by_YY(found.probs, found.YY) for name, found in results.evaluations.items()
    }
    zmax = _ZMAX
    if "clean" in tables and about["other_model"]:
        zmax = views.year_heatmap(tables["clean"], zmax=None).layout.coloraxis.cmax
    reported = "reported (GPT-2 small)" if about["other_model"] else "reported"
    return _render(
        "report.html",
        **about,
        plotly=get_plotlyjs(),
        settings=results.settings,
        seconds=sum(results.seconds.values()),
        spread=_spread(results.YY),
        missing=_missing(results),
        parts=results.parts,
        reported=reported,
        zmax=f"{zmax:g}",
        headline=_headline(card.headline_numbers(results), reported),
        behaviour=_behaviour(results, tables, zmax),
        sweeps=list(_sweeps(results)),
        circuits=_circuits(results.parts, tables, zmax),
        scorecard=scorecard_html(card.scorecard(results, card.measurable(results))),
    )


def write_scorecard(results: Results, table: pd.DataFrame, folder: Path) -> None:
    """Write a `scorecard` of these results as scorecard.csv, .txt and .html into a folder."""
    about = _about(results)
    head = [f"Model: {about['model']}. {card.RULE}", *filter(None, [about["other_model"]])]
    text = "\n".join([*head, "", card.to_text(table), ""])
    page = _render("scorecard_page.html", **about, scorecard=scorecard_html(table))
    table.to_csv(folder / "scorecard.csv", index=False)
    (folder / "scorecard.txt").write_text(text, encoding="utf-8")
    (folder / "scorecard.html").write_text(page, encoding="utf-8")


def scorecard_html(table: pd.DataFrame) -> str:
    """A `scorecard` as an HTML table under its rule and the counts of its verdicts."""
    themes = [
        {"title": theme, "sample": card.sample_of(part), "claims": part.to_dict("records")}
        for theme, part in table.groupby("theme", sort=False)
    ]
    counts = table["verdict"].value_counts().to_dict()
    return _render("scorecard_table.html", verdicts=counts, rule=card.RULE, themes=themes)


# ---- templates --------------------------------------------------------------------------------


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("gt_helpers", "data/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {"in_words": in_words, "interval_in_words": interval_in_words}
    found.tests["nan"] = math.isnan
    return found


def _render(template: str, **values: object) -> str:
    return _templates().get_template(template).render(values)


def _figure(figure: go.Figure, name: str) -> str:
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{name}",
        # a page that works offline offers no upload of its charts either
        config={"displaylogo": False, "displayModeBar": "hover", "showSendToCloud": False},
    )
    return f"<figure>{html}</figure>"


# ---- the run: its model, its prompts, what it lacks -------------------------------------------


def _about(results: Results) -> dict[str, str]:
    """The model's name, and a sentence if it is another than the paper's."""
    model = str(results.settings.get("model", "unknown model"))
    other = (
        f"These numbers are about {model}, not GPT-2 small; the paper’s values are shown for "
        "orientation and are not comparable."
    )
    is_the_papers = results.settings.get("gpt2_small") is True
    return {"model": model, "other_model": "" if is_the_papers else other}


def _missing(results: Results) -> str:
    """What an interrupted run lacks, in words, or an empty string."""
    parts, expected = results.parts, ["logits"]
    if parts is not None:
        expected += reversed(parts.mlps)
        if parts.heads:
            expected += [*_PARTS, *(f"{mlp}@YY" for mlp in reversed(parts.early_mlps))]
    sweeps = [name for name in expected if name not in results.sweeps]
    evaluations = [card.EVALUATIONS[n] for n in card.EVALUATIONS if n not in results.evaluations]
    missing = [f"evaluations: {', '.join(evaluations)}"] if evaluations else []
    missing += [f"sweeps: {', '.join(sweeps)}"] if sweeps else []
    missing += ["the choice of the circuit"] if parts is None else []
    return "; ".join(missing)


def _spread(YY: Int[Tensor, " prompt"]) -> str:
    """How the prompts are spread over the YYs, in words, or an empty string for none."""
    if not len(YY):
        return ""
    found, counts = YY.unique(return_counts=True)
    least, most = int(counts.min()), int(counts.max())
    each = f"{least} to {most} prompts each" if least < most else f"{most} of each"
    return f"{len(found)}, from {found[0]:02d} to {found[-1]:02d}; {each}"


# ---- the sections: their numbers and figures --------------------------------------------------


def _headline(numbers: pd.DataFrame, heading: str) -> dict[str, Any]:
    """The rows of `headline_numbers` with what is reported, and a figure of each metric."""
    if numbers.empty:
        return {}
    values = {claim["id"]: claim["value"] for claim in card.claims() if claim["kind"] == "value"}
    numbers["label"] = numbers["evaluation"].map(card.EVALUATIONS)
    figures = []
    for metric, title in _METRICS.items():
        ids = numbers["evaluation"] + f"_{metric}"  # of the claims that report these means
        numbers[f"{metric}_reported"] = ids.map(values).astype(float)
        columns = {f"{metric}_{name}": name for name in ("low", "high", "reported")}
        frame = numbers.rename(columns={metric: "measured", **columns})
        plot = views.interval_plot(frame, title, reported=heading)
        figures.append(_figure(plot, f"headline-{metric}"))
    return {"rows": numbers.to_dict("records"), "figures": figures}


def _behaviour(
    results: Results, tables: Mapping[str, Float[Tensor, "YY year"]], zmax: float
) -> dict[str, Any]:
    if "clean" not in tables:
        return {}
    clean = tables["clean"]
    has_prompts = ~clean[:, 0].isnan()
    present = has_prompts.nonzero().flatten() + FIRST_YY
    YY = int(present[(present - SLICE_YY).abs().argmin()])
    gap = None
    if results.softmax_of_mean is not None:
        cells = (results.softmax_of_mean.double() - clean.double()).abs()
        gap = 100 * float(cells.nan_to_num(0.0).max())
    curves = {
        f"{name} prompts": tables[name][YY - FIRST_YY]
        for name in ("clean", "corrupted")
        if name in tables
    }
    lines = {
        name: mean_by_YY(found.prob_diff, found.YY) for name, found in results.evaluations.items()
    }
    return {
        "blank": int((~has_prompts).sum()),
        "gap": gap,  # percentage points
        "YY": f"{YY:02d}",
        "heatmap": _figure(views.year_heatmap(clean, zmax=zmax), "behaviour-heatmap"),
        "slice": _figure(views.year_curve(curves, YY), "behaviour-slice"),
        "by_YY": _figure(views.metric_by_YY(lines), "behaviour-by-YY"),
    }


def _sweeps(results: Results) -> Iterator[dict[str, Any]]:
    """Every sweep with its strongest senders, those with senders at END first."""
    corruption = results.settings["corruption"]
    for name, sweep in sorted(results.sweeps.items(), key=lambda item: _from(item[1]) != END):
        top = views.top_rows(sweep, results.parts, TOP)
        marked = circuit_senders(results.parts, sweep)
        yield {
            "title": route_title(sweep),
            "route": route_in_words(sweep, corruption),
            "figure": _figure(views.sweep_heatmap(sweep, marked=marked), f"sweep-{name}"),
            "top": top.to_dict("records"),
            # so small that two digits would show nothing
            "digits": 2 if top["effect"].abs().max() >= 0.01 else 3,
        }


def _circuits(
    parts: CircuitParts | None, tables: Mapping[str, Float[Tensor, "YY year"]], zmax: float
) -> dict[str, Any]:
    def heatmaps(name: str, *evaluations: str) -> str | None:
        shown = {
            card.EVALUATIONS[one].removesuffix(" of the partial circuit"): tables[one]
            for one in evaluations
            if one in tables
        }
        return _figure(views.year_heatmaps(shown, zmax), f"circuits-{name}") if shown else None

    return {
        "edges": [] if parts is None else [len(partial_circuit(parts)), len(full_circuit(parts))],
        "kept": heatmaps("kept", "clean", "partial", "full"),
        "reverse": heatmaps("reverse", "reverse", "corrupted"),
        "absent": [card.EVALUATIONS[name] for name in card.EVALUATIONS if name not in tables],
    }


# ---- routes in words --------------------------------------------------------------------------


def route_title(sweep: Sweep) -> str:
    """A sweep's heading, e.g. "END → m9" or "YY → values of the circuit’s heads"."""
    first = inputs(sweep.receivers)[0]
    to = f"{_PARTS[first.part]} of the circuit’s heads" if first.part else _place(first)
    return f"{_from(sweep)} → {to}"


def route_in_words(sweep: Sweep, corruption: str = "01") -> str:
    """One sentence on what a sweep patches: base run, sender position, receivers, and via."""
    receivers, via = inputs(sweep.receivers), inputs(sweep.via)
    start = (
        f"The base run is clean; each component at {_from(sweep)} in turn sends its value of the "
        f"{corruption} run"
    )
    if receivers[0].component.kind == "logits":
        return f"{start} directly to the logits, and to nothing else."
    are = "it is" if len(receivers) == 1 else "they are"
    patched = f"{start} to {_group(receivers)} only; {are} recomputed, and the change flows on"
    if receivers[0].component.position == END:
        return f"{patched} directly to the logits{f' and through {_group(via)}' if via else ''}."
    # what MLPs at YY write gets to END only through heads that read there
    heads, rest = ([one for one in via if bool(one.part) is is_head] for is_head in (True, False))
    onward = f", and from these heads to the logits, directly and through {_group(rest)}"
    return f"{patched} to {_group(heads or via)}{onward if rest else ''}."


def _from(sweep: Sweep) -> str:
    """The position that a sweep's senders write at."""
    return component(sweep.senders[0]).position


def _group(receivers: Sequence[Input]) -> str:
    """Inputs of one kind in words: "m10 and m11", "the values at YY of a5.h1 and a9.h1"."""
    part, row = receivers[0].part, receivers[0].row
    start = f"the {_PARTS[part]}{f' at {row}' if row else ''} of " if part else ""
    *rest, last = map(_place, receivers)
    return start + (f"{', '.join(rest)} and {last}" if rest else last)


def _place(receiver: Input) -> str:
    node = receiver.component
    if node.kind == "logits":
        return "the logits"
    return node.label if node.position == END else f"{node.label} at {node.position}"
