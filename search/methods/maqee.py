"""MAQEE: exit thresholds and bit-widths in turn, each knowing the other (arXiv 2605.07317).

Outer problem, on the trace of the present bits:

    min over t of  A(b, t)  subject to  G + alpha BSR <= epsilon

Inner problem, under the usage that follows:

    min over b of  sum_l [u_l nu_l(b_l) + beta q_l(b_l)]  subject to  A(b, t) <= budget

The two alternate until bits repeat or gain little; epsilon decides how deep samples go, and with
the budget how wide the layers may then be, so several values are tried and the best policy is
kept. Every iterate is judged by one objective: the least risk G + alpha BSR that thresholds reach
on its trace within the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.bits.allocation import Allocation, AllocationProblem, Usage
from search.bits.tables import SensitivityTables
from search.cost import GIGA, NO_BOUNDS, Budget, Ledger, Measure, in_words
from search.errors import NoPolicyFound
from search.methods.outer import OuterProblem
from search.policy import Bits, Policy
from search.space import PolicySpace


@dataclass(frozen=True)
class Iterate:
    """One allocation of the loop.

    Attributes:
        epsilon: the bound that its usage came from.
        attained: whether thresholds met that bound on the trace before.
        policy: its bits with the best thresholds within the budget, None where none fit it.
        predicted: the allocation's damage by the tables.
        risk: G + alpha BSR of the policy; infinite without one.
        accepted: whether it was better than every one before.
    """

    epsilon: float
    attained: bool
    policy: Policy | None
    predicted: float
    risk: float
    accepted: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the store."""
        return {
            "epsilon": self.epsilon if math.isfinite(self.epsilon) else None,
            "attained": self.attained,
            "policy": None if self.policy is None else self.policy.as_dict(),
            "predicted": self.predicted,
            "risk": self.risk if math.isfinite(self.risk) else None,
            "accepted": self.accepted,
        }


