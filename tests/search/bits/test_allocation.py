"""Bit allocation against brute force over every bit vector of small random models."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from scipy.optimize import milp

from search.bits.allocation import Allocation, AllocationProblem, Usage
from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import GIGA, Budget, Ledger, Measure, Op
from search.policy import FULL_PRECISION, QUANTIZED_BITS, Bits, Granularity
from search.space import PolicySpace
from search.trace import Routing

WIDTHS = [(2, 3, 4), (2, 4, 8), (3, 4, 5, 8), (2, 5, 6, 7), (2, 8, 32), (4,)]
MOST_VECTORS = 2000  # more take too long to list


def random_ledger(rng: np.random.Generator, blocks: int) -> Ledger:
    ops = [Op("embed", "conv", "embed", 0, int(rng.integers(50, 500)), "embed", 70)]
    exits = sorted({blocks, *rng.integers(1, blocks + 1, 2).tolist()})
    for block in range(1, blocks + 1):
        macs = rng.integers(1, 5000, 3).tolist()
        ops += [
            Op(f"b{block}.fc", "linear", "block", block, macs[0], f"b{block}.fc", macs[1] + 1),
            Op(f"b{block}.attn.scores", "matmul", "block", block, macs[1], f"b{block}.attn"),
            Op(f"b{block}.attn.context", "matmul", "block", block, macs[2], f"b{block}.attn"),
        ]
        if block in exits:
            name = f"heads.{block}"
            ops.append(Op(name, "linear", "head", block, int(rng.integers(1, 50)), name, 5))
    return Ledger(tuple(ops), tuple(exits))


def block_of(group: str) -> int:
    """Of ``block3`` and of ``b3.attn``: 3."""
    return int(group.removeprefix("block").removeprefix("b").split(".")[0])


def random_row(rng: np.random.Generator, ledger: Ledger, group: str, monotone: bool) -> Sensitivity:
    """Figures over six decades, as real ones are, which may even rise with more bits."""
    block = block_of(group)
    exits = np.array(ledger.exit_blocks)
    noise = 10 ** rng.uniform(-6, 0, len(QUANTIZED_BITS))
    drift = 10 ** rng.uniform(-6, 0, (len(QUANTIZED_BITS), len(exits)))
    if monotone:
        noise, drift = -np.sort(-noise), -np.sort(-drift, axis=0)
    return Sensitivity(block, QUANTIZED_BITS, noise, drift * (exits >= block))


def usage_of(ledger: Ledger, exits: np.ndarray) -> Usage:
    return Usage.of(Routing(exits, np.zeros((len(exits), 1)), ledger.exit_blocks))


@dataclass(frozen=True)
class Case:
    """A random problem and where the samples left that its usage was counted on."""

    problem: AllocationProblem
    exits: np.ndarray
    rng: np.random.Generator

    def vectors(self) -> list[Bits]:
        """All the bits that the space allows."""
        space = self.problem.space
        return [
            space.bits(weights, activations)
            for weights in product(space.weight_choices, repeat=len(space.weight_groups))
            for activations in product(
                space.activation_choices, repeat=len(space.activation_groups)
            )
        ]

    def damages(self, candidates: list[Bits], usage: Usage) -> np.ndarray:
        """sum_l u_l nu_l(b_l) + beta q_l(b_l) of each, straight from the tables."""
        space, tables, beta = self.problem.space, self.problem.tables, self.problem.beta

        def part(row: Sensitivity, bits: int) -> float:
            if bits == FULL_PRECISION:
                return 0.0
            at = row.bits.index(bits)
            drift = sum(rate * kl for rate, kl in zip(usage.exit_rates, row.drift[at], strict=True))
            return usage.utilization[row.block - 1] * row.noise[at] + beta * drift

        known = {
            (side, name, bits): part(row, bits)
            for side, rows, choices in (
                ("w", tables.weights, space.weight_choices),
                ("a", tables.activations, space.activation_choices),
            )
            for name, row in rows.items()
            for bits in choices
        }
        totals = []
        for chosen in candidates:
            weights = zip(space.weight_groups, chosen.weights, strict=True)
            activations = zip(space.activation_groups, chosen.activations, strict=True)
            totals.append(
                sum(known["w", name, bits] for name, bits in weights)
                + sum(known["a", name, bits] for name, bits in activations)
            )
        return np.array(totals)

    def costs(self, candidates: list[Bits]) -> np.ndarray:
        """A(b, t) of each, by the ledger and the samples."""
        ledger = self.problem.ledger
        return np.array([ledger.cost(bits, self.exits).expected for bits in candidates])


def random_case(seed: int, samples: int = 64) -> Case:
    """With 64 samples, every share is a binary fraction and every cost exact."""
    rng = np.random.default_rng(seed)
    while True:
        ledger = random_ledger(rng, int(rng.integers(2, 4)))
        widths = [WIDTHS[index] for index in rng.integers(0, len(WIDTHS), 2)]
        space = PolicySpace.from_ledger(
            ledger,
            ("block", "layer")[rng.integers(2)],
            weight_choices=widths[0],
            activation_choices=widths[1],
        )
        vectors = len(widths[0]) ** len(space.weight_groups)
        vectors *= len(widths[1]) ** len(space.activation_groups)
        if 1 < vectors <= MOST_VECTORS:
            break
    monotone = bool(rng.integers(2))
    tables = SensitivityTables(
        {name: random_row(rng, ledger, name, monotone) for name in space.weight_groups},
        {name: random_row(rng, ledger, name, monotone) for name in space.activation_groups},
    )
    # Every fourth model has blocks that nobody reaches.
    deepest = 1 if seed % 4 == 0 else len(ledger.exit_blocks)
    exits = rng.integers(0, deepest, samples)
    beta = float(rng.choice([0.0, 0.1, 1.0, 30.0]))
    return Case(AllocationProblem(space, ledger, tables, usage_of(ledger, exits), beta), exits, rng)


def check(allocation: Allocation, budget: float, costs: np.ndarray, damages: np.ndarray) -> None:
    """The allocation is affordable and as good as the best affordable vector."""
    assert allocation.cost <= budget
    assert allocation.damage == pytest.approx(damages[costs <= budget].min(), rel=1e-9, abs=0)


def test_cases_are_of_every_kind():
    """Or else the tests below would show less than they seem to."""
    spaces = [random_case(seed).problem.space for seed in range(40)]
    assert {space.granularity for space in spaces} == {"block", "layer"}
    assert {space.exits for space in spaces} >= {1, 2, 3}
    assert {space.weight_choices for space in spaces} == set(WIDTHS)
    assert {len(space.activation_groups) for space in spaces} >= {2, 3, 4}


@pytest.mark.parametrize("seed", range(40))
def test_allocation_equals_brute_force(seed: int):
    case = random_case(seed)
    candidates = case.vectors()
    costs = case.costs(candidates)
    damages = case.damages(candidates, case.problem.usage)
    cheapest, dearest = costs.min(), costs.max()
    budgets = [
        *case.rng.uniform(cheapest, dearest * 1.05, 5),
        *case.rng.choice(costs, 5),  # exactly what an allocation costs
        np.nextafter(dearest, 0),
        cheapest,
        dearest * 2,
    ]
    for budget in budgets:
        check(case.problem.solve(float(budget)), float(budget), costs, damages)


@pytest.mark.parametrize("seed", range(40, 60))
def test_an_allocation_is_the_policy_that_it_says(seed: int):
    case = random_case(seed, samples=97)
    problem = case.problem
    allocation = problem.solve(float(case.rng.uniform(problem.cheapest, problem.dearest)))
    bits = allocation.bits
    problem.space.check(problem.space.policy(bits, problem.space.threshold_high))
    # A(b, t) of samples whose use of the blocks is the one assumed.
    expected = problem.ledger.cost(bits, case.exits).expected
    assert allocation.cost == pytest.approx(expected, rel=1e-12)
    damage = case.damages([bits], problem.usage)[0]
    assert allocation.damage == pytest.approx(damage, rel=1e-12)
    assert problem.damage(bits) == pytest.approx(damage, rel=1e-12)


@pytest.mark.parametrize("seed", range(60, 75))
def test_full_depth_is_static_mixed_precision(seed: int):
    """A brute force that has never heard of exits: all of the model, one answer at its end."""
    case = random_case(seed)
    ledger, tables, space = case.problem.ledger, case.problem.tables, case.problem.space
    problem = replace(case.problem, usage=Usage.full_depth(ledger))
    candidates = case.vectors()
    costs = np.array(
        [sum(row.bops for row in ledger.rows(bits)) for bits in candidates], dtype=np.float64
    )
    damages = []
    for bits in candidates:
        total = 0.0
        for groups, widths, rows in (
            (space.weight_groups, bits.weights, tables.weights),
            (space.activation_groups, bits.activations, tables.activations),
        ):
            for group, width in zip(groups, widths, strict=True):
                noise, drift = rows[group].at(width)
                total += noise + problem.beta * drift[-1]
        damages.append(total)
    for budget in (*case.rng.uniform(costs.min(), costs.max(), 3), *case.rng.choice(costs, 3)):
        check(problem.solve(float(budget)), float(budget), costs, np.array(damages))


@pytest.mark.parametrize("seed", range(75, 85))
def test_damage_can_be_weighed_by_another_usage(seed: int):
    """What is paid stays amortized; here all layers count as if everyone used them."""
    case = random_case(seed)
    full = Usage.full_depth(case.problem.ledger)
    problem = replace(case.problem, weights=full)
    candidates = case.vectors()
    costs, damages = case.costs(candidates), case.damages(candidates, full)
    for budget in (*case.rng.uniform(costs.min(), costs.max(), 3), *case.rng.choice(costs, 2)):
        check(problem.solve(float(budget)), float(budget), costs, damages)


MEASURES: tuple[Measure, ...] = ("expected", "p95", "worst", "memory", "mean_bits")


def every_cost(case: Case, candidates: list[Bits]) -> dict[Measure, np.ndarray]:
    """What each costs by every measure, by the ledger and the samples."""
    costs = [case.problem.ledger.cost(bits, case.exits) for bits in candidates]
    return {measure: np.array([getattr(one, measure) for one in costs]) for measure in MEASURES}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("seed", range(400, 410))
def test_every_measure_can_be_the_budget(seed: int, measure: Measure):
    case = random_case(seed)
    problem = replace(case.problem, measure=measure)
    candidates = case.vectors()
    costs, damages = every_cost(case, candidates)[measure], case.damages(candidates, problem.usage)
    assert problem.cheapest == pytest.approx(costs.min(), rel=1e-12)
    for budget in (*case.rng.uniform(costs.min(), costs.max(), 3), *case.rng.choice(costs, 3)):
        # Memory by groups and by operations are sums in another order.
        affordable = costs <= budget * (1 + 1e-12)
        found = problem.solve(float(budget) * (1 + 1e-12))
        assert found.damage == pytest.approx(damages[affordable].min(), rel=1e-9, abs=0)
        cost = getattr(problem.ledger.cost(found.bits, case.exits), measure)
        assert found.cost == pytest.approx(cost, rel=1e-12)


@pytest.mark.parametrize("seed", range(420, 450))
def test_several_bounds_hold_at_once(seed: int, refused):
    case = random_case(seed)
    candidates = case.vectors()
    costs, damages = every_cost(case, candidates), case.damages(candidates, case.problem.usage)
    infeasible = 0
    for _ in range(6):
        bounded = [MEASURES[i] for i in case.rng.permutation(5)[: case.rng.integers(2, 5)]]
        bounds = {
            measure: float(np.quantile(costs[measure], case.rng.uniform(0, 0.7)) * (1 + 1e-12))
            for measure in bounded
        }
        first, *others = bounded
        within = Budget(**{measure: bounds[measure] for measure in others})
        problem = replace(case.problem, measure=first, within=within)
        affordable = np.logical_and.reduce([costs[m] <= bound for m, bound in bounds.items()])
        if not affordable.any():
            infeasible += 1
            with refused("no allocation", exit_code=3):
                problem.solve(bounds[first])
            continue
        found = problem.solve(bounds[first])
        assert found.damage == pytest.approx(damages[affordable].min(), rel=1e-9, abs=0)
        cost = problem.ledger.cost(found.bits, case.exits)
        assert Budget(**{m: bound * (1 + 1e-9) for m, bound in bounds.items()}).allows(cost)
    assert infeasible < 6


def lagrangian(problem: AllocationProblem, multiplier: float) -> list[tuple[int | None, int]]:
    """The widths of every site at a multiplier: each site is solved alone."""
    best = [
        min(choices, key=lambda one: one.damage + multiplier * one.cost)
        for choices in problem.sites.values()
    ]
    return [(one.weight_bits, one.activation_bits) for one in best]


def test_use_cancels_where_cost_is_amortized_and_decides_where_it_is_not():
    """Without drift, u_l weighs damage and amortized cost of a site alike."""
    differ = {"expected": 0, "worst": 0, "memory": 0}
    for seed in range(60):
        case = random_case(seed)
        exits = np.append(case.exits, len(case.problem.ledger.exit_blocks) - 1)
        used = replace(case.problem, beta=0.0, usage=usage_of(case.problem.ledger, exits))
        even = replace(used, usage=Usage.full_depth(used.ledger))
        assert used.usage.utilization.min() > 0
        for measure in differ:
            pair = [replace(one, measure=measure) for one in (used, even)]
            for multiplier in case.rng.choice([1e-6, 1e-5, 1e-4, 1e-3], 3):
                differ[measure] += lagrangian(pair[0], multiplier) != lagrangian(
                    pair[1], multiplier
                )
    assert differ["expected"] == 0
    assert differ["worst"] > 10
    assert differ["memory"] > 10


def test_a_ledger_that_tells_no_weights_has_no_memory(refused):
    problem = random_case(1).problem
    silent = Ledger(tuple(replace(op, weights=0) for op in problem.ledger.ops),
                    problem.ledger.exit_blocks)  # fmt: skip
    for changes in ({"measure": "memory"}, {"within": Budget(mean_bits=4.0)}):
        with refused("before weights were counted", "launch"):
            replace(problem, ledger=silent, **changes).solve(1e12)


def test_usage_changes_who_gets_the_bits():
    """Two alike blocks: where few go on, the second is worth little and costs little."""
    ops = [
        Op(f"b{block}.fc", "linear", "block", block, 1000, f"b{block}.fc") for block in (1, 2)
    ] + [Op(f"heads.{block}", "linear", "head", block, 1, f"heads.{block}") for block in (1, 2)]
    ledger = Ledger(tuple(ops), (1, 2))
    noise = np.array([4.0 ** -float(bits) for bits in QUANTIZED_BITS])
    rows = {f"block{b}": Sensitivity(b, QUANTIZED_BITS, noise, np.zeros((7, 2))) for b in (1, 2)}
    space = PolicySpace.from_ledger(ledger, "block")
    tables = SensitivityTables(rows, rows)
    static = AllocationProblem(space, ledger, tables, Usage.full_depth(ledger))
    even = static.solve(2 * 1000 * 25 + 500)
    assert even.bits.weights[0] == even.bits.weights[1] == 5
    leave = usage_of(ledger, np.array([0] * 15 + [1]))
    few = replace(static, usage=leave, weights=Usage.full_depth(ledger)).solve(1000 * 26 + 500)
    assert few.bits.weights[1] > few.bits.weights[0]


@pytest.mark.parametrize("samples", [64, 61, 97])
def test_the_ends_of_the_range_are_budgets(samples: int):
    for seed in range(100, 130):
        case = random_case(seed, samples)
        problem = case.problem
        candidates = case.vectors()
        costs = case.costs(candidates)
        damages = case.damages(candidates, problem.usage)
        assert problem.cheapest == pytest.approx(costs.min(), rel=1e-12)
        least = damages <= damages.min() * (1 + 1e-12)
        assert problem.dearest == pytest.approx(costs[least].min(), rel=1e-12)

        narrow = problem.solve(problem.cheapest)
        assert narrow.cost == problem.cheapest
        affordable = costs <= problem.cheapest * (1 + 1e-12)
        assert narrow.damage == pytest.approx(damages[affordable].min(), rel=1e-9, abs=0)
        for budget in (problem.dearest, problem.dearest * 2):
            wide = problem.solve(budget)
            assert wide.cost == problem.dearest
            assert wide.damage == pytest.approx(damages.min(), rel=1e-9, abs=0)


@pytest.mark.parametrize("samples", [64, 61, 97])
def test_what_an_allocation_costs_buys_as_good_a_one(samples: int):
    """Shares that are no binary fractions round; a budget must not fall through that."""
    for seed in range(200, 230):
        case = random_case(seed, samples)
        problem = case.problem
        for share in (0.2, 0.5, 0.9):
            budget = problem.cheapest + share * (problem.dearest - problem.cheapest)
            first = problem.solve(budget)
            assert first.cost <= budget
            again = problem.solve(first.cost)
            assert again.cost <= first.cost
            assert again.damage == pytest.approx(first.damage, rel=1e-9, abs=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_budget_below_the_cheapest_names_it(seed: int, refused):
    problem = random_case(seed).problem
    named = f"{problem.cheapest / GIGA:.6g}"
    for budget in (float(np.nextafter(problem.cheapest, 0)), problem.cheapest / 2, 0.0, -1.0):
        with refused(f"{budget / GIGA:.6g} GBOPs", named, exit_code=3):
            problem.solve(budget)


@pytest.mark.parametrize("seed", range(300, 320))
def test_a_sweep_rises_in_cost_and_falls_in_damage(seed: int):
    case = random_case(seed, samples=97)
    problem = case.problem
    found = problem.sweep(12)
    assert 1 <= len(found) <= 12
    assert (np.diff([one.cost for one in found]) > 0).all()
    assert (np.diff([one.damage for one in found]) < 0).all()
    assert found[0].cost == problem.cheapest
    assert found[-1].damage == problem.solve(problem.dearest).damage
    assert len({one.bits for one in found}) == len(found)


def vision_problem(seed: int, granularity: Granularity) -> AllocationProblem:
    """The bundled model's products, with figures that fall as real ones do."""
    rng = np.random.default_rng(seed)
    ops = []
    for block in range(1, 7):
        for name, kind, macs in (
            ("attn.qkv", "linear", 1354752),
            ("attn.scores", "matmul", 230496),
            ("attn.context", "matmul", 230496),
            ("attn.proj", "linear", 451584),
            ("mlp.fc1", "linear", 1354752),
            ("mlp.fc2", "linear", 1354752),
        ):
            layer = "attn" if kind == "matmul" else name
            ops.append(Op(f"b{block}.{name}", kind, "block", block, macs, f"b{block}.{layer}"))
        ops.append(Op(f"heads.{block}", "linear", "head", block, 960, f"heads.{block}"))
    ledger = Ledger(tuple(ops), (1, 2, 3, 4, 5, 6))
    space = PolicySpace.from_ledger(ledger, granularity)
    falling = 4.0 ** -np.array(QUANTIZED_BITS)

    def row(group: str) -> Sensitivity:
        block = block_of(group)
        noise = falling * 10 ** (rng.uniform(-2, 0) + rng.uniform(-0.1, 0.1, 7))
        drift = falling * 10 ** (rng.uniform(-2, 0) + rng.uniform(-0.2, 0.2, 7))
        return Sensitivity(
            block, QUANTIZED_BITS, noise, drift[:, None] * (np.arange(6) >= block - 1)
        )

    tables = SensitivityTables(
        {group: row(group) for group in space.weight_groups},
        {group: row(group) for group in space.activation_groups},
    )
    exits = np.minimum(rng.geometric(rng.uniform(0.1, 0.9), 512) - 1, 5)
    return AllocationProblem(space, ledger, tables, usage_of(ledger, exits))


