"""Worker processes on this machine, each with its share of the cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

from search.cores import usable_cores
from studies.launchers.base import (
    MAX_RESTARTS,
    Watched,
    WorkerLog,
    WorkerOrder,
    new_worker_name,
)


@dataclass(frozen=True)
class _Placed:
    """A worker's name and process."""

    name: str
    process: subprocess.Popen[bytes]


class LocalLauncher:
    """The worker processes of one launch, a :class:`~studies.launchers.base.Launcher`.

    A worker that dies by a signal is put in place again, up to :data:`MAX_RESTARTS` times in all.

    Args:
        order: the workers wanted.
        address: there is none.
    """

    has_addresses: ClassVar[bool] = False

    def __init__(self, order: WorkerOrder, address: str | None = None) -> None:
        self._order = order
        cores = usable_cores()
        self._count = order.count or max(1, cores // (order.threads or 1))
        self._threads = order.threads or max(1, cores // self._count)
        self._log = WorkerLog(order.log)
        self._placed: dict[int, _Placed] = {}
        self._restarts = 0
        self._killed_by = 0
        self._stopping = False

    def start(self) -> None:
        """Start every worker."""
        for index in range(self._count):
            self._spawn(index)

    def _spawn(self, index: int) -> None:
        name = new_worker_name(index)
        command = [sys.executable, *self._order.arguments(name, index, self._threads)]
        with self._log.path.open("ab") as log:
            # In a process group of its own: Ctrl-C reaches the launcher only, which decides what
            # it means for the workers.
            process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._order.environment(self._threads)},
                process_group=0,
            )
        self._placed[index] = _Placed(name, process)

    def poll(self) -> Watched:
        """Replace workers that were killed."""
        lost = []
        for index, placed in list(self._placed.items()):
            code = placed.process.poll()
            if code is None:
                continue
            del self._placed[index]
            if code != 0:
                lost.append(placed.name)
            if code >= 0:
                continue
            self._killed_by = -code
            if self._restarts < MAX_RESTARTS and not self._stopping:
                self._restarts += 1
                self._spawn(index)
        return Watched(len(self._placed), tuple(lost))

    def stop(self) -> None:
        """Ask every worker to finish the trial in hand and end."""
        self._stopping = True
        for placed in self._placed.values():
            placed.process.send_signal(signal.SIGTERM)

    def close(self) -> tuple[str, ...]:
        """End at once what still runs."""
        ended = tuple(self._placed.values())
        self._placed.clear()
        for placed in ended:
            placed.process.kill()
        for placed in ended:
            placed.process.wait()
        return tuple(placed.name for placed in ended)

    def last_words(self) -> str:
        """Why the workers of this launch ended, in one line."""
        if self._restarts >= MAX_RESTARTS and self._killed_by:
            cause = " (out of memory?)" if self._killed_by == signal.SIGKILL else ""
            times = self._restarts + 1
            return f"they were killed by signal {self._killed_by} {times} times{cause}"
        return self._log.last_line()
