"""One step's gradients, compiled where that is possible here, and as they stand where not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

LossOf = Callable[..., tuple[Tensor, Tensor | None]]
"""Maps a batch to the loss, and to whatever else is wanted of the pass."""


class GradientStep:
    """Computes a loss and its gradients.

    Compiling needs a C++ compiler and a temporary folder whose files may be executed. Where the
    first step shows that something is missing, it goes on without, and says so.

    Args:
        loss_of: what is computed.
        optimizer: whose parameters receive the gradients.
        compile: whether to try.
    """

    def __init__(self, loss_of: LossOf, optimizer: torch.optim.Optimizer, compile: bool) -> None:
        self._plain, self._optimizer = loss_of, optimizer
        self._compiled: LossOf | None = torch.compile(loss_of) if compile else None
        self._proven = False

    def __call__(
        self, *batch: Tensor, add: bool = False, share: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """The loss and the rest; the optimizer's parameters hold the gradients.

        Args:
            batch: what the loss is of.
            add: whether the gradients are added to those that the parameters hold.
            share: of the loss that gradients are of.
        """

        def run(loss_of: LossOf) -> tuple[Tensor, Tensor | None]:
            return self._run(loss_of, batch, add, share)

        if self._compiled is None:
            return run(self._plain)
        if self._proven:
            return run(self._compiled)
        try:
            result = run(self._compiled)
        except Exception as error:
            # Compilers fail in many ways. Where the step itself is wrong, it is so again below.
            result = run(self._plain)
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            log.warning(
                "the training step cannot be compiled here (%s: %s): going on without, several "
                "times slower; --no-compile says so from the start", type(error).__name__, reason
            )  # fmt: skip
            self._compiled = None
        self._proven = True
        return result

    def _run(
        self, loss_of: LossOf, batch: tuple[Tensor, ...], add: bool, share: float
    ) -> tuple[Tensor, Tensor | None]:
        if not add:
            self._optimizer.zero_grad(set_to_none=True)
        loss, rest = loss_of(*batch)
        (loss if share == 1 else loss * share).backward()  # type: ignore[no-untyped-call]
        return loss, rest
