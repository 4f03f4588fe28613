"""Unit: the checker of the user's prompts: each planted mistake is found, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gt_helpers import views
from gt_helpers.dataset.prompts import tokenize
from gt_helpers.dataset.year_dataset import YearDataset
from gt_helpers.differences.diagnosis import diagnose, prompt_set
from gt_helpers.differences.diagnosis.check import BREAKS, CHANGES, NOTE, SEVERITIES
from gt_helpers.metrics import bootstrap_ci, prob_diff
from gt_helpers.model.load import load_model
from gt_helpers.model.transformer import Transformer
from gt_helpers.patching.engine import PathPatching

BOS = "<|endoftext|>"


@pytest.fixture(scope="module")
def model() -> Iterator[Transformer]:
    """mini, which answers a prompt once for all tests: most of them ask the same."""
    real, known = prompt_set.end_logits, {}

    def remembered(model: Transformer, tokens: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
        keys = [(id(model), *row) for row in tokens.tolist()]
        new = [i for i, key in enumerate(keys) if key not in known]
        if new:
            answers = torch.cat(list(real(model, tokens[new], batch)))
            known.update(zip([keys[i] for i in new], answers, strict=True))
        yield torch.stack([known[key] for key in keys])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_set, "end_logits", remembered)
        yield load_model("mini", "cpu")


@pytest.fixture(scope="module")
def base(model: Transformer) -> YearDataset:
    """A correct set: the paper's construction, YY 02, 06, ..., 98."""
    return YearDataset(model.tokenizer, 97).take(range(0, 97, 4))


