"""Unit: the prompts against the paper's: tokens, years, sampling, corruptions, and clear errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase as Tokenizer

from gt_helpers.dataset.corruptions import CORRUPTIONS, Corruption
from gt_helpers.dataset.prompts import (
    NO_BOS_TEMPLATE,
    PAPER_POSITIONS,
    YEAR_STRINGS,
    load_nouns,
    valid_years,
    year_pool,
    year_range,
    year_tokens,
)
from gt_helpers.dataset.year_dataset import YearDataset

# GPT-2's ids of "00" to "99".
YEAR_IDS = """405 486 2999 3070 3023 2713 3312 2998 2919 2931 940 1157 1065 1485 1415 1314 1433 1558
1507 1129 1238 2481 1828 1954 1731 1495 2075 1983 2078 1959 1270 3132 2624 2091 2682 2327 2623 2718
2548 2670 1821 3901 3682 3559 2598 2231 3510 2857 2780 2920 1120 4349 4309 4310 4051 2816 3980 3553
3365 3270 1899 5333 5237 5066 2414 2996 2791 3134 3104 3388 2154 4869 4761 4790 4524 2425 4304 3324
3695 3720 1795 6659 6469 5999 5705 5332 4521 5774 3459 4531 3829 6420 5892 6052 5824 3865 4846 5607
4089 2079"""
# century: (raw, kept, first kept, last kept)
CENTURIES = {
    10: (76, 74, 1021, 1098),
    11: (55, 53, 1110, 1188),
    12: (98, 96, 1202, 1298),
    13: (91, 89, 1310, 1398),
    14: (98, 96, 1402, 1498),
    15: (91, 89, 1510, 1598),
    16: (99, 97, 1602, 1698),
    17: (99, 97, 1702, 1798),
    18: (79, 77, 1802, 1892),
}
PAPER_CODE = (1000, 1900)


@pytest.fixture(scope="module")
def dataset(tokenizer: Tokenizer) -> YearDataset:
    return YearDataset(tokenizer)


def same(a: YearDataset, b: YearDataset) -> bool:
    """Whether two datasets agree in every attribute."""
    return all(
        torch.equal(one, vars(b)[name]) if isinstance(one, torch.Tensor) else one == vars(b)[name]
        for name, one in vars(a).items()
    )


# ------------------------------------------------------------------------- tokens and years


def test_year_tokens_are_the_two_digit_strings(tokenizer, gpt2_tokenizer) -> None:
    assert year_tokens(gpt2_tokenizer).tolist() == [int(i) for i in YEAR_IDS.split()]
    assert tuple(tokenizer.decode([i]) for i in year_tokens(tokenizer).tolist()) == YEAR_STRINGS


def test_valid_years_per_century_and_of_both_pools(tokenizer: Tokenizer) -> None:
    for century, (raw, kept, first, last) in CENTURIES.items():
        start, end = century * 100, century * 100 + 100
        years = valid_years(tokenizer, start, end)
        assert len(valid_years(tokenizer, start, end, trim=False)) == raw
        assert (len(years), years[0], years[-1]) == (kept, first, last)
    for years, trim, n in (((), True, 617), ((), False, 631), (PAPER_CODE, True, 768)):
        assert len(valid_years(tokenizer, *years, trim=trim)) == n


def test_valid_years_split_as_century_and_YY(tokenizer: Tokenizer) -> None:
    years = valid_years(tokenizer, *PAPER_CODE)
    for year, ids in zip(years, tokenizer([f" {y}" for y in years])["input_ids"], strict=True):
        assert [tokenizer.decode([i]) for i in ids] == [f" {year // 100}", f"{year % 100:02d}"]
    assert {y % 100 for y in years} == set(range(2, 99))


def test_nouns_are_single_tokens_after_a_space(tokenizer, gpt2_tokenizer) -> None:
    nouns = load_nouns()
    assert len(nouns) == 120 and list(nouns) == sorted(set(nouns))
    assert all(len(ids) == 1 for ids in tokenizer([f" {noun}" for noun in nouns])["input_ids"])
    assert sum(len(ids) == 1 for ids in gpt2_tokenizer(list(nouns))["input_ids"]) == 34


def test_prompt_has_gpt2s_ids(gpt2_tokenizer: Tokenizer) -> None:
    dataset = YearDataset(gpt2_tokenizer, 1, years=[1732], nouns=["war"])
    ids = [50256, 383, 1175, 15436, 422, 262, 614, 1596, 2624, 284, 262, 614, 1596]
    assert dataset.clean.tolist() == [ids]
    assert dataset.corrupted.tolist() == [[*ids[:8], 486, *ids[9:]]]
    plain = YearDataset(gpt2_tokenizer, 1, years=[1732], nouns=["war"], template=NO_BOS_TEMPLATE)
    assert plain.clean.tolist() == [[464, *ids[2:]]]
    assert tuple(plain.positions) == PAPER_POSITIONS[1:]


# ---------------------------------------------------------------------------- the dataset


def test_shapes_and_positions(dataset: YearDataset, tokenizer: Tokenizer) -> None:
    assert set(dataset.years.tolist()) <= set(valid_years(tokenizer))
    assert set(dataset.XX.tolist()) == set(range(11, 18))
    assert len(dataset) == 490
    assert dataset.clean.shape == dataset.corrupted.shape == (490, 13)
    assert dataset.clean.dtype == dataset.years.dtype == dataset.year_tokens.dtype == torch.int64
    assert tuple(dataset.positions) == PAPER_POSITIONS
    assert list(dataset.positions.values()) == list(range(13))
    assert (dataset.clean[:, 0] == tokenizer.eos_token_id).all()
    assert torch.equal(dataset.clean[:, 8], dataset.year_tokens[dataset.YY])
    assert torch.equal(dataset.clean[:, 7], dataset.clean[:, 12])
    assert torch.equal(dataset.XX * 100 + dataset.YY, dataset.years)
    assert dataset.position("END") == 12
    YYs = dataset.YY.tolist()
    assert dataset.valid.tolist() == [[year > YY for year in range(100)] for YY in YYs]
    noun, year = dataset.nouns[77], int(dataset.years[77])
    text = f"<|endoftext|> The {noun} lasted from the year {year} to the year {year // 100}"
    assert dataset.clean_text[77] == text == tokenizer.decode(dataset.clean[77])


def test_balanced_sampling_cycles_over_the_YYs(tokenizer: Tokenizer, dataset: YearDataset) -> None:
    assert dataset.YY.tolist() == [2 + i % 97 for i in range(490)]
    few = YearDataset(tokenizer, 5, years=[1745, 1732, 1645])
    assert few.YY.tolist() == [32, 45, 32, 45, 32]
    assert set(few.years.tolist()) <= {1732, 1645, 1745}


def test_unbalanced_sampling_is_uniform_over_the_pool(tokenizer: Tokenizer) -> None:
    dataset = YearDataset(tokenizer, 5000, balanced=False)
    counts = Counter(dataset.years.tolist())
    pool = valid_years(tokenizer)
    assert set(counts) <= set(pool)
    chi_squared = sum((counts[y] - 5000 / 617) ** 2 / (5000 / 617) for y in pool)
    assert abs(chi_squared - 616) < 5 * (2 * 616) ** 0.5
    assert len(set(dataset.nouns)) == 120


def test_seed(tokenizer: Tokenizer, dataset: YearDataset) -> None:
    assert same(YearDataset(tokenizer), dataset)
    assert not torch.equal(YearDataset(tokenizer, seed=1).clean, dataset.clean)
    # Fixed for all machines and versions: a change here changes every published number.
    assert dataset.years[:6].tolist() == [1702, 1403, 1604, 1705, 1406, 1707]
    assert dataset.nouns[:4] == ["reforms", "demonstrations", "expedition", "domination"]


def test_smaller_n_gives_the_first_prompts(tokenizer: Tokenizer) -> None:
    for corruption in ("01", "random"):
        large = YearDataset(tokenizer, 60, corruption=corruption)
        assert same(YearDataset(tokenizer, 25, corruption=corruption), large[:25])


def test_slices_do_not_resample(dataset: YearDataset) -> None:
    part = dataset[100:110]
    assert len(part) == 10
    assert torch.equal(part.clean, dataset.clean[100:110])
    assert part.corrupted_text == dataset.corrupted_text[100:110]
    assert same(dataset.take([3, -1]), dataset.take(torch.tensor([3, 489])))
    assert same(dataset[-1], dataset[489:])
    few = dataset.take(dataset.YY < 5)
    assert set(few.YY.tolist()) == {2, 3, 4}
    assert [int(dataset[i].YY) for i in range(3)] == [2, 3, 4]
    assert len(dataset) == 490
    with pytest.raises(FrozenInstanceError):
        dataset.years = torch.zeros(1)  # type: ignore[misc]


# ---------------------------------------------------------------------------- corruptions


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("years", [(1100, 1800), PAPER_CODE])
def test_corruption_changes_what_it_says(
    tokenizer: Tokenizer, dataset: YearDataset, name: str, years: tuple[int, int]
) -> None:
    clean_text = dataset.clean_text[:200]
    dataset = YearDataset(tokenizer, 200, years=years, corruption=name)
    allowed = {"noun": ["NOUN"], "century": ["XX1"]}.get(name, ["YY"])
    if name == "01" and years == PAPER_CODE:
        allowed = ["XX1", "YY"]
    assert dataset.changed_positions == allowed
    assert (dataset.clean != dataset.corrupted).any(1).all()
    assert torch.equal(dataset.clean[:, -1], dataset.corrupted[:, -1])
    assert tokenizer(dataset.corrupted_text)["input_ids"] == dataset.corrupted.tolist()
    assert dataset.corruption.name == name
    assert (dataset.clean_text == clean_text) == (years != PAPER_CODE)  # whatever the corruption


def test_01_corruption(tokenizer: Tokenizer, dataset: YearDataset) -> None:
    assert (dataset.corrupted[:, 8] == dataset.year_tokens[1]).all()
    # The paper's code draws from 1000 to 1899 as well; ` 1001` splits as ` 100` + `1`.
    code = YearDataset(tokenizer, 768, years=PAPER_CODE, balanced=False)
    tenth = code.take(code.XX == 10)
    assert tenth.changed_positions == ["XX1", "YY"]
    assert (tenth.clean != tenth.corrupted).sum(1).unique().tolist() == [2]
    assert [tokenizer.decode([i]) for i in tenth.corrupted[0, 7:9].tolist()] == [" 100", "1"]
    assert code.take(code.XX != 10).changed_positions == ["YY"]


def test_random_corruptions(tokenizer: Tokenizer) -> None:
    number = {int(token): YY for YY, token in enumerate(year_tokens(tokenizer))}
    for name in ("smaller", "random"):
        one = YearDataset(tokenizer, 490, corruption=name)
        change = torch.tensor([number[i] for i in one.corrupted[:, 8].tolist()]) - one.YY
        assert change.min() < 0 and (change.max() > 0) == (name == "random")
    century = YearDataset(tokenizer, 490, corruption="century")
    found = {str(tokenizer.decode([i])).strip() for i in century.corrupted[:, 7].tolist()}
    assert found == {"11", "12", "13", "14", "15", "16", "17"}
    # all that fits is drawn equally often
    dataset = YearDataset(tokenizer, 3000, years=[1704], nouns=["war"], corruption="smaller")
    counts = Counter(text.split("year ")[1][:4] for text in dataset.corrupted_text)
    assert {"1701", "1702", "1703"} == set(counts)  # " 1700" is a single token
    assert all(abs(n - 1000) < 130 for n in counts.values())


# --------------------------------------------------------------------- own nouns, templates

TEMPLATES = {
    "The war lasted from {XX}{YY} to {XX}": "does not have {noun} once.*for example",
    "The {noun} lasted to {XX}": "start year once, as {XX}{YY}",
    "The {noun} of {YY} lasted to {XX}": "start year once, as {XX}{YY}",
    "The {noun} from {XX}{YY} to {XX}{YY} {XX}": "start year once, as {XX}{YY}",
    "The {noun} lasted from {XX}{YY} to {XX}.": "does not end with {XX}",
    "The {noun} in {place} from {XX}{YY} to {XX}": "unknown field {place}",
}


def test_own_nouns_and_template(gpt2_tokenizer: Tokenizer) -> None:
    dataset = YearDataset(
        gpt2_tokenizer,
        4,
        nouns=["war", "peace"],
        template="In {XX}{YY}, the {noun}, in the year END; it ended in {XX}",
    )
    assert " ".join(dataset.positions) == (
        "In XX1 YY comma the NOUN comma2 in the2 year END2 semicolon it ended in2 END"
    )
    assert set(dataset.nouns) <= {"war", "peace"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"n": n}, f"n is {n}.*e.g. 490") for n in (0, -3, 2.5)),
        ({"seed": None}, "seed is None.*e.g. 0"),
        ({"years": (1100, 1101)}, "no valid year in .1100, 1101"),
        ({"years": []}, "no valid year in "),
        ({"years": [1732, 1700]}, "1700 does not split .* but as ' 1700'.*e.g. 1732"),
        ({"years": 1732}, "years is 1732"),
        ({"years": (1800, 1100)}, "1800 to 1100 is no range.*e.g. .1100, 1800"),
        *(({"nouns": n}, 'nouns is .*e.g. ."war"') for n in ("war", [], ["war", 3], [""])),
        ({"corruption": "02"}, "'02' is no corruption.*'01', 'smaller', 'random', 'noun'"),
        ({"years": [1701]}, "'01' has no replacement for .*1701"),
        ({"nouns": ["war"], "corruption": "noun"}, "'noun' has no replacement.*only 'NOUN'"),
        ({"years": [1701], "corruption": "smaller"}, "has no replacement.*13 tokens.*' 1700'"),
        *(({"template": text}, said) for text, said in TEMPLATES.items()),
    ],
)
def test_what_does_not_fit_is_refused(tokenizer: Tokenizer, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YearDataset(tokenizer, **options)


def test_nouns_of_several_tokens_and_slow_tokenizers_are_refused(gpt2_tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="'blitzkrieg' .*split as ' blitz' . 'k' . 'rieg'"):
        YearDataset(gpt2_tokenizer, nouns=["war", "blitzkrieg"])

    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow is not a fast"):
        YearDataset(Slow())  # type: ignore[arg-type]


def test_what_a_dataset_does_not_have(dataset: YearDataset) -> None:
    with pytest.raises(ValueError, match="no position 'XX2'; choose 'eos', 'The', 'NOUN'"):
        dataset.position("XX2")
    with pytest.raises(ValueError, match="no prompt of 490.*e.g."):
        dataset[490:]
    for choose in (lambda: dataset[490], lambda: dataset.take([490])):
        with pytest.raises(IndexError):
            choose()


# ------------------------------------------------------------------- given prompts and files


def test_given_prompts(tokenizer: Tokenizer) -> None:
    clean = ["The war ended in the year 17 of 1732 to the year 17"] * 2
    same_words = YearDataset.from_prompts(clean, clean, [1732, 1732], tokenizer)
    assert same_words.changed_positions == []
    assert " ".join(same_words.positions) == (
        "The war ended in the year 17 of XX1 YY to the2 year2 END"
    )
    named = YearDataset.from_prompts(clean, clean, [1732, 1732], tokenizer, nouns=["war", "war"])
    assert named.position("NOUN") == 1
    assert named.corruption.name == "given"
    short = YearDataset.from_prompts(
        ["The war lasted from the year 732 BC to the year 7"] * 2,
        ["The war lasted from the year 799 BC to the year 7"] * 2,
        [732, 732],
        tokenizer,
    )
    assert short.XX.tolist() == [7, 7]
    assert short.YY.tolist() == [32, 32]
    assert short.changed_positions == ["YY"]


def test_given_prompt_errors(tokenizer: Tokenizer, dataset: YearDataset) -> None:
    clean, years = dataset.clean_text[:3], dataset.years[:3].tolist()
    for texts, corrupted, given, options, message in (
        (clean, clean[:2], years, {}, "3 clean texts, 2 corrupted texts"),
        ([], [], [], {}, "needs 1 prompt or more"),
        ("text", clean, years, {}, "the prompts are one text"),
        (clean, [*clean[:2], "The war"], years, {}, "corrupted prompt 'The war' has 2 tokens"),
        (clean, clean, [1111, *years[1:]], {}, "the start year 1111 does not occur"),
        (clean, clean, [years[0], 1444, years[2]], {}, "has '03' where '44' is needed"),
        (clean, clean, [years[0], 1703, years[2]], {}, "has ' 14' where '17' is needed"),
        (clean, clean, years, {"nouns": ["treaty"] * 3}, "the noun 'treaty' does not occur"),
        (clean, clean, years, {"positions": ["a", "YY", "END"]}, "where 3 are needed"),
    ):
        with pytest.raises(ValueError, match=message):
            YearDataset.from_prompts(texts, corrupted, given, tokenizer, **options)
    for positions in ([*PAPER_POSITIONS[:-1], "YY"], ["a b", "YY", "END"], ["a", "END"], []):
        with pytest.raises(ValueError, match="the positions .* do not fit"):
            YearDataset.from_prompts(clean, clean, years, tokenizer, positions=positions)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_csv_round_trip(tokenizer: Tokenizer, tmp_path: Path, corruption: str) -> None:
    dataset = YearDataset(tokenizer, 30, years=PAPER_CODE, corruption=corruption)[5:]
    dataset.to_csv(tmp_path / "prompts.csv")
    again = YearDataset.from_csv(tmp_path / "prompts.csv", tokenizer)
    assert same(again, dataset)
    assert again.corruption is CORRUPTIONS[corruption]


def test_csv_round_trip_of_own_prompts(gpt2_tokenizer: Tokenizer, tmp_path: Path) -> None:
    text = ' "Well,\nthe {noun}," from {XX}{YY} to {XX}'
    drawn = YearDataset(gpt2_tokenizer, 7, nouns=["null"], template=text)
    dataset = YearDataset.from_prompts(
        drawn.clean_text,
        drawn.corrupted_text,
        drawn.years.tolist(),
        gpt2_tokenizer,
        nouns=drawn.nouns,
        corruption=Corruption('own, "quoted"', "a, b"),
    )
    dataset.to_csv(tmp_path / "prompts.csv")
    assert same(YearDataset.from_csv(tmp_path / "prompts.csv", gpt2_tokenizer), dataset)
    given = YearDataset.from_prompts(["17 1732 17"], ["17 1701 17"], [1732], gpt2_tokenizer)
    given.to_csv(tmp_path / "given.csv")
    assert same(YearDataset.from_csv(tmp_path / "given.csv", gpt2_tokenizer), given)


def test_csv_with_three_columns(tokenizer: Tokenizer, dataset: YearDataset, tmp_path: Path) -> None:
    dataset.to_frame()[["clean", "corrupted", "year"]].to_csv(tmp_path / "prompts.csv", index=False)
    again = YearDataset.from_csv(tmp_path / "prompts.csv", tokenizer)
    assert torch.equal(again.clean, dataset.clean) and again.position("YY") == 8
    assert torch.equal(again.corrupted, dataset.corrupted)


def test_csv_errors(tokenizer: Tokenizer, dataset: YearDataset, tmp_path: Path) -> None:
    path, frame = tmp_path / "prompts.csv", dataset[:3].to_frame()
    for wrong, message in (
        (frame.drop(columns="corrupted"), "no column 'corrupted'"),
        (frame.assign(year="early"), "'early'"),
        (frame[:0], "needs 1 prompt or more"),
        (frame.assign(corruption=["01", "01", "smaller"]), "several corruption values"),
    ):
        wrong.to_csv(path)
        with pytest.raises(ValueError, match=message):
            YearDataset.from_csv(path, tokenizer)


def test_the_papers_recorded_prompts(gpt2_tokenizer: Tokenizer, reference: Path) -> None:
    recorded = load_file(reference / "oracle" / "golden.safetensors")
    good, bad = recorded["good_toks"], recorded["bad_toks"]
    years = recorded["years"].long()
    dataset = YearDataset.from_prompts(
        gpt2_tokenizer.batch_decode(good),
        gpt2_tokenizer.batch_decode(bad),
        years.tolist(),
        gpt2_tokenizer,
        nouns=[str(gpt2_tokenizer.decode(ids[2:3])).strip() for ids in good],
    )
    assert tuple(dataset.positions) == PAPER_POSITIONS
    assert torch.equal(dataset.clean, good.long())
    assert torch.equal(dataset.corrupted, bad.long())
    assert torch.equal(dataset.XX, recorded["years_XX"].long())
    assert torch.equal(dataset.YY, recorded["years_YY"].long())
    assert torch.equal(dataset.valid, recorded["good_mask"].bool())
    assert set(years.tolist()) <= set(valid_years(gpt2_tokenizer, *PAPER_CODE))
    assert set(dataset.nouns) <= set(load_nouns())


def test_year_pool_says_why_a_year_is_left_out(tokenizer: Tokenizer) -> None:
    pool = year_pool(tokenizer, 1000, 1900)
    kept = pool[pool["status"] == "kept"]
    assert kept["year"].tolist() == valid_years(tokenizer, 1000, 1900)
    status = pool.set_index("year")["status"]
    assert status[1701] == status[1799] == "first or last"
    assert status[1800] == "one token" and status[1502] == "other split"
    assert pool.set_index("year")["tokens"][1502] == "' 150' + '2'"


@pytest.mark.parametrize("text", ["1100", "1800-1100", "a-b", "", "1100-1800-1900"])
def test_year_range_refuses(text: str) -> None:
    assert year_range(" 1100 - 1800") == (1100, 1800)
    with pytest.raises(ValueError, match="e.g. 1100-1800"):
        year_range(text)
