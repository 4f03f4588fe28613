"""The report: one reproduction as a single HTML page that opens anywhere, without a network.

Numbers are plain HTML tables and need no JavaScript; the figures are plotly's, inlined once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.offline import get_plotlyjs
from torch import Tensor

from . import views as plots
from .formatting import in_words, interval_in_words
from .metrics import mean_by_YY, per_YY_probs
from .model.components import END, Input, component, inputs
from .patching.engine import Sweep
from .patching.paper import circuit_senders, full_circuit, partial_circuit
from .scorecard.claims import (
    EVALUATIONS,
    RULE,
    claims,
    headline_numbers,
    measurable,
    sample_of,
    scorecard,
    to_text,
)
from .scorecard.results import Results

SLICE_YY = 41  # the paper's example
TOP = 10
_PARTS = {"q": "queries", "k": "keys", "v": "values"}


def write_report(results: Results, path: str | Path) -> Path:
    """Write the report of these results to ``path`` and return it; missing experiments are named.

    The page loads nothing from elsewhere. An existing file is replaced once the new one is whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(report_html(results), encoding="utf-8")
    temporary.replace(path)
    return path


def report_html(results: Results) -> str:
    """The whole report as one HTML text."""
    page = _Page(results)
    sections = [
        ("headline", "Headline numbers", page.headline),
        ("data", "The prompts", page.data),
        ("behaviour", "What the model does", page.behaviour),
        ("sweeps", "Path patching", page.sweeps),
        ("circuits", "The circuits", page.circuits),
        ("scorecard", "Scorecard", page.scorecard),
        ("notes", "Notes", page.notes),
    ]
    contents = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{title}</h2>{write()}</section>'
        for name, title, write in sections
    )
    model = escape(str(results.settings.get("model", "unknown model")))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Greater-than: {model}</title><style>{_CSS}</style>"
        f"<script>{get_plotlyjs()}</script></head>\n<body><main>{page.opening()}"
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>{body}</main></body></html>\n'
    )


def write_scorecard(results: Results, table: pd.DataFrame, folder: Path) -> None:
    """Write a `scorecard` of these results as scorecard.csv, .txt and .html into a folder."""
    model = str(results.settings.get("model", "unknown model"))
    about = f"Model: {model}. {RULE}\n"
    if results.settings.get("gpt2_small") is not True:
        about += _OTHER_MODEL.format(model=model) + "\n"
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Scorecard: {escape(model)}</title><style>{_CSS}</style></head>\n<body><main>"
        f"<header><h1>{escape(model)}</h1>{_banner(results)}</header><h2>Scorecard</h2>"
        f"{scorecard_html(table)}</main></body></html>\n"
    )
    for name, text in (
        ("scorecard.csv", table.to_csv(index=False)),
        ("scorecard.txt", f"{about}\n{to_text(table)}\n"),
        ("scorecard.html", page),
    ):
        (folder / name).write_text(text, encoding="utf-8")


