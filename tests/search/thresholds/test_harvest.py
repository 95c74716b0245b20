"""The threshold front of a trace against replays and exhaustive search."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_tasks import GivenLosses

from search.errors import ExitbitsError
from search.tasks.classification import Classification
from search.thresholds.candidates import ExitChoices, Harvest, front_of
from search.thresholds.harvest import harvest, harvest_global
from search.trace import ExitTrace

PATH = np.array([1.0, 1.9, 3.1, 4.4])
SEEDS = range(4)


def made(
    seed: int, samples: int = 200, exits: int = 3, step: float = 0.0, certain: float = 2.0
) -> ExitTrace:
    """A trace whose deeper exits are right more often, and surer where they are right.

    ``step`` rounds confidences, so that many are equal; those from ``certain`` on become 1.
    """
    rng = np.random.default_rng(seed)
    skill = np.linspace(0.3, 1.6, exits)
    margin = skill - rng.normal(size=(samples, 1)) + 0.7 * rng.normal(size=(samples, exits))
    sure = 1 / (1 + np.exp(-2 * (np.abs(margin) + 0.4 * rng.normal(size=margin.shape))))
    if step:
        sure = np.round(sure / step) * step
    sure[sure >= certain] = 1
    target = rng.integers(0, 10, (samples, 1))
    answer = np.where(margin > 0, target, (target + 1) % 10)
    statistic = np.stack([answer, np.broadcast_to(target, answer.shape)], axis=-1)
    return ExitTrace(
        sure.astype(np.float32), statistic.astype(np.int32), tuple(range(1, exits + 1))
    )


def full_precision(trace: ExitTrace, seed: int) -> ExitTrace:
    """The same model less some noise: decisions near a threshold differ."""
    noise = np.random.default_rng(1000 + seed).normal(size=trace.confidence.shape)
    confidence = np.clip(trace.confidence + 0.05 * noise, 0, 1).astype(np.float32)
    return ExitTrace(confidence, trace.statistic, trace.exit_blocks)


def with_losses(trace: ExitTrace, loss: np.ndarray) -> ExitTrace:
    """The trace with losses ``[N, E]`` in the place of answers."""
    return ExitTrace(trace.confidence, loss[..., None], trace.exit_blocks)


def choices_of(
    trace: ExitTrace, reference: ExitTrace | None = None, low: float = 0.0, high: float = 1.0
) -> ExitChoices:
    path = PATH[: trace.confidence.shape[1]]
    return ExitChoices(trace, Classification(), path, low=low, high=high, reference=reference)


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """One threshold for every way in which a threshold can tell ``values`` apart."""
    inside = np.unique(values[(values > low) & (values < high)].astype(np.float64))
    return np.concatenate([[low], inside, [high]])


def every_pair(
    choices: ExitChoices, alpha: float, thresholds: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Risk and cost of all pairs of thresholds of a trace with three exits."""
    wrong = (choices.trace.statistic[..., 0] != choices.trace.statistic[..., 1]).astype(float)
    leaves, flips = [], []
    for e, bounds in enumerate(thresholds):
        leaves.append(choices.trace.confidence[:, e] >= bounds[:, None])
        if choices.reference is None:
            flips.append(np.zeros(leaves[e].shape))
        else:
            flips.append(leaves[e] != (choices.reference.confidence[:, e] >= bounds[:, None]))
    second = np.where(leaves[1], wrong[:, 1], wrong[:, 2]) + alpha * flips[1]
    goes_on = (~leaves[0]).astype(float)
    risk = (leaves[0] @ wrong[:, 0] + alpha * flips[0].sum(axis=1))[:, None] + goes_on @ second.T
    later = np.where(leaves[1], PATH[1], PATH[2])
    cost = (leaves[0].sum(axis=1) * PATH[0])[:, None] + goes_on @ later.T
    return risk.ravel() / len(choices.trace), cost.ravel() / len(choices.trace)


