"""Unit: the report is whole, self-contained, honest about the model and about what is missing."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from made_results import AGREEING, YY
from plotly.offline import get_plotlyjs

from gt_helpers.patching.paper import CircuitParts, circuit_senders
from gt_helpers.report import report_html, write_report
from gt_helpers.scorecard.claims import claims, measurable
from gt_helpers.scorecard.results import Results

PLOTLY = get_plotlyjs()
BANNER = "not GPT-2 small; the paper’s values are shown for orientation and are not comparable"
FIGURES = {
    *("headline-prob_diff", "headline-cutoff_sharpness"),
    *("behaviour-heatmap", "behaviour-slice", "behaviour-by-YY"),
    *("circuits-kept", "circuits-reverse"),
}
SETTINGS = {
    "seed": 0,
    "corruption": "01",
    "changed_positions": ["YY"],
    "clean_example": "<|endoftext|> The war lasted from the year 1732 to the year 17",
    "corrupted_example": "<|endoftext|> The war lasted from the year 1701 to the year 17",
    "pool_size": 617,
    "nouns": 120,
    "device": "cpu",
    "dtype": "float32",
    "n_layers": 12,
    "n_heads": 12,
    "d_model": 768,
    "check_report": {"patching nothing gives the base logits": 2.5e-07},
    "versions": {"torch": "2.13.0", "plotly": "7.1.0"},
    "started": "2026-01-02T03:04:05+00:00",
    "command": "python -m gt_helpers reproduce",
}


def full_results(**settings: object) -> Results:
    results = copy.deepcopy(AGREEING)
    results.softmax_of_mean = torch.full((97, 100), 0.01)
    results.seconds = {"clean": 1.25, "sweep to logits": 60.0}
    results.settings |= SETTINGS | settings
    return results


class Page(HTMLParser):
    """What a reader sees without JavaScript, what a browser would load, and whether tags match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.loads, self.figures = html, list[str](), set[str]()
        self.open, self.texts, self.headings = list[str](), list[str](), list[str]()
        self.feed(html.replace(PLOTLY, ""))
        self.close()
        assert not self.open
        self.text = re.sub(r"\s+", " ", "".join(self.texts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loads += [str(named[key]) for key in ("src", "srcset", "data") if key in named]
        self.loads += [tag] if tag in ("link", "iframe", "object", "embed", "img") else []
        if (name := named.get("id") or "").startswith("figure-"):
            self.figures.add(name.removeprefix("figure-"))
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "title"} & set(self.open):
            self.texts.append(data)
        if "h1" in self.open:
            self.headings.append(data)


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report_html(full_results()))


def test_it_is_one_file_with_every_figure_that_loads_nothing(page: Page) -> None:
    assert page.html.count(PLOTLY) == 1
    rest = page.html.replace(PLOTLY, "")
    assert page.loads == []
    assert not re.search(r"@import|url\(|http://|https://cdn", rest)
    assert "showSendToCloud" in rest and '"showSendToCloud": true' not in rest
    assert len(page.html.encode()) < 12_000_000
    assert page.figures == FIGURES | {f"sweep-{name}" for name in AGREEING.sweeps}


def test_it_opens_with_model_settings_versions_and_checks(page: Page) -> None:
    assert page.headings == ["gpt2-small"]
    assert BANNER not in page.text and "not complete" not in page.text
    opening = page.text.split("Headline numbers")[0]
    for words in ("400, balanced over YY", "1100 to 1799", "torch 2.13.0", "2.5e-07", "float32"):
        assert words in opening
    assert "61 s" in opening


def test_the_numbers_need_no_javascript(page: Page) -> None:
    assert "81.5 %" in page.text or "81.6 %" in page.text  # measured, clean
    assert "72.6 %" in page.text and "81.7 %" in page.text
    assert "−40.00 pp" in page.text  # m10 to the logits
    known = [claim for claim in claims() if claim["id"] in measurable(AGREEING)]
    for claim in known:
        assert claim["claim"].split(",")[0] in page.text
    checks = sum(claim.get("check", False) for claim in known)
    unjudged = sum(claim["kind"] == "measured" for claim in known)
    agree = len(known) - checks - unjudged
    assert f"agrees: {agree}, passes: {checks}, not judged: {unjudged}." in page.text
    assert "load_results" in page.text and "Not reproduced" in page.text
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())


