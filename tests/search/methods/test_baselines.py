"""The comparison methods on the bundled model, over few images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from bundled_model import open_bundled

from search.bits.allocation import AllocationProblem, Usage
from search.bits.tables import Sensitivity, SensitivityTables
from search.evaluate import Evaluator
from search.methods.baselines import (
    Baseline,
    BaselineSet,
    thinned,
    trained_baselines,
    uniform_name,
)
from search.methods.outer import OuterProblem
from search.methods.settings import MaqeeSettings
from search.policy import FULL_PRECISION, Bits
from search.sensitivity import SensitivityMeter, check_additivity
from search.space import PolicySpace
from search.thresholds.candidates import Harvest
from search.trace import ExitTrace

BLOCKS = 6
POINTS = 5
ALLOCATIONS = 3


class TraceDict:
    """Traces by key; notes how many had to be made."""

    def __init__(self) -> None:
        self.traces: dict[str, ExitTrace] = {}
        self.made = 0

    def load(self, key: str) -> ExitTrace | None:
        return self.traces.get(key)

    def store(self, key: str, trace: ExitTrace) -> None:
        self.made += 1
        self.traces[key] = trace


class RowDict:
    """Sensitivities by key."""

    def __init__(self) -> None:
        self.rows: dict[str, Sensitivity] = {}

    def load(self, key: str) -> Sensitivity | None:
        return self.rows.get(key)

    def store(self, key: str, row: Sensitivity) -> None:
        self.rows[key] = row


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    found = open_bundled(64)
    return replace(found, split=found.split.head(300), cache=TraceDict())


@pytest.fixture(scope="module")
def tables(evaluator: Evaluator) -> SensitivityTables:
    # A few images will do: what is tested is what becomes of the figures, not the figures.
    return SensitivityMeter(evaluator.quantized, "block", RowDict(), images=8).tables()


@pytest.fixture(scope="module")
def space(evaluator: Evaluator) -> PolicySpace:
    return PolicySpace.from_ledger(
        evaluator.ledger, "block", threshold_low=0.3, threshold_high=0.97
    )


def set_of(
    evaluator: Evaluator,
    space: PolicySpace,
    tables: SensitivityTables,
    settings: MaqeeSettings | None = None,
) -> BaselineSet:
    outer = OuterProblem(evaluator, space, settings or MaqeeSettings())
    return BaselineSet(outer, tables, allocations=ALLOCATIONS, points=POINTS)


@pytest.fixture(scope="module")
def baselines(evaluator: Evaluator, space: PolicySpace, tables: SensitivityTables) -> BaselineSet:
    return set_of(evaluator, space, tables)


@pytest.fixture(scope="module")
def found(baselines: BaselineSet) -> list[Baseline]:
    """All of them, evaluated once."""
    return list(baselines)


def at_full_depth(found: Sequence[Baseline]) -> list[Baseline]:
    return [one for one in found if not one.source.endswith("+exits")]


# Which there are


def test_sources_come_in_their_order(baselines: BaselineSet, found: list[Baseline]) -> None:
    named = ["full precision", "W8A8", "W6A6", "W4A4", "W3A3", *["static"] * ALLOCATIONS]
    expected = [source for name in named for source in (name, f"{name}+exits")]
    assert baselines.sources() == expected
    assert [one.source for one in found] == expected


def test_every_trace_is_made_once(
    baselines: BaselineSet, found: list[Baseline], evaluator: Evaluator
) -> None:
    cache = evaluator.cache
    assert isinstance(cache, TraceDict)
    sets = {one.evaluations[0].policy.bits for one in found}
    assert len(sets) in (4 + ALLOCATIONS, 5 + ALLOCATIONS)  # the dearest allocation may be W8A8
    # And that of the model as it was trained.
    assert cache.made == len(cache.traces) == len(sets) + 1
    made = cache.made
    list(baselines)
    assert cache.made == made


@pytest.mark.parametrize(("source", "width"), [("W8A8", 8), ("W6A6", 6), ("W4A4", 4), ("W3A3", 3)])
def test_uniform_policies_have_one_width_in_every_block(
    found: list[Baseline], source: str, width: int
) -> None:
    for name in (source, f"{source}+exits"):
        (baseline,) = [one for one in found if one.source == name]
        for one in baseline.evaluations:
            assert one.policy.bits == Bits("block", (width,) * BLOCKS, (width,) * BLOCKS, 8, 8)


def test_full_precision_is_full_precision_everywhere(
    found: list[Baseline], evaluator: Evaluator
) -> None:
    (plain,) = [one for one in found if one.source == "full precision"]
    (exits,) = [one for one in found if one.source == "full precision+exits"]
    for one in (*plain.evaluations, *exits.evaluations):
        assert set(one.policy.bits.weights) == set(one.policy.bits.activations) == {FULL_PRECISION}
        assert one.policy.bits.embed == one.policy.bits.head == FULL_PRECISION
    # Its answers are those of the model as it was trained, up to the rounding of float32.
    reference = evaluator.full_precision_trace()
    trace = evaluator.trace(plain.evaluations[0].policy.bits)
    np.testing.assert_allclose(trace.confidence, reference.confidence, atol=1e-4)


def test_at_full_depth_nobody_leaves_early(found: list[Baseline], space: PolicySpace) -> None:
    """Even where the space's own thresholds end below 1."""
    assert space.threshold_high < 1
    for baseline in at_full_depth(found):
        (one,) = baseline.evaluations
        assert one.policy.thresholds == (1.0,) * 5 + (0.0,)


