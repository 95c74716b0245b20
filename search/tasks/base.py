"""The plain half of a task: all that is seen of a model by whoever has only its traces.

What the search compares is the task's objective: its metric, stated as the shortfall from a perfect
one. It need not be a mean over samples. What certificates bound, and what harvest descends along,
is the loss of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Score:
    """A metric with the standard error of its estimate, both in [0, 1]."""

    value: float
    standard_error: float


@dataclass(frozen=True)
class Routed:
    """The samples of one trace under each of ``K`` routings, as an objective sees them.

    Attributes:
        loss: mean loss under each, float64 ``[K]``.
        statistics: gives the routed statistics ``[N, ...]`` of one routing after the other; only
            whoever calls it pays for it.
    """

    loss: np.ndarray
    statistics: Callable[[], Iterator[np.ndarray]]

    @classmethod
    def one(cls, task: Task, statistic: np.ndarray) -> Routed:
        """A single routing, by its routed statistics ``[N, ...]``."""
        return cls(np.array([task.loss(statistic).mean()]), lambda: iter([statistic]))


class Task(Protocol):
    """What a head's outputs mean, in NumPy.

    ``statistic`` keeps of each sample just enough that the metric of any routing can be computed
    afterwards, without the model.

    Attributes:
        name: in the registry and on model cards.
        metric: name of the metric, which is in [0, 1] and better when larger.
        zero_one: whether every loss is 0 or 1 and the metric is the share of zeros. Racing has
            bounds for that alone, and makes every pass of another task to its end.
    """

    name: str
    metric: str
    zero_one: bool

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        """How sure a head is: outputs ``[n, ...]`` to float32 ``[n]`` in [0, 1]."""

    def statistic(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Per-sample statistic ``[n, ...]`` of one head's outputs ``[n, ...]``."""

    def score(self, statistic: np.ndarray) -> Score:
        """The metric of routed statistics ``[N, ...]``."""

    def loss(self, statistic: np.ndarray) -> np.ndarray:
        """Loss of each sample, float64 ``[N]`` in [0, 1], that certificates bound.

        Harvest chooses thresholds by its sums, so it should fall where the metric rises.
        """

    def shortfall(self, routed: Routed) -> np.ndarray:
        """One minus the metric under each routing, float64 ``[K]`` in [0, 1]: the objective.

        :func:`shortfall_by_score` gives it for any metric; a metric that is a mean has it at once.
        """


def shortfall_by_score(task: Task, routed: Routed) -> np.ndarray:
    """The shortfall by the score of every routing, one after the other, ``[K]``."""
    return np.array([1 - task.score(statistic).value for statistic in routed.statistics()])
