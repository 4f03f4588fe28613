"""Mistakes that one prompt can have by itself, clean or corrupted."""

from __future__ import annotations

from ...dataset.prompts import PAPER_TEMPLATE
from .check import BREAKS, CHANGES, NOTE, Check, in_prompts, shown
from .given import BOS, ReadPrompt

PAPER_SENTENCE = PAPER_TEMPLATE.removeprefix(BOS).removesuffix("{XX}").strip()
NO_SPECIAL_TOKENS = "model.tokenizer(texts, add_special_tokens=False)"


def _tokens(prompt: ReadPrompt) -> str:
    return shown(prompt.pieces)


def _first_tokens(prompt: ReadPrompt) -> str:
    return f"{shown(prompt.pieces[:3])} ..."


def _last_tokens(prompt: ReadPrompt) -> str:
    return f"... {shown(prompt.pieces[-3:])}"


def _text(prompt: ReadPrompt) -> str:
    return repr(prompt.body)


def _year(prompt: ReadPrompt) -> str:
    return f"{prompt.start} is {shown(prompt.year_pieces)}"


def _year_is_split(prompt: ReadPrompt) -> bool:
    return bool(prompt.start) and not prompt.splits_well


def _other_sentence(prompt: ReadPrompt) -> bool:
    return bool(prompt.start) and prompt.sentence.casefold() != PAPER_SENTENCE.casefold()


def _other_capitals(prompt: ReadPrompt) -> bool:
    if not prompt.start or _other_sentence(prompt):
        return False
    return prompt.sentence != PAPER_SENTENCE or prompt.noun != prompt.noun.lower()


UNKNOWN_IDS = Check(
    "unknown token ids",
    BREAKS,
    "In {who} there are token ids that the model does not have: they are another tokenizer's, "
    "or padding. Everything else is checked on the texts, where there are some.",
    f"Tokenize with the model's own tokenizer: {NO_SPECIAL_TOKENS}.",
    in_prompts(lambda prompt: prompt.unknown, lambda prompt: f"id {prompt.unknown[0]}"),
)