def every_worthwhile(problem: AllocationProblem) -> np.ndarray:
    """Cost and least damage of all allocations that nothing beats, a block at a time."""
    points = np.array([[problem.fixed_cost, 0.0]])
    for block in range(1, 7):
        used = problem.usage.utilization[block - 1]
        macs = {
            kind: sum(op.macs for op in problem.ledger.ops if op.block == block and op.kind == kind)
            for kind in ("linear", "matmul")
        }
        macs["linear"] -= 960  # the head's
        group, choices = f"block{block}", []
        for weight, activation in product(QUANTIZED_BITS, repeat=2):
            damage = 0.0
            for rows, bits in (
                (problem.tables.weights, weight),
                (problem.tables.activations, activation),
            ):
                noise, drift = rows[group].at(bits)
                damage += used * noise + problem.beta * (problem.usage.exit_rates @ drift)
            cost = macs["linear"] * weight * activation + macs["matmul"] * activation**2
            choices.append((used * cost, damage))
        sums = (points[:, None] + np.array(choices)[None]).reshape(-1, 2)
        sums = sums[np.lexsort((sums[:, 1], sums[:, 0]))]
        lowest = np.minimum.accumulate(sums[:, 1])
        points = sums[np.append(True, sums[1:, 1] < lowest[:-1])]
    return points