def scorecard_html(table: pd.DataFrame) -> str:
    """A `scorecard` as an HTML table under its rule and the counts of its verdicts."""
    counts = table["verdict"].value_counts()
    summary = ", ".join(f"{verdict}: <b>{count}</b>" for verdict, count in counts.items())
    rows, theme = [], ""
    for row in table.itertuples():
        if row.theme != theme:
            theme = str(row.theme)
            sample = sample_of(table[table["theme"] == theme])
            on = f"<div class='small dim'>measured on {escape(sample)}</div>" if sample else ""
            rows.append(f"<tr class='theme'><th colspan='5'>{escape(theme)}{on}</th></tr>")
        digits = {"points": 2, "share": 1, "number": 3}[str(row.unit)]
        low_high = interval_in_words(row.low, row.high, row.unit, digits)
        rows.append(
            f"<tr><td>{escape(row.claim)}<div class='small dim'>{escape(row.source)}</div></td>"
            f"<td class='num'>{escape(row.paper)}</td>"
            f"<td class='num'>{in_words(row.measured, row.unit, digits)}"
            f"<div class='small dim'>{low_high if low_high != '–' else ''}</div></td>"
            f"<td class='verdict {row.verdict.replace(' ', '-')}'>{row.verdict}</td>"
            f"<td class='small'>{escape(row.detail)}</td></tr>"
        )
    return (
        f"<p>Verdicts: {summary}. {escape(RULE)} The paper’s values were collected from texts "
        "that quote it, which is why each says how sure it is; pp are percentage points.</p>"
        "<div class='scroll'><table class='wide card'><thead><tr><th>claim</th>"
        "<th class='num'>reported</th><th class='num'>measured</th><th>verdict</th>"
        f"<th>detail</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


_OTHER_MODEL = (
    "These numbers are about {model}, not GPT-2 small; the paper’s values are shown for "
    "orientation and are not comparable."
)


def _banner(results: Results) -> str:
    """That this is another model than the paper's, if it is."""
    if results.settings.get("gpt2_small") is True:
        return ""
    model = str(results.settings.get("model", "unknown model"))
    return f'<p class="banner">{escape(_OTHER_MODEL.format(model=model))}</p>'


class _Page:
    """The sections of one report, each returning HTML."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.settings = results.settings
        self.comparable = results.settings.get("gpt2_small") is True
        self.tables = {
            name: per_YY_probs(found.log_probs, found.YY)
            for name, found in results.evaluations.items()
        }
        self.reported = "reported" if self.comparable else "reported (GPT-2 small)"
        self.zmax = 0.25  # the paper's colour range
        if not self.comparable and "clean" in self.tables:
            cells = self.tables["clean"].double()
            self.zmax = math.ceil(100 * float(cells[~cells.isnan()].quantile(0.995))) / 100

    # ---- sections -----------------------------------------------------------------------------

    def opening(self) -> str:
        s = self.settings
        model = escape(str(s.get("model", "unknown model")))
        shape = [
            f"{s[key]} {word}"
            for key, word in (
                ("n_layers", "layers"),
                ("n_heads", "heads each"),
                ("d_model", "dimensions"),
            )
            if key in s
        ]
        banner = _banner(self.results)
        if missing := self._missing():
            banner += (
                '<p class="banner quiet">This run is not complete. Not finished: '
                f"{escape(missing)}. Repeating its command continues it.</p>"
            )
        rows = [
            ("Prompts", self._prompts()),
            ("Computed with", ", ".join(str(s[k]) for k in ("device", "dtype") if k in s)),
            ("Processes", str(s["processes"]) if s.get("processes", 1) > 1 else ""),
            ("Started", str(s.get("started", ""))),
            ("Command", str(s.get("command", ""))),
            ("Versions", ", ".join(f"{k} {v}" for k, v in s.get("versions", {}).items())),
        ]
        if self.results.seconds:
            rows.append(("Time", f"{sum(self.results.seconds.values()):.0f} s"))
        if checks := s.get("check_report"):
            errors = ", ".join(f"{name} {_error(value)}" for name, value in checks.items())
            rows.append(("Self-checks, largest error", errors))
        listed = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows if text
        )
        return (
            '<header><p class="kicker">How does a language model compute greater-than? '
            "The circuit discovery of Hanna, Liu and Variengien (NeurIPS 2023), redone</p>"
            f'<h1>{model}</h1><p class="shape">{escape(", ".join(shape))}</p>{banner}'
            f"<dl>{listed}</dl><noscript><p>The figures need JavaScript. Every number below is in "
            "a table and does not.</p></noscript></header>"
        )

    def headline(self) -> str:
        numbers = headline_numbers(self.results)
        if numbers.empty:
            return _missing_note("No evaluation has finished yet.")
        reported = self._reported()
        rows = []
        for row in numbers.to_dict("records"):
            name = row["evaluation"]
            cells = [f"<th scope='row'>{EVALUATIONS[name]}</th>"]
            for metric in ("prob_diff", "cutoff_sharpness"):
                cells.append(_number(row, metric))
                value = reported.get((name, metric))
                cells.append(f"<td class='num dim'>{in_words(value) if value else '–'}</td>")
            cells += [_number(row, "recovered"), _number(row, "recovered_above_corrupted")]
            rows.append(f"<tr>{''.join(cells)}</tr>")
        table = (
            "<div class='scroll'><table class='wide'><thead><tr><th></th>"
            f"<th class='num'>probability difference</th><th class='num'>{self.reported}</th>"
            f"<th class='num'>cutoff sharpness</th><th class='num'>{self.reported}</th>"
            "<th class='num'>recovered: circuit / clean</th>"
            "<th class='num'>recovered above corrupted</th></tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )
        dots = []
        for metric, words in (
            ("prob_diff", "probability difference"),
            ("cutoff_sharpness", "cutoff sharpness"),
        ):
            frame = pd.DataFrame(
                {
                    "label": [EVALUATIONS[name] for name in numbers["evaluation"]],
                    "measured": numbers[metric],
                    "low": numbers[f"{metric}_low"],
                    "high": numbers[f"{metric}_high"],
                    "reported": [
                        reported.get((name, metric), float("nan")) for name in numbers["evaluation"]
                    ],
                }
            )
            dots.append(
                _figure(
                    plots.interval_plot(frame, words, reported=self.reported), f"headline-{metric}"
                )
            )
        return (
            "<p>The <b>probability difference</b> is the probability of end years above YY less "
            "that of years up to YY; the <b>cutoff sharpness</b> is p(YY + 1) less p(YY − 1). Both "
            "are means over prompts with 95 % bootstrap intervals, and YY is always the clean "
            "prompt’s. In <i>partial</i> and <i>full</i> the circuit runs on clean prompts and "
            "everything else on corrupted ones; in <i>reverse</i> only the partial circuit is "
            f"corrupted.</p>{table}"
            "<p class='small'>Two conventions for what a circuit recovers: <i>circuit / clean</i> "
            "is the paper’s; <i>above corrupted</i> is (circuit − corrupted) / (clean − corrupted) "
            f"and counts from the corrupted prompts up.</p><div class='pair'>{''.join(dots)}</div>"
        )

    def data(self) -> str:
        s = self.settings
        rows = [
            ("clean prompt", s.get("clean_example", s.get("base_example"))),
            ("corrupted prompt", s.get("corrupted_example")),
            ("tokens that differ at", ", ".join(s.get("changed_positions", []))),
            ("corruption", s.get("corruption")),
            ("start years", _years(s.get("years"))),
            ("valid years in this pool", s.get("pool_size")),
            ("nouns", s.get("nouns")),
            ("prompts", s.get("prompts")),
            ("seed", s.get("seed")),
        ]
        if len(YY := self.results.YY):
            counts = torch.bincount(YY - YY.min())
            counts = counts[counts > 0]
            least, most = int(counts.min()), int(counts.max())
            spread = f"{least} to {most} prompts each" if least < most else f"{most} of each"
            rows.append(("YYs", f"{len(counts)}, from {YY.min():02d} to {YY.max():02d}; {spread}"))
        if s.get("balanced") is not None:
            rows.append(("sampling", "every YY in turn" if s["balanced"] else "over all years"))
        body = "".join(
            f"<tr><th scope='row'>{escape(name)}</th>"
            f"<td>{_code(value) if 'prompt' in name and name != 'prompts' else escape(str(value))}"
            "</td></tr>"
            for name, value in rows
            if value not in (None, "")
        )
        return f"<table class='facts'><tbody>{body}</tbody></table>"

    def behaviour(self) -> str:
        if "clean" not in self.tables:
            return _missing_note("The clean run has not finished.")
        clean = self.tables["clean"]
        text = (
            "<p>Each row is one start year YY, averaged over its prompts; each column an end year. "
            "A model that knows greater-than puts its probability to the right of the diagonal."
        )
        if empty := int(clean[:, 0].isnan().sum()):
            text += f" {empty} of 97 YYs have no prompt and stay blank."
        text += (
            f" Colours end at {self.zmax:g}{', as in the paper' if self.comparable else ''}; what "
            "lies above has the darkest one.</p>"
        )
        text += _figure(plots.year_heatmap(clean, zmax=self.zmax), "behaviour-heatmap")
        mean_of_softmax = "mean of the prompts’ probabilities"
        if self.results.softmax_of_mean is not None:
            gap = (self.results.softmax_of_mean.double() - clean.double()).abs()
            largest = 100 * float(gap.nan_to_num(0.0).max())
            size = f"by up to <b>{largest:.3f}" if largest >= 0.001 else "by less than <b>0.001"
            text += (
                f"<p>Shown is the {mean_of_softmax}. The paper’s code also averages in the other "
                "order, the probabilities of the mean logits; the cells of the two differ "
                f"{size} percentage points</b>.</p>"
            )
        else:
            text += f"<p>Shown is the {mean_of_softmax}.</p>"
        present = (~clean[:, 0].isnan()).nonzero().flatten() + 2
        YY = int(present[(present - SLICE_YY).abs().argmin()])
        curves = {
            f"{name} prompts": self.tables[name][YY - 2]
            for name in ("clean", "corrupted")
            if name in self.tables
        }
        text += f"<h3>One row: YY = {YY:02d}</h3>" + _figure(
            plots.year_curve(curves, YY), "behaviour-slice"
        )
        lines = {
            EVALUATIONS[name]: mean_by_YY(found.prob_diff, found.YY)
            for name, found in self.results.evaluations.items()
            if name in EVALUATIONS
        }
        return (
            text
            + "<h3>Probability difference by start year</h3>"
            + _figure(plots.metric_by_YY(_short(lines)), "behaviour-by-YY")
        )

    def sweeps(self) -> str:
        if not self.results.sweeps:
            return _missing_note("No sweep has finished yet.")
        intro = (
            "<p>Each cell sends one component’s value from the corrupted run into an otherwise "
            "clean run, along one fixed route, and shows the change in probability difference. "
            "<b>Red: the model gets worse</b>, so the component matters there; blue: it gets "
            "better. Light grey cells cannot reach the route or change nothing. Outlined cells "
            "feed the route in the circuit. The colours of each figure reach as far as its largest "
            "effect, so compare figures by their numbers; pp are percentage points.</p>"
        )
        order = sorted(
            self.results.sweeps.items(),
            key=lambda item: component(item[1].senders[0]).position != END,
        )
        return intro + "".join(self._sweep(name, sweep) for name, sweep in order)

    def _sweep(self, name: str, sweep: Sweep) -> str:
        members = circuit_senders(self.results.parts, sweep)
        table = sweep.to_frame()
        table = table[table["effect"] != 0].head(TOP)
        digits = 2 if table["effect"].abs().max() >= 0.01 else 3
        rows = "".join(
            f"<tr><th scope='row'>{row.component}</th>"
            f"<td class='num'>{in_words(row.effect, 'points', digits)}</td>"
            f"<td class='num dim'>{interval_in_words(row.low, row.high, 'points', digits)}</td>"
            f"<td>{'yes' if row.component in members else ''}</td></tr>"
            for row in table.itertuples()
        )
        if rows:
            side = (
                "<table><thead><tr><th>component</th><th class='num'>effect</th>"
                "<th class='num'>95 % interval</th><th>in the circuit?</th></tr></thead>"
                f"<tbody>{rows}</tbody></table>"
            )
        else:
            side = "<p>No component has any effect along this route.</p>"
        figure = _figure(plots.sweep_heatmap(sweep, marked=members), f"sweep-{name}")
        return (
            f"<article><h3>{escape(route_title(sweep))}</h3>"
            f"<p>{escape(route_in_words(sweep, str(self.settings.get('corruption', '01'))))}</p>"
            f"<div class='beside'>{figure}<div>{side}</div></div></article>"
        )

    def circuits(self) -> str:
        parts = self.results.parts
        text = ""
        if parts is None:
            text += _missing_note("The circuit has not been chosen yet.")
        else:
            members = [
                ("heads at END", parts.heads),
                ("late MLPs at END", parts.mlps),
                ("read YY for the heads’ keys and values", parts.readers_of_YY),
                ("feed the early MLPs at YY", parts.early_inputs),
            ]
            rows = "".join(
                f"<tr><th scope='row'>{name}</th><td>{escape(', '.join(found)) or 'none'}</td></tr>"
                for name, found in members
            )
            sizes = [len(partial_circuit(parts)), len(full_circuit(parts))]
            text += (
                f"<p>How it was chosen: {escape(parts.source or 'not recorded')}. The partial "
                f"circuit has {sizes[0]} edges: its heads hold their clean output whole. The full "
                f"circuit has {sizes[1]}: the heads’ keys and values are recomputed from the input "
                "on, their queries are whole (a head’s q, k and v count as an edge each).</p>"
                f"<table class='facts'><tbody>{rows}</tbody></table>"
            )
        trio = [name for name in ("clean", "partial", "full") if name in self.tables]
        rest = [name for name in ("reverse", "corrupted") if name in self.tables]
        if trio:
            text += "<h3>Clean prompts, and what the circuits keep of them</h3>" + _figure(
                plots.year_heatmaps({_heading(n): self.tables[n] for n in trio}, self.zmax),
                "circuits-kept",
            )
        if rest:
            text += (
                "<h3>The reverse: only the circuit is corrupted</h3><p>Beside it the corrupted "
                "prompts, in which everything is. Rows are the clean prompts’ YY.</p>"
                + _figure(
                    plots.year_heatmaps({_heading(n): self.tables[n] for n in rest}, self.zmax),
                    "circuits-reverse",
                )
            )
        absent = [EVALUATIONS[n] for n in EVALUATIONS if n not in self.tables]
        return text + (_missing_note(f"Not finished: {', '.join(absent)}.") if absent else "")

    def scorecard(self) -> str:
        return scorecard_html(scorecard(self.results, measurable(self.results)))

    def notes(self) -> str:
        return (
            "<ul><li>Probabilities are softmax over the whole vocabulary at END, restricted to the "
            "100 year tokens and not renormalised.</li><li>Norms, attention and MLPs on a route "
            "are recomputed; nothing is frozen or linearised. MLPs are components like heads, so "
            "a head’s effect on the logits does not include what later MLPs make of it.</li>"
            "<li>GPT-2’s MLPs use the tanh approximation of GELU, as its published weights do; the "
            "paper’s code used the exact function, so expect agreement to two or three "
            "digits.</li><li>Not reproduced in this report: single neurons, the geometry of YY, "
            "the other prompt families, plain activation patching, and random circuits as "
            "controls; <code>python -m gt_helpers scorecard</code> measures most of it."
            "</li><li>The raw results, every prompt of every cell, lie in the same folder as this "
            "report:<pre>from gt_helpers.results import load_results\n\n"
            "results = load_results(&quot;the folder of this report&quot;)\n"
            "results.sweeps[&quot;logits&quot;].to_frame()\n"
            "results.evaluations[&quot;clean&quot;].prob_diff.mean()</pre></li></ul>"
        )

    # ---- pieces -------------------------------------------------------------------------------

    def _missing(self) -> str:
        """What an interrupted run lacks, in words, or an empty string."""
        parts = self.results.parts
        expected = ["logits"]
        if parts is not None:
            expected += reversed(parts.mlps)
            if parts.heads:
                expected += [*_PARTS, *(f"{mlp}@YY" for mlp in reversed(parts.early_mlps))]
        sweeps = [name for name in expected if name not in self.results.sweeps]
        evaluations = [EVALUATIONS[n] for n in EVALUATIONS if n not in self.results.evaluations]
        missing = [f"evaluations: {', '.join(evaluations)}"] if evaluations else []
        missing += [f"sweeps: {', '.join(sweeps)}"] if sweeps else []
        missing += ["the choice of the circuit"] if parts is None else []
        return "; ".join(missing)

    def _prompts(self) -> str:
        s = self.settings
        parts = [f"{s.get('prompts', len(self.results.YY)):,}"]
        if s.get("balanced") is not None:
            parts.append("balanced over YY" if s["balanced"] else "drawn over all years")
        if s.get("years"):
            parts.append(f"start years {_years(s['years'])}")
        if "seed" in s:
            parts.append(f"seed {s['seed']}")
        if s.get("corruption"):
            parts.append(f"corruption {s['corruption']}")
        return ", ".join(parts)

    def _reported(self) -> dict[tuple[str, str], float]:
        """The reported means by evaluation and metric, from the claims of these names."""
        found: dict[tuple[str, str], float] = {}
        for claim in claims():
            for name in EVALUATIONS:
                for metric in ("prob_diff", "cutoff_sharpness"):
                    if claim["id"] == f"{name}_{metric}" and claim["kind"] == "value":
                        found[name, metric] = claim["value"]
        return found


def route_title(sweep: Sweep) -> str:
    """A sweep's heading, e.g. "END → m9" or "YY → values of the heads"."""
    position = component(sweep.senders[0]).position
    receivers = inputs(sweep.receivers)
    if any(receiver.part for receiver in receivers):
        parts = dict.fromkeys(_PARTS[r.part] for r in receivers if r.part)
        return f"{position} → {' and '.join(parts)} of the circuit’s heads"
    nodes = ", ".join(_place(receiver) for receiver in receivers)
    return f"{position} → {nodes}"


def route_in_words(sweep: Sweep, corruption: str = "01") -> str:
    """One sentence on what a sweep patches: base run, sender position, receivers, and via."""
    position = component(sweep.senders[0]).position
    receivers, via = inputs(sweep.receivers), inputs(sweep.via)
    start = (
        f"The base run is clean; each component at {position} in turn sends its value of the "
        f"{corruption} run"
    )
    if all(receiver.component.kind == "logits" for receiver in receivers):
        return f"{start} directly to the logits, and to nothing else."
    one = len(receivers) == 1
    patched = f"{start} to {_group(receivers)} only; {'it is' if one else 'they are'} recomputed"
    if all(receiver.component.position == END for receiver in receivers):
        onward = f" and through {_group(via)}" if via else ""
        return f"{patched}, and the change flows on directly to the logits{onward}."
    heads = [receiver for receiver in via if receiver.part]
    rest = [receiver for receiver in via if not receiver.part]
    onward = f", and from these heads to the logits, directly and through {_group(rest)}"
    return f"{patched}, and the change flows on to {_group(heads or via)}{onward if rest else ''}."


def _group(receivers: Sequence[Input]) -> str:
    """Inputs in words, heads' grouped by part: "the values at YY of a5.h1 and a9.h1, and m9"."""
    groups: dict[str, list[str]] = {}
    for receiver in receivers:
        row = f" at {receiver.row}" if receiver.row else ""
        key = f"the {_PARTS[receiver.part]}{row} of " if receiver.part else ""
        groups.setdefault(key, []).append(_place(receiver))
    return " and ".join(key + _list(names) for key, names in groups.items())


def _place(receiver: Input) -> str:
    node = receiver.component
    if node.kind == "logits":
        return "the logits"
    return node.label if node.position == END else f"{node.label} at {node.position}"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _figure(figure: go.Figure, name: str) -> str:
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{name}",
        # a page that works offline offers no upload of its charts either
        config={"displaylogo": False, "displayModeBar": "hover", "showSendToCloud": False},
    )
    return f"<figure>{html}</figure>"


