"""What one trial measures: its own policy, and whatever else its trace says of the front.

Bits cost a pass, thresholds only arithmetic, so a trial records the harvest of its trace as well;
and a pass that cannot add anything to the front is given up early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from search.cost import GIGA
from search.evaluate import Evaluator
from search.front import as_points, front_indices
from search.policy import Policy
from search.results import Evaluation
from search.space import PolicySpace
from search.thresholds.candidates import ExitChoices
from search.thresholds.harvest import harvest
from search.thresholds.racing import LOOKS, Race
from search.trace import ExitTrace


class FrontSoFar(Protocol):
    """The best that is known, by whoever found it."""

    @property
    def points(self) -> np.ndarray:
        """Metric and GBOPs, ``[K, 2]``, by ascending cost."""

    def learn(self) -> None:
        """Take up what is new."""

    def beyond(self, points: np.ndarray) -> np.ndarray:
        """Which of ``points`` ``[N, 2]`` would add to the front, bool ``[N]``."""


@dataclass(frozen=True)
class Measured:
    """What a trial found.

    Attributes:
        evaluation: of its own policy.
        harvested: of other thresholds on the same trace, cheapest first.
        attributes: kept with the trial.
    """

    evaluation: Evaluation
    harvested: tuple[Evaluation, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurer:
    """Measures the trials of one search.

    Attributes:
        evaluator: of its model on its search split.
        space: its legal policies.
        front: what the search has found so far.
        harvest: how many policies with other thresholds a trial gives at most, from 0.
        racing: confidence with which a pass that cannot add to the front is given up, 0.5 to below
            1; 0 for never.
    """

    evaluator: Evaluator[Any]
    space: PolicySpace
    front: FrontSoFar
    harvest: int
    racing: float

    def measure(self, policy: Policy) -> Measured:
        """Evaluate a policy and harvest its trace, or give up where that is hopeless."""
        self.front.learn()
        trace, lost = self._run(policy)
        evaluation = self.evaluator.evaluate_trace(policy, trace)
        if lost:
            raced = {"samples": len(trace), "of": len(self.evaluator.split)}
            return Measured(evaluation, attributes={"raced": raced})
        return Measured(evaluation, tuple(self._harvest(policy, trace)))

    def _run(self, policy: Policy) -> tuple[ExitTrace, bool]:
        """The policy's trace, and whether it was given up before its end."""
        samples = len(self.evaluator.split)
        if not self.racing or not len(self.front.points):
            return self.evaluator.trace(policy.bits), False
        race = Race(self.front.points * [1.0, GIGA], samples, self.racing)
        looks = [round(samples * part) for part in LOOKS]
        trace = None
        for trace in self.evaluator.growing_trace(policy.bits, looks):
            if len(trace) < samples and race.is_lost(
                self._choices(policy, trace), policy.thresholds
            ):
                return trace, True
        assert trace is not None  # the last one is always the whole
        return trace, False

    def _harvest(self, policy: Policy, trace: ExitTrace) -> list[Evaluation]:
        if not self.harvest:
            return []
        tried = harvest(self._choices(policy, trace))
        points = as_points(tried.value, tried.cost / GIGA)
        front = front_indices(points)
        # A hair worse: the same policy's recorded figures may differ in the last place.
        front = front[self.front.beyond(points[front] * [1 - 1e-9, 1 + 1e-9])]
        ranks = np.linspace(0, len(front) - 1, min(len(front), self.harvest))
        policies = [
            policy.with_thresholds(tried.thresholds[index])
            for index in front[ranks.round().astype(np.int64)]
        ]
        return [self.evaluator.evaluate_trace(each, trace) for each in policies if each != policy]

    def _choices(self, policy: Policy, trace: ExitTrace) -> ExitChoices:
        return ExitChoices(
            trace,
            self.evaluator.task,
            self.evaluator.ledger.path_bops(policy.bits),
            low=self.space.threshold_low,
            high=self.space.threshold_high,
        )