@dataclass
class Data:
    """What a user may hand over; a mistake changes some of it."""

    clean: list[Any]
    corrupted: list[Any]
    YY: list[int]
    tokenizer: Any
    years: Any = None
    ids: Any = None
    mask: Any = None

    def each(self, change: Callable[[str], str]) -> None:
        self.clean, self.corrupted = (
            [change(text) for text in side] for side in (self.clean, self.corrupted)
        )

    def corrupt(self, change: Callable[[str, int], str]) -> None:
        """Change every corrupted prompt, by its YY."""
        self.corrupted = [
            change(text, YY) for text, YY in zip(self.corrupted, self.YY, strict=True)
        ]

    def noun_of(self, i: int, noun: str) -> None:
        for side in (self.clean, self.corrupted):
            side[i] = re.sub("The [a-z]+", f"The {noun}", side[i])

    def put(self, i: int, year: int, corrupted: int) -> None:
        for side, start in ((self.clean, year), (self.corrupted, corrupted)):
            side[i] = f"{BOS} The trial lasted from the year {start} to the year {year // 100}"

    def ids_of(self, change: Callable[[list[int]], list[int]] = lambda ids: ids) -> None:
        self.ids = tuple(
            [change(ids) for ids in tokenize(self.tokenizer, texts)]
            for texts in (self.clean, self.corrupted)
        )

    def keep(self, which: Callable[[int], bool]) -> None:
        rows = [i for i, YY in enumerate(self.YY) if which(YY)]
        self.clean, self.corrupted, self.YY = (
            [side[i] for i in rows] for side in (self.clean, self.corrupted, self.YY)
        )

    def all_in_century_17(self) -> None:
        self.each(lambda text: re.sub(r"year 1\d", "year 17", text))

    def mask_of(self, right: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.mask = right(torch.arange(100), torch.tensor(self.YY)[:, None])


def data_of(base: YearDataset, model: Transformer) -> Data:
    texts = list(base.clean_text), list(base.corrupted_text)
    return Data(*texts, base.YY.tolist(), model.tokenizer)


def run(data: Data, model: Transformer) -> Any:
    return diagnose(
        (data.clean, data.corrupted), model, years=data.years, ids=data.ids, mask=data.mask
    )


# What is planted, with every finding that it must give, and no other: in every text,
IN_TEXTS: dict[str, tuple[Callable[[str], str], dict[str, str]]] = {
    "no_bos": (lambda text: text.removeprefix(f"{BOS} "), {"no start token": CHANGES}),
    "two_bos_in_the_texts": (lambda text: BOS + text, {"several start tokens": CHANGES}),
    "no_space_after_bos": (
        lambda text: text.replace(f"{BOS} The", f"{BOS}The"),
        {"space lost": CHANGES},
    ),
    "no_second_the_year": (lambda text: text.replace("to the year", "to"), {"template": CHANGES}),
    "another_verb": (lambda text: text.replace("lasted", "went"), {"template": CHANGES}),
    "a_space_at_the_end": (
        lambda text: f"{text} ",
        {"after the end": BREAKS, "task not done": BREAKS},
    ),
    "double_spaces": (
        lambda text: text.replace(" lasted", "  lasted"),
        {"unusual characters": CHANGES},
    ),
    "a_non_breaking_space": (
        lambda text: text.replace("from the", "from\u00a0the"),
        {"unusual characters": CHANGES},
    ),
    "a_small_first_letter": (lambda text: text.replace("The", "the"), {"template": CHANGES}),
    "another_end_century": (
        lambda text: f"{text[:-2]}{int(text[-2:]) + 1}",
        {"end century": BREAKS},
    ),
    "no_end_century": (
        lambda text: text[:-3],
        {"end century": BREAKS, "task not done": BREAKS},
    ),
    "the_answer_in_the_prompt": (
        lambda text: f"{text}99",
        {"end century": BREAKS, "task not done": BREAKS},
    ),
    "a_start_year_with_a_blank": (
        lambda text: re.sub(r"year (\d\d)(\d\d)", r"year \1 \2", text),
        {"no start year": BREAKS},
    ),
    "one_noun": (lambda text: re.sub("The [a-z]+", "The trial", text), {"repeated nouns": NOTE}),
}
# in the ids of every text,
IN_IDS: dict[str, tuple[Callable[[list[int]], list[int]], dict[str, str]]] = {
    "the_tokenizer_adds_a_second_bos": (
        lambda ids: [ids[0], *ids],
        {"several start tokens": CHANGES, "start token added": NOTE},
    ),
    "ids_of_another_vocabulary": (
        lambda ids: [50256, 383, *ids[2:]],
        {"unknown token ids": BREAKS},
    ),
    "negative_padding_ids": (lambda ids: [*ids, -100], {"unknown token ids": BREAKS}),
}
# in the corrupted texts, by YY,
IN_CORRUPTED: dict[str, tuple[Callable[[str, int], str], dict[str, str]]] = {
    "nouns_drawn_anew": (
        lambda text, YY: re.sub("The [a-z]+", f"The {['trial', 'tour', 'trip'][YY % 3]}", text),
        {"other noun": BREAKS},
    ),
    "another_start_century": (
        lambda text, YY: re.sub(
            r"year 1\d01", "year 1201" if text.endswith("17") else "year 1701", text
        ),
        {"other start century": BREAKS},
    ),
    "another_corrupted_end": (
        lambda text, YY: text[:-2] + "18" if YY == 30 else text,
        {"other end": BREAKS},
    ),
    "other_corrupted_words": (
        lambda text, YY: text.replace("lasted", "went") if YY == 34 else text,
        {"other words": BREAKS, "template": CHANGES},
    ),
}
# and in all that was handed over.
MISTAKES: dict[str, tuple[Callable[[Data], object], dict[str, str]]] = {
    "padded_behind": (
        lambda data: data.ids_of(lambda ids: [*ids, data.tokenizer.eos_token_id]),
        {"after the end": BREAKS, "task not done": BREAKS},
    ),
    "only_late_years": (lambda data: data.keep(lambda YY: YY > 40), {"YY not balanced": CHANGES}),
    "a_year_of_three_and_one_digit": (
        lambda data: data.put(0, 1302, 1301),
        {"start year split": BREAKS},
    ),
    "a_year_that_ends_in_99": (lambda data: data.put(-1, 1699, 1601), {"YY at the edge": CHANGES}),
    "century_18": (lambda data: data.put(-5, 1882, 1801), {"centuries": NOTE}),
    "century_20": (  # 2001 is one token
        lambda data: data.put(-5, 2082, 2001),
        {"centuries": CHANGES, "lengths": BREAKS, "corrupted year split": CHANGES},
    ),
    "a_noun_of_several_tokens": (
        lambda data: data.noun_of(4, "shipwreck"),
        {"noun of several tokens": BREAKS, "lengths": BREAKS},
    ),
    "a_capital_noun": (
        lambda data: data.noun_of(5, "Stint"),
        {"template": CHANGES, "noun of several tokens": BREAKS, "lengths": BREAKS},
    ),
    "a_noun_of_ones_own": (lambda data: data.noun_of(4, "war"), {"other nouns": NOTE}),
}
for _name, (_corrupt, _found) in IN_CORRUPTED.items():
    MISTAKES[_name] = (partial(Data.corrupt, change=_corrupt), _found)
for _name, (_change, _found) in IN_TEXTS.items():
    MISTAKES[_name] = (partial(Data.each, change=_change), _found)
for _name, (_replace, _found) in IN_IDS.items():
    MISTAKES[_name] = (partial(Data.ids_of, change=_replace), _found)


def mistake(**found: str) -> Callable[[Callable[[Data], object]], Callable[[Data], object]]:
    """Register a planted mistake with every finding that it must give, and no other."""

    def register(plant: Callable[[Data], object]) -> Callable[[Data], object]:
        checks = {name.replace("_", " "): severity for name, severity in found.items()}
        MISTAKES[plant.__name__] = (plant, checks)
        return plant

    return register


# Tokens


@mistake(start_token_added=NOTE, space_lost=CHANGES)
def the_tokenizer_adds_the_bos(data: Data) -> None:
    eos = data.tokenizer.eos_token_id
    data.each(lambda text: text.removeprefix(f"{BOS} "))
    data.ids_of(lambda ids: [eos, *ids])


@mistake(several_start_tokens=BREAKS, noun_of_several_tokens=BREAKS)
def padded_in_front(data: Data) -> None:
    data.noun_of(0, "long trial")
    data.each(lambda text: text if "long trial" in text else BOS + text)


@mistake(ids_of_another_text=BREAKS, not_in_the_same_order=BREAKS)
def corrupted_ids_in_another_order(data: Data) -> None:
    data.ids_of()
    clean, corrupted = data.ids
    data.ids = clean, corrupted[1:] + corrupted[:1]


@mistake(lengths=BREAKS, start_year_split=BREAKS)
def a_start_year_of_one_token(data: Data) -> None:
    data.put(0, 1440, 1401)


@mistake(corrupted_year_split=CHANGES, centuries=NOTE)
def century_10(data: Data) -> None:
    data.keep(lambda YY: YY > 20 and YY not in (50, 70))  # these split worse
    data.all_in_century_17()
    data.each(lambda text: re.sub("year 17", "year 10", text))


# Pairs


@mistake(nothing_corrupted=BREAKS, weak_corruption=BREAKS)
def corrupted_is_clean(data: Data) -> None:
    data.corrupted = list(data.clean)


@mistake(not_in_the_same_order=BREAKS)
def corrupted_shuffled(data: Data) -> None:
    data.corrupted = data.corrupted[::-1]


@mistake(swapped=BREAKS)
def clean_and_corrupted_swapped(data: Data) -> None:
    data.clean, data.corrupted = data.corrupted, data.clean


@mistake(lengths=BREAKS, corrupted_year_split=CHANGES, corrupted_YY_not_01=CHANGES)
def corrupted_with_00(data: Data) -> None:
    data.all_in_century_17()
    data.corrupt(lambda text, YY: text.replace("1701", "1700"))


@mistake(corrupted_YY_above=BREAKS)
def corrupted_with_a_larger_YY(data: Data) -> None:
    data.all_in_century_17()
    data.corrupt(lambda text, YY: text.replace("1701", "1799") if YY < 60 else text)


@mistake(repeated_prompts=CHANGES, repeated_nouns=NOTE)
def the_same_prompts_again(data: Data) -> None:
    data.clean, data.corrupted, data.YY = data.clean * 3, data.corrupted * 3, data.YY * 3


@mistake(labels=NOTE)
def YY_as_text(data: Data) -> None:
    data.years = [f"{YY:02d}" for YY in data.YY]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found_alone(name: str, base: YearDataset, model: Transformer) -> None:
    plant, expected = MISTAKES[name]
    data = data_of(base, model)
    plant(data)
    found = run(data, model)
    assert {finding.check: finding.severity for finding in found.findings} == expected
    assert len(found.findings) == len(expected)
    order = [SEVERITIES.index(finding.severity) for finding in found.findings]
    assert order == sorted(order)
    for finding in found.findings:
        assert finding.example.startswith(f"prompt {finding.prompts[0]}")
        assert finding.problem.endswith(".") and finding.fix.endswith(".")
        assert "{" not in finding.problem
        assert finding.severity != NOTE or not finding.measured


def test_a_correct_set_gives_no_finding(base: YearDataset, model: Transformer, tmp_path) -> None:
    whole = YearDataset(model.tokenizer, 97, seed=3)
    path = tmp_path / "prompts.csv"
    whole.to_csv(path)
    frame = whole.to_frame()
    right = whole.valid
    given = {
        "dataset": (whole, {}),
        "part": (base, {}),
        "frame": (frame, {"mask": right.numpy()}),
        "path": (path, {"years": whole.YY, "mask": right.tolist()}),
        "string": (str(path), {"ids": (whole.clean.numpy(), whole.corrupted.tolist())}),
        "texts": ((frame["clean"], frame["corrupted"]), {"years": whole.years.numpy()}),
        "ids": ((whole.clean, whole.corrupted), {"years": frame["YY"]}),
        "only ids": (None, {"ids": [whole.clean, whole.corrupted]}),
    }
    for name, (data, labels) in given.items():
        found = diagnose(data, model, **labels)
        assert not found.findings, (name, str(found))
    assert "nothing differs" in str(found)


def test_the_scores_are_the_engines(base: YearDataset, model: Transformer) -> None:
    patching = PathPatching(model, base)
    scores = diagnose(base, model).scores
    given, paper, balanced = (scores.iloc[i] for i in range(3))
    for side, probs in (("clean", patching.base_probs), ("corrupted", patching.patch_probs)):
        expected = bootstrap_ci(prob_diff(probs.double(), base.YY))
        found = [given[f"{side}{kind}"] for kind in ("", "_low", "_high")]
        assert found == pytest.approx([float(value) for value in expected], abs=1e-5)
        assert given[side] == paper[side]
    assert (given["prompts"], balanced["prompts"]) == (25, 97)


def finding(data: Data, model: Transformer, check: str) -> Any:
    return next(one for one in run(data, model).findings if one.check == check)


def test_findings_are_measured_on_their_prompts(base: YearDataset, model: Transformer) -> None:
    data = data_of(base, model)
    data.corrupted[3:5] = data.clean[3:5]
    found = finding(data, model, "nothing corrupted")
    assert found.prompts == (3, 4) and found.problem.startswith("In 2 of 25 prompts")
    patching = PathPatching(model, base.take([3, 4]))
    clean, corrupted = (
        f"{100 * float(prob_diff(probs, base.YY[3:5]).mean()):.1f} %".replace("-", "−")
        for probs in (patching.base_probs, patching.patch_probs)
    )
    assert found.measured == (
        f"On these prompts, with all findings, the probability difference is {clean} clean, "
        f"{clean} corrupted; built and scored as in the paper {clean} clean, {corrupted} corrupted."
    )


def test_a_wrong_mask_or_order_changes_their_score_only(base, model) -> None:
    data = data_of(base, model)
    data.mask_of(lambda years, YY: years <= YY)
    given, paper = (run(data, model).scores.iloc[i] for i in range(2))
    mass = float(PathPatching(model, base).base_probs.sum(-1).mean())
    assert given["clean"] < -0.9 < 0.9 < paper["clean"] <= mass
    assert given["clean"] == pytest.approx(-paper["clean"], abs=1e-6)
    data = data_of(base, model)
    data.clean, data.corrupted = data.corrupted, data.clean
    given, paper = (run(data, model).scores.iloc[i] for i in range(2))
    assert (given["clean"], given["corrupted"]) == (paper["corrupted"], paper["clean"])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda base: base.YY + 1, "one too high"),
        (lambda base: base.years - 1, "one too low"),
        (lambda base: base.XX, "centuries"),
        (lambda base: base.years.flip(0), "in another order"),
        (lambda base: base.XX * 100 + 1, "the corrupted prompts'"),
        (lambda base: torch.full_like(base.YY, 50), "not those of the texts"),
        (lambda base: [None, float("nan"), "abc"] + base.YY.tolist()[3:], "no whole numbers"),
    ],
)
def test_labels_say_whose_they_are(change: Any, cause: str, base: YearDataset, model) -> None:
    data = data_of(base, model)
    data.years = change(base)
    found, *others = run(data, model).findings
    assert (found.check, found.severity) == ("labels", BREAKS) and cause in found.problem
    assert all(one.check == "labels" for one in others)  # that "abc" is text
    assert found.prompts[0] == (1 if cause == "centuries" and base.XX[0] == base.YY[0] else 0)


