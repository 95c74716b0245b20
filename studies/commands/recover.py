"""``exitbits recover``: train a model for one policy's bits by self-distillation."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from search.errors import BadInput
from studies.commands.bars import bars
from studies.commands.common import add_places, add_threads, at_places, check_writable
from studies.commands.method_options import add_recovery, check_data, read_recipe
from studies.policy_file import read_policy_file, write_policy_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits recover``."""
    parser.add_argument("policy", type=Path, help="a bundle written by 'exitbits pick'")
    add_recovery(parser, required=True)
    add_places(parser, data=False)
    add_threads(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE.safetensors",
        help="checkpoint to write; its card is the same name ending in .json, the policy's new "
        "bundle the same ending in .policy.json (required)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")


def run(args: argparse.Namespace) -> int:
    """Recover, choose thresholds anew at the policy's cost, and write checkpoint and bundle."""
    check_data(args)
    given = read_policy_file(args.policy)
    given = given.model_copy(update={"study": at_places(given.study, args)})
    if args.output.suffix != ".safetensors":
        raise BadInput(f"output {str(args.output)!r} must end in .safetensors")
    target = args.output.with_suffix(".policy.json")
    if target.exists() and not args.force:
        raise BadInput(f"{str(target)!r} exists: name another with -o, or replace it by --force")
    check_writable(args.output, "-o")
    recipe = read_recipe(args)

    from studies.methods.recovery import recover_policy

    with bars(Console(stderr=True)) as on_progress:
        made = recover_policy(given, args.data, recipe, args.output, on_progress)
    write_policy_file(made.file, target, force=args.force)
    before, after = made.before, made.after
    print(
        f"{before.metric} {before.value:.4f} at {before.gbops:.4f} GBOPs before, "
        f"{after.value:.4f} at {after.gbops:.4f} after"
    )
    print(f"{args.output} (digest {made.digest[:12]}), {target}")
    return 0
