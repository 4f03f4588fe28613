"""The command line: python -m gt_helpers reproduce | check | train-mini."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# Loading bars of other libraries would drown the run's own; this must precede their import.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_MININTERVAL", "0.5")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Mistakes in the arguments get one sentence."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train-mini"]:
        from .mini.train import main as train

        train(arguments[1:])
        return 0
    options = _parser().parse_args(arguments)
    if options.command == "check":
        from .environment import check_environment

        return 0 if check_environment() else 1
    from .reproduce import reproduce

    try:
        reproduce(
            options.model,
            options.prompts,
            options.seed,
            options.years,
            options.out,
            options.device,
        )
    except (ValueError, OSError) as error:
        print(f"gt_helpers reproduce: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What was finished is kept: the same command continues.", file=sys.stderr
        )
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gt_helpers",
        description="The greater-than circuit of GPT-2 small, redone.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("reproduce", help="the paper's circuit discovery, into a report")
    run.add_argument(
        "--model",
        help="gpt2-small, another GPT-2-family name, a local folder, or mini "
        "(default: gpt2-small when it can be had, else mini)",
    )
    run.add_argument("--prompts", type=_at_least_one, default=490, help="default: 490")
    run.add_argument("--seed", type=int, default=0, help="of the dataset (default: 0)")
    run.add_argument(
        "--years",
        type=_years,
        default=(1100, 1800),
        metavar="FIRST-END",
        help="pool of start years, END excluded (default: 1100-1800; the paper's code: 1000-1900)",
    )
    run.add_argument("--out", help="folder for the report (default: reproduction/...)")
    run.add_argument("--device", help="cuda or cpu (default: cuda when there is one)")
    commands.add_parser("check", help="is everything installed that the notebooks need?")
    commands.add_parser("train-mini", help="train the embedded model again", add_help=False)
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more, e.g. 490")
    return int(text)


def _years(text: str) -> tuple[int, int]:
    first, _, end = text.partition("-")
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is no range, FIRST below END, e.g. 1100-1800")
    return int(first), int(end)


if __name__ == "__main__":
    sys.exit(main())
