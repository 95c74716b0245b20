"""Real studies by real workers, while everything around them fails; then every promise is checked.

Workers are killed, frozen and broken, sessions dropped, the database restarted, disks filled,
clocks set, caches damaged, at random times and in random order. In the end all is healed and the
studies come to their ends: budgets must be exact, no trial recorded twice, no evaluation lost, and
every evaluation computed from scratch is the same to the last digit. Exit code 1 where it is not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import machine, show
from rich.table import Table
from running import command_line
from soaking.checks import Found, check_figures, check_records
from soaking.databases import Away, PostgresStore, SqliteStore, open_database
from soaking.faults import FAULTS, STRESS, Scene
from soaking.schedule import Schedule
from soaking.service import Service

from studies.store.database import Database
from studies.store.reader import StudyReader

TICK_S = 0.2
DISK_MB = 384  # of the SQLite store: more than is recorded in an hour
PATIENCE_S = 300.0  # that nothing is recorded, with all healed, before the studies are given up


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long faults go on (default: 10)")
    parser.add_argument(
        "--database", default="sqlite", metavar="DATABASE",
        help="sqlite; postgresql, for a server of the soak's own; or the address of a server on "
        "which it may make a database (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of faults and studies (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="how many (default %(default)s)")
    parser.add_argument(
        "--every", type=float, metavar="SECONDS",
        help="mean time between two faults (default: 5; 20 with --evaluations, 1 with --quick)",
    )  # fmt: skip
    parser.add_argument(
        "--evaluations", type=int, metavar="N",
        help="studies of the bundled model alone, under kills and damaged caches, until so many "
        "evaluations are recorded; for --minutes at most, where those are given",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="under a minute: shows that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


class Soak:
    """One run.

    Args:
        args: the options.
        folder: for everything.
        store: the database.
    """

    def __init__(
        self, args: argparse.Namespace, folder: Path, store: SqliteStore | PostgresStore
    ) -> None:
        # Faults and studies draw apart: what there is to do to must not change what is done.
        fate, kinds = random.Random(args.seed), random.Random(args.seed + 1)
        self.args, self.store = args, store
        self.service = Service(
            folder, store, kinds, args.workers, lease_s=3.0 if args.quick else 5.0,
            open_studies={"bundled": 2} if args.evaluations else {"bundled": 1, "recorded": 2},
            size=0.3 if args.quick else 1.0, harvest=100 if args.evaluations else 16,
        )  # fmt: skip
        # The recorded model that fails on demand is a distribution of its own.
        sys.path.append(str(folder / "faulty"))
        every_s = args.every or (1.0 if args.quick else 20.0 if args.evaluations else 5.0)
        wanted = STRESS if args.evaluations else tuple(FAULTS)
        possible = [kind for kind in wanted if kind not in store.left_out]
        self.schedule = Schedule(Scene(self.service, store, fate), possible, every_s, fate)
        self.found = Found()
        self._tell = time.monotonic()

    def run(self) -> None:
        """Let it all happen, heal, and check."""
        self.service.run("store", "upgrade")
        watch = self.service.begin("watch", *command_line(["status", "--watch", "0.5"]))
        while len(self.service.studies) < sum(self.service.open_studies.values()):
            self._round(feeding=True)
        is_over = self._is_over()
        while not is_over():
            self.schedule.round()
            self._round(feeding=True)
        self._say("healing")
        self.schedule.heal()
        self.service.heal()
        self._finish()
        if self.service.retry_failed():
            self._finish()
        watch.send_signal(signal.SIGINT)
        if watch.wait(30) != 130:
            self.found.broken.append(f"status --watch ended by itself (code {watch.returncode})")
        self.service.wanted = 0
        for name in list(self.service.workers):
            self.service.kill(name)
        self.found.broken += self.service.broken
        self._say("checking")
        reader = StudyReader(Database(self.store.direct, create=False))
        check_records(reader, sorted(self.service.folder.glob("worker*.log")), self.found)
        os.environ["EXITBITS_CACHE"] = str(self.service.folder / "empty")
        os.environ["OMP_NUM_THREADS"] = "1"
        check_figures(reader, self.args.workers, self.found)
        if self.args.evaluations and self.found.evaluations < self.args.evaluations:
            self.found.broken.append(f"only {self.found.evaluations} evaluations were recorded")
        reader.database.engine.dispose()

    def _is_over(self) -> Callable[[], bool]:
        minutes = self.args.minutes
        if minutes is None and not self.args.evaluations:
            minutes = 0.25 if self.args.quick else 10.0
        end = time.monotonic() + 60 * (minutes or float("inf"))
        return lambda: (
            time.monotonic() > end
            or (self.args.evaluations is not None and self._recorded() >= self.args.evaluations)
        )

    def _recorded(self) -> int:
        """How many evaluations there are, 0 where that cannot be asked now."""
        try:
            return int(self.store.ask("select count(*) from evaluations")[0][0])
        except Away:
            return 0

    def _round(self, feeding: bool) -> None:
        self.service.round(feeding)
        if time.monotonic() - self._tell > 30:
            faults = sum(self.schedule.done.values())
            self._say(f"{self._recorded()} evaluations, {faults} faults")
        time.sleep(TICK_S)

    def _say(self, words: str) -> None:
        self._tell = time.monotonic()
        print(words, file=sys.stderr, flush=True)

    def _finish(self) -> None:
        """Wait for every study's end, as long as anything is recorded."""
        recorded, since, left = -1, time.monotonic(), []
        while time.monotonic() - since < PATIENCE_S:
            with contextlib.suppress(Away):
                left = self.service.unfinished()
                if not left and not self.service.submitting:
                    return
            self._round(feeding=False)
            if (now := self._recorded()) != recorded:
                recorded, since = now, time.monotonic()
        self.found.broken.append(f"nothing is recorded any more: {', '.join(left)} do not end")


