"""Amortized-precision quantization: bits where they are used, exactly, under a BOPs budget.

The inner problem of MAQEE (arXiv 2605.07317):

    min over bits b of  sum_l [ u_l nu_l(b_l) + beta q_l(b_l) ]   subject to  A(b, t) <= budget

a multiple-choice knapsack, solved to the optimum by HiGHS. With every block used by everyone and
all samples leaving at the last exit it is static mixed precision.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import Ledger, group_of
from search.errors import ExitbitsError, NoPolicyFound
from search.policy import Bits
from search.results import GIGA
from search.space import PolicySpace
from search.trace import Routing

SCALE = 1e4  # HiGHS stops within an absolute gap of 1e-6, so differences must be large beside it


@dataclass(frozen=True)
class Usage:
    """How often every block runs and every exit is taken.

    Attributes:
        utilization: u_l, ``[blocks]``.
        exit_rates: pi_e, ``[E]``.
    """

    utilization: np.ndarray
    exit_rates: np.ndarray

    @classmethod
    def of(cls, routing: Routing) -> Usage:
        """Usage under a routing of the quantized model."""
        return cls(routing.utilization, routing.exit_rates)

    @classmethod
    def full_depth(cls, ledger: Ledger) -> Usage:
        """Every sample runs every block: what static mixed precision assumes."""
        rates = np.zeros(len(ledger.exit_blocks))
        rates[-1] = 1.0
        return cls(np.ones(ledger.exit_blocks[-1]), rates)


@dataclass(frozen=True)
class Choice:
    """One way to quantize a site.

    Attributes:
        weight_bits: None where the site has no weights.
        activation_bits: of its activations.
        damage: its part of the objective.
        cost: its part of the amortized BOPs.
    """

    weight_bits: int | None
    activation_bits: int
    damage: float
    cost: float


@dataclass(frozen=True)
class Allocation:
    """Bits under a budget.

    Attributes:
        bits: of every group of the problem's space.
        damage: the objective.
        cost: A(b, t) in BOPs under the usage that was assumed.
    """

    bits: Bits
    damage: float
    cost: float


@dataclass(frozen=True)
class AllocationProblem:
    """The inner problem for one usage.

    A *site* is a layer group with the widths of its weights and of its activations, which are
    chosen together because an operation's cost is their product.

    Attributes:
        space: legal widths and groups.
        ledger: operations.
        tables: measured sensitivities.
        usage: how often blocks run and exits are taken, which the cost is amortized over.
        beta: weight of drift beside noise, 0 or more.
        weights: the usage that weighs damage, where it is to be another one.
    """

    space: PolicySpace
    ledger: Ledger
    tables: SensitivityTables
    usage: Usage
    beta: float = 1.0
    weights: Usage | None = None

    def damage(self, bits: Bits) -> float:
        """The objective for bits: what the tables predict."""
        total = 0.0
        for names, widths, rows in (
            (self.space.weight_groups, bits.weights, self.tables.weights),
            (self.space.activation_groups, bits.activations, self.tables.activations),
        ):
            for name, width in zip(names, widths, strict=True):
                total += self._damage(rows[name], width)
        return total

    def _damage(self, row: Sensitivity, bits: int) -> float:
        usage = self.weights or self.usage
        noise, drift = row.at(bits)
        used = float(usage.utilization[row.block - 1])
        return used * noise + self.beta * float(usage.exit_rates @ drift)

    @cached_property
    def fixed_cost(self) -> float:
        """Amortized BOPs of the embedding and the heads, whose bits are not searched."""
        bits = {"embed": self.space.embed_bits, "head": self.space.head_bits}
        return sum(
            op.macs * bits[op.part] ** 2 * self._used(op.block)
            for op in self.ledger.ops
            if op.part != "block"
        )

    def _used(self, block: int) -> float:
        return float(self.usage.utilization[block - 1]) if block else 1.0

    @cached_property
    def sites(self) -> dict[str, list[Choice]]:
        """Choices of every site that no other choice of the site beats in both figures."""
        granularity = self.space.granularity
        by_weights: dict[str, float] = {}
        by_activations: dict[str, float] = {}
        for op in self.ledger.ops:
            if op.part != "block":
                continue
            macs = by_activations if op.kind == "matmul" else by_weights
            group = group_of(op, granularity)
            macs[group] = macs.get(group, 0.0) + op.macs * self._used(op.block)
        sites = {}
        for group in self.space.activation_groups:
            products = by_weights.get(group)
            widths: Sequence[int | None] = (
                (None,) if products is None else self.space.weight_choices
            )
            found = []
            for weight, activation in product(widths, self.space.activation_choices):
                damage = self._damage(self.tables.activations[group], activation)
                cost = by_activations.get(group, 0.0) * activation**2
                if weight is not None:
                    damage += self._damage(self.tables.weights[group], weight)
                    cost += (products or 0.0) * activation * weight
                found.append(Choice(weight, activation, damage, cost))
            sites[group] = _undominated(found)
        return sites

    @cached_property
    def cheapest(self) -> float:
        """BOPs of the cheapest allocation there is."""
        return self.fixed_cost + sum(choices[0].cost for choices in self.sites.values())

    @cached_property
    def dearest(self) -> float:
        """BOPs of the cheapest allocation of least damage; more budget buys nothing."""
        return self.fixed_cost + sum(choices[-1].cost for choices in self.sites.values())

    def solve(self, budget: float) -> Allocation:
        """The allocation of least damage at an amortized cost of at most ``budget`` BOPs.

        Raises:
            NoPolicyFound: when even the cheapest one costs more; the error names it.
        """
        if self.cheapest > budget:
            raise NoPolicyFound(
                f"no allocation costs at most {budget / GIGA:.6g} GBOPs: the cheapest possible "
                f"one costs {self.cheapest / GIGA:.6g}; raise the budget"
            )
        if self.dearest <= budget:
            return self._allocation([choices[-1] for choices in self.sites.values()])
        from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, seldom needed

        listed = list(self.sites.values())
        flat = [choice for choices in listed for choice in choices]
        owner = np.repeat(np.arange(len(listed)), [len(choices) for choices in listed])
        damage = np.array([choice.damage for choice in flat])
        cost = np.array([choice.cost for choice in flat])
        room = budget - self.fixed_cost
        rules = [
            LinearConstraint((owner == np.arange(len(listed))[:, None]).astype(float), 1, 1),
            # A hair more, since sums round: what is really dearer is sorted out below.
            LinearConstraint(cost[None] / room, -np.inf, 1 + 1e-9),
        ]
        # Only differences within a site matter; scaled, the solver's absolute gap is no gap.
        floors = np.array([min(choice.damage for choice in choices) for choices in listed])
        objective = damage - floors[owner]
        objective = objective * (SCALE / max(float(objective.max()), 1e-30))
        while True:
            with _stdout_closed():
                solved = milp(
                    objective,
                    constraints=rules,
                    integrality=np.ones(len(flat), dtype=np.int64),
                    bounds=Bounds(0, 1),
                    options={"mip_rel_gap": 0},
                )
            if solved.x is None:
                raise ExitbitsError(f"HiGHS found no allocation ({solved.message})")
            taken = np.flatnonzero(solved.x > 0.5)
            allocation = self._allocation([flat[index] for index in taken])
            if allocation.cost <= budget:
                return allocation
            # The solver allows a hair more than the budget: exclude this one and ask again.
            cut = np.zeros(len(flat))
            cut[taken] = 1
            rules.append(LinearConstraint(cut[None], -np.inf, len(taken) - 1))

    def sweep(self, count: int) -> list[Allocation]:
        """Allocations at ``count`` budgets from cheapest to dearest, each bits only once."""
        budgets = np.geomspace(self.cheapest, self.dearest, count)
        # Rounding must not make the cheapest budget infeasible.
        budgets[0], budgets[-1] = self.cheapest, self.dearest
        found = {}
        for budget in budgets:
            allocation = self.solve(float(budget))
            found[allocation.bits] = allocation
        return list(found.values())

    def _allocation(self, taken: Sequence[Choice]) -> Allocation:
        return Allocation(
            bits=self.space.bits(
                [choice.weight_bits for choice in taken if choice.weight_bits is not None],
                [choice.activation_bits for choice in taken],
            ),
            damage=sum(choice.damage for choice in taken),
            cost=self.fixed_cost + sum(choice.cost for choice in taken),
        )


@contextmanager
def _stdout_closed() -> Iterator[None]:
    """Drop what is written to the process's standard output meanwhile.

    HiGHS prints a line of debugging there that no option turns off, in the midst of our JSON.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _undominated(choices: Sequence[Choice]) -> list[Choice]:
    """Ascending in cost, strictly falling in damage."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda one: (one.cost, one.damage)):
        if not kept or choice.damage < kept[-1].damage:
            kept.append(choice)
    return kept
