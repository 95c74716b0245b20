"""Which process a worker is, so that nobody takes another for it.

A process number means something only on one boot of one machine, within one PID namespace, and
only until the number is given again. So a process is known by these, and by when it started on a
clock that nobody can set.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

import psutil

_PROC = Path("/proc")


@cache
def machine() -> str:
    """Names the boot and the PID namespace: processes that share it see each other's numbers."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:  # not Linux: there are no such namespaces
        return socket.gethostname()


def own_start() -> int:
    """When this process started, in clock ticks since boot.

    Where the system does not count them: the time as it was then, in hundredths of a second.
    """
    return _start(os.getpid()) or 0


def runs(pid: int, start: int) -> bool:
    """Whether the process that had number ``pid`` and began at ``start`` has not ended.

    Of one that nothing can be read of it is taken to run. One that has ended, and whose end nobody
    has asked for yet, does not.
    """
    try:
        return _start(pid) == start
    except PermissionError:
        return True


def _start(pid: int) -> int | None:
    """Of a process that runs, None where there is none.

    Raises:
        PermissionError: when there is one, and it is another user's and hidden.
    """
    try:
        # The name in brackets may hold anything, brackets too.
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else int(fields[19])
    except OSError:
        pass
    try:
        os.kill(pid, 0)
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return None if ended else round(process.create_time() * 100)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None
