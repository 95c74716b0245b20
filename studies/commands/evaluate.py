"""``exitbits evaluate``: measure a policy from scratch and compare it with what was recorded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from search.cost import GIGA
from search.data.splits import HELD_OUT_SPLITS
from search.results import Evaluation
from studies.commands.common import add_json, add_places, add_threads, at_places
from studies.evaluating import evaluate_policy_file
from studies.policy_file import read_policy_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits evaluate``."""
    parser.add_argument("policy", type=Path, help="a bundle written by 'exitbits pick'")
    parser.add_argument(
        "--split",
        choices=HELD_OUT_SPLITS,
        default="search",
        help="what to measure on (default %(default)s)",
    )
    add_places(parser)
    add_threads(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; exit code 1 when the recorded figures of the same split are not reproduced."""
    given = read_policy_file(args.policy)
    given = given.model_copy(update={"study": at_places(given.study, args)})
    again = evaluate_policy_file(given, args.split)
    measured, recorded = again.measured, again.recorded
    if args.json:
        fields = {
            "digest": given.digest,
            "split": args.split,
            "reproduced": again.reproduced,
            **measured.as_dict(),
        }
        print(json.dumps(fields, indent=2, allow_nan=False))
    else:
        _show(measured, args.split)
        if again.given_up:
            print(
                f"only {measured.samples} of {again.images} images: the pass was given up "
                "there, since it could not add to the front"
            )
        if again.reproduced:
            print("reproduces the recorded figures exactly")
    if again.reproduced is False:
        print(
            f"exitbits: recorded were {recorded.metric} {recorded.value!r} and "
            f"{recorded.gbops!r} GBOPs in the {recorded.engine} engine: another machine, engine or "
            "library version can round differently",
            file=sys.stderr,
        )
        return 1
    return 0


def _show(measured: Evaluation, split: str) -> None:
    cost, references = measured.cost, measured.references
    print(
        f"policy {measured.policy.digest[:12]} on {measured.samples} images of split {split}, "
        f"{measured.engine} engine"
    )
    print(f"{measured.metric:>12}  {measured.value:.4f} ± {measured.standard_error:.4f}")
    print(
        f"{'GBOPs':>12}  {cost.expected / GIGA:.4f} expected, {cost.p95 / GIGA:.4f} at the 95th "
        f"percentile, {cost.worst / GIGA:.4f} at worst"
    )
    for label, reference in (
        ("32x32 at full depth", references.w32a32),
        ("W8A8 at full depth", references.w8a8),
        ("the same bits at full depth", references.same_bits),
    ):
        saved = 1 - cost.expected / reference
        side = "below" if saved >= 0 else "above"
        print(f"{'':>12}  {abs(saved):.2%} {side} {label}")
    print(f"{'exit rates':>12}  " + " ".join(f"{rate:.3f}" for rate in measured.exit_rates))
    print(f"{'mean exit':>12}  block {measured.mean_exit:.2f}")
    if measured.exit_values is not None:
        values = ("-" if value is None else f"{value:.3f}" for value in measured.exit_values)
        print(f"{'there':>12}  " + " ".join(values) + f" {measured.metric} of those that leave")
    if measured.risk is not None:
        print(
            f"{'risk':>12}  gap {measured.risk.gap:+.4f}: {measured.risk.rescue:.2%} rescued, "
            f"{measured.risk.harm:.2%} harmed against full precision at full depth; "
            f"{measured.risk.boundary:.3f} flipped exit decisions a sample"
        )
