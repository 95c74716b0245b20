"""The options that bound what a policy may cost, and what they say."""

from __future__ import annotations

import argparse
import math

from search.cost import GIGA, Budget

OPTIONS = "--max-p95-gbops, --max-worst-gbops, --max-memory or --max-mean-bits"


def positive_number(text: str) -> float:
    """A finite number above 0, as an option's type."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive number")
    return value


def add_bounds(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--max-p95-gbops", type=positive_number, metavar="X",
        help="95 of 100 samples cost at most X GBOPs each",
    )  # fmt: skip
    parser.add_argument(
        "--max-worst-gbops", type=positive_number, metavar="X",
        help="the deepest path costs at most X GBOPs",
    )  # fmt: skip
    parser.add_argument(
        "--max-memory", type=positive_number, metavar="BYTES",
        help="all weights at their bits take at most so many bytes",
    )  # fmt: skip
    parser.add_argument(
        "--max-mean-bits", type=positive_number, metavar="B",
        help="the blocks' weights have at most B bits in the mean",
    )  # fmt: skip


def read_bounds(args: argparse.Namespace) -> Budget:
    """What they say."""
    p95, worst = args.max_p95_gbops, args.max_worst_gbops
    return Budget(
        p95=None if p95 is None else p95 * GIGA,
        worst=None if worst is None else worst * GIGA,
        memory=args.max_memory,
        mean_bits=args.max_mean_bits,
    )
