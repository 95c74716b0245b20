"""Running a study: a launcher's workers, watched until the budget is spent or Ctrl-C comes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from studies import interrupts
from studies.fronts import FrontSummary
from studies.launchers import Launcher
from studies.records import EvaluationRow, Progress, Study
from studies.store.database import StoreUnavailable
from studies.store.outage import Outage
from studies.store.workers import release_dead, release_workers
from studies.store.writer import StudyStore

log = logging.getLogger(__name__)

POLL_S = 0.5
ENDING_S = 0.1

OnProgress = Callable[[Progress, FrontSummary], None]


def run_workers(
    store: StudyStore,
    study: Study,
    launcher: Launcher,
    on_progress: OnProgress = lambda progress, summary: None,
    on_stopping: Callable[[], None] = lambda: None,
    outage: Outage | None = None,
) -> bool:
    """Run workers until the study's budget is spent, or none of them is left.

    Ctrl-C lets them finish the trials in hand, a second one drops those. While the database is
    away it waits, as the workers do.

    Args:
        store: where the study is.
        study: which is run.
        launcher: not started yet; it is closed in the end.
        on_progress: receives how far the study is, every half second.
        on_stopping: told when Ctrl-C came.
        outage: says when the database is away; None for the log.

    Returns:
        whether Ctrl-C came first.
    """
    outage = outage or Outage(log.warning)
    outage.wait_out(lambda: release_dead(store.database))
    if outage.wait_out(lambda: store.progress(study.id)).done:
        launcher.close()
        return False
    rows: list[EvaluationRow] = []
    try:
        interrupts.raise_if_seen()
        launcher.start()
        while True:
            progress = outage.wait_out(lambda: store.progress(study.id))
            since = rows[-1].revision if rows else 0
            rows += outage.wait_out(lambda: store.evaluations(study.id, since))  # noqa: B023
            on_progress(progress, FrontSummary.of(study.record, rows))
            alive = _look_after(store, launcher, outage)
            if progress.done or not alive:
                break
            time.sleep(POLL_S)
            interrupts.raise_if_seen()
        _finish(store, launcher, outage)
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
        interrupts.heard()
        on_stopping()
        with suppress(KeyboardInterrupt):
            _finish(store, launcher, outage)
    except BaseException:
        launcher.stop()  # nobody waits for them, but the trials in hand are worth finishing
        raise
    ended = launcher.close()
    with suppress(StoreUnavailable):  # their leases run out
        release_workers(store.database, ended)
    return interrupted


def _look_after(store: StudyStore, launcher: Launcher, outage: Outage) -> int:
    """Let trials of lost workers go to others at once; returns how many workers are left."""
    watched = launcher.poll()
    outage.wait_out(lambda: release_workers(store.database, watched.lost))
    return watched.alive


def _finish(store: StudyStore, launcher: Launcher, outage: Outage) -> None:
    """Let every worker finish the trial in hand, and wait for them."""
    launcher.stop()
    while _look_after(store, launcher, outage):
        time.sleep(ENDING_S)
        interrupts.raise_if_seen()
