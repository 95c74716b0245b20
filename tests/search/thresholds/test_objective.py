"""A task whose metric is no mean over samples: the macro F1 score, searched for what it is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from made_tasks import Labels

from search.front import as_points, front_indices, hypervolume
from search.methods.baselines import thinned
from search.tasks import Routed
from search.thresholds.candidates import ExitChoices, front_of
from search.thresholds.harvest import harvest, harvest_global
from search.thresholds.racing import Race
from search.trace import ExitTrace

TASK = Labels()
PATH = np.array([1.0, 1.9, 3.1])
CLASSES = 6


def made(seed: int, samples: int = 60) -> ExitTrace:
    """Three exits; classes differ in how common they are and in how early they are told."""
    rng = np.random.default_rng(seed)
    targets = rng.random((samples, CLASSES)) < np.linspace(0.5, 0.05, CLASSES)
    skill = np.linspace(0.3, 2.0, 3)[:, None] * np.linspace(1.5, 0.5, CLASSES)
    doubt = rng.normal(size=(samples, 1, CLASSES)) + 0.5 * rng.normal(size=(samples, 3, CLASSES))
    logits = np.where(targets[:, None], 1, -1) * 2 * skill + doubt
    return trace_of(logits, targets)


def trace_of(logits: np.ndarray, targets: np.ndarray) -> ExitTrace:
    exits = range(logits.shape[1])
    return ExitTrace(
        np.stack([TASK.confidence(logits[:, e]) for e in exits], axis=1),
        np.stack([TASK.statistic(logits[:, e], targets) for e in exits], axis=1),
        (1, 2, 3),
    )


def f1_by_hand(trace: ExitTrace, thresholds: list[float]) -> float:
    """The macro F1 score by walking every sample along its path."""
    counts = np.zeros((CLASSES, 3))
    for sure, statistic in zip(trace.confidence.tolist(), trace.statistic, strict=True):
        e = next(e for e in range(3) if e == 2 or sure[e] >= thresholds[e])
        counts += statistic[e]
    hits, extra, missed = counts.T
    return float(np.mean(2 * hits / np.maximum(1, 2 * hits + extra + missed)))


def everything(trace: ExitTrace) -> np.ndarray:
    """Macro F1 and cost of every pair of thresholds that differ in any decision."""
    levels = [np.append(np.unique(trace.confidence[:, e].astype(float)), 1.0) for e in (0, 1)]
    thresholds = np.array([[*pair, 0.0] for pair in product(*levels)])
    leaves = [trace.confidence[:, e] >= thresholds[:, e, None] for e in (0, 1)]
    taken = np.where(leaves[0], 0, np.where(leaves[1], 1, 2))
    routed = trace.statistic[np.arange(len(trace)), taken].sum(axis=1, dtype=np.int64)
    hits, extra, missed = np.moveaxis(routed, -1, 0)
    value = (2 * hits / np.maximum(1, 2 * hits + extra + missed)).mean(axis=1)
    return as_points(value, PATH[taken].mean(axis=1))


def area(points: np.ndarray, floor: float) -> float:
    """What a front dominates above a metric, up to the deepest path's cost."""
    above = points[points[:, 0] > floor] - [floor, 0]
    return hypervolume(above, PATH[2] + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_front_by_the_true_metric_is_what_exhaustive_search_finds(seed: int) -> None:
    trace = made(seed)
    found = harvest(ExitChoices(trace, TASK, PATH))
    for value, cost, vector in zip(found.value, found.cost, found.thresholds.tolist(), strict=True):
        assert value == pytest.approx(f1_by_hand(trace, vector), rel=1e-12)
        assert cost == pytest.approx(PATH[trace.replay(vector).exits].mean(), rel=1e-12)
    assert (np.diff(found.cost) > 0).all()
    assert (np.diff(found.value) > 0).all()

    best, floor = everything(trace), TASK.score(trace.statistic[:, 0]).value
    points = as_points(found.value, found.cost)
    assert 0.99 <= area(points, floor) / area(best, floor) <= 1 + 1e-9


def test_the_mean_loss_would_be_another_front() -> None:
    """Or else nothing here would tell the two apart."""
    thresholds = np.random.default_rng(0).uniform(0.4, 1, (2000, 3))
    measured = ExitChoices(made(3), TASK, PATH).measure(thresholds)
    by_loss = front_of(measured, measured.loss)
    by_value = front_of(measured, measured.shortfall)
    assert np.abs(by_loss.value - (1 - by_loss.loss)).max() > 0.03
    kept = front_indices(as_points(by_loss.value, by_loss.cost))
    assert len(kept) < 0.8 * len(by_loss)
    assert set(by_value.cost) != set(by_loss.cost)


def test_risk_is_added_to_the_objective() -> None:
    trace = made(1)
    noise = 0.05 * np.random.default_rng(1).normal(size=trace.confidence.shape)
    other = np.clip(trace.confidence + noise, 0, 1).astype(np.float32)
    reference = ExitTrace(other, trace.statistic, trace.exit_blocks)
    for find in (harvest, harvest_global):
        found = find(ExitChoices(trace, TASK, PATH, reference=reference), alpha=0.3)
        assert found.boundary.any()
        assert (np.diff(found.shortfall + 0.3 * found.boundary) < 0).all()


def test_what_stands_for_a_front_is_its_front_by_the_metric() -> None:
    found = harvest(ExitChoices(made(2), TASK, PATH))
    kept = thinned(found, 8)
    assert len(kept) == 8
    assert (np.diff(kept.value) > 0).all()
    assert (kept.value[[0, -1]] == found.value[[0, -1]]).all()


def test_no_pass_is_given_up_where_there_is_no_bound() -> None:
    """Not even against a front that no candidate can reach."""
    race = Race(np.array([[1.0, 0.5]]), 240, 0.7)
    assert not race.is_lost(ExitChoices(made(0, 80), TASK, PATH), (0.5, 0.5, 0.0))


def test_one_routing_is_scored_as_many_are() -> None:
    trace = made(3)
    last = trace.statistic[:, -1]
    (alone,) = TASK.shortfall(Routed.one(TASK, last))
    never = np.array([[np.inf, np.inf, 0.0]])
    assert alone == ExitChoices(trace, TASK, PATH).measure(never).shortfall[0]
    assert alone == 1 - TASK.score(last).value
