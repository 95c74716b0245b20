"""``exitbits status``: how far the studies in a store are, and who works on them."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NoReturn

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.display import visible
from studies.commands.common import add_json, add_store, read_store, stdout_console
from studies.fronts import FrontSummary
from studies.records import StudyGone, UnreadableStudy
from studies.store.outage import Outage
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
    address = read_store(args)
    if args.watch is not None and not args.json:
        return _watch(address, args)
    store = StudyStore(address)
    if args.json:
        studies, workers = _read(store, args)
        shown = {"studies": studies, "workers": [asdict(worker) for worker in workers]}
        print(json.dumps(shown, indent=2, allow_nan=False, default=datetime.isoformat))
        return 0
    stdout_console().print(_tables(*_read(store, args)))
    return 0


def _watch(address: str, args: argparse.Namespace) -> NoReturn:
    """Show it again and again; a database that is away is waited for."""
    console = stdout_console()
    outage = Outage(lambda line: console.print(line, style="yellow", markup=False))
    store = outage.wait_out(lambda: StudyStore(address))
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_tables(*outage.wait_out(lambda: _read(store, args))), refresh=True)
            time.sleep(max(0.2, args.watch))


def _read(
    store: StudyStore, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[WorkerState]]:
    rows = []
    asked = [store.version(args.study)] if args.study else store.versions(archived=args.archived)
    for name, study_id, *_ in asked:
        try:
            rows.append({"study": name, **_row(store, study_id)})
        except StudyGone:
            continue  # since it was listed
        except UnreadableStudy as error:
            rows.append({"study": name, "unreadable": error.reason})
    return rows, list(list_workers(store.database))


def _row(store: StudyStore, study_id: int) -> dict[str, Any]:
    record = store.study(study_id).record
    progress = store.progress(study_id)
    summary = FrontSummary.of(record, store.evaluations(study_id))
    return {
        **asdict(progress),
        "done": progress.done,
        "evaluations": len(summary.rows),
        "front": len(summary.front),
        "hypervolume": summary.hypervolume,
    }


def _tables(studies: list[dict[str, Any]], workers: list[WorkerState]) -> Group:
    table = Table()
    for heading in (
        "study", "trials", "of methods", "running", "failed", "lost", "front", "hypervolume",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "study" else "right")
    unreadable = [row for row in studies if "unreadable" in row]
    for row in studies:
        if row in unreadable:
            continue
        table.add_row(
            Text(visible(row["study"])),
            f"{row['finished']}/{row['budget']}{_state(row)}",
            str(row["contributed"]),
            str(row["running"]),
            str(row["failed"]),
            str(row["lost"]),
            str(row["front"]),
            f"{row['hypervolume']:.4f}",
        )
    words = [
        Text(
            visible(f"study {row['study']!r} cannot be read ({row['unreadable']})")
            + ": left out by workers, removed by 'exitbits study delete'",
            style="yellow",
        )
        for row in unreadable
    ]
    words += [
        Text(
            visible(f"{row['study']} is blocked: {row['blocked']}")
            + "; mend that, then 'launch' it again or 'exitbits study retry'",
            style="yellow",
        )
        for row in studies
        if row.get("blocked")
    ]
    words += [
        Text(visible(f"{worker.name} has given {study} up: {reason}"), style="yellow")
        for worker in workers
        for study, reason in worker.refuses.items()
    ]
    if not workers:
        return Group(table, *words)
    fleet = Table()
    for heading in ("worker", "state", "works on", "since"):
        fleet.add_column(heading)
    for worker in workers:
        fleet.add_row(
            Text(visible(worker.name)),
            "alive" if worker.alive else "gone",
            Text(visible(f"{worker.study} trial {worker.trial}") if worker.study else "-"),
            _ago(worker.since or worker.started),
        )
    return Group(table, fleet, *words)


def _state(row: dict[str, Any]) -> str:
    if row["done"]:
        return " done"
    return " blocked" if row["blocked"] else ""


def _ago(then: datetime) -> str:
    seconds = max(0, round((datetime.now(UTC) - then).total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
