"""MAQEE's outer problem: thresholds for given bits, under a bound on the risk or on the cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from search.cost import Ledger
from search.digest import canonical_json
from search.methods.settings import MaqeeSettings
from search.policy import Policy
from search.risk.terms import RiskTerms, measure_risk
from search.space import PolicySpace
from search.tasks import Task
from search.thresholds.candidates import ExitChoices, Harvest
from search.thresholds.harvest import harvest, harvest_global
from search.trace import ExitTrace


class Laboratory(Protocol):
    """Where traces come from. An ``Evaluator`` is one."""

    @property
    def ledger(self) -> Ledger:
        """The model's operations."""

    @property
    def task(self) -> Task:
        """What the model's heads answer."""

    def trace(self, policy: Policy) -> ExitTrace:
        """The trace of the policy's bits."""

    def full_precision_trace(self) -> ExitTrace:
        """The trace of the model as it was trained."""


@dataclass(frozen=True)
class OuterProblem:
    """Thresholds for given bits.

    Attributes:
        laboratory: gives traces, ledger and task.
        space: holds the range of thresholds.
        settings: hyperparameters.
    """

    laboratory: Laboratory
    space: PolicySpace
    settings: MaqeeSettings
    _known: dict[str, Harvest] = field(default_factory=dict, repr=False, compare=False)

    def on(self, laboratory: Laboratory) -> OuterProblem:
        """The same problem on another laboratory's traces."""
        return OuterProblem(laboratory, self.space, self.settings)

    def harvest(self, policy: Policy) -> Harvest:
        """All thresholds worth having on the trace of the policy's bits, found once for them."""
        bits = canonical_json(policy.bits_as_dict())
        if bits not in self._known:
            self._known[bits] = self._harvest(policy)
        return self._known[bits]

    def _harvest(self, policy: Policy) -> Harvest:
        choices = ExitChoices.of(
            self.laboratory.trace(policy),
            self.laboratory.task,
            self.laboratory.ledger.path_bops(policy),
            low=self.space.threshold_low,
            high=self.space.threshold_high,
            reference=self.laboratory.full_precision_trace(),
        )
        find = harvest_global if self.settings.one_threshold else harvest
        return find(choices, alpha=self.settings.alpha)

    def risk(self, found: Harvest) -> np.ndarray:
        """G + alpha BSR of every harvested vector, ``[K]``."""
        reference = self.laboratory.full_precision_trace()
        at_best = self.laboratory.task.loss(reference.statistic[:, -1]).mean()
        risk: np.ndarray = found.loss - at_best + self.settings.alpha * found.boundary
        return risk

    def within(self, policy: Policy, epsilon: float) -> tuple[Policy, bool]:
        """The cheapest thresholds whose risk is at most ``epsilon``.

        Returns:
            the policy with those thresholds and True, or as deep as the space allows and False
            where no thresholds meet the bound.
        """
        found = self.harvest(policy)
        index = found.cheapest_within(self.risk(found), epsilon)
        if index is None:
            return self.deepest(policy), False
        return policy.with_thresholds(found.thresholds[index]), True

    def under(self, policy: Policy, budget: float) -> tuple[Policy, float] | None:
        """The thresholds of least risk at a cost of at most ``budget`` BOPs, and that risk."""
        found = self.harvest(policy)
        risk = self.risk(found)
        index = found.best_under(risk, budget)
        if index is None:
            return None
        return policy.with_thresholds(found.thresholds[index]), float(risk[index])

    def deepest(self, policy: Policy) -> Policy:
        """The policy with every threshold at the space's highest."""
        exits = len(policy.thresholds)
        return policy.with_thresholds([self.space.threshold_high] * (exits - 1) + [0.0])

    def terms(self, policy: Policy) -> RiskTerms:
        """The policy's risk terms."""
        return measure_risk(
            self.laboratory.trace(policy),
            self.laboratory.full_precision_trace(),
            policy.thresholds,
            self.laboratory.task,
        )
