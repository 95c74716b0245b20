"""The methods that a front is held against, each a set of policies with its source's name.

Wherever a baseline has exits, its thresholds come from the same harvest as everyone else's, so
that no comparison is won by better thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from search.bits.allocation import AllocationProblem, Usage
from search.bits.tables import SensitivityTables
from search.errors import BadInput
from search.front import as_points, front_indices
from search.methods.outer import OuterProblem
from search.policy import FULL_PRECISION, Policy
from search.results import Evaluation, judge
from search.space import PolicySpace
from search.thresholds.candidates import Harvest

UNIFORM_BITS = (8, 6, 4, 3)
TRAINED_BITS = (4, 3, 2)
ALLOCATIONS = 10
POINTS = 16
EXITS = "+exits"


@dataclass(frozen=True)
class Baseline:
    """Evaluations that share one source and one set of bits, and so one trace.

    Attributes:
        source: name of the method.
        evaluations: one or more, cheapest first.
    """

    source: str
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class BaselineSet:
    """Every baseline that needs no training.

    Attributes:
        outer: where traces and thresholds come from.
        tables: measured sensitivities, for static mixed precision.
        allocations: how many budgets static mixed precision is solved for, 2 or more.
        points: most threshold vectors kept of one trace, 2 or more.
    """

    outer: OuterProblem
    tables: SensitivityTables
    allocations: int = ALLOCATIONS
    points: int = POINTS

    def __post_init__(self) -> None:
        for name, value in (("allocations", self.allocations), ("points", self.points)):
            if value < 2:
                raise BadInput(f"{name} = {value!r}: give 2 or more")

    def __iter__(self) -> Iterator[Baseline]:
        """Evaluate them one by one, each trace once."""
        for name, policy in self.named_bits():
            yield Baseline(name, (self._judge(policy.at_full_depth()),))
            yield Baseline(name + EXITS, self.with_exits(policy))

    def sources(self) -> list[str]:
        """The source of every baseline, in the order in which they are evaluated."""
        return [source for name, _ in self.named_bits() for source in (name, name + EXITS)]

    def named_bits(self) -> list[tuple[str, Policy]]:
        """The bits of every baseline, under the name that it has at full depth."""
        space = self.outer.space
        legal = set(space.weight_choices) & set(space.activation_choices)
        full = Policy(
            space.granularity,
            (FULL_PRECISION,) * len(space.weight_groups),
            (FULL_PRECISION,) * len(space.activation_groups),
            (0.0,) * space.exits,
            FULL_PRECISION,
            FULL_PRECISION,
        )
        return [
            ("full precision", full),
            *((uniform_name(b), space.uniform(b, 1.0)) for b in UNIFORM_BITS if b in legal),
            *(("static", policy) for policy in self.static_bits()),
        ]

    def static_bits(self) -> list[Policy]:
        """Static mixed precision: allocations as if every sample ran every block."""
        ledger = self.outer.laboratory.ledger
        problem = AllocationProblem(
            self.outer.space,
            ledger,
            self.tables,
            Usage.full_depth(ledger),
            self.outer.settings.beta,
        )
        blank = (0.0,) * self.outer.space.exits
        return [found.policy(self.outer.space, blank) for found in problem.sweep(self.allocations)]

    def with_exits(self, policy: Policy) -> tuple[Evaluation, ...]:
        """Those harvested policies of a trace that stand for its front."""
        found = thinned(self.outer.harvest(policy), self.points)
        policies = [policy.with_thresholds(row) for row in found.thresholds]
        return tuple(self._judge(one) for one in policies)

    def _judge(self, policy: Policy) -> Evaluation:
        laboratory = self.outer.laboratory
        return judge(
            policy, laboratory.trace(policy), laboratory.ledger, laboratory.task,
            laboratory.full_precision_trace(),
        )  # fmt: skip


def trained_baselines(space: PolicySpace) -> list[tuple[str, Policy, tuple[float, ...]]]:
    """Uniform bits to be trained for: source, policy, and how much each exit counts.

    Quantization-aware training knows no thresholds yet, so every exit counts alike.
    """
    legal = set(space.weight_choices) & set(space.activation_choices)
    even = (1 / space.exits,) * space.exits
    return [
        (f"QAT {uniform_name(bits)}{EXITS}", space.uniform(bits, space.threshold_high), even)
        for bits in TRAINED_BITS
        if bits in legal
    ]


def uniform_name(bits: int) -> str:
    """Name of fixed precision at one width."""
    return f"W{bits}A{bits}"


def thinned(found: Harvest, points: int) -> Harvest:
    """At most ``points`` vectors of the front of loss and cost, spread evenly along it."""
    front = front_indices(as_points(1 - found.loss, found.cost))
    picks = np.unique(np.linspace(0, len(front) - 1, points).round().astype(np.int64))
    kept = front[picks]
    return Harvest(found.thresholds[kept], found.loss[kept], found.cost[kept], found.boundary[kept])
