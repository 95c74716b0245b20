"""Worker processes on this machine, each with its share of the cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

MAX_RESTARTS = 5


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


@dataclass
class LocalWorkers:
    """The worker processes of one launch.

    A worker that dies by a signal is replaced, up to :data:`MAX_RESTARTS` times in all; one that
    ends with an error is not, since another would meet the same one.

    Attributes:
        store, study, cache: passed on to the workers.
        count: how many.
        log: file that collects what workers print.
    """

    store: str
    study: str
    cache: Path
    count: int
    log: Path
    restarts: int = 0
    killed_by: int = 0
    _log_start: int = 0
    _processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start every worker."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        for index in range(self.count):
            self._spawn(index)

    def _spawn(self, index: int) -> None:
        threads = str(max(1, usable_cores() // self.count))
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        # The store's address goes through the environment: it may hold a password.
        environment["EXITBITS_STORE"] = self.store
        command = [
            sys.executable, "-m", "studies.cli", "worker", "--study", self.study, "--until-done",
            "--stream", str(index), "--threads", threads, "--cache", str(self.cache),
            "--parent", str(os.getpid()),
        ]  # fmt: skip
        with self.log.open("ab") as log:
            # In a process group of its own: Ctrl-C reaches the launcher only, which decides what
            # it means for the workers.
            self._processes[index] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                process_group=0,
            )

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [process.pid for process in self._processes.values() if process.poll() is None]

    def tend(self) -> bool:
        """Replace workers that were killed. Returns whether one was lost since the last call."""
        lost = False
        for index, process in list(self._processes.items()):
            code = process.poll()
            if code is None or code == 0:
                continue
            del self._processes[index]
            if code > 0:
                continue
            lost, self.killed_by = True, -code
            if self.restarts < MAX_RESTARTS:
                self.restarts += 1
                self._spawn(index)
        return lost

    def last_words(self) -> str:
        """Why the workers of this launch ended, in one line."""
        if self.restarts >= MAX_RESTARTS and self.killed_by:
            cause = " (out of memory?)" if self.killed_by == signal.SIGKILL else ""
            return f"they were killed by signal {self.killed_by} {self.restarts + 1} times{cause}"
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("exitbits: ") if lines else "they printed nothing"

    def stop(self) -> None:
        """Let every worker finish the trial in hand, and wait for them."""
        self._signal(signal.SIGTERM)
        for process in self._processes.values():
            process.wait()

    def kill(self) -> None:
        """End every worker at once; trials in hand are lost and queued again by the next launch."""
        self._signal(signal.SIGKILL)
        for process in self._processes.values():
            process.wait()

    def _signal(self, number: int) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(number)
