"""``exitbits evaluate``: measure a policy from scratch and compare it with what was recorded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from search.data.splits import HELD_OUT_SPLITS
from search.errors import BadInput
from search.results import GIGA, Evaluation
from studies.commands.common import add_json
from studies.policy_file import read_policy_file, same_figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits evaluate``."""
    parser.add_argument("policy", type=Path, help="a bundle written by 'exitbits pick'")
    parser.add_argument(
        "--split",
        choices=HELD_OUT_SPLITS,
        default="search",
        help="what to measure on (default %(default)s)",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="the same model at another place than the bundle says"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; exit code 1 when the recorded figures of the same split are not reproduced."""
    given = read_policy_file(args.policy)
    policy = given.read_policy()
    recorded = given.read_evaluation()
    config = given.study
    if args.checkpoint:
        model = config.model.model_copy(update={"checkpoint": args.checkpoint})
        config = config.model_copy(update={"model": model})

    from studies.work.opening import open_evaluator

    evaluator = open_evaluator(config, split=args.split, engine=recorded.engine)
    if evaluator.card.digest != given.model_digest:
        raise BadInput(
            f"the policy is for model {given.model_digest[:12]}, "
            f"{config.model.checkpoint!r} is {evaluator.card.digest[:12]}: "
            "name the right file with --checkpoint"
        )
    if args.split == given.split and evaluator.data_digest != given.data_digest:
        raise BadInput(
            f"the images of data set {config.data.dataset!r} are not those that the policy was "
            "measured on: restore them, or measure on another --split"
        )
    given_up = args.split == given.split and recorded.samples < len(evaluator.split)
    if given_up:
        trace = evaluator.first_trace(policy.bits, recorded.samples)
        measured = evaluator.evaluate_trace(policy, trace)
    else:
        measured = evaluator.evaluate(policy)
    reproduced = same_figures(measured, recorded) if args.split == given.split else None
    if args.json:
        fields = {
            "digest": policy.digest,
            "split": args.split,
            "reproduced": reproduced,
            **measured.as_dict(),
        }
        print(json.dumps(fields, indent=2, allow_nan=False))
    else:
        _show(measured, args.split)
        if given_up:
            print(
                f"only {measured.samples} of {len(evaluator.split)} images: the pass was given up "
                "there, since it could not add to the front"
            )
        if reproduced:
            print("reproduces the recorded figures exactly")
    if reproduced is False:
        print(
            f"exitbits: recorded were {recorded.metric} {recorded.value!r} and "
            f"{recorded.gbops!r} GBOPs in the {recorded.engine} engine: another machine, engine or "
            "library version can round differently",
            file=sys.stderr,
        )
        return 1
    return 0


def _show(found: Evaluation, split: str) -> None:
    cost, references = found.cost, found.references
    print(
        f"policy {found.policy.digest[:12]} on {found.samples} images of split {split}, "
        f"{found.engine} engine"
    )
    print(f"{found.metric:>12}  {found.value:.4f} ± {found.standard_error:.4f}")
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
    print(f"{'exit rates':>12}  " + " ".join(f"{rate:.3f}" for rate in found.exit_rates))
    print(f"{'mean exit':>12}  block {found.mean_exit:.2f}")
    if found.exit_values is not None:
        values = ("-" if value is None else f"{value:.3f}" for value in found.exit_values)
        print(f"{'there':>12}  " + " ".join(values) + f" {found.metric} of those that leave")
    if found.risk is not None:
        print(
            f"{'risk':>12}  gap {found.risk.gap:+.4f}: {found.risk.rescue:.2%} rescued, "
            f"{found.risk.harm:.2%} harmed against full precision at full depth; "
            f"{found.risk.boundary:.3f} flipped exit decisions a sample"
        )
