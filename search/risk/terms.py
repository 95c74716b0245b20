"""What early exit and quantization change against the full-precision model at full depth.

Gap risk and boundary risk are the two terms that MAQEE holds below its bound (arXiv 2605.07317;
the paper's own equations could not be had, so docs/methods.md defines ours). Certificates, which
bound a risk with stated confidence, are another subject.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.errors import ExitbitsError
from search.tasks import Task
from search.trace import ExitTrace


@dataclass(frozen=True, slots=True)
class RiskTerms:
    """Risks of one policy against full precision, over the samples of two traces.

    Attributes:
        gap: E[loss at the exit taken - loss in full precision at full depth], in [-1, 1].
        premature: sum over exits of P[reach e, leaves there, would not in full precision].
        delayed: sum over exits of P[reach e, goes on, would leave in full precision].
        rescue: fraction of samples whose loss is smaller than in full precision at full depth.
        harm: fraction whose loss is larger; for 0/1 losses ``gap = harm - rescue``.
    """

    gap: float
    premature: float
    delayed: float
    rescue: float
    harm: float

    def paired_se(self, samples: int) -> float:
        """Standard error of ``gap`` where losses are 0 or 1, from the two kinds of change.

        Of McNemar's table: ``var = (harm + rescue - gap^2) / samples``.

        Args:
            samples: over how many the terms were measured.
        """
        changed = self.harm + self.rescue
        return math.sqrt(max(0.0, changed - (self.harm - self.rescue) ** 2) / samples)

    @property
    def boundary(self) -> float:
        """Boundary risk (BSR): sum_e u_e F_e, F_e the flip rate among samples that reach exit e."""
        return self.premature + self.delayed


def measure_risk(
    trace: ExitTrace, reference: ExitTrace, thresholds: Sequence[float], task: Task
) -> RiskTerms:
    """Risk terms of thresholds on a quantized trace.

    A decision is ``confidence >= threshold``, as in routing.

    Args:
        trace: of the quantized model.
        reference: of the full-precision model, over the same samples in the same order.
        thresholds: one per exit.
        task: gives the loss.

    Raises:
        ExitbitsError: when the traces are not of the same samples and exits.
    """
    check_alike(trace, reference)
    routing = trace.replay(thresholds)
    bounds = np.asarray(thresholds[:-1], dtype=np.float64)
    leaves = trace.confidence[:, :-1] >= bounds
    would_leave = reference.confidence[:, :-1] >= bounds
    reached = routing.exits[:, None] >= np.arange(len(bounds))
    change = task.loss(routing.statistic) - task.loss(reference.statistic[:, -1])
    return RiskTerms(
        gap=float(change.mean()),
        premature=float((reached & leaves & ~would_leave).sum() / len(trace)),
        delayed=float((reached & ~leaves & would_leave).sum() / len(trace)),
        rescue=float((change < 0).mean()),
        harm=float((change > 0).mean()),
    )


def check_alike(trace: ExitTrace, reference: ExitTrace) -> None:
    """Raise ``ExitbitsError`` unless both traces are of as many samples and the same exits."""
    if len(trace) != len(reference) or trace.exit_blocks != reference.exit_blocks:
        raise ExitbitsError(
            f"traces of {len(trace)} and {len(reference)} samples with exits {trace.exit_blocks} "
            f"and {reference.exit_blocks} cannot be compared: run both over the same split"
        )
