"""``exitbits pick``: choose one policy of a front under a budget and write it as a bundle."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from search.errors import BadInput, NoPolicyFound
from search.front import best_under, cheapest_above, knee
from studies.commands.common import add_json, add_store, read_store
from studies.fronts import FrontSummary
from studies.policy_file import PolicyFile, write_policy_file
from studies.records import EvaluationRow
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
    rule = parser.add_mutually_exclusive_group(required=True)
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
    store = StudyStore(read_store(args))
    summary = FrontSummary.load(store, store.get(args.study))
    if not summary.rows:
        raise NoPolicyFound(f"study {args.study!r} has no evaluations yet: launch it first")
    row = _choose(args, summary)
    (evaluation,) = store.details([row])
    file = PolicyFile.of(summary.record, row, evaluation)
    write_policy_file(file, args.output, force=args.force)
    if args.json:
        fields = {**summary.row_as_dict(row), "certified": False, "bundle": str(args.output)}
        print(json.dumps(fields, indent=2, allow_nan=False))
        return 0
    print(
        f"policy {row.digest[:12]} ({row.origin}): "
        f"{summary.record.metric} {row.value:.4f} ± {row.standard_error:.4f}, "
        f"{row.gbops:.4f} GBOPs expected, {summary.reduction(row):.2%} below 32x32 at full depth, "
        f"measured on {evaluation.samples} images"
    )
    print(
        "NOT CERTIFIED: this accuracy was measured on the split that chose the policy, "
        "so it flatters"
    )
    print(f"written to {args.output}")
    return 0


def _choose(args: argparse.Namespace, summary: FrontSummary) -> EvaluationRow:
    points = summary.points
    reference = summary.record.reference_value
    for option in ("min_accuracy", "max_drop"):
        value = getattr(args, option)
        if value is not None and value > 1:
            raise BadInput(f"--{option.replace('_', '-')} {value}: give a fraction in [0, 1]")
    if args.model is not None and args.digest is None:
        raise BadInput(f"--model {args.model}: it tells policies of one --digest apart; give both")
    if args.digest is not None:
        return _by_digest(args.digest, args.model, summary)
    if args.max_gbops is not None:
        index = best_under(points, args.max_gbops)
        want = f"costs at most {args.max_gbops} GBOPs: the cheapest costs {points[:, 1].min():.4f}"
    elif args.knee:
        index = knee(points)
        want = f"is a knee: the front has {len(summary.front)} points, a knee needs three"
    else:
        floor = reference - args.max_drop if args.min_accuracy is None else args.min_accuracy
        index = cheapest_above(points, floor)
        want = f"reaches {summary.record.metric} {floor:.4f}: the best has {points[:, 0].max():.4f}"
    if index is None:
        raise NoPolicyFound(f"no evaluated policy of {args.study!r} {want}")
    return summary.rows[index]


def _by_digest(prefix: str, model: str | None, summary: FrontSummary) -> EvaluationRow:
    matching = {
        (row.digest, row.model or "own"): row
        for row in summary.rows
        if row.digest.startswith(prefix) and (row.model or "own").startswith(model or "")
    }
    if len(matching) == 1:
        return next(iter(matching.values()))
    if len({digest for digest, _ in matching}) == 1:
        models = ", ".join(sorted(name[:12] for _, name in matching))
        raise NoPolicyFound(
            f"policy {prefix!r} was measured with {len(matching)} models: choose by --model, one "
            f"of {models}"
        )
    found = f"{len(matching)} policies" if matching else "no policy"
    on = "" if model is None else f" on a model that starts with {model!r}"
    raise NoPolicyFound(
        f"{found} with a digest that starts with {prefix!r}{on}: see 'exitbits front'"
    )
