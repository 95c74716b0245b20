"""``exitbits launch``: create or resume a study, run workers on this machine, show the front."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console

from search.errors import BadInput, ExitbitsError
from studies.cache import DiskTraceCache, default_cache_folder
from studies.commands.common import add_store, positive, stdout_console
from studies.config import StudyConfig, load_config
from studies.fronts import FrontSummary
from studies.launchers.local import LocalWorkers, usable_cores
from studies.progress import ProgressDisplay
from studies.storage import check_writable, sqlite_file
from studies.store import StudyRecord, StudyStore

POLL_S = 0.5
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits launch``."""
    parser.add_argument(
        "study",
        nargs="?",
        default="fashion",
        metavar="PRESET or STUDY.toml",
        help="what to search (default: the preset fashion)",
    )
    add_store(parser)
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="worker processes (default: one per core)"
    )
    parser.add_argument("--trials", type=positive, metavar="N", help="budget of the study")
    parser.add_argument("--name", help="name of the study (default: what the file says)")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=default_cache_folder(),
        help="folder of shared traces (default %(default)s)",
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
    store, record = _open(args.store, config, cache, console)
    name = record.config.name
    log = args.cache / "worker.log"
    workers = LocalWorkers(args.store, name, args.cache, args.workers or usable_cores(), log)
    interrupted = _serve(store, record, workers, console)
    progress = store.progress(name)
    summary = FrontSummary.of(record, store.evaluations(name))
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


def _open(
    url: str, config: StudyConfig, cache: DiskTraceCache, console: Console
) -> tuple[StudyStore, StudyRecord]:
    """Take the study up where it exists, else check everything and create it."""
    check_writable(url)
    if sqlite_file(url).is_file():
        store = StudyStore(url)
        if (known := store.find(config.name)) is not None:
            if difference := known.config.difference(config):
                raise BadInput(
                    f"study {config.name!r} exists with another configuration ({difference}): "
                    "give this one another --name"
                )
            store.create(known)
            return store, store.raise_budget(config.name, config.budget.trials)
    with console.status(f"measuring the full-precision reference of {config.name}"):
        from search.evaluate import measure_reference
        from studies.workload import open_evaluator

        evaluator = open_evaluator(config, cache=cache)
        record = StudyRecord(
            config=config,
            ledger=evaluator.ledger,
            reference_value=measure_reference(evaluator),
            metric=evaluator.task.metric,
            model_digest=evaluator.card.digest,
        )
        record.anchors()  # refuses a space that does not fit before anything is written
    store = StudyStore(url, create=True)
    store.create(record)
    return store, record


def _serve(store: StudyStore, record: StudyRecord, workers: LocalWorkers, console: Console) -> bool:
    """Run the workers until the budget is spent; returns whether Ctrl-C came first."""
    name = record.config.name
    display = ProgressDisplay(console)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as for Ctrl-C
    store.release_lost(name)
    if store.progress(name).done:
        return False
    with display.showing():
        try:
            workers.start()
            while True:
                progress = store.progress(name)
                display.update(progress, FrontSummary.of(record, store.evaluations(name)))
                if workers.tend():
                    store.release_lost(name)
                if progress.done or not workers.pids:
                    break
                time.sleep(POLL_S)
            workers.stop()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
            _stop_gently(workers, console)
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