def test_only_widths_that_are_legal_on_both_sides(
    evaluator: Evaluator, tables: SensitivityTables
) -> None:
    space = PolicySpace.from_ledger(
        evaluator.ledger, "block", weight_choices=(3, 4, 8), activation_choices=(4, 6, 8)
    )
    named = set_of(evaluator, space, tables).named_bits()
    assert [name for name, _ in named if name.startswith("W")] == ["W8A8", "W4A4"]
    for name, bits in named:
        if name != "full precision":
            space.check(space.policy(bits, 1.0))
    assert [(name, bits) for name, bits, _ in trained_baselines(space)] == [
        ("QAT W4A4+exits", space.uniform(4, 1.0).bits)
    ]


@pytest.mark.parametrize("name", ["allocations", "points"])
def test_too_few_are_refused(refused, baselines: BaselineSet, name: str) -> None:
    with refused(name, 1, "2 or more"):
        replace(baselines, **{name: 1})


# Thresholds


def test_every_figure_is_that_of_a_fresh_verdict(
    found: list[Baseline], evaluator: Evaluator
) -> None:
    for baseline in found:
        for one in baseline.evaluations:
            trace = evaluator.trace(one.policy.bits)
            assert one == evaluator.evaluate_trace(one.policy, trace)
            assert one.risk is not None
            # And by hand: who leaves where, what that costs, who is right there.
            leaves = trace.confidence >= np.array(one.policy.thresholds)
            taken = leaves.argmax(axis=1)
            path = evaluator.ledger.path_bops(one.policy.bits)
            assert one.cost.expected == pytest.approx(path[taken].mean(), rel=1e-12)
            at_exit = trace.statistic[np.arange(len(trace)), taken]
            assert one.value == pytest.approx(1 - evaluator.task.loss(at_exit).mean(), rel=1e-12)
            assert one.samples == 300


def test_with_exits_no_policy_of_a_trace_dominates_another(found: list[Baseline]) -> None:
    several = 0
    for baseline in found:
        costs = [one.cost.expected for one in baseline.evaluations]
        values = [one.value for one in baseline.evaluations]
        assert len({one.policy.bits for one in baseline.evaluations}) == 1
        assert 1 <= len(costs) <= POINTS
        assert all(low < high for low, high in pairwise(costs))
        assert all(low < high for low, high in pairwise(values))
        several += len(costs) > 2
    assert several >= 5


def test_exits_are_worth_having(found: list[Baseline], space: PolicySpace) -> None:
    """The best policy with exits is at least as accurate as the one without, others are cheaper."""
    for plain, exits in zip(found[::2], found[1::2], strict=True):
        assert exits.source == f"{plain.source}+exits"
        (deep,) = plain.evaluations
        assert deep.policy.bits == exits.evaluations[0].policy.bits
        assert exits.evaluations[-1].value >= deep.value
        assert exits.evaluations[0].cost.expected < deep.cost.expected
        for one in exits.evaluations:
            assert all(
                space.threshold_low <= t <= space.threshold_high for t in one.policy.thresholds[:-1]
            )


# Static mixed precision


def full_depth() -> Usage:
    """Every sample runs every block and leaves at the last exit."""
    return Usage(np.ones(BLOCKS), np.eye(BLOCKS)[-1])


@pytest.mark.parametrize("beta", [0.0, 1.0, 50.0])
def test_static_bits_are_allocated_as_if_all_were_used_by_all(
    evaluator: Evaluator, space: PolicySpace, tables: SensitivityTables, beta: float
) -> None:
    found = set_of(evaluator, space, tables, MaqeeSettings(beta=beta)).static_bits()
    problem = AllocationProblem(space, evaluator.ledger, tables, full_depth(), beta)
    budgets = np.geomspace(problem.cheapest, problem.dearest, ALLOCATIONS)
    budgets[0], budgets[-1] = problem.cheapest, problem.dearest
    expected = [problem.solve(float(budget)) for budget in budgets]
    assert found == [one.bits for one in expected]
    for one, allocation in zip(found, expected, strict=True):
        assert (one.embed, one.head) == (8, 8)
        # At full depth, all heads passed, a policy costs what the allocation said.
        assert evaluator.ledger.path_bops(one)[-1] == pytest.approx(allocation.cost, rel=1e-9)


