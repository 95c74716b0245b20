"""The domain of exitbits: policies, costs, traces, fronts, and the models they describe.

Importing this package loads nothing heavy. What a notebook needs is here by name and loaded at
first use; everything else is imported from its module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.cost import Budget as Budget
    from search.errors import BadInput as BadInput
    from search.errors import ExitbitsError as ExitbitsError
    from search.notebook import HarvestedFront as HarvestedFront
    from search.notebook import Model as Model
    from search.notebook import load as load
    from search.policy import Bits as Bits
    from search.policy import Policy as Policy
    from search.results import Evaluation as Evaluation
    from search.space import PolicySpace as PolicySpace

_HOMES = {
    "BadInput": "search.errors",
    "Bits": "search.policy",
    "Budget": "search.cost",
    "Evaluation": "search.results",
    "ExitbitsError": "search.errors",
    "HarvestedFront": "search.notebook",
    "Model": "search.notebook",
    "Policy": "search.policy",
    "PolicySpace": "search.space",
    "load": "search.notebook",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
