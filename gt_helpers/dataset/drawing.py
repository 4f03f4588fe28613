"""Drawing: clean prompts from a pool of years and nouns, and what spoils each of them.

The same seed gives the same prompts on every machine and in every Python version.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from .alignment import aligned
from .corruptions import Corruption
from .prompts import Prompt, fill, listed, token_texts, tokenize

T = TypeVar("T")


def draw_prompts(
    rng: random.Random, n: int, pool: Sequence[int], nouns: Sequence[str], balanced: bool
) -> list[Prompt]:
    """``n`` prompts with years of the pool and nouns; balanced, its YYs come in turn.

    Raises ValueError for less than one prompt.
    """
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; give 1 prompt or more, e.g. 490")
    YYs = sorted({year % 100 for year in pool})
    years_of = {YY: [year for year in pool if year % 100 == YY] for YY in YYs}
    prompts = []
    for i in range(n):
        year = _pick(rng, years_of[YYs[i % len(YYs)]] if balanced else pool)
        prompts.append(Prompt(_pick(rng, nouns), year, year // 100))
    return prompts


def draw_corrupted(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    corruption: Corruption,
    prompts: Sequence[Prompt],
    nouns: Sequence[str],
    names: Sequence[str],
    seed: int,
) -> list[Prompt]:
    """Draw a replacement for each prompt; those that do not fit are drawn again, all in batches.

    One fits if it has the prompt's number of tokens and only those differ that may change.
    """
    kept = [i for i, name in enumerate(names) if name not in corruption.may_change]
    clean = aligned(tokenizer, "clean", [fill(template, prompt) for prompt in prompts], names)
    kept_tokens = clean[:, kept].tolist()
    tried = [[prompt] for prompt in prompts]  # the last one of each is its replacement
    waiting = list(range(len(prompts)))
    while waiting:
        for i in waiting:
            alternatives = corruption.alternatives(prompts[i], nouns)
            options = [one for one in alternatives if one not in tried[i]]
            if not options:
                last = tokenize(tokenizer, [fill(template, tried[i][-1])])[0]
                raise ValueError(
                    f"corruption {corruption.name!r} has no replacement for "
                    f"{fill(template, prompts[i])!r} with {len(names)} tokens that changes only "
                    f"{listed(corruption.may_change)}; the last one tried is "
                    f"{token_texts(tokenizer, last)}"
                )
            # A stream of its own per prompt and attempt: no draw depends on another prompt's.
            rng = random.Random(f"corruption {seed} {i} {len(tried[i])}")
            tried[i].append(_pick(rng, options))
        ids = tokenize(tokenizer, [fill(template, tried[i][-1]) for i in waiting])
        waiting = [
            i
            for i, tokens in zip(waiting, ids, strict=True)
            if len(tokens) != len(names) or [tokens[k] for k in kept] != kept_tokens[i]
        ]
    return [prompts[-1] for prompts in tried]


def _pick(rng: random.Random, options: Sequence[T]) -> T:
    # Only random() is promised to give the same numbers in every Python version.
    return options[int(rng.random() * len(options))]