def result_of(soak: Soak, seconds: float) -> dict[str, Any]:
    """Everything that is printed."""
    found = soak.found
    return {
        "machine": machine(["exitbits", "sqlalchemy", "optuna", "psycopg", "torch", "timm"]),
        "database": soak.store.kind,
        "seed": soak.args.seed,
        "workers": {"at once": soak.args.workers, "started": soak.service.worker_count},
        "faults": dict(soak.schedule.done),
        "left out": dict(soak.store.left_out),
        "transactions through a pooler": soak.store.pooled,
        "studies": found.studies,
        "trials": found.trials,
        "attempts lost": found.lost,
        "evaluations": found.evaluations,
        "passes": found.passes,
        "reproduced": found.reproduced,
        "seconds": round(seconds),
        "broken": found.broken,
    }


def tables(result: dict[str, Any]) -> list[Table]:
    """The result as tables."""
    faults = Table(title=f"faults under {result['database']}, seed {result['seed']}")
    faults.add_column("kind")
    faults.add_column("times", justify="right")
    for kind, times in sorted(result["faults"].items()):
        faults.add_row(kind, str(times))
    faults.add_row("all", str(sum(result["faults"].values())), style="bold")
    for kind, why in result["left out"].items():
        faults.add_row(kind, f"left out: {why}")
    counts = Table(title="what came of it")
    counts.add_column("what")
    counts.add_column("how many", justify="right")
    for what in (
        "transactions through a pooler", "studies", "trials", "attempts lost", "evaluations",
        "passes", "reproduced", "seconds",
    ):  # fmt: skip
        counts.add_row(what, str(result[what]))
    counts.add_row("workers started", str(result["workers"]["started"]))
    counts.add_row("broken", str(len(result["broken"])), style="bold")
    return [faults, counts]


def main() -> int:
    """Soak, print, and say in the exit code whether all promises held."""
    args = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Started in a shell's background it would ignore Ctrl-C, and so would every process of its own.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="exitbits-soak-"))
    with contextlib.ExitStack() as stack:
        store = open_database(args.database, folder, DISK_MB + (args.evaluations or 0) // 100)
        stack.callback(store.close)
        soak = Soak(args, folder, store)
        stack.callback(soak.service.close)
        stack.callback(soak.schedule.heal)
        soak.run()
    result = result_of(soak, time.monotonic() - started)
    show(result, tables(result), args.json)
    if result["broken"]:
        print("\n".join(result["broken"]), file=sys.stderr)
        print(f"logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