def test_static_bits_go_from_the_narrowest_up_and_mix(baselines: BaselineSet) -> None:
    first, middle, _ = baselines.static_bits()
    assert set(first.weights) == set(first.activations) == {2}
    assert len({*middle.weights, *middle.activations}) > 1


@pytest.mark.parametrize(
    ("weights", "activations"),
    [((2, 3, 4, 5, 6, 7, 8), (8,)), ((4, 8), (2, 3, 4, 5, 6)), ((2, 8), (2, 8))],
)
def test_tables_are_checked_in_every_space_that_has_baselines(
    evaluator: Evaluator,
    tables: SensitivityTables,
    weights: tuple[int, ...],
    activations: tuple[int, ...],
) -> None:
    """``exitbits baselines`` does so first, and either side may have more widths to choose from."""
    space = PolicySpace.from_ledger(
        evaluator.ledger, "block", weight_choices=weights, activation_choices=activations
    )
    problem = AllocationProblem(space, evaluator.ledger, tables, full_depth())
    meter = SensitivityMeter(evaluator.quantized, "block", images=4)
    found = check_additivity(meter, problem, policies=8)
    assert found.noise > 0.5
    assert found.drift > 0.5


# Trained baselines


def test_trained_ones_are_uniform_and_every_exit_counts_alike(space: PolicySpace) -> None:
    trained = trained_baselines(space)
    assert [name for name, _, _ in trained] == [
        "QAT W4A4+exits", "QAT W3A3+exits", "QAT W2A2+exits",
    ]  # fmt: skip
    for (_, bits, rates), width in zip(trained, (4, 3, 2), strict=True):
        assert bits == Bits("block", (width,) * BLOCKS, (width,) * BLOCKS, 8, 8)
        assert rates == pytest.approx([1 / 6] * 6)
    assert uniform_name(7) == "W7A7"


@pytest.mark.parametrize(
    ("weights", "activations", "expected"),
    [
        ((2, 3, 4), (3, 4, 5), [4, 3]),
        ((5, 6, 7, 8), (5, 6, 7, 8), []),
        ((2,), (8,), []),
        ((2, 8), (2, 8), [2]),
    ],
)
def test_trained_ones_are_legal(
    evaluator: Evaluator,
    weights: tuple[int, ...],
    activations: tuple[int, ...],
    expected: list[int],
) -> None:
    space = PolicySpace.from_ledger(
        evaluator.ledger, "block", weight_choices=weights, activation_choices=activations
    )
    trained = trained_baselines(space)
    assert [name for name, _, _ in trained] == [f"QAT W{b}A{b}+exits" for b in expected]
    for _, bits, _ in trained:
        space.check(space.policy(bits, space.threshold_high))


# Thinning and choosing


def made_harvest(count: int, seed: int = 0) -> Harvest:
    """``count`` points on a front and as many below it, in no order."""
    rng = np.random.default_rng(seed)
    cost = np.linspace(1, 2, count) * 1e9
    loss = np.linspace(0.5, 0.1, count)
    cost, loss = np.concatenate([cost, cost + 1e7]), np.concatenate([loss, loss + 0.01])
    order = rng.permutation(2 * count)
    thresholds = np.stack([np.arange(2.0 * count), np.zeros(2 * count)], axis=1)
    # The losses say nothing here: the metric decides.
    return Harvest(thresholds, rng.random(2 * count), loss, cost, np.arange(2.0 * count)).take(
        order
    )


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 100])
@pytest.mark.parametrize("points", [2, 3, 16])
def test_thinning_keeps_both_ends_and_spreads_the_rest(count: int, points: int) -> None:
    found = thinned(made_harvest(count), points)
    assert len(found) == min(count, points)
    assert list(found.cost) == sorted(found.cost)
    front = np.linspace(1, 2, count) * 1e9
    assert found.cost[0] == front[0]
    assert found.cost[-1] == (front[-1] if count > 1 else front[0])
    assert set(found.cost) <= set(front)  # and so none that is dominated
    if len(found) > 2:
        steps = np.diff(found.cost)
        assert steps.max() <= steps.min() + 1.01e9 / (count - 1)
    # A row stays a row.
    whole = made_harvest(count)
    for threshold, loss, shortfall, cost, boundary in zip(
        found.thresholds, found.loss, found.shortfall, found.cost, found.boundary, strict=True
    ):
        (index,) = np.flatnonzero((whole.thresholds == threshold).all(axis=1))
        assert (loss, cost) == (whole.loss[index], whole.cost[index])
        assert shortfall == whole.shortfall[index]
        assert boundary == whole.boundary[index]
