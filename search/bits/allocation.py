"""Amortized-precision quantization: bits where they are used, exactly, under budgets.

The inner problem of MAQEE (arXiv 2605.07317):

    min over bits b of  sum_l [ u_l nu_l(b_l) + beta q_l(b_l) ]   subject to  A(b, t) <= budget

a multiple-choice knapsack, solved to the optimum by HiGHS. With every block used by everyone and
all samples leaving at the last exit it is static mixed precision.

Where the cost is amortized, u_l weighs damage and cost of a block alike and cancels: the bits are
nearly those of static mixed precision. Where it is not (worst-case or 95th-percentile BOPs, memory
of the weights, mean bit-width), u_l decides. Several bounds may hold at once.
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

from search.bits.prices import Prices, prices_of
from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import NO_BOUNDS, Budget, Ledger, Measure, in_words
from search.errors import ExitbitsError, NoPolicyFound
from search.policy import Bits
from search.space import PolicySpace
from search.trace import Routing

INFEASIBLE = 2  # as milp's status says it
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
        cost: its part of the cost.
        others: its part of every other cost that is bounded.
    """

    weight_bits: int | None
    activation_bits: int
    damage: float
    cost: float
    others: tuple[float, ...] = ()


@dataclass(frozen=True)
class Allocation:
    """Bits under a budget.

    Attributes:
        bits: of every group of the problem's space.
        damage: the objective.
        cost: by the problem's measure, under the usage that was assumed.
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
        measure: of the cost that budgets are given in.
        within: bounds on other costs.

    Raises:
        BadInput: when a cost is one that the ledger does not tell.
    """

    space: PolicySpace
    ledger: Ledger
    tables: SensitivityTables
    usage: Usage
    beta: float = 1.0
    weights: Usage | None = None
    measure: Measure = "expected"
    within: Budget = NO_BOUNDS

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
    def _prices(self) -> list[Prices]:
        """Of the cost itself, and of every other that is bounded."""
        usage = self.usage
        return [
            prices_of(measure, self.space, self.ledger, usage.utilization, usage.exit_rates)
            for measure in (self.measure, *self.within.bounds())
        ]

    @property
    def fixed_cost(self) -> float:
        """Cost of the embedding and the heads, whose bits are not searched."""
        return self._prices[0].fixed

    @cached_property
    def sites(self) -> dict[str, list[Choice]]:
        """Choices of every site that no other choice of the site beats in all figures."""
        weighted = set(self.space.weight_groups)
        sites = {}
        for group in self.space.activation_groups:
            widths: Sequence[int | None] = (
                self.space.weight_choices if group in weighted else (None,)
            )
            found = []
            for weight, activation in product(widths, self.space.activation_choices):
                damage = self._damage(self.tables.activations[group], activation)
                if weight is not None:
                    damage += self._damage(self.tables.weights[group], weight)
                cost, *others = (prices.of(group, weight, activation) for prices in self._prices)
                found.append(Choice(weight, activation, damage, cost, tuple(others)))
            sites[group] = _undominated(found)
        return sites

    @cached_property
    def cheapest(self) -> float:
        """Cost of the cheapest allocation there is, whatever else is bounded."""
        return self.fixed_cost + sum(choices[0].cost for choices in self.sites.values())

    @cached_property
    def dearest(self) -> float:
        """Cost of the cheapest allocation of least damage; more budget buys nothing."""
        return self.fixed_cost + sum(_best(choices).cost for choices in self.sites.values())

    def solve(self, budget: float) -> Allocation:
        """The allocation of least damage at a cost of at most ``budget``, within all bounds.

        Raises:
            NoPolicyFound: when there is none; the error names the cheapest.
        """
        if self.cheapest > budget:
            raise NoPolicyFound(
                f"no allocation costs at most {in_words(self.measure, budget)}: the cheapest "
                f"possible one costs {in_words(self.measure, self.cheapest)}; raise the budget"
            )
        bounds = [budget, *self.within.bounds().values()]
        best = [_best(choices) for choices in self.sites.values()]
        if self._is_within(best, bounds):
            return self._allocation(best)
        from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, seldom needed

        listed = list(self.sites.values())
        flat = [choice for choices in listed for choice in choices]
        owner = np.repeat(np.arange(len(listed)), [len(choices) for choices in listed])
        damage = np.array([choice.damage for choice in flat])
        rules = [LinearConstraint((owner == np.arange(len(listed))[:, None]).astype(float), 1, 1)]
        for index, (bound, prices) in enumerate(zip(bounds, self._prices, strict=True)):
            cost = np.array([(choice.cost, *choice.others)[index] for choice in flat])
            room = bound - prices.fixed
            if index:
                _refuse_too_little(cost, owner, bound, prices)
            # A hair more, since sums round: what is really dearer is sorted out below.
            rules.append(LinearConstraint(cost[None] / room, -np.inf, 1 + 1e-9))
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
            if solved.x is None and solved.status == INFEASIBLE and len(bounds) > 1:
                raise NoPolicyFound(
                    "no allocation is within all of "
                    + ", ".join(
                        in_words(prices.measure, bound)
                        for bound, prices in zip(bounds, self._prices, strict=True)
                    )
                    + ": raise one of them"
                )
            if solved.x is None:
                raise ExitbitsError(f"HiGHS found no allocation ({solved.message})")
            taken = np.flatnonzero(solved.x > 0.5)
            chosen = [flat[index] for index in taken]
            if self._is_within(chosen, bounds):
                return self._allocation(chosen)
            # The solver allows a hair more than the budget: exclude this one and ask again.
            cut = np.zeros(len(flat))
            cut[taken] = 1
            rules.append(LinearConstraint(cut[None], -np.inf, len(taken) - 1))

    def _is_within(self, chosen: Sequence[Choice], bounds: Sequence[float]) -> bool:
        costs = zip(*((choice.cost, *choice.others) for choice in chosen), strict=True)
        return all(
            prices.fixed + sum(each) <= bound
            for prices, each, bound in zip(self._prices, costs, bounds, strict=True)
        )

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


def _refuse_too_little(cost: np.ndarray, owner: np.ndarray, bound: float, prices: Prices) -> None:
    """Raise ``NoPolicyFound`` where even the cheapest choice of every site costs more."""
    least = prices.fixed + sum(float(cost[owner == site].min()) for site in np.unique(owner))
    if least > bound * (1 + 1e-12):
        raise NoPolicyFound(
            f"no allocation costs at most {in_words(prices.measure, bound)}: the cheapest possible "
            f"one costs {in_words(prices.measure, least)}; raise that bound"
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
    """Ascending in cost; none has more damage than one that costs no more by any measure."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda one: (one.cost, one.damage, one.others)):
        if not any(
            one.damage <= choice.damage
            and all(mine <= its for mine, its in zip(one.others, choice.others, strict=True))
            for one in kept
        ):
            kept.append(choice)
    return kept


def _best(choices: Sequence[Choice]) -> Choice:
    """The cheapest of least damage."""
    return min(choices, key=lambda one: (one.damage, one.cost))
