"""The command as a service under a soak: its workers, and the studies that it is fed.

Everything is a process of the command itself. Workers end only when a fault ends them; one that
ends by itself is a finding.
"""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from faulty import FaultyFleet
from running import command_line

from soaking.databases import Away, Store
from studies.store.schema import LEASE_S

SHORT_LEASES = Path(__file__).with_name("short_leases.py")

# Two studies in turn are of one model: the second meets the traces of the first in the cache.
STUDY = """
name = "{name}"
[model]
checkpoint = "{checkpoint}"
[data]
dataset = "fashion"
calibration_images = {calibration}
[space]
weight_bits = {bits}
activation_bits = {bits}
[engine]
name = "fast"
[sampler]
name = "{sampler}"
seed = {seed}
[trial]
harvest = {harvest}
racing = {racing}
[anchors]
bits = {bits}
thresholds = {thresholds}
[budget]
trials = {trials}
"""
SAMPLERS = ("apq", "random", "tpe", "nsga2")
UNFINISHED = """
select s.name from studies s where s.budget > (
  select count(*) from trials t where t.study_id = s.id and t.state in (1, 3))
"""
WITH_FAILURES = """
select s.name from studies s where exists (
  select 1 from trials t where t.study_id = s.id and t.state = 3)
"""


class Service(FaultyFleet):
    """Keeps so many workers and so many open studies, until it is told to let them end.

    Args:
        folder: for everything.
        store: the database.
        rng: decides what studies are like.
        workers: how many.
        lease_s: of the workers.
        open_studies: how many of each kind (``recorded`` models and the ``bundled`` one) are kept.
        size: of studies, 1 for the usual.
        harvest: of their trials.

    Attributes:
        broken: what happened that must not.
        worker_count: how many were started.
    """

    def __init__(
        self, folder: Path, store: Store, rng: random.Random, workers: int, lease_s: float,
        open_studies: Mapping[str, int], size: float, harvest: int,
    ) -> None:  # fmt: skip
        super().__init__(folder, store.address, folder / "cache")
        self.store, self.rng, self.lease_s = store, rng, lease_s
        self.workers: dict[str, subprocess.Popen[str]] = {}
        self.frozen: set[str] = set()
        self.broken: list[str] = []
        self.wanted, self.worker_count = workers, 0
        self.open_studies, self.size, self.harvest = open_studies, size, harvest
        self.studies: list[str] = []
        self._submitting: dict[str, tuple[str, subprocess.Popen[str]]] = {}  # by kind
        self._ask_again = 0.0
        self._numbers = itertools.count()

    def environment(self) -> dict[str, str]:
        """With the kernels beside the traces, and one thread a process."""
        more = {"EXITBITS_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}
        return {**super().environment(), **more}

    def begin(self, log: str, *words: str) -> subprocess.Popen[str]:
        """Start a command whose output goes to the end of LOG.log."""
        with (self.folder / f"{log}.log").open("a") as file:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environment(), text=True, stdout=file, stderr=file
            )
        self.started.append(process)
        return process

    # Workers

    def start_worker(self) -> None:
        """Start one more, whole."""
        self.worker_count += 1
        name = f"worker{self.worker_count}"
        self.faults = self.folder / f"{name}.faults"
        self.workers[name] = self.begin(
            name, sys.executable, str(SHORT_LEASES), str(self.lease_s), "worker", "--name", name,
            "--threads", "1", "--cache", str(self.cache),
        )  # fmt: skip

    def living(self) -> list[str]:
        """Names of workers that run and are not frozen."""
        return [name for name in self.workers if name not in self.frozen]

    def kill(self, name: str) -> None:
        """End a worker without a word; the next round starts another."""
        process = self.workers.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()
        self.frozen.discard(name)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a worker that may be gone."""
        if name in self.workers:
            self.workers[name].send_signal(number)

    def break_worker(self, name: str, line: str | None) -> None:
        """Have a worker fail as a line of ``faulty.py`` says, or no more."""
        (self.folder / f"{name}.faults").write_text(line or "")

    def round(self, feeding: bool) -> None:
        """See who ended, start whoever is missing, and feed studies."""
        for name, process in list(self.workers.items()):
            if process.poll() is not None:
                last = (self.log(name).strip().splitlines() or ["nothing"])[-1]
                self.broken.append(f"{name} ended by itself (code {process.returncode}): {last}")
                del self.workers[name]
                self.frozen.discard(name)
        if len(self.workers) < self.wanted:
            self.start_worker()
        self._feed(feeding)

    # Studies

    @property
    def submitting(self) -> bool:
        """Whether a study is being handed in."""
        return bool(self._submitting)

    def unfinished(self) -> list[str]:
        """Names of studies that have not come to their end.

        Raises:
            Away: when that cannot be asked now.
        """
        return [row[0] for row in self.store.ask(UNFINISHED)]

    def _feed(self, feeding: bool) -> None:
        for kind, (name, process) in list(self._submitting.items()):
            if process.poll() is None:
                continue
            del self._submitting[kind]
            if process.returncode == 0:
                self.studies.append(name)
                continue
            if "Traceback" in self.log(f"submit-{kind}"):
                self.broken.append(f"submitting {name} ended with a traceback")
            self._submit(kind, name)  # a short command may end with an error; nothing is lost by it
        if not feeding or time.monotonic() < self._ask_again:
            return
        self._ask_again = time.monotonic() + 1.0
        with suppress(Away):
            unfinished = self.unfinished()
            for kind, count in self.open_studies.items():
                there = sum(name.startswith(kind) for name in unfinished)
                if kind not in self._submitting and there < count:
                    self._submit(kind, self._write_study(kind))

    def _submit(self, kind: str, name: str) -> None:
        words = command_line(["submit", f"{name}.toml", "--cache", self.cache])
        self._submitting[kind] = name, self.begin(f"submit-{kind}", *words)

    def _write_study(self, kind: str) -> str:
        number, rng = next(self._numbers), self.rng
        name = f"{kind}{number}"
        fields = {
            "name": name, "seed": number, "sampler": rng.choice(SAMPLERS), "calibration": 16,
            "thresholds": [0.7, 0.9], "harvest": self.harvest, "bits": [2, 4, 8],
            "racing": rng.choice([0, 0.9]),
        }  # fmt: skip
        if kind == "recorded":
            # Many trials; or few that take long, so that two workers have the same one in hand.
            pause_s, few, many = rng.choice([(0.01, 20, 40), (0.05, 15, 30), (0.5, 6, 12)])
            checkpoint, trials = f"faulty:{number // 4}@{pause_s}", rng.randint(few, many)
        else:
            checkpoint, trials = "bundled:fashion", rng.randint(8, 16)
        own = {"checkpoint": checkpoint, "trials": round(self.size * trials)}
        (self.folder / f"{name}.toml").write_text(STUDY.format(**fields, **own))
        return name

    # The end

    def heal(self) -> None:
        """Replace every worker by a whole one, and have all that failed tried again."""
        self.lease_s = LEASE_S  # from now on whoever loses a lease has been slow, and no more
        for name in list(self.workers):
            self.kill(name)
        self.retry_failed()

    def retry_failed(self) -> int:
        """Have all trials that failed tried again; returns of how many studies there were any.

        One that three workers were lost on is set aside only when a fourth comes for it.
        """
        names = [name for (name,) in self.store.ask(WITH_FAILURES)]
        for name in names:
            self.run("study", "retry", name)
        return len(names)