def everything(choices: ExitChoices, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The same of all pairs that differ in any decision, full precision's included if it counts."""
    thresholds = []
    for e in (0, 1):
        seen = [choices.trace.confidence[:, e]]
        if alpha and choices.reference is not None:
            seen.append(choices.reference.confidence[:, e])
        thresholds.append(between(np.concatenate(seen), choices.low, choices.high))
    return every_pair(choices, alpha, thresholds)


def area(risk: np.ndarray, cost: np.ndarray, worst: float, dearest: float) -> float:
    """What a front dominates below a risk and a cost."""
    order = np.lexsort((risk, cost))
    risk, cost = risk[order], np.minimum(cost[order], dearest)
    least = np.minimum.accumulate(np.minimum(risk, worst))
    return float((worst - least) @ np.diff(np.append(cost, dearest)))


def assert_none_dominated(found: Harvest, alpha: float) -> None:
    """Costs rise and risks fall strictly, which leaves neither doubles nor dominated ones."""
    assert len(found) > 0
    assert (np.diff(found.cost) > 0).all()
    assert (np.diff(found.loss + alpha * found.boundary) < 0).all()


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]))
def test_a_tally_of_many_is_that_of_replaying_each(seed: int, exits: int):
    trace = made(seed, 1 + seed % 40, exits, step=0.1)
    rng = np.random.default_rng(seed)
    # From the confidences themselves too, so that "at least" is told from "above".
    levels = np.append(trace.confidence.astype(np.float64).ravel(), [0.0, 0.7, 1.0])
    thresholds = rng.choice(levels, (1 + seed % 7, exits))
    thresholds[:, -1] = rng.choice([0.0, 1.0])  # not consulted
    # A loss of its own for every sample at every exit: who leaves where shows in the sum.
    loss = rng.random((len(trace), exits))
    trace = with_losses(trace, loss)
    found = ExitChoices(trace, GivenLosses(), np.arange(1.0, exits + 1)).tally(thresholds)
    assert found.rates.shape == (len(thresholds), exits)
    for rates, mean, vector in zip(found.rates, found.loss, thresholds, strict=True):
        taken = trace.replay(vector.tolist()).exits
        counts = np.bincount(taken, minlength=exits)
        np.testing.assert_array_equal(rates, counts / len(trace))
        assert mean == pytest.approx(loss[np.arange(len(trace)), taken].mean(), rel=1e-12)


@pytest.mark.parametrize("exits", [2, 3, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("step", [0.0, 0.05], ids=["distinct", "ties"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 1.0), (0.6, 0.9)])
def test_figures_are_those_of_a_replay(
    exits: int, alpha: float, step: float, low: float, high: float
):
    trace = made(exits, 60, exits, step)
    reference = full_precision(trace, exits)
    # Losses that are no 0/1 losses, given directly.
    loss = np.random.default_rng(exits).random(trace.confidence.shape)
    trace = with_losses(trace, loss)
    choices = ExitChoices(trace, GivenLosses(), PATH[:exits], low, high, reference)
    found = harvest(choices, alpha=alpha)
    assert_none_dominated(found, alpha)
    assert found.thresholds.shape == (len(found), exits)
    assert (found.thresholds[:, -1] == 0).all()
    assert (found.thresholds[:, :-1] >= low).all()
    assert (found.thresholds[:, :-1] <= high).all()
    for k, thresholds in enumerate(found.thresholds.tolist()):
        losses, costs, flips = [], [], 0
        for i, taken in enumerate(trace.replay(thresholds).exits.tolist()):
            losses.append(loss[i, taken])
            costs.append(PATH[taken])
            for e in range(min(taken + 1, exits - 1)):
                sure, full = float(trace.confidence[i, e]), float(reference.confidence[i, e])
                flips += (sure >= thresholds[e]) != (full >= thresholds[e])
        assert found.loss[k] == pytest.approx(np.mean(losses), rel=1e-12)
        assert found.cost[k] == pytest.approx(np.mean(costs), rel=1e-12)
        assert found.boundary[k] == pytest.approx(flips / len(trace), rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 1.0), (0.6, 0.9)])
@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.98), (0.05, 0.98), (0.3, 0.95)])
def test_the_front_holds_what_exhaustive_search_finds(
    seed: int, low: float, high: float, alpha: float, share: float
):
    trace = made(seed)
    choices = choices_of(trace, full_precision(trace, seed), low, high)
    found = harvest(choices, alpha=alpha)
    risk = found.loss + alpha * found.boundary
    best_risk, best_cost = everything(choices, alpha)

    reached = area(risk, found.cost, 1, PATH[2]) / area(best_risk, best_cost, 1, PATH[2])
    assert 0.99 <= reached <= 1 + 1e-9
    # The same where fronts differ: better than the worst exit alone, dearer than the cheapest.
    worst = choices.loss.mean(axis=0).max()
    dearest = best_cost.max()
    reached = area(risk, found.cost, worst, dearest) / area(best_risk, best_cost, worst, dearest)
    assert share <= reached <= 1 + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize(
    ("step", "certain"), [(0.05, 2.0), (0.2, 2.0), (0.0, 0.85), (0.1, 0.85), (1.0, 2.0)]
)
def test_ties_and_certainty_lose_nothing(seed: int, alpha: float, step: float, certain: float):
    trace = made(seed, step=step, certain=certain)
    # Some are so sure that no threshold keeps them, in both traces.
    reference = full_precision(trace, seed)
    choices = choices_of(trace, reference)
    assert (trace.confidence == 1).any()
    found = harvest(choices, alpha=alpha)
    assert_none_dominated(found, alpha)
    best_risk, best_cost = everything(choices, alpha)
    reached = area(found.loss + alpha * found.boundary, found.cost, 1, PATH[2])
    assert reached >= 0.99 * area(best_risk, best_cost, 1, PATH[2])