@pytest.mark.parametrize(
    ("right", "cause"),
    [
        (lambda years, YY: years >= YY, "counts YY itself"),
        (lambda years, YY: years > YY + 1, "leaves out the first right year"),
        (lambda years, YY: years <= YY, "wrong way round: it holds the years up to"),
        (lambda years, YY: years < YY, "wrong way round: it holds the years below"),
        (lambda years, YY: years > 0 * YY + 1, "goes by the corrupted YY"),
        (lambda years, YY: years > 0 * YY + 50, "another one"),
        (lambda years, YY: years > 0 * YY + 100, "another one"),
        (lambda years, YY: (years > YY)[:-1], "the shape [24, 100]"),
    ],
)
def test_masks_say_what_they_hold(right: Any, cause: str, base: YearDataset, model) -> None:
    data = data_of(base, model)
    data.mask_of(right)
    (found,) = run(data, model).findings
    assert found.check == "mask" and cause in found.problem
    small = cause in ("counts YY itself", "leaves out the first right year")
    assert found.severity == (CHANGES if small else BREAKS)


def test_labels_of_a_frame_are_checked_by_column(base: YearDataset, model: Transformer) -> None:
    frame = base.to_frame()
    frame["YY"] = 1
    found = diagnose(frame, model)
    assert [one.check for one in found.findings] == ["labels"]
    assert "YYs given (YY)" in found.findings[0].problem
    frame["year"] = frame["year"].astype(str)
    findings = [(one.check, one.severity) for one in diagnose(frame, model).findings]
    assert findings == [("labels", BREAKS), ("labels", NOTE)]


