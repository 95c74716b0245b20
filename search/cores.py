"""How many cores a computation has here, and how its threads wait for each other.

What this module says reaches OpenMP and the libraries below torch by their environment, which they
read when they are loaded.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

SPINS = "2000"  # looks before a waiting thread sleeps: a tenth of a small model's pass, idle


def usable_cores(process: Path = Path("/proc/self")) -> int:
    """Cores that this process may use: by its affinity, and by the quotas of its control groups.

    A part of a core counts as one. Where a system has neither, all that the machine has.

    Args:
        process: where Linux describes it.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(process))]))


def asked_threads() -> int | None:
    """How many threads ``OMP_NUM_THREADS`` asks for, None where it says nothing."""
    # What follows a comma is for loops within loops.
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) else None


def computing_threads() -> int:
    """Threads that this process is to compute with: those that were asked for, else one a core."""
    return asked_threads() or usable_cores()


def environment(threads: int) -> dict[str, str]:
    """What the environment of a process holds that computes with so many threads.

    Threads that wait soon sleep, unless somebody has said otherwise: spinning ones take the cores
    from whoever else computes there, the threads that they wait for among them.
    """
    policy = os.environ.get("OMP_WAIT_POLICY", "passive")
    found = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": policy,  # GNU's OpenMP
        "KMP_BLOCKTIME": os.environ.get("KMP_BLOCKTIME", "0"),  # that of clang and Intel
    }
    if policy.lower() == "passive":
        # Waking takes longer than most waits for the other half of a small product.
        found["GOMP_SPINCOUNT"] = os.environ.get("GOMP_SPINCOUNT", SPINS)
    return found


def compute_with(threads: int) -> None:
    """Have this process, and those that it starts, compute with so many threads each."""
    os.environ.update(environment(threads))
    if torch := sys.modules.get("torch"):  # it has read them
        torch.set_num_threads(threads)


def _quotas(process: Path) -> Iterator[float]:
    """Cores that a process's control groups, and those around them, grant it."""
    try:
        groups = (process / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (process / "mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    # Of version 2 there is one group, without the names of controllers.
    paths = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    for line in mounts:
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        controller = "cpu" if kind == "cgroup" and "cpu" in options.split(",") else ""
        if (kind == "cgroup2" or controller) and controller in paths:
            root, place = mount.split(" ")[3:5]
            yield from _along(Path(place.replace("\\040", " ")), root, paths[controller])


def _along(place: Path, root: str, path: str) -> Iterator[float]:
    """Quotas from the mounted root of a hierarchy down to a group.

    Args:
        place: where the hierarchy is mounted.
        root: the group that is mounted there: a container may see its own only.
        path: of the process's group.
    """
    inside = path.removeprefix(root.rstrip("/")).strip("/")
    folder = place
    for part in ["", *inside.split("/")]:
        folder = folder / part
        try:
            if (quota := _quota(folder)) is not None:
                yield quota
        except (OSError, ValueError):
            continue  # not there, or not as the kernel writes it


def _quota(group: Path) -> float | None:
    """Cores that one group grants, None for no limit."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()  # version 2
    except FileNotFoundError:
        quota = (group / "cpu.cfs_quota_us").read_text(encoding="utf-8")
        period = (group / "cpu.cfs_period_us").read_text(encoding="utf-8")
    if quota == "max" or int(quota) <= 0:
        return None
    return int(quota) / int(period)