def halfway(values: np.ndarray) -> np.ndarray:
    """Thresholds halfway between neighbours, and the ends of the range."""
    sure = np.unique(values.astype(np.float64))
    return np.concatenate([[0.0], (sure[1:] + sure[:-1]) / 2, [1.0]])


def test_heavy_boundary_risk_is_weighed_as_exhaustive_search_does():
    """A flip counts as an error; thresholds are those that tell the trace's samples apart."""
    shares = []
    for seed in range(12):
        trace = made(seed)
        choices = choices_of(trace, full_precision(trace, seed))
        pairs = [halfway(trace.confidence[:, e]) for e in (0, 1)]
        best_risk, best_cost = every_pair(choices, 1.0, pairs)
        found = harvest(choices, alpha=1.0)
        risk = found.loss + found.boundary
        whole = area(best_risk, best_cost, 1, PATH[2])
        assert area(risk, found.cost, 1, PATH[2]) >= 0.99 * whole
        # What the front is made for: the least of risk and priced cost.
        for price in np.geomspace(1e-3, 3, 15) / PATH[2]:
            least = (best_risk + price * best_cost).min()
            assert (risk + price * found.cost).min() <= least + 0.0015
        # Blind to flips, it would be far off: the weight matters here.
        blind = harvest(choices)
        assert area(blind.loss + blind.boundary, blind.cost, 1, PATH[2]) < 0.99 * whole
        worst = choices.loss.mean(axis=0).max()
        shares.append(
            area(risk, found.cost, worst, PATH[2]) / area(best_risk, best_cost, worst, PATH[2])
        )
    assert np.mean(shares) >= 0.989


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_a_fourth_exit_costs_nothing(alpha: float):
    """With three thresholds, who reaches an exit depends on two others."""
    for seed in range(12):
        trace = made(seed, samples=24, exits=4)
        choices = choices_of(trace, full_precision(trace, seed))
        triples = np.array(list(product(*(halfway(trace.confidence[:, e]) for e in range(3)))))
        best = choices.measure(np.column_stack([triples, np.zeros(len(triples))]))
        best_risk = best.loss + alpha * best.boundary
        found = harvest(choices, alpha=alpha)
        risk = found.loss + alpha * found.boundary
        for worst, share in ((1.0, 0.99), (choices.loss.mean(axis=0).max(), 0.985)):
            reached = area(risk, found.cost, worst, PATH[3])
            assert reached >= share * area(best_risk, best.cost, worst, PATH[3])


def test_the_ends_of_the_range_are_reached():
    """Everyone can leave at once, and where only the last exit is right, nobody before it."""
    trace = made(0, exits=4)
    wrong = trace.statistic[..., :1] + np.array([1, 1, 1, 0])[:, None]
    statistic = np.concatenate([wrong, np.broadcast_to(trace.statistic[:, :, :1], wrong.shape)], 2)
    choices = choices_of(ExitTrace(trace.confidence, statistic, trace.exit_blocks))
    for found in (harvest(choices), harvest_global(choices)):
        assert (found.loss[0], found.cost[0]) == (1, pytest.approx(PATH[0]))
        assert (found.loss[-1], found.cost[-1]) == (0, pytest.approx(PATH[3]))


def test_everyone_equally_sure():
    trace = made(0)
    alike = ExitTrace(np.full_like(trace.confidence, 0.7), trace.statistic, trace.exit_blocks)
    found = harvest(choices_of(alike))
    # Nothing can tell samples apart: all leave at one exit, each better than the one before.
    assert found.cost.tolist() == pytest.approx(PATH[:3].tolist())
    wrong = alike.statistic[..., 0] != alike.statistic[..., 1]
    assert found.loss.tolist() == pytest.approx(wrong.mean(axis=0).tolist())


