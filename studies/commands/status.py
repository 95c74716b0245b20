"""``exitbits status``: how far the studies in a store are, and who works on them."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from studies.commands.common import add_json, add_store, read_store, stdout_console
from studies.fronts import FrontSummary
from studies.store.workers import WorkerState, list_workers
from studies.store.writer import StudyStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits status``."""
    parser.add_argument("study", nargs="?", help="one study (default: all)")
    add_store(parser)
    add_json(parser)
    parser.add_argument("--archived", action="store_true", help="show archived studies too")
    parser.add_argument(
        "--watch", type=float, nargs="?", const=2.0, metavar="SECONDS",
        help="show it again every so often (default every 2 seconds) until Ctrl-C",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Print one row a study and one a worker."""
    store = StudyStore(read_store(args))
    if args.json:
        studies, workers = _read(store, args)
        shown = {"studies": studies, "workers": [asdict(worker) for worker in workers]}
        print(json.dumps(shown, indent=2, allow_nan=False, default=datetime.isoformat))
        return 0
    console = stdout_console()
    if args.watch is None:
        console.print(_tables(*_read(store, args)))
        return 0
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_tables(*_read(store, args)), refresh=True)
            time.sleep(max(0.2, args.watch))


def _read(
    store: StudyStore, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[WorkerState]]:
    rows = []
    asked = [store.version(args.study)] if args.study else store.versions(archived=args.archived)
    for name, study_id, _ in asked:
        record = store.study(study_id).record
        progress = store.progress(study_id)
        summary = FrontSummary.of(record, store.evaluations(study_id))
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
    return rows, list(list_workers(store.database))


def _tables(studies: list[dict[str, Any]], workers: list[WorkerState]) -> Group:
    table = Table()
    for heading in (
        "study", "trials", "of methods", "running", "failed", "lost", "front", "hypervolume",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "study" else "right")
    for row in studies:
        table.add_row(
            Text(row["study"]),
            f"{row['finished']}/{row['budget']}" + (" done" if row["done"] else ""),
            str(row["contributed"]),
            str(row["running"]),
            str(row["failed"]),
            str(row["lost"]),
            str(row["front"]),
            f"{row['hypervolume']:.4f}",
        )
    if not workers:
        return Group(table)
    fleet = Table()
    for heading in ("worker", "state", "works on", "since"):
        fleet.add_column(heading)
    for worker in workers:
        fleet.add_row(
            Text(worker.name),
            "alive" if worker.alive else "gone",
            Text(f"{worker.study} trial {worker.trial}" if worker.study else "-"),
            _ago(worker.since or worker.started),
        )
    return Group(table, fleet)


def _ago(then: datetime) -> str:
    seconds = max(0, round((datetime.now(UTC) - then).total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
