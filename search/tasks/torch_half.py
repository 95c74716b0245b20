"""The torch half of a task: what is done to the heads' raw outputs. Needs torch."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from torch import Tensor

from search.tasks import TORCH_TASKS


class TorchTask(Protocol):
    """What a head's raw outputs are trained for, compared by and reduced to.

    Raw outputs of one exit are ``[B, ...]``, those of all exits at once ``[B, E, ...]``.
    """

    def reduce(self, outputs: Tensor, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One exit's raw outputs of a batch to what traces keep.

        Args:
            outputs: ``[B, ...]``, on any device.
            targets: of these samples, ``[B, ...]``.

        Returns:
            confidence float32 ``[B]`` and statistic ``[B, ...]``, as the plain half gives them.
        """

    def exit_losses(self, outputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Training loss of every exit, mean over samples: ``[B, E, ...]`` to ``[E]``."""

    def divergence(self, expected: Tensor, found: Tensor, temperature: float = 1.0) -> Tensor:
        """How far answers are from those expected, ``[B, E, ...]`` twice to ``[B, E]``.

        Differentiable, at least 0 up to rounding, and exactly 0 where both are equal;
        ``temperature`` softens both answers.
        """


def resolve_torch_task(name: str) -> TorchTask:
    """Return the torch half of the task called ``name``.

    Raises:
        BadInput: when the name is unknown.
    """
    task: TorchTask = TORCH_TASKS.resolve(name)()
    return task
