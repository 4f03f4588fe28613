"""The report: one reproduction as a single HTML page that opens anywhere, without a network.

Here the values of its sections are prepared; ``data/templates`` holds their texts and layout.
Numbers are plain HTML tables and need no JavaScript; the figures are plotly's, inlined once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from torch import Tensor

from . import views
from .formatting import in_words, interval_in_words
from .metrics import FIRST_YY, mean_by_YY
from .model.components import END, component, inputs
from .patching.paper import circuit_senders, full_circuit, partial_circuit
from .scorecard import claims as card
from .scorecard.results import Results
from .scorecard.verdicts import reported_values

SLICE_YY = 41  # the paper's example
TOP = 10
_ZMAX = 0.25  # where the paper's colours end
_METRICS = {"prob_diff": "probability difference", "cutoff_sharpness": "cutoff sharpness"}


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
    about, parts = _about(results), results.parts
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
        prompts_of_YY=dict(sorted(Counter(results.YY.tolist()).items())),
        absent=[words for name, words in card.EVALUATIONS.items() if name not in tables],
        unswept=_unswept(results),
        parts=parts,
        edges=parts and (len(partial_circuit(parts)), len(full_circuit(parts))),
        reported=reported,
        zmax=f"{zmax:g}",
        headline=_headline(card.headline_numbers(results), reported),
        behaviour=_behaviour(results, tables, zmax),
        sweeps=sorted(_sweeps(results), key=lambda sweep: sweep["start"] != END),
        kept=_heatmaps("kept", tables, ("clean", "partial", "full"), zmax),
        reverse=_heatmaps("reverse", tables, ("reverse", "corrupted"), zmax),
        table=card.scorecard(results, card.measurable(results)),
    )


def write_scorecard(results: Results, table: pd.DataFrame, folder: Path) -> None:
    """Write a `scorecard` of these results as scorecard.csv, .txt and .html into a folder."""
    about = _about(results)
    head = [f"Model: {about['model']}. {card.RULE}", *filter(None, [about["other_model"]])]
    text = "\n".join([*head, "", card.to_text(table), ""])
    page = _render("scorecard_page.html", **about, table=table)
    table.to_csv(folder / "scorecard.csv", index=False)
    (folder / "scorecard.txt").write_text(text, encoding="utf-8")
    (folder / "scorecard.html").write_text(page, encoding="utf-8")


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
    found.globals |= {"rule": card.RULE, "sample_of": card.sample_of, "summary": card.summary}
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


def _unswept(results: Results) -> list[str]:
    """The sweeps that an interrupted run lacks."""
    parts, expected = results.parts, ["logits"]
    if parts is not None:
        expected += reversed(parts.mlps)
        if parts.heads:
            expected += ["q", "k", "v", *(f"{mlp}@YY" for mlp in reversed(parts.early_mlps))]
    return [name for name in expected if name not in results.sweeps]


# ---- the sections: their numbers and figures --------------------------------------------------


def _headline(numbers: pd.DataFrame, heading: str) -> dict[str, Any]:
    """The rows of `headline_numbers` with what is reported, and a figure of each metric."""
    if numbers.empty:
        return {}
    values = {
        claim["id"]: reported_values(claim)[0]
        for claim in card.claims()
        if claim["kind"] == "value"
    }
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
    """Every sweep with its strongest senders."""
    for name, sweep in results.sweeps.items():
        top = views.top_rows(sweep, results.parts, TOP)
        marked = circuit_senders(results.parts, sweep)
        yield {
            "start": component(sweep.senders[0]).position,
            "receivers": inputs(sweep.receivers),
            "via": inputs(sweep.via),
            "figure": _figure(views.sweep_heatmap(sweep, marked=marked), f"sweep-{name}"),
            "top": top.to_dict("records"),
            # so small that two digits would show nothing
            "digits": 2 if top["effect"].abs().max() >= 0.01 else 3,
        }


def _heatmaps(
    name: str,
    tables: Mapping[str, Float[Tensor, "YY year"]],
    evaluations: Sequence[str],
    zmax: float,
) -> str:
    """Heatmaps of these evaluations side by side, as far as they have finished."""
    titles = card.EVALUATIONS | {"reverse": "reverse"}  # of which circuit, the page has just said
    shown = {titles[one]: tables[one] for one in evaluations if one in tables}
    return _figure(views.year_heatmaps(shown, zmax), f"circuits-{name}") if shown else ""
