"""``exitbits status``: how far the studies in a store are."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.table import Table

from studies.commands.common import add_json, add_store, stdout_console
from studies.fronts import FrontSummary
from studies.store import StudyStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits status``."""
    parser.add_argument("study", nargs="?", help="one study (default: all)")
    add_store(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print one row a study."""
    store = StudyStore(args.store)
    rows = []
    for name in [args.study] if args.study else store.names():
        record = store.get(name)
        progress = store.progress(name)
        summary = FrontSummary.of(record, store.evaluations(name))
        rows.append(
            {
                "study": name,
                **asdict(progress),
                "done": progress.done,
                "evaluations": len(summary.rows),
                "front": len(summary.front),
                "hypervolume": summary.hypervolume,
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2, allow_nan=False))
        return 0
    table = Table()
    for heading in ("study", "trials", "running", "failed", "lost", "front", "hypervolume"):
        table.add_column(heading, justify="left" if heading == "study" else "right")
    for row in rows:
        table.add_row(
            str(row["study"]),
            f"{row['finished']}/{row['budget']}" + (" done" if row["done"] else ""),
            str(row["running"]),
            str(row["failed"]),
            str(row["lost"]),
            str(row["front"]),
            f"{row['hypervolume']:.4f}",
        )
    stdout_console().print(table)
    return 0
