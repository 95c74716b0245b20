"""``exitbits pick``: choose one policy of a front under a budget and write it as a bundle."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from search.cost import Measure, in_words
from studies.commands.bounds import add_bounds, read_bounds
from studies.commands.common import add_json, add_store, read_store
from studies.picking import PickRequest, pick
from studies.policy_file import write_policy_file
from studies.store.writer import StudyStore


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number from 0 up")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits pick``."""
    parser.add_argument("study", help="name of the study")
    add_store(parser)
    add_json(parser)
    rule = parser.add_mutually_exclusive_group()
    rule.add_argument(
        "--max-gbops",
        type=_finite,
        metavar="X",
        help="the most accurate policy at an expected cost of at most X GBOPs",
    )
    rule.add_argument(
        "--min-accuracy",
        type=_finite,
        metavar="A",
        help="the cheapest policy with an accuracy of at least A, in [0, 1]",
    )
    rule.add_argument(
        "--max-drop",
        type=_finite,
        metavar="D",
        help="the cheapest policy at most D below full precision, in [0, 1]",
    )
    rule.add_argument("--knee", action="store_true", help="the knee of the front")
    rule.add_argument("--digest", metavar="PREFIX", help="the policy with this digest")
    add_bounds(parser)
    parser.add_argument(
        "--model",
        metavar="PREFIX",
        help="with --digest: the recovered model's digest, or 'own' for the study's own model",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("policy.json"),
        metavar="FILE",
        help="bundle to write (default %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")


def run(args: argparse.Namespace) -> int:
    """Choose, write the bundle, and say what was chosen."""
    request = PickRequest(
        max_gbops=args.max_gbops,
        min_accuracy=args.min_accuracy,
        max_drop=args.max_drop,
        knee=args.knee,
        digest=args.digest,
        model=args.model,
        within=read_bounds(args),
    )
    store = StudyStore(read_store(args))
    picked = pick(store, store.get(args.study), request)
    write_policy_file(picked.file, args.output, force=args.force)
    row, summary = picked.row, picked.summary
    if args.json:
        fields = {
            **summary.row_as_dict(row, picked.evaluation),
            "certified": False,
            "bundle": str(args.output),
        }
        print(json.dumps(fields, indent=2, allow_nan=False))
        return 0
    print(
        f"policy {row.digest[:12]} ({row.origin}): "
        f"{summary.record.metric} {row.value:.4f} ± {row.standard_error:.4f}, "
        f"{row.gbops:.4f} GBOPs expected, {summary.reduction(row):.2%} below 32x32 at full depth, "
        f"measured on {picked.evaluation.samples} images"
    )
    costs = summary.cost(row)
    measures: tuple[Measure, ...] = ("p95", "worst", "memory", "mean_bits")
    told = [(one, getattr(costs, one)) for one in measures]
    print("; ".join(in_words(one, value) for one, value in told if value is not None))
    print(
        "NOT CERTIFIED: this accuracy was measured on the split that chose the policy, "
        "so it flatters"
    )
    print(f"written to {args.output}")
    return 0
