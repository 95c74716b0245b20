"""``exitbits launch``: create or resume a study, run workers on this machine, show the front."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console

from search.disk_cache import DiskTraceCache
from search.errors import ExitbitsError
from studies.commands import interrupts
from studies.commands.common import check_writable, file_name, positive, print_front, read_store
from studies.commands.progress import ProgressDisplay
from studies.commands.submit import add_study_source, open_study
from studies.config import load_config
from studies.fronts import FrontSummary
from studies.launchers.local import LocalWorkers, usable_cores
from studies.records import EvaluationRow, Study
from studies.store.workers import release_dead
from studies.store.writer import StudyStore

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
    interrupts.watch(signal.SIGTERM, signal.SIGHUP)  # stop as for Ctrl-C
    config = load_config(args.study, name=args.name, trials=args.trials)
    cache = DiskTraceCache(args.cache)
    report = args.report or Path(f"{file_name(config.name)}.html")
    check_writable(report, "--report")
    console = Console(stderr=True)
    store, study = open_study(read_store(args), config, cache, console)
    name = study.record.config.name
    log = args.cache / "worker.log"
    workers = LocalWorkers(store.address, name, args.cache, args.workers or usable_cores(), log)
    interrupted = _serve(store, study, workers, console)
    progress = store.progress(study.id)
    summary = FrontSummary.load(store, study)
    for trial, reason in store.failures(study.id):
        console.print(f"trial {trial} failed: {reason}", style="yellow", markup=False)
    if summary.rows:
        print_front(summary)
        _write_reports(summary, report)
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
            f"{workers.last_words()} (log: {log}); the same command goes on"
        )
    if progress.failed > progress.finished:
        raise ExitbitsError(f"{progress.failed} of {progress.budget} trials failed, see above")
    return 0


def _serve(store: StudyStore, study: Study, workers: LocalWorkers, console: Console) -> bool:
    """Run the workers until the budget is spent; returns whether Ctrl-C came first."""
    record = study.record
    display = ProgressDisplay(console)
    release_dead(store.database)
    if store.progress(study.id).done:
        return False
    rows: list[EvaluationRow] = []
    with display.showing():
        try:
            interrupts.raise_if_seen()
            workers.start()
            while True:
                progress = store.progress(study.id)
                rows += store.evaluations(study.id, since=rows[-1].revision if rows else 0)
                display.update(progress, FrontSummary.of(record, rows))
                if workers.tend():
                    release_dead(store.database)
                if progress.done or not workers.pids:
                    break
                time.sleep(POLL_S)
                interrupts.raise_if_seen()
            workers.stop()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
            _stop_gently(workers, console)
            release_dead(store.database)
        display.update(
            store.progress(study.id),
            FrontSummary.of(record, store.evaluations(study.id)),
            final=True,
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