def test_a_single_sample():
    trace = made(5, samples=1)
    found = harvest(choices_of(trace, full_precision(trace, 5)), alpha=0.1)
    assert_none_dominated(found, 0.1)
    assert found.cost[0] == PATH[0]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_single_exit_has_nothing_to_choose(alpha: float):
    trace = made(0, exits=1)
    found = harvest(choices_of(trace, trace), alpha=alpha)
    assert found.thresholds.tolist() == [[0.0]]
    wrong = trace.statistic[:, 0, 0] != trace.statistic[:, 0, 1]
    assert found.loss.tolist() == pytest.approx([wrong.mean()])
    assert (found.cost.tolist(), found.boundary.tolist()) == ([PATH[0]], [0.0])


@pytest.mark.parametrize("low", [0.0, 0.3, 0.5, 1.0])
def test_a_range_of_one_point(low: float):
    found = harvest(choices_of(made(1, certain=0.85), low=low, high=low))
    assert found.thresholds.tolist() == [[low, low, 0.0]]


def test_flips_need_full_precision(refused):
    trace = made(0)
    with refused("alpha 0.05", "full-precision trace", exit_code=1):
        harvest(choices_of(trace), alpha=0.05)
    with refused("alpha -0.1", exit_code=1):
        harvest(choices_of(trace, trace), alpha=-0.1)
    assert (harvest(choices_of(trace)).boundary == 0).all()


def test_what_cannot_be_chosen_from_is_refused(refused):
    trace = made(0)
    for low, high in ((0.5, 0.4), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0), (0.0, math.nan)):
        with refused("threshold range", low, high):
            choices_of(trace, low=low, high=high)
    with pytest.raises(ExitbitsError, match="200 and 199 samples"):
        choices_of(trace, made(0, samples=199))


@pytest.mark.parametrize("seed", SEEDS)
def test_budgets_are_met_as_a_loop_over_the_front_meets_them(seed: int):
    trace = made(seed)
    found = harvest(choices_of(trace, full_precision(trace, seed)), alpha=0.05)
    # Another risk than the front's, so that it neither falls nor is free of ties.
    risk = np.round(found.loss + 0.5 * found.boundary, 2)
    for bound in (*np.unique(risk).tolist(), -1.0, float(risk.min()) - 1e-9, 2.0):
        allowed = [k for k in range(len(found)) if risk[k] <= bound]
        index = found.cheapest_within(risk, bound)
        if not allowed:
            assert index is None
            continue
        assert index in allowed
        assert found.cost[index] == min(found.cost[k] for k in allowed)
    for budget in (*found.cost.tolist(), float(found.cost[0]) - 1e-9, 0.0, 10.0):
        allowed = [k for k in range(len(found)) if found.cost[k] <= budget]
        index = found.best_under(risk, budget)
        if not allowed:
            assert index is None
            continue
        assert index in allowed
        assert risk[index] == min(risk[k] for k in allowed)


def test_a_front_keeps_what_no_other_beats():
    thresholds = np.arange(10.0).reshape(5, 2)
    cost = np.array([3.0, 1.0, 2.0, 2.0, 4.0])
    risk = np.array([0.2, 0.4, 0.3, 0.35, 0.2])
    kept = front_of(Harvest(thresholds, risk / 2, risk / 4, cost, risk * 3), risk)
    assert kept.cost.tolist() == [1.0, 2.0, 3.0]
    assert kept.thresholds.tolist() == thresholds[[1, 2, 0]].tolist()
    assert kept.loss.tolist() == (risk / 2)[[1, 2, 0]].tolist()
    assert kept.shortfall.tolist() == (risk / 4)[[1, 2, 0]].tolist()
    assert kept.value.tolist() == (1 - risk / 4)[[1, 2, 0]].tolist()
    assert kept.boundary.tolist() == (risk * 3)[[1, 2, 0]].tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 0.9)])
def test_one_threshold_for_all_exits(seed: int, alpha: float, low: float, high: float):
    trace = made(seed, exits=4)
    choices = choices_of(trace, full_precision(trace, seed), low, high)
    found = harvest_global(choices, alpha=alpha)
    assert_none_dominated(found, alpha)
    assert (found.thresholds[:, -1] == 0).all()
    shared = found.thresholds[:, 0]
    assert (found.thresholds[:, :-1] == shared[:, None]).all()
    assert shared.min() >= low
    assert shared.max() <= high

    every = between(trace.confidence[:, :-1], low, high)
    measured = choices.measure(np.column_stack([*[every] * 3, np.zeros(len(every))]))
    best = area(measured.loss + alpha * measured.boundary, measured.cost, 1, PATH[3])
    one = area(found.loss + alpha * found.boundary, found.cost, 1, PATH[3])
    assert one >= 0.99 * best
    free = harvest(choices, alpha=alpha)
    assert area(free.loss + alpha * free.boundary, free.cost, 1, PATH[3]) >= one
