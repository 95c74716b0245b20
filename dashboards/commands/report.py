"""``exitbits report``: the front of a study as one page that works from a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from dashboards.report.page import write_front_page
from search.errors import BadInput
from studies.commands.common import add_store, check_report, read_store
from studies.fronts import FrontSummary
from studies.store.writer import StudyStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits report``."""
    parser.add_argument("study", help="name of the study")
    add_store(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE.html",
        help="where to write it (required)",
    )
    parser.add_argument(
        "--force", action="store_true",
        help="replace an existing file that is no earlier report of the study",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the page and print where it is."""
    store = StudyStore(read_store(args))
    summary = FrontSummary.load(store, store.get(args.study))
    if not summary.rows:
        raise BadInput(f"study {args.study!r} has no evaluations yet: run workers first")
    check_report(args.output, summary.record.config.name, "-o", force=args.force)
    print(write_front_page(summary, args.output).resolve())
    return 0
