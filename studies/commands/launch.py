"""``exitbits launch``: create or resume a study, run workers, show the front."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib.metadata import entry_points
from pathlib import Path

from rich.console import Console

from search.disk_cache import DiskCaches, DiskTraceCache
from search.display import visible
from search.errors import ExitbitsError
from studies import interrupts
from studies.commands.bars import bars, stages
from studies.commands.common import add_threads, check_report, positive, print_front, read_store
from studies.commands.progress import ProgressDisplay
from studies.commands.submit import add_study_source
from studies.creating import budget_words, open_study, read_config
from studies.fronts import FrontSummary
from studies.launchers import Launcher, WorkerOrder, open_launcher, shared_folder
from studies.records import Progress, Study
from studies.running import run_workers
from studies.store.outage import Outage
from studies.store.writer import StudyStore
from studies.words import file_name

INTERRUPTED = 130
TABLES = ("auto", "always", "never")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits launch``."""
    add_study_source(parser)
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="worker processes (default: one per core)"
    )
    add_threads(parser, default="the worker's share of those that the command may use")
    parser.add_argument(
        "--on", default="local", metavar="LAUNCHER",
        help="where workers run: local, this machine; ray, the Ray cluster of this machine or of "
        "RAY_ADDRESS; ray://HOST:PORT, another (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--tables", choices=TABLES, default=TABLES[0],
        help="whether sensitivity tables are measured before the first trial of the sampler apq: "
        "auto, where they take at most a quarter of the budget's time; always; never (default "
        "%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="HTML page of the front (default NAME.html)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the study to the end of its budget; progress goes to stderr, the front to stdout."""
    interrupts.watch(signal.SIGTERM, signal.SIGHUP)  # stop as for Ctrl-C
    address = read_store(args)
    config = read_config(
        args.study, address, name=args.name, trials=args.trials, model=args.model, data=args.data
    )
    cache = DiskTraceCache(args.cache)
    report = args.report or Path(f"{file_name(config.name)}.html")
    check_report(report, config.name, "--report")
    console = Console(stderr=True)
    name, log = config.name, args.cache / "worker.log"
    folder = shared_folder(args.cache)
    order = WorkerOrder(address, name, folder, log, args.workers, args.threads)
    launcher = open_launcher(args.on, order)
    with stages(console) as on_stage:
        store, study = open_study(address, config, cache, on_stage)
    if study.record.config.budget.trials > config.budget.trials:
        console.print(budget_words(study, config.budget.trials), markup=False)
    outage = Outage(lambda line: console.print(line, style="yellow", markup=False))
    if _tables_wanted(args, outage.wait_out(lambda: store.progress(study.id)), study):
        measure_first(args, study, console)
    interrupted = _serve(store, study, launcher, console, outage)
    progress = outage.wait_out(lambda: store.progress(study.id))
    summary = outage.wait_out(lambda: FrontSummary.load(store, study))
    for trial, reason in outage.wait_out(lambda: store.failures(study.id)):
        console.print(visible(f"trial {trial} failed: {reason}"), style="yellow", markup=False)
    if summary.rows:
        print_front(summary)
        _write_reports(summary, report)
    if interrupted:
        console.print(
            f"stopped at {progress.ended} of {progress.budget} trials; "
            "the same command goes on from here",
            markup=False,
        )
        return INTERRUPTED
    if progress.blocked:
        raise ExitbitsError(
            f"study {name!r} is blocked after {progress.finished} of {progress.budget} trials: "
            f"{progress.blocked} (log: {log}); mend that, and the same command goes on"
        )
    if not progress.done:
        raise ExitbitsError(
            f"the workers ended after {progress.finished} of {progress.budget} trials: "
            f"{launcher.last_words()} (log: {log}); the same command goes on"
        )
    if progress.failed > progress.finished:
        raise ExitbitsError(
            f"{progress.failed} of {progress.budget} trials failed, see above: when that is "
            "mended, 'exitbits study retry' tries them again"
        )
    return 0


def _tables_wanted(args: argparse.Namespace, progress: Progress, study: Study) -> bool:
    """Whether tables come before the workers.

    Not for a study that is under way, unless asked for: its workers have begun without. Nor on a
    cluster, whose nodes keep tables of their own.
    """
    if args.tables == "always":
        return not progress.done
    sampler = study.record.config.sampler.name
    return args.tables == "auto" and args.on == "local" and sampler == "apq" and not progress.ended


def measure_first(args: argparse.Namespace, study: Study, console: Console) -> None:
    """Measure sensitivity tables where the budget pays for them, and say so."""
    from studies.methods.tables import measure_tables, tables_first

    first = tables_first(study.record, DiskCaches(args.cache))
    trials = study.record.config.budget.trials
    if first is None or not first.passes:
        return
    cost = f"about as long as {first.passes:.0f} of {trials} trials"
    if args.tables == "auto" and not first.worth(trials):
        console.print(
            f"sensitivity tables are not measured first ({cost}): --tables always does",
            style="dim", markup=False, soft_wrap=True,
        )  # fmt: skip
        return
    console.print(
        f"measuring sensitivity tables first ({cost}; --tables never leaves them out)",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    with bars(console) as on_progress:
        measure_tables(first.meter, on_progress)


def _serve(
    store: StudyStore, study: Study, launcher: Launcher, console: Console, outage: Outage
) -> bool:
    """Run the workers with live progress; returns whether Ctrl-C came first."""
    if outage.wait_out(lambda: store.progress(study.id)).done:  # nothing to show
        return run_workers(store, study, launcher, outage=outage)
    display = ProgressDisplay(console)
    with display.showing():
        interrupted = run_workers(
            store,
            study,
            launcher,
            display.update,
            lambda: console.print(
                "stopping: workers finish the trial in hand (Ctrl-C again to drop it)"
            ),
            outage,
        )
        rows = outage.wait_out(lambda: store.evaluations(study.id))
        progress = outage.wait_out(lambda: store.progress(study.id))
        display.update(progress, FrontSummary.of(study.record, rows), final=True)
    return interrupted


def _write_reports(summary: FrontSummary, path: Path) -> None:
    for reporter in entry_points(group="exitbits.reports"):
        written = reporter.load()(summary, path)
        print(f"{reporter.name}: {written.resolve()}", file=sys.stdout)