def test_names_and_prompts_are_escaped(page: Page) -> None:
    assert SETTINGS["clean_example"] in page.text and "<|endoftext|>" not in page.html
    name = "<script>alert(1)</script>"
    assert Page(report_html(full_results(model=name))).headings == [name]


@pytest.mark.parametrize("is_gpt2", [False, None])  # unknown is not taken for GPT-2 small
def test_another_model_carries_the_banner(is_gpt2: bool | None) -> None:
    page = Page(report_html(full_results(model="mini", gpt2_small=is_gpt2)))
    assert page.headings == ["mini"]
    assert f"These numbers are about mini, {BANNER}." in page.text.split("Headline numbers")[0]
    assert re.search(r"passes: \d+, not comparable: \d+\.", page.text)
    assert "reported (GPT-2 small)" in page.text


def test_an_interrupted_run_says_what_is_missing() -> None:
    nothing = Results(full_results().settings, torch.zeros(0, dtype=torch.int64))
    text = Page(report_html(nothing)).text
    for words in ("not complete", "No evaluation", "No sweep", "not been chosen", "not measured"):
        assert words in text
    results = full_results()
    del results.sweeps["m2@YY"], results.sweeps["m9"]
    assert "Not finished: sweeps: m9, m2@YY." in Page(report_html(results)).text
    results.evaluations = {"clean": results.evaluations["clean"]}
    results.sweeps = {"logits": results.sweeps["logits"]}
    results.parts = results.softmax_of_mean = None
    page = Page(report_html(results))
    assert "partial circuit" in page.text and "not complete" in page.text
    assert page.figures == FIGURES - {"circuits-reverse"} | {"sweep-logits"}


def test_few_prompts_and_settings_leave_blanks_and_move_the_slice() -> None:
    results = full_results()
    keep = YY > 50
    results.YY = YY[keep]
    for name, found in results.evaluations.items():
        results.evaluations[name] = type(found)(name, found.log_probs[keep], found.YY[keep])
    for name, sweep in results.sweeps.items():
        results.sweeps[name] = replace(sweep, values=sweep.values[:, keep])
    results.attention = results.attention[..., keep]
    del results.settings["nouns"]  # as in a folder that an earlier version began
    text = Page(report_html(results)).text
    assert "have no prompt and stay blank" in text and "One row: YY = 51" in text
    assert "nouns" not in text


def test_write_report_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write_report(Results(full_results().settings, YY), path) == path
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("title", "begin", "end"),
    [
        ("END → the logits", "at END", "directly to the logits, and to nothing else."),
        ("END → m9", "to m9 only; it is", "directly to the logits and through m10 and m11."),
        ("END → m11", "to m11 only", "flows on directly to the logits."),
        ("YY → values of the circuit’s heads", "at YY in turn sends its value of the 01", ""),
        ("YY → m2 at YY", "to m2 at YY only", "through m8, m9, m10 and m11."),
    ],
)
def test_routes_in_words(title: str, begin: str, end: str, page: Page) -> None:
    found = re.search(rf"{title} (The base run is clean; .+?\.) component", page.text)
    assert found and begin in found[1] and found[1].endswith(end)
    assert ("to the values at YY of a5.h1" in found[1]) == ("m2" in title)


def test_routes_name_the_corruption() -> None:
    assert "of the smaller run" in Page(report_html(full_results(corruption="smaller"))).text


def test_in_the_circuit_means_an_edge_of_it() -> None:
    sweeps, parts = AGREEING.sweeps, AGREEING.parts
    assert set(circuit_senders(parts, sweeps["m9"])) == {
        *("a5.h1@END", "a5.h5@END", "a6.h9@END", "a7.h10@END", "a8.h8@END", "a8.h11@END"),
        *("a9.h1@END", "m8@END"),
    }
    readers = {f"{name}@YY" for name in ("a0.h1", "a0.h3", "a0.h5", "m0", "m1", "m2", "m3")}
    assert set(circuit_senders(parts, sweeps["v"])) == readers
    assert set(circuit_senders(parts, sweeps["m1@YY"])) == {"embed@YY", "a0.h1@YY", "m0@YY"}
    assert circuit_senders(parts, sweeps["q"]) == ()
    assert circuit_senders(None, sweeps["m9"]) == ()
    assert circuit_senders(CircuitParts((), (), (), ()), sweeps["m9"]) == ()
