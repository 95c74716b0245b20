"""The orchestration of exitbits: studies in a store, workers, samplers, the command.

Importing this package loads nothing heavy. What a notebook needs is here by name and loaded at
first use; everything else is imported from its module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studies.notebook import PickedPolicy as PickedPolicy
    from studies.notebook import StudyFront as StudyFront
    from studies.notebook import StudyHandle as StudyHandle
    from studies.notebook import create as create
    from studies.notebook import load as load

_HOMES = {
    "PickedPolicy": "studies.notebook",
    "StudyFront": "studies.notebook",
    "StudyHandle": "studies.notebook",
    "create": "studies.notebook",
    "load": "studies.notebook",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'studies' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
