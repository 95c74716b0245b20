"""``exitbits recover``: train a model by self-distillation, for one policy or for a whole space."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from search.caching import default_cache_folder
from search.errors import BadInput
from studies.commands.bars import bars
from studies.commands.common import (
    add_places,
    add_store,
    add_threads,
    at_places,
    check_writable,
    read_store,
)
from studies.commands.method_options import (
    add_recovery,
    check_data,
    print_table,
    read_recipe,
    study_at_places,
)
from studies.policy_file import read_policy_file, write_policy_file
from studies.store.writer import StudyStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits recover``."""
    parser.add_argument(
        "policy", type=Path, nargs="?", help="a bundle written by 'exitbits pick', or --all"
    )
    parser.add_argument(
        "--all", dest="study", metavar="STUDY",
        help="one model for every policy of this study's space",
    )  # fmt: skip
    add_store(parser)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=default_cache_folder(),
        help="folder of shared traces and calibrations (default %(default)s)",
    )  # fmt: skip
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
    """Recover, and write the checkpoint; for a policy also its bundle with new thresholds."""
    if (args.policy is None) == (args.study is None):
        raise BadInput("give a policy's file, or --all STUDY for one model for all its policies")
    check_data(args)
    if args.output.suffix != ".safetensors":
        raise BadInput(f"output {str(args.output)!r} must end in .safetensors")
    check_writable(args.output, "-o")
    return _for_policy(args) if args.study is None else _for_study(args)


def _for_policy(args: argparse.Namespace) -> int:
    """Recover, choose thresholds anew at the policy's cost, and write checkpoint and bundle."""
    given = read_policy_file(args.policy)
    given = given.model_copy(update={"study": at_places(given.study, args)})
    target = args.output.with_suffix(".policy.json")
    if target.exists() and not args.force:
        raise BadInput(f"{str(target)!r} exists: name another with -o, or replace it by --force")
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


def _for_study(args: argparse.Namespace) -> int:
    """Recover for the study's whole space, and say what became of uniform bits."""
    study = study_at_places(StudyStore(read_store(args)), args)
    recipe = read_recipe(args)

    from studies.methods.recovery import recover_study

    with bars(Console(stderr=True)) as on_progress:
        found = recover_study(study, args.data, recipe, args.output, args.cache, on_progress)
    print_table(
        f"one model for every policy of {args.study}: {study.record.metric} at full depth",
        [
            {"bits": f"W{width}A{width}", "before": f"{before:.4f}", "after": f"{after:.4f}"}
            for width, (before, after) in sorted(found.uniform.items(), reverse=True)
        ],
        [f"full precision before: {study.record.reference_value:.4f}"],
    )
    print(f"{args.output} (digest {found.made.digest[:12]})")
    print("search on it: name it as [model] checkpoint of another study")
    return 0
