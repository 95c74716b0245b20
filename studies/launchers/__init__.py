"""Launchers: where the workers of a launch are started, and how they are watched."""

from __future__ import annotations

from search.errors import BadInput
from search.registry import Registry
from studies.launchers.base import Launcher, WorkerOrder, shared_folder

LAUNCHERS = Registry(
    "launcher",
    "exitbits.launchers",
    {
        "local": "studies.launchers.local:LocalLauncher",
        "ray": "studies.launchers.ray:RayLauncher",
    },
)


def open_launcher(on: str, order: WorkerOrder) -> Launcher:
    """Make ready to start workers; none is started yet.

    Args:
        on: a launcher's name, or for one that has addresses ``NAME://ADDRESS``.
        order: the workers wanted.

    Raises:
        BadInput: when there is no such launcher, or it cannot start these workers.
    """
    name, is_address, _ = on.partition("://")
    make = LAUNCHERS.resolve(name)
    if is_address and not make.has_addresses:
        raise BadInput(f"launcher {on!r}: {name} has no addresses, give {name} alone")
    launcher: Launcher = make(order, on if is_address else None)
    return launcher


__all__ = ["LAUNCHERS", "Launcher", "WorkerOrder", "open_launcher", "shared_folder"]