@pytest.mark.parametrize("seed", range(12))
def test_a_whole_model_is_solved_exactly(seed: int):
    """Too many vectors to list, but blocks add up: all worthwhile sums, one block at a time."""
    problem = vision_problem(seed, "block")
    points = every_worthwhile(problem)
    assert len(points) > 100
    for share in (0.02, 0.1, 0.25, 0.5, 0.9):
        budget = problem.cheapest + share * (problem.dearest - problem.cheapest)
        check(problem.solve(budget), budget, points[:, 0], points[:, 1])


def test_solving_prints_nothing(capfd: pytest.CaptureFixture[str], monkeypatch):
    """The solver writes past Python: on some of these models by itself, on all of them here."""

    def noisy(*args, **kwargs):
        os.write(1, b"from the solver")
        return milp(*args, **kwargs)

    monkeypatch.setattr("scipy.optimize.milp", noisy)
    for seed in (1, 5, 7):
        problem = vision_problem(seed, "layer")
        for share in (0.01, 0.05, 0.7):
            print("so far")  # what Python holds back is not lost
            problem.solve(problem.cheapest + share * (problem.dearest - problem.cheapest))
            os.write(1, b"and on\n")
    assert sorted(capfd.readouterr().out.split("\n")) == ["", *["and on"] * 9, *["so far"] * 9]


def test_standard_output_comes_back_after_a_failure(capfd: pytest.CaptureFixture[str], monkeypatch):
    def failing(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("scipy.optimize.milp", failing)
    problem = vision_problem(0, "block")
    with pytest.raises(MemoryError):
        problem.solve(problem.cheapest * 1.5)
    os.write(1, b"still here")
    assert capfd.readouterr().out == "still here"


@pytest.mark.parametrize("usage", ["full", "counted"])
def test_usage(usage: str):
    ledger = random_ledger(np.random.default_rng(0), 3)
    if usage == "full":
        found = Usage.full_depth(ledger)
        exits = np.full(5, len(ledger.exit_blocks) - 1)
    else:
        exits = np.random.default_rng(1).integers(0, len(ledger.exit_blocks), 50)
        found = usage_of(ledger, exits)
    depths = [ledger.exit_blocks[index] for index in exits]
    assert found.utilization.tolist() == pytest.approx(
        [sum(depth >= block for depth in depths) / len(depths) for block in (1, 2, 3)]
    )
    assert found.exit_rates.tolist() == pytest.approx(
        [depths.count(block) / len(depths) for block in ledger.exit_blocks]
    )
