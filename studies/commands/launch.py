"""``exitbits launch``: create or resume a study, run workers on this machine, show the front."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console

from search.errors import ExitbitsError
from studies.cache import DiskTraceCache
from studies.commands.common import positive, read_store, stdout_console
from studies.commands.submit import add_study_source, open_study
from studies.config import load_config
from studies.fleet import release_dead
from studies.fronts import FrontSummary
from studies.launchers.local import LocalWorkers, usable_cores
from studies.progress import ProgressDisplay
from studies.store import Recorded, StudyRecord, StudyStore

POLL_S = 0.5
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits launch``."""
    add_study_source(parser)
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="worker processes (default: one per core)"
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="HTML page of the front (default NAME.html)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the study to the end of its budget; progress goes to stderr, the front to stdout."""
    config = load_config(args.study, name=args.name, trials=args.trials)
    cache = DiskTraceCache(args.cache)
    console = Console(stderr=True)
    store, record = open_study(read_store(args), config, cache, console)
    name = record.config.name
    log = args.cache / "worker.log"
    workers = LocalWorkers(store.address, name, args.cache, args.workers or usable_cores(), log)
    interrupted = _serve(store, record, workers, console)
    progress = store.progress(name)
    summary = FrontSummary.load(store, name)
    if workers.failed:
        console.print(f"a worker ended early: {_last_line(log)} (log: {log})", markup=False)
    for trial, reason in store.failures(name):
        console.print(f"trial {trial} failed: {reason}", style="yellow", markup=False)
    if summary.rows:
        stdout_console().print(summary.to_table())
        _write_reports(summary, args.report or Path(f"{_file_name(name)}.html"))
    if interrupted:
        console.print(
            f"stopped at {progress.finished + progress.failed} of {progress.budget} trials; "
            "the same command goes on from here",
            markup=False,
        )
        return INTERRUPTED
    if not progress.done:
        raise ExitbitsError(
            f"the workers ended after {progress.finished} of {progress.budget} trials: "
            f"{_last_line(log)} (log: {log})"
        )
    return 0


def _serve(store: StudyStore, record: StudyRecord, workers: LocalWorkers, console: Console) -> bool:
    """Run the workers until the budget is spent; returns whether Ctrl-C came first."""
    name = record.config.name
    display = ProgressDisplay(console)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as for Ctrl-C
    release_dead(store.database)
    if store.progress(name).done:
        return False
    rows: list[Recorded] = []
    with display.showing():
        try:
            workers.start()
            while True:
                progress = store.progress(name)
                rows += store.evaluations(name, since=rows[-1].revision if rows else 0)
                display.update(progress, FrontSummary.of(record, rows))
                if workers.tend():
                    release_dead(store.database)
                if progress.done or not workers.pids:
                    break
                time.sleep(POLL_S)
            workers.stop()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
            _stop_gently(workers, console)
            release_dead(store.database)
        display.update(
            store.progress(name), FrontSummary.of(record, store.evaluations(name)), final=True
        )
    return interrupted


def _stop_gently(workers: LocalWorkers, console: Console) -> None:
    console.print("stopping: workers finish the trial in hand (Ctrl-C again to drop it)")
    try:
        workers.stop()
    except KeyboardInterrupt:
        workers.kill()


def _write_reports(summary: FrontSummary, path: Path) -> None:
    for reporter in entry_points(group="exitbits.reports"):
        written = reporter.load()(summary, path)
        print(f"{reporter.name}: {written.resolve()}", file=sys.stdout)


def _file_name(study: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in study)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "they printed nothing"
