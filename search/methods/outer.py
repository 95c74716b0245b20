"""MAQEE's outer problem: thresholds for given bits, under a bound on the risk or on the cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from search.cost import NO_BOUNDS, Budget, Ledger
from search.methods.settings import MaqeeSettings
from search.policy import Bits, Policy
from search.risk.terms import RiskTerms, measure_risk
from search.space import PolicySpace
from search.tasks import Routed, Task
from search.thresholds.candidates import ExitChoices, Harvest
from search.thresholds.harvest import harvest, harvest_global
from search.trace import ExitTrace


class TraceSource(Protocol):
    """Where traces come from. An ``Evaluator`` is one."""

    @property
    def ledger(self) -> Ledger:
        """The model's operations."""

    @property
    def task(self) -> Task:
        """What the model's heads answer."""

    def trace(self, bits: Bits) -> ExitTrace:
        """The trace of the model at ``bits``."""

    def full_precision_trace(self) -> ExitTrace:
        """The trace of the model as it was trained."""


@dataclass(frozen=True)
class OuterProblem:
    """Thresholds for given bits.

    Attributes:
        traces: gives traces, ledger and task.
        space: holds the range of thresholds.
        settings: hyperparameters.
    """

    traces: TraceSource
    space: PolicySpace
    settings: MaqeeSettings
    _known: dict[Bits, Harvest] = field(default_factory=dict, repr=False, compare=False)

    def on(self, traces: TraceSource) -> OuterProblem:
        """The same problem on another source's traces."""
        return OuterProblem(traces, self.space, self.settings)

    def harvest(self, bits: Bits) -> Harvest:
        """All thresholds worth having on the trace of ``bits``, found once for them."""
        if bits not in self._known:
            self._known[bits] = self._harvest(bits)
        return self._known[bits]

    def _harvest(self, bits: Bits) -> Harvest:
        choices = ExitChoices(
            self.traces.trace(bits),
            self.traces.task,
            self.traces.ledger.path_bops(bits),
            low=self.space.threshold_low,
            high=self.space.threshold_high,
            reference=self.traces.full_precision_trace(),
        )
        find = harvest_global if self.settings.one_threshold else harvest
        return find(choices, alpha=self.settings.alpha)

    def risk(self, found: Harvest) -> np.ndarray:
        """G + alpha BSR of every harvested vector, ``[K]``.

        G is by the task's objective: what its metric loses against full precision at full depth.
        """
        task, reference = self.traces.task, self.traces.full_precision_trace()
        at_best = task.shortfall(Routed.one(task, reference.statistic[:, -1]))
        risk: np.ndarray = found.shortfall - at_best + self.settings.alpha * found.boundary
        return risk

    def within(self, bits: Bits, epsilon: float) -> tuple[Policy, bool]:
        """The cheapest thresholds whose risk is at most ``epsilon``.

        Returns:
            the bits under those thresholds and True, or as deep as the space allows and False
            where no thresholds meet the bound.
        """
        found = self.harvest(bits)
        index = found.cheapest_within(self.risk(found), epsilon)
        if index is None:
            return self.deepest(bits), False
        return found.policy(bits, index), True

    def under(
        self, bits: Bits, budget: float, within: Budget = NO_BOUNDS
    ) -> tuple[Policy, float] | None:
        """The thresholds of least risk at a cost of at most ``budget`` BOPs, and that risk.

        Args:
            bits: of the policy.
            budget: in expected BOPs.
            within: bounds on other costs.
        """
        found = self.harvest(bits)
        risk = self.risk(found)
        if within.bounds():
            allowed = self._allowed(bits, found, within)
            found, risk = found.take(allowed), risk[allowed]
        index = found.best_under(risk, budget)
        if index is None:
            return None
        return found.policy(bits, index), float(risk[index])

    def _allowed(self, bits: Bits, found: Harvest, within: Budget) -> np.ndarray:
        """Indices of the harvested vectors whose other costs are within their bounds."""
        ledger, trace = self.traces.ledger, self.traces.trace(bits)
        if within.p95 is None and len(found):  # the rest depends on no threshold
            first = ledger.cost(bits, trace.replay(found.policy(bits, 0).thresholds).exits)
            return np.arange(len(found) if within.allows(first) else 0)
        costs = (
            ledger.cost(bits, trace.replay(found.policy(bits, index).thresholds).exits)
            for index in range(len(found))
        )
        return np.flatnonzero([within.allows(cost) for cost in costs])

    def deepest(self, bits: Bits) -> Policy:
        """The bits with every threshold at the space's highest."""
        return self.space.policy(bits, self.space.threshold_high)

    def terms(self, policy: Policy) -> RiskTerms:
        """The policy's risk terms."""
        return measure_risk(
            self.traces.trace(policy.bits),
            self.traces.full_precision_trace(),
            policy.thresholds,
            self.traces.task,
        )
