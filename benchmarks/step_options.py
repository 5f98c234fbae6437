"""The shape of an iteration, as the command lines of `step` and `update` take it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.comparison import PRECISIONS


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """What both ask for: device, number formats, model, prompts, group, lengths, steps."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--model", default="smollm2", help="smollm2, a folder, or random weights: 135m, 0.5b, 1.5b")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8, help="completions a prompt")
    parser.add_argument("--prompt-tokens", type=int, default=47)
    parser.add_argument("--new", type=int, default=32, help="tokens of each completion")
    parser.add_argument("--steps", type=int, default=3, help="measured, behind a warm-up")
    parser.add_argument("--micro-batch", type=int, default=16, help="rows that TRL takes at once")
    parser.add_argument("--limit-seconds", type=float, default=3600, help="of each process")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; leaves with a message where TRL could not divide the rows."""
    options = parser.parse_args(arguments)
    if options.prompts * options.group % options.micro_batch:
        parser.error(f"--micro-batch must divide the {options.prompts * options.group} completions")
    return options