@dataclass(frozen=True)
class MaqeeResult:
    """What the loop found under one budget.

    Attributes:
        budget: in expected BOPs, infinite for none.
        within: bounds on other costs.
        policy: the best.
        risk: its G + alpha BSR.
        iterates: all of them, in order.
        stops: why the loop ended under each epsilon, by its value.
        passes: how many different sets of bits were traced.
    """

    budget: float
    within: Budget
    policy: Policy
    risk: float
    iterates: tuple[Iterate, ...]
    stops: dict[float, str]
    passes: int

    @property
    def bounds(self) -> str:
        """Budget and bounds in words."""
        return bounds_in_words(self.budget, self.within)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the store."""
        return {
            "budget_gbops": self.budget / GIGA if math.isfinite(self.budget) else None,
            "within": self.within.bounds(),
            "risk": self.risk,
            "passes": self.passes,
            "stops": {str(epsilon): reason for epsilon, reason in self.stops.items()},
            "iterates": [iterate.as_dict() for iterate in self.iterates],
        }


@dataclass(frozen=True)
class Maqee:
    """The loop for one model.

    Attributes:
        outer: thresholds for given bits.
        tables: measured sensitivities.
        within: bounds on other costs than the expected one.
        on_iterate: receives every iterate as it is found.
    """

    outer: OuterProblem
    tables: SensitivityTables
    within: Budget = NO_BOUNDS
    on_iterate: Callable[[Iterate], None] = lambda iterate: None

    def search(self, budget: float) -> MaqeeResult:
        """Find the policy of least risk at an expected cost of at most ``budget`` BOPs.

        Args:
            budget: in BOPs, infinite where only other costs are bounded.

        Raises:
            NoPolicyFound: when nothing in the space costs so little; the error names what does.
        """
        refuse_impossible(self.outer.space, self.outer.traces.ledger, budget)
        run = _Run(self, budget)
        stops = {epsilon: run.alternate(epsilon) for epsilon in self.epsilons()}
        if run.best is None:
            stops[math.inf] = run.alternate(math.inf)  # as early and as narrow as need be
        if run.best is None:
            raise NoPolicyFound(
                f"no policy found at {bounds_in_words(budget, self.within)}: raise the budget, or "
                "lower the space's lowest threshold so that samples may leave earlier"
            )
        return MaqeeResult(
            budget, self.within, run.best, run.risk, tuple(run.iterates), stops, len(run.traced)
        )

    def epsilons(self) -> tuple[float, ...]:
        """The bounds under which the loop is run, ascending."""
        settings = self.outer.settings
        if settings.epsilons is not None:
            return tuple(sorted(settings.epsilons))
        found = self.outer.harvest(self.outer.space.widest().bits)
        ranks = np.linspace(0, len(found) - 1, settings.starts).round().astype(int)
        return tuple(sorted({float(risk) for risk in self.outer.risk(found)[ranks]}))

    def problem(self, usage: Usage) -> AllocationProblem:
        """The inner problem under a usage."""
        ledger = self.outer.traces.ledger
        settings = self.outer.settings
        # Cost stays what it is; only the damage forgets how often a layer runs.
        weights = None if settings.amortized else Usage.full_depth(ledger)
        return AllocationProblem(
            self.outer.space, ledger, self.tables, usage, settings.beta, weights,
            within=self.within,
        )  # fmt: skip


def bounds_in_words(budget: float, within: Budget) -> str:
    """A budget in expected BOPs, and bounds on other costs."""
    expected = {"expected": budget} if math.isfinite(budget) else {}
    bounds: dict[Measure, float] = {**expected, **within.bounds()}  # type: ignore[dict-item]
    return " and ".join(in_words(measure, bound) for measure, bound in bounds.items())


def refuse_impossible(space: PolicySpace, ledger: Ledger, budget: float) -> None:
    """Raise ``NoPolicyFound`` when nothing in the space costs as little as ``budget`` BOPs."""
    cheapest = float(ledger.path_bops(space.narrowest().bits)[0])
    if not budget >= cheapest:
        raise NoPolicyFound(
            f"no policy costs at most {budget / GIGA:.6g} GBOPs: the cheapest possible one "
            f"(narrowest bits, everyone leaving at the first exit) costs {cheapest / GIGA:.6g}; "
            "raise the budget"
        )


class _Run:
    """The loop's state under one budget."""

    def __init__(self, loop: Maqee, budget: float) -> None:
        self.loop, self.budget = loop, budget
        self.iterates: list[Iterate] = []
        self.traced: set[Bits] = set()
        self.best: Policy | None = None
        self.risk = math.inf

    def alternate(self, epsilon: float) -> str:
        """Alternate under one bound, and say why it ended."""
        outer = self.loop.outer
        bits = outer.space.widest().bits
        seen: set[Bits] = set()
        lowest = math.inf
        for iteration in range(outer.settings.max_iterations):
            routed, attained = outer.within(bits, epsilon)
            if iteration and self._cost(routed) > self.budget:
                # These bits cannot meet epsilon within the budget: the usage to plan for is that
                # of the best that they can do.
                found = outer.under(bits, self.budget, self.loop.within)
                routed, _ = found or (routed, math.inf)
            self.traced.add(bits)
            usage = Usage.of(outer.traces.trace(bits).replay(routed.thresholds))
            try:
                allocation = self.loop.problem(usage).solve(self.budget)
            except NoPolicyFound:
                return "no allocation fits the budget at this depth"
            bits = allocation.bits
            if bits in seen:
                return "the bits repeat"
            seen.add(bits)
            risk = self._try(allocation, epsilon, attained)
            if math.isfinite(lowest) and lowest - risk < outer.settings.min_gain * abs(lowest):
                return "the gain is below the least that counts"
            lowest = min(lowest, risk)
        return "the most iterations allowed"

    def _try(self, allocation: Allocation, epsilon: float, attained: bool) -> float:
        self.traced.add(allocation.bits)
        found = self.loop.outer.under(allocation.bits, self.budget, self.loop.within)
        chosen, risk = found if found is not None else (None, math.inf)
        accepted = risk < self.risk
        iterate = Iterate(epsilon, attained, chosen, allocation.damage, risk, accepted)
        if accepted:
            self.best, self.risk = chosen, risk
        self.iterates.append(iterate)
        self.loop.on_iterate(iterate)
        return risk

    def _cost(self, policy: Policy) -> float:
        """Expected BOPs of a policy."""
        traces = self.loop.outer.traces
        exits = traces.trace(policy.bits).replay(policy.thresholds).exits
        return traces.ledger.cost(policy.bits, exits).expected
