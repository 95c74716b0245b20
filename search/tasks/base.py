"""The seam between models and everything that only sees traces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Score:
    """A metric with the standard error of its estimate, both in [0, 1]."""

    value: float
    standard_error: float


class Task(Protocol):
    """What a head's outputs mean.

    ``statistic`` keeps of each sample just enough that the metric of any routing can be computed
    afterwards, without the model.
    """

    name: str
    metric: str

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        """How sure a head is: outputs ``[n, ...]`` to float32 ``[n]`` in [0, 1]."""

    def statistic(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Per-sample statistic ``[n, S]`` of one head's outputs ``[n, ...]``."""

    def score(self, statistic: np.ndarray) -> Score:
        """The metric of routed statistics ``[N, S]``."""

    def loss(self, statistic: np.ndarray) -> np.ndarray:
        """Loss of each sample, float64 ``[N]`` in [0, 1], that certificates bound."""
