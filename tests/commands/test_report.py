"""The report: whole, self-contained, honest about the model and about what is missing."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from made_results import AGREEING, YY
from plotly.offline import get_plotlyjs

from gt_helpers.patching.paper import CircuitParts
from gt_helpers.report import (
    circuit_senders,
    report_html,
    route_in_words,
    route_title,
    write_report,
)
from gt_helpers.scorecard.claims import claims, measurable
from gt_helpers.scorecard.results import Results

PLOTLY = get_plotlyjs()
BANNER = "not GPT-2 small; the paper’s values are shown for orientation and are not comparable"
FIGURES = {
    *("headline-prob_diff", "headline-cutoff_sharpness"),
    *("behaviour-heatmap", "behaviour-slice", "behaviour-by-YY"),
    *("circuits-kept", "circuits-reverse"),
}


def full_results() -> Results:
    results = copy.deepcopy(AGREEING)
    results.softmax_of_mean = torch.full((97, 100), 0.01)
    results.seconds = {"clean": 1.25, "sweep to logits": 60.0}
    results.settings |= {
        "seed": 0,
        "corruption": "01",
        "changed_positions": ["YY"],
        "clean_example": "<|endoftext|> The war lasted from the year 1732 to the year 17",
        "corrupted_example": "<|endoftext|> The war lasted from the year 1701 to the year 17",
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
    return results


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(full_results())


class Loads(HTMLParser):
    """Collects everything that a browser would load, and checks that tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.scripts = 0
        self.open: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loads += [str(named[key]) for key in ("src", "srcset", "data") if key in named]
        if tag in ("link", "iframe", "object", "embed", "img"):
            self.loads.append(tag)
        self.scripts += tag == "script"
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)


def text_of(page: str) -> str:
    """What can be read without JavaScript."""
    bare = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", " ", bare)


def test_it_is_one_file_that_loads_nothing(page: str) -> None:
    assert page.count(PLOTLY) == 1
    rest = page.replace(PLOTLY, "")
    parsed = Loads()
    parsed.feed(rest)
    parsed.close()
    assert parsed.loads == []
    assert not re.search(r"@import|url\(", rest)
    assert "http://" not in rest and "https://cdn" not in rest
    assert not parsed.problems and not parsed.open
    assert "showSendToCloud" in rest and '"showSendToCloud": true' not in rest
    assert len(page.encode()) < 12_000_000


def test_it_has_every_figure(page: str) -> None:
    drawn = set(re.findall(r'id="figure-([^"]+)"', page))
    assert drawn == FIGURES | {f"sweep-{name}" for name in AGREEING.sweeps}


def test_it_opens_with_model_settings_versions_and_checks(page: str) -> None:
    assert "<h1>gpt2-small</h1>" in page
    assert "not comparable</p>" not in page
    opening = text_of(page.split("<nav")[0])
    for words in ("40, balanced over YY", "1100 to 1799", "torch 2.13.0", "2.5e-07", "float32"):
        assert words in opening
    assert "61 s" in opening


def test_the_numbers_need_no_javascript(page: str) -> None:
    text = text_of(page)
    assert "81.5 %" in text or "81.6 %" in text  # measured, clean
    assert "72.6 %" in text and "81.7 %" in text
    assert "−40.00 pp" in text  # m10 to the logits
    known = measurable(AGREEING)
    for claim in (claim for claim in claims() if claim["id"] in known):
        assert claim["claim"].split(",")[0] in text.replace("&#x27;", "'")
    assert f"agrees: {len(known)}" in re.sub(r"\s+", " ", text)
    assert "load_results" in text and "Not reproduced" in text
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


def test_prompts_are_escaped(page: str) -> None:
    assert "&lt;|endoftext|&gt; The war" in page and "<|endoftext|>" not in page
    results = full_results()
    results.settings["model"] = "<script>alert(1)</script>"
    assert "<script>alert" not in report_html(results)


def test_another_model_carries_the_banner() -> None:
    results = full_results()
    results.settings |= {"model": "mini", "gpt2_small": False}
    page = report_html(results)
    assert "<h1>mini</h1>" in page
    assert f"These numbers are about mini, {BANNER}." in page
    assert page.index(BANNER) < page.index("<nav")
    text = re.sub(r"\s+", " ", text_of(page))
    assert (
        f"not comparable: {len(measurable(AGREEING))}" in text and "reported (GPT-2 small)" in text
    )


def test_a_missing_sweep_is_named() -> None:
    results = full_results()
    assert "not complete" not in report_html(results)
    del results.sweeps["m2@YY"], results.sweeps["m9"]
    assert "Not finished: sweeps: m9, m2@YY." in report_html(results)


def test_an_unknown_model_is_not_taken_for_gpt2_small() -> None:
    assert BANNER in report_html(Results({"model": "unknown"}, YY))


def test_an_interrupted_run_says_what_is_missing() -> None:
    nothing = Results(
        {"model": "gpt2-small", "gpt2_small": True}, torch.zeros(0, dtype=torch.int64)
    )
    text = text_of(report_html(nothing))
    for words in ("not complete", "No evaluation", "No sweep", "not been chosen", "not measured"):
        assert words in text
    results = full_results()
    for name in ("partial", "full", "reverse", "corrupted"):
        del results.evaluations[name]
    results.softmax_of_mean = None
    for name in [name for name in results.sweeps if name != "logits"]:
        del results.sweeps[name]
    results.parts = None
    page = report_html(results)
    text = text_of(page)
    assert "partial circuit" in text and "not complete" in text
    drawn = set(re.findall(r'id="figure-([^"]+)"', page))
    assert {"sweep-logits", "behaviour-heatmap", "behaviour-slice", "circuits-kept"} <= drawn


def test_few_prompts_leave_blank_rows_and_move_the_slice() -> None:
    results = full_results()
    keep = YY > 50
    results.YY = YY[keep]
    for name, found in results.evaluations.items():
        results.evaluations[name] = type(found)(name, found.log_probs[keep], found.YY[keep])
    text = text_of(report_html(results))
    assert "have no prompt and stay blank" in text and "One row: YY = 51" in text


def test_write_report_replaces_a_file_and_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    results = Results({"model": "mini", "gpt2_small": False}, YY)
    assert write_report(results, path) == path
    write_report(results, str(path))
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_routes_in_words() -> None:
    sweeps = AGREEING.sweeps
    assert route_in_words(sweeps["logits"]).endswith("directly to the logits, and to nothing else.")
    assert "to m9 only; it is recomputed" in route_in_words(sweeps["m9"])
    assert route_in_words(sweeps["m9"]).endswith(
        "flows on directly to the logits and through m10 and m11."
    )
    assert route_in_words(sweeps["m11"]).endswith("flows on directly to the logits.")
    values = route_in_words(sweeps["v"], "smaller")
    assert "component at YY in turn sends its value of the smaller run to the values of" in values
    early = route_in_words(sweeps["m2@YY"])
    assert "to m2 at YY only" in early and "the values at YY of a5.h1" in early
    assert early.endswith("to the logits, directly and through m8, m9, m10 and m11.")
    assert route_title(sweeps["v"]) == "YY → values of the circuit’s heads"
    assert route_title(sweeps["m2@YY"]) == "YY → m2 at YY"


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