def _number(row: dict[str, float], metric: str) -> str:
    text = in_words(row[metric])
    if text == "–":
        return "<td class='num dim'>–</td>"
    interval = interval_in_words(row[f"{metric}_low"], row[f"{metric}_high"], "share")
    return f"<td class='num'><b>{text}</b><div class='small dim'>{interval}</div></td>"


def _missing_note(text: str) -> str:
    return f"<p class='missing'>{escape(text)}</p>"


def _heading(name: str) -> str:
    return EVALUATIONS[name].replace(" of the partial circuit", "")


def _short(lines: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.split()[0]: values for name, values in lines.items()}


def _code(value: object) -> str:
    return f"<code>{escape(str(value))}</code>"


def _years(years: object) -> str:
    if not isinstance(years, (list, tuple)) or len(years) != 2:
        return ""
    return f"{years[0]} to {years[1] - 1}"


def _error(value: object) -> str:
    return f"{value:.1e}" if isinstance(value, float) else str(value)


_CSS = """
:root { --ink: #25292e; --dim: #66707a; --line: #dfe3e7; --blue: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f8; color: var(--ink); font: 16px/1.55 Inter, "Helvetica Neue",
  Helvetica, Arial, "Liberation Sans", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 48px 72px; background: white; }
h1 { font-size: 52px; line-height: 1.1; margin: 4px 0 2px; letter-spacing: -0.02em;
  overflow-wrap: anywhere; }
h2 { font-size: 26px; margin: 56px 0 12px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 18px; margin: 34px 0 6px; }
p, ul { max-width: 780px; margin: 10px 0; }
a { color: var(--blue); }
.kicker { color: var(--dim); margin: 0; }
.shape { color: var(--dim); margin: 0 0 18px; }
.banner { max-width: none; background: #fff4d6; border-left: 5px solid #e0a100; padding: 12px 16px;
  font-size: 18px; font-weight: 600; }
.banner.quiet { background: #eef2f6; border-color: #8fa1b3; font-size: 16px; font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 20px; font-size: 14px;
  margin: 18px 0; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
nav ol { display: flex; flex-wrap: wrap; gap: 4px 22px; padding: 10px 0; margin: 18px 0 0;
  list-style-position: inside; border-block: 1px solid var(--line); font-size: 15px; }
table { border-collapse: collapse; font-size: 14px; line-height: 1.4; margin: 12px 0;
  font-variant-numeric: tabular-nums; }
table.wide { width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 6px 12px 6px 0; }
thead th { color: var(--dim); font-weight: 600; border-bottom: 1.5px solid var(--ink);
  vertical-align: bottom; }
tbody tr { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 600; white-space: nowrap; }
.num { text-align: right; white-space: nowrap; padding-right: 18px; }
.dim { color: var(--dim); } .small { font-size: 13px; }
td .small { font-weight: 400; white-space: normal; }
.num .small { white-space: nowrap; }
thead .num { white-space: normal; }
.facts th { padding-right: 26px; color: var(--dim); font-weight: 500; }
.scroll, figure { overflow-x: auto; }
figure { margin: 8px 0 18px; }
.pair { display: flex; flex-wrap: wrap; gap: 0 4px; }
.beside { display: flex; flex-wrap: wrap; gap: 4px 28px; align-items: flex-start; }
.beside > div { flex: 1 1 340px; }
.missing { color: var(--dim); background: #f2f4f6; padding: 10px 14px; border-radius: 4px; }
.verdict { font-weight: 600; white-space: nowrap; padding-right: 18px; }
.agrees { color: #1b7a4b; } .disagrees { color: #b3261e; }
.not-measured, .not-comparable { color: var(--dim); font-weight: 500; }
.card .theme th { padding-top: 22px; font-size: 16px; }
.card td:first-child { width: 34%; } .card td:last-child { width: 26%; }
code, pre { font: 13px/1.5 "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
pre { background: #f2f4f6; padding: 12px 16px; overflow-x: auto; border-radius: 4px; }
@media (max-width: 720px) { main { padding: 20px 16px; } h1 { font-size: 36px; } }
@media print { body { background: white; font-size: 12px; } main { max-width: none; padding: 0; }
  nav, .modebar { display: none; } article, figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .scroll, figure { overflow: visible; } }
"""
