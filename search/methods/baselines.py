"""The methods that a front is held against, each a set of policies with its source's name.

Wherever a baseline has exits, its thresholds come from the same harvest as everyone else's, so
that no comparison is won by better thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from search.bits.allocation import AllocationProblem, Usage
from search.bits.tables import SensitivityTables
from search.errors import BadInput
from search.front import as_points, front_indices
from search.methods.outer import OuterProblem
from search.policy import Bits, Policy
from search.results import Evaluation, evaluate_trace
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
        for name, bits in self.named_bits():
            deepest = self.outer.space.policy(bits, 1.0)
            yield Baseline(name, (self._evaluate(deepest),))
            yield Baseline(name + EXITS, self.with_exits(bits))

    def sources(self) -> list[str]:
        """The source of every baseline, in the order in which they are evaluated."""
        return [source for name, _ in self.named_bits() for source in (name, name + EXITS)]

    def named_bits(self) -> list[tuple[str, Bits]]:
        """The bits of every baseline, under the name that it has at full depth."""
        space = self.outer.space
        return [
            ("full precision", space.full_precision()),
            *((uniform_name(b), space.uniform(b, 1.0).bits) for b in _legal(space, UNIFORM_BITS)),
            *(("static", bits) for bits in self.static_bits()),
        ]

    def static_bits(self) -> list[Bits]:
        """Static mixed precision: allocations as if every sample ran every block."""
        ledger = self.outer.traces.ledger
        problem = AllocationProblem(
            self.outer.space,
            ledger,
            self.tables,
            Usage.full_depth(ledger),
            self.outer.settings.beta,
        )
        return [found.bits for found in problem.sweep(self.allocations)]

    def with_exits(self, bits: Bits) -> tuple[Evaluation, ...]:
        """Those harvested policies of a trace that stand for its front."""
        found = thinned(self.outer.harvest(bits), self.points)
        return tuple(self._evaluate(found.policy(bits, index)) for index in range(len(found)))

    def _evaluate(self, policy: Policy) -> Evaluation:
        traces = self.outer.traces
        return evaluate_trace(
            policy, traces.trace(policy.bits), traces.ledger, traces.task,
            traces.full_precision_trace(),
        )  # fmt: skip


def trained_baselines(space: PolicySpace) -> list[tuple[str, Bits, tuple[float, ...]]]:
    """Uniform bits to be trained for: source, bits, and how much each exit counts.

    Quantization-aware training knows no thresholds yet, so every exit counts alike.
    """
    even = (1 / space.exits,) * space.exits
    return [
        (f"QAT {uniform_name(bits)}{EXITS}", space.uniform(bits, 1.0).bits, even)
        for bits in _legal(space, TRAINED_BITS)
    ]


def _legal(space: PolicySpace, widths: Sequence[int]) -> list[int]:
    """Those widths that weights and activations may both have."""
    return [w for w in widths if w in space.weight_choices and w in space.activation_choices]


def uniform_name(bits: int) -> str:
    """Name of fixed precision at one width."""
    return f"W{bits}A{bits}"


def thinned(found: Harvest, points: int) -> Harvest:
    """At most ``points`` vectors of the front of metric and cost, spread evenly along it."""
    front = front_indices(as_points(found.value, found.cost))
    picks = np.unique(np.linspace(0, len(front) - 1, points).round().astype(np.int64))
    return found.take(front[picks])
