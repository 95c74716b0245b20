"""``exitbits recover``: train a model for one policy's bits by self-distillation."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from search.errors import BadInput
from studies.commands.common import check_writable
from studies.commands.method_options import add_recovery, check_data, read_recipe
from studies.policy_file import read_policy_file, write_policy_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits recover``."""
    parser.add_argument("policy", type=Path, help="a bundle written by 'exitbits pick'")
    add_recovery(parser, required=True)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.safetensors",
        help="checkpoint to write; its card is the same name ending in .json, the policy's new "
        "bundle the same ending in .policy.json",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")


def run(args: argparse.Namespace) -> int:
    """Recover, choose thresholds anew at the policy's cost, and write checkpoint and bundle."""
    check_data(args)
    given = read_policy_file(args.policy)
    policy, recorded = given.read_policy(), given.read_evaluation()
    if args.output.suffix != ".safetensors":
        raise BadInput(f"output {str(args.output)!r} must end in .safetensors")
    target = args.output.with_suffix(".policy.json")
    if target.exists() and not args.force:
        raise BadInput(f"{str(target)!r} exists: name another with -o, or replace it by --force")
    check_writable(args.output, "-o")
    console = Console(stderr=True)

    from search.methods.outer import OuterProblem
    from search.methods.settings import MaqeeSettings
    from search.space import PolicySpace
    from search.training.recipes import open_training_data
    from studies.methods.bench import recovery_bar
    from studies.methods.recovery import Recovery
    from studies.work.opening import open_evaluator

    evaluator = open_evaluator(given.study)
    if evaluator.card.digest != given.model_digest:
        raise BadInput(
            f"the policy is for model {given.model_digest[:12]}, "
            f"{given.study.model.checkpoint!r} is {evaluator.card.digest[:12]}: "
            "restore the checkpoint that the policy was searched for"
        )
    if evaluator.data_digest != given.data_digest:
        raise BadInput(
            f"the images of data set {given.study.data.dataset!r} are not those that the policy "
            "was measured on: restore them"
        )
    data = open_training_data(given.study.data.dataset, args.data, evaluator.card.input)
    recovery = Recovery(evaluator, data, read_recipe(args))
    with recovery_bar(console, f"policy {policy.digest[:12]}") as on_step:
        made = recovery.make(policy.bits, recorded.exit_rates, args.output, on_step)
    low, high = given.study.space.thresholds
    space = PolicySpace.from_ledger(
        evaluator.ledger, policy.bits.granularity, threshold_low=low, threshold_high=high
    )
    outer = OuterProblem(made.traces, space, MaqeeSettings())
    found = outer.under(policy.bits, recorded.cost.expected)
    chosen = policy if found is None else found[0]
    better = made.traces.evaluate(chosen)
    model = given.study.model.model_copy(update={"checkpoint": str(args.output.absolute())})
    written = given.model_copy(
        update={
            "study": given.study.model_copy(update={"model": model}),
            "trial": None,
            "source": f"{given.source}+recovery",
            "digest": chosen.digest,
            "policy": chosen.as_dict(),
            "model_digest": made.digest,
            "evaluation": better.as_dict(),
        }
    )
    write_policy_file(written, target, force=args.force)
    print(
        f"{recorded.metric} {recorded.value:.4f} at {recorded.gbops:.4f} GBOPs before, "
        f"{better.value:.4f} at {better.gbops:.4f} after"
    )
    print(f"{args.output} (digest {made.digest[:12]}), {target}")
    return 0