PROMPT_CHECKS = (
    UNKNOWN_IDS,
    Check(
        "ids of another text",
        BREAKS,
        "In {who} the token ids are not the tokens of the text; everything else is checked on the "
        "ids, because the model reads these.",
        f"Tokenize the texts again, {NO_SPECIAL_TOKENS}, and keep both in the same order.",
        in_prompts(
            lambda prompt: prompt.mismatch == "other tokens" and not prompt.unknown,
            lambda prompt: f"the ids read {shown(prompt.pieces)}",
        ),
    ),
    Check(
        "padding",
        BREAKS,
        f"In {{who}} the last token is padding ({BOS}), so what is read at END is no answer.",
        "Use prompts of equal length, which need no padding.",
        in_prompts(lambda prompt: prompt.padding > 0, _last_tokens),
    ),
    Check(
        "space at the end",
        BREAKS,
        "In {who} a blank follows the last century, so END is the blank, after which the model "
        "does not continue the year.",
        "Remove blanks at the end: text.rstrip().",
        in_prompts(lambda prompt: prompt.body != prompt.body.rstrip(), _last_tokens),
    ),
    Check(
        "end century missing",
        BREAKS,
        "In {who} no century stands at the end, so the next token is not the end year's last two "
        "digits.",
        "End every prompt with the century of its start year, as in 'to the year 17'.",
        in_prompts(lambda prompt: bool(prompt.start) and not prompt.end, _text),
    ),
    Check(
        "answer included",
        BREAKS,
        "In {who} the whole end year is in the prompt, so the answer is given away and the next "
        "token is another word.",
        "Stop after the century: 'to the year 17', not 'to the year 1745'.",
        in_prompts(lambda prompt: len(prompt.end) > 2, _last_tokens),
    ),
    Check(
        "end century",
        BREAKS,
        "In {who} the prompt ends in another century than it starts in, so YY does not bound the "
        "end year.",
        "Write the start year's century at the end, 17 for 1732.",
        in_prompts(
            lambda prompt: (
                prompt.XX is not None and 0 < len(prompt.end) <= 2 and int(prompt.end) != prompt.XX
            ),
            _text,
            ("clean",),
        ),
    ),
    Check(
        "no start year",
        BREAKS,
        "In {who} no start year can be read, so there is no YY that end years are compared with.",
        "Write the start year in four digits without a blank, as in 'from the year 1732'.",
        in_prompts(lambda prompt: not prompt.start, _text),
    ),
    Check(
        "start year split",
        BREAKS,
        "In {who} the start year does not split into its century and YY, so there is no token YY.",
        "Draw start years from valid_years(tokenizer) of gt_helpers, which split well.",
        in_prompts(_year_is_split, _year, ("clean",)),
    ),
    Check(
        "corrupted year split",
        CHANGES,
        "In {who} the start year does not split into its century and YY, so the corruption changes "
        "XX1 as well as YY (in the paper's code this happens in century 10).",
        "Start in centuries 11 to 17, and corrupt with 01: 1701 is ' 17' + '01'.",
        in_prompts(_year_is_split, _year, ("corrupted",)),
    ),
    Check(
        "noun of several tokens",
        BREAKS,
        "In {who} the noun is more than one token, which moves every later position.",
        "Use nouns that are one token after a space, such as load_nouns() of gt_helpers.",
        in_prompts(
            lambda prompt: len(prompt.noun_pieces) > 1,
            lambda prompt: f"{prompt.noun} is {shown(prompt.noun_pieces)}",
        ),
    ),
    Check(
        "template",
        CHANGES,
        "In {who} the sentence is not the paper's, so its numbers do not carry over.",
        f"Write {PAPER_TEMPLATE!r}.",
        in_prompts(_other_sentence, lambda prompt: f"{prompt.sentence + ' ' + prompt.end!r}"),
    ),
    Check(
        "no start token",
        CHANGES,
        f"In {{who}} there is no {BOS} in front: all positions are one lower than the paper's, and "
        "heads that rest on the first token rest on a word.",
        f"Begin every prompt with {BOS}, as in '{BOS} The plague lasted'; if your tokenizer adds "
        "it, give your token ids too (ids=), so that they are checked.",
        in_prompts(lambda prompt: prompt.bos == 0, _first_tokens),
    ),
    Check(
        "space lost",
        CHANGES,
        f"In {{who}} the space after {BOS} is lost: the first word is the token without a space "
        "('The', GPT-2's 464), the paper's is the one with it (' The', 383).",
        f"Tokenize the whole text '{BOS} The plague lasted ...': {NO_SPECIAL_TOKENS}.",
        in_prompts(lambda prompt: prompt.bos > 0 and prompt.body[:1].isalpha(), _first_tokens),
    ),
    Check(
        "unusual characters",
        CHANGES,
        "In {who} there are characters other than plain letters, digits and spaces (perhaps a "
        "non-breaking space or a line break), which make other tokens.",
        "Replace them; repr(text) shows them.",
        in_prompts(
            lambda prompt: any(not " " <= character <= "~" for character in prompt.body.rstrip()),
            _tokens,
        ),
    ),
    Check(
        "double spaces",
        CHANGES,
        "In {who} two spaces follow each other, the first of which is a token of its own.",
        "Write one space between words.",
        in_prompts(lambda prompt: "  " in prompt.body.rstrip(), _tokens),
    ),
    Check(
        "capitals",
        CHANGES,
        "In {who} the words are the paper's but not their capital letters, which makes other "
        "tokens.",
        "Write 'The' with a capital letter and every other word without.",
        in_prompts(_other_capitals, _text),
    ),
    Check(
        "start token added",
        NOTE,
        f"In {{who}} the ids begin with another number of {BOS} than the text does: the tokenizer "
        "adds or leaves out start tokens by itself.",
        f"Write {BOS} into the texts and use {NO_SPECIAL_TOKENS}, so that you read what the model "
        "reads.",
        in_prompts(lambda prompt: prompt.mismatch == "start token", _first_tokens),
    ),
)
