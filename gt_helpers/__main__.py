"""The command line: python -m gt_helpers reproduce | scorecard | check."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

# Loading bars of other libraries would drown the run's own; this must precede their import.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_MININTERVAL", "0.5")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Mistakes in the arguments get one sentence."""
    options = vars(_parser().parse_args(argv))  # only what was given: functions have the defaults
    command = options.pop("command")
    if command == "check":
        from .environment import check_environment

        return 0 if check_environment() else 1
    from .processes import Stopped, processes

    try:
        with processes(options.get("device")) as options["device"]:
            return _run(command, options)
    except (ValueError, OSError) as error:
        print(f"gt_helpers {command}: {error}", file=sys.stderr)
        return 2
    except Stopped:  # it has been said why
        return 1
    except KeyboardInterrupt:
        print(
            "\nInterrupted. What was finished is kept: the same command continues.", file=sys.stderr
        )
        return 130


def _run(command: str, options: dict[str, Any]) -> int:
    """Run a command that needs a model; the code is 1 if a scorecard contradicts the paper."""
    # imported only now, so that --help comes at once
    from .dataset.prompts import year_range
    from .processes import main_only
    from .reproduce import open_run, reproduce, run_scorecard
    from .scorecard.claims import contradictions, to_text

    if "years" in options:
        options["years"] = year_range(options["years"])
    if command == "reproduce":
        reproduce(open_run(**options))
        return 0
    table, folder = run_scorecard(**options)
    main_only(print)(f"{to_text(table)}\nScorecard: {(folder / 'scorecard.html').resolve()}")
    return int(bool(contradictions(table)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gt_helpers",
        description="The greater-than circuit of GPT-2 small, redone.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in _COMMANDS.items():
        commands.add_parser(name, help=about, argument_default=argparse.SUPPRESS)
    for name in ("reproduce", "scorecard"):
        add = commands.choices[name].add_argument
        add(
            "--model",
            help="gpt2-small, another name on the hub, a local folder, or mini "
            "(default: gpt2-small when it can be had, else mini)",
        )
        add("--prompts", type=_at_least_one, help="default: 490")
        add("--seed", type=int, help="of the dataset (default: 0)")
        years = "default: 1100-1800; the paper's code: 1000-1900"
        add("--years", metavar="FIRST-END", help=f"pool of start years, END excluded ({years})")
        add("--out", help="folder for the results (default: reproduction/...)")
        cuda = "cuda if there is one, under torchrun one each"
        add("--device", help=f"cuda or cpu (default: {cuda})")
    add = commands.choices["scorecard"].add_argument
    add("--only", type=_names, metavar="ID,...", help="claims, by their ids (default: all)")
    long = "leave out what takes above ten minutes on a CPU"
    add("--skip-long", action="store_true", help=long)
    add("--at-most", type=_at_least_one, metavar="N", help="prompts per further experiment")
    return parser


_COMMANDS = {
    "reproduce": "the paper's circuit discovery, into a report",
    "scorecard": "every claim, measured; the exit code is 1 if they contradict the paper",
    "check": "is everything installed that the notebooks need?",
}


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 1 or more, e.g. 490")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