def test_a_dataset_of_another_tokenizer(gpt2_tokenizer, model: Transformer) -> None:
    found = diagnose(YearDataset(gpt2_tokenizer, 97), model)
    assert [one.check for one in found.findings] == ["unknown token ids"]
    assert "id 50256" in found.findings[0].example
    assert found.scores["prompts"].tolist() == [97, 97, 97]  # by the texts
    ids = YearDataset(gpt2_tokenizer, 97)
    found = diagnose((ids.clean, ids.corrupted), model)
    assert [one.check for one in found.findings] == ["unknown token ids"]
    assert found.scores["prompts"].tolist() == [0, 0, 97]


def test_with_gpt2s_own_tokens(gpt2_tokenizer, tmp_path: Path) -> None:
    """On untrained weights only the answers are wrong; 464 in place of 383 is seen."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=4)).save_pretrained(tmp_path)
    gpt2_tokenizer.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), "cpu")
    dataset = YearDataset(model.tokenizer, 97)
    assert {one.check for one in diagnose(dataset, model).findings} == {"task not done"}
    assert dataset.clean[0, 1] == 383
    ids = dataset.clean.clone(), dataset.corrupted.clone()
    for side in ids:
        side[:, 1] = 464
    found = diagnose(ids, model)
    assert {one.check for one in found.findings} == {"task not done", "space lost"}
    assert "'<|endoftext|>' + 'The' + " in found.findings[1].example


@pytest.mark.parametrize(
    "text",
    [
        f"{BOS} The trial lasted from the year 1732 to the year 17" * 6,
        *("", "hello", "\ud800", BOS, BOS * 3, "1732", "17", "1" * 5000),
    ],
)
def test_nothing_is_too_faulty(text: str, model: Transformer) -> None:
    found = diagnose(([text, None], [text * 2, float("nan")]), model, years=["x", 1e99])
    assert found.findings and "breaks" in str(found)


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (None, {}, "no prompt was given; give a YearDataset"),
        (([], []), {}, "the lists are empty"),
        ((["a"], ["a", "b"]), {}, "1 clean texts, 2 corrupted texts"),
        ((["a"], ["b"]), {"years": [1, 2]}, "2 years"),
        ((["a"], ["b"]), {"ids": ([[1]], [[1], [2]])}, "2 corrupted lists of ids"),
        (["a", "b", "c"], {}, "data is no pair of clean and corrupted"),
        (("one text", "another"), {}, "is no list"),
        ((["a"], ["b"]), {"years": 32}, "years: 32 is no list"),
        ((["a"], ["b"]), {"years": torch.tensor(32)}, "is no list"),
        ((["a"], ["b"]), {"ids": ([["x"]], [[1]])}, "no list of whole numbers"),
        ((["a"], ["b"]), {"mask": "yes"}, "the mask is no table of numbers"),
        (pd.DataFrame({"clean": ["a"]}), {}, "no column 'corrupted'"),
        ("nowhere.csv", {}, r"nowhere.csv cannot be read .*No such file"),
    ],
)
def test_unusable_input_is_refused(data: Any, labels: dict, message: str, model) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose(data, model, **labels)


def test_what_is_shown(base: YearDataset, model: Transformer) -> None:
    data = data_of(base, model)
    data.corrupted[2] = data.clean[2]
    data.mask = np.zeros((25, 97))
    data.clean[0] = f"{BOS} The <b>trial</b> lasted from the year 1732 to the year 17"
    found = run(data, model)
    text, html = str(found), views.diagnosis_table(found)
    assert text.startswith(f"25 prompts on mini: {len(found.findings)} x breaks")
    assert "[breaks the comparison] nothing corrupted" in text and "Fix: Replace YY by 01" in text
    assert html.count("<tr") == 1 + len(found.findings) and "nothing corrupted" in html
    assert "On these prompts, with all" in html
    assert "&lt;b&gt;" in html and "<b>trial" not in html
    assert "nothing differs" in views.diagnosis_table(diagnose(base, model))
