"""``exitbits front``: the Pareto front of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

from search.errors import BadInput
from studies.commands.common import add_json, add_store, print_front, read_store
from studies.fronts import FrontSummary
from studies.policy_file import PolicyFile, write_policy_file
from studies.store.writer import StudyStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits front``."""
    parser.add_argument("study", help="name of the study")
    add_store(parser)
    form = parser.add_mutually_exclusive_group()
    add_json(form)  # type: ignore[arg-type]
    form.add_argument("--csv", action="store_true", help="print CSV instead of a table")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="also write every policy of the front as a bundle into DIR",
    )
    parser.add_argument("--force", action="store_true", help="replace existing bundles")


def run(args: argparse.Namespace) -> int:
    """Print the front, cheapest policy first."""
    store = StudyStore(read_store(args))
    summary = FrontSummary.load(store, store.get(args.study))
    if args.export is not None:
        try:
            args.export.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"cannot make folder {str(args.export)!r} ({error.strerror}): choose another"
            ) from error
        for row, evaluation in zip(summary.front_rows, summary.details, strict=True):
            file = PolicyFile.of(summary.record, row, evaluation)
            write_policy_file(file, args.export / f"{row.digest[:12]}.json", force=args.force)
    if args.json:
        print(summary.to_json())
    elif args.csv:
        print(summary.to_csv(), end="")
    else:
        print_front(summary)
    return 0
