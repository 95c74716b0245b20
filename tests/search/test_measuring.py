"""What a trial measures on the real model, and what it makes of what others have found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundled_model import open_bundled
from made_tasks import WorstClass
from small_study import take

from search.disk_cache import DiskTraceCache
from search.evaluate import Evaluator, measure_reference
from search.front import as_points, front_indices
from search.measuring import Measurer
from search.results import evaluate_trace
from studies.config import TrialSection, parse_config
from studies.live_front import LiveFront
from studies.records import HARVEST, StudyRecord
from studies.store.contributions import Contribution, contribute
from studies.store.writer import StudyStore

FIELDS = {
    "name": "real",
    "model": {"checkpoint": "bundled:fashion"},
    "data": {"dataset": "fashion", "calibration_images": 64},
    "anchors": {"bits": [4], "thresholds": [0.8]},
    "budget": {"trials": 5},
}


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    found = open_bundled(64, DiskTraceCache(tmp_path_factory.mktemp("traces")))
    found.split = found.split.head(900)
    return found


@pytest.fixture
def store(tmp_path: Path, evaluator: Evaluator) -> StudyStore:
    found = StudyStore(f"sqlite:///{tmp_path}/store.db", create=True)
    record = StudyRecord(
        parse_config(FIELDS, "test"), evaluator.ledger, measure_reference(evaluator), "accuracy",
        evaluator.card.digest, evaluator.data_digest,
    )  # fmt: skip
    assert found.create(record)
    return found


def measurer(store: StudyStore, evaluator: Evaluator, **settings: float) -> Measurer:
    study, trial = store.get("real"), TrialSection(**settings)
    front = LiveFront(store, study.id)
    return Measurer(evaluator, study.record.space, front, trial.harvest, trial.racing)


def record_one(store: StudyStore, measure: Measurer) -> None:
    claim = take(store, "real", "tester")
    assert claim
    found = measure.measure(claim.policy)
    store.record(
        claim,
        found.evaluation,
        *((HARVEST, one) for one in found.harvested),
        attributes=found.attributes,
    )


def test_a_trace_gives_its_own_policy_and_its_front(
    store: StudyStore, evaluator: Evaluator
) -> None:
    measure = measurer(store, evaluator, harvest=12)
    policy = measure.space.uniform(4, 0.8)
    found = measure.measure(policy)
    assert found.evaluation == evaluator.evaluate(policy)
    assert found.attributes == {}
    assert len(found.harvested) in (11, 12)  # one of the twelve may be the policy itself
    points = as_points(
        [one.value for one in found.harvested], [one.gbops for one in found.harvested]
    )
    np.testing.assert_array_equal(front_indices(points), np.arange(len(points)))
    assert points[0, 1] < found.evaluation.gbops
    for one in found.harvested:
        measure.space.check(one.policy)
        assert one.policy.bits.as_dict() == policy.bits.as_dict()
        assert one == evaluator.evaluate(one.policy)


def test_what_is_recorded_already_is_not_harvested_again(
    store: StudyStore, evaluator: Evaluator
) -> None:
    measure = measurer(store, evaluator)
    record_one(store, measure)
    rows = store.evaluations(store.get("real").id)
    assert [row.source for row in rows] == ["anchor"] + [HARVEST] * (len(rows) - 1)
    assert {row.trial for row in rows} == {0}
    # Another worker, which knows nothing but what the store says, finds only what was left out.
    other = measurer(store, evaluator)
    again = other.measure(rows[0].policy)
    front = as_points([row.value for row in rows], [row.gbops for row in rows])
    known = {row.digest for row in rows}
    for one in again.harvested:
        assert one.policy.digest not in known
        joined = np.concatenate([front, [[one.value, one.gbops]]])
        assert len(front) in front_indices(joined)


def test_a_hopeless_pass_is_given_up_and_can_be_repeated(
    store: StudyStore, evaluator: Evaluator
) -> None:
    space = store.get("real").record.space
    strong = measurer(store, evaluator).measure(space.uniform(4, 0.8))
    contribute(
        store,
        store.get("real").id,
        [Contribution("strong", one) for one in (strong.evaluation, *strong.harvested)],
    )
    weights_only = space.uniform(8, 1.0)
    bits = tuple(2 for _ in weights_only.bits.weights)
    poor = space.decode({**space.encode(weights_only), **{
        f"w.{group}": width for group, width in zip(space.weight_groups, bits, strict=True)
    }})  # fmt: skip
    found = measurer(store, evaluator).measure(poor)
    assert found.harvested == ()
    assert found.attributes == {"raced": {"samples": found.evaluation.samples, "of": 900}}
    assert found.evaluation.samples < 900
    trace = evaluator.first_trace(poor.bits, found.evaluation.samples)
    assert found.evaluation == evaluate_trace(poor, trace, evaluator.ledger, evaluator.task)
    # It was right to: the whole pass would not have added anything.
    whole = measurer(store, evaluator, racing=0).measure(poor)
    assert (whole.harvested, whole.evaluation.samples) == ((), 900)


class Fixed:
    """A front that stays as it is."""

    def __init__(self, *points: tuple[float, float]) -> None:
        self.points = np.array(points).reshape(-1, 2)

    def learn(self) -> None:
        pass

    def beyond(self, points: np.ndarray) -> np.ndarray:
        beaten = (self.points[None, :, 0] >= points[:, None, 0]) & (
            self.points[None, :, 1] <= points[:, None, 1]
        )
        return ~beaten.any(axis=1)


def test_a_metric_that_is_no_mean_is_harvested_for_itself_and_never_raced(
    store: StudyStore, evaluator: Evaluator
) -> None:
    quantized = replace(evaluator.quantized)
    quantized.task = WorstClass()
    worst = replace(evaluator, quantized=quantized)
    space = store.get("real").record.space
    policy, poor = space.uniform(4, 0.8), space.uniform(2, 0.8)

    found = Measurer(worst, space, Fixed(), 12, 0.99).measure(policy)
    assert found.evaluation.metric == "worst recall"
    values = [one.value for one in found.harvested]
    assert len(values) > 3
    assert values == sorted(set(values))  # the dearer ones are better by this metric
    assert all(one == worst.evaluate(one.policy) for one in found.harvested)

    # Beyond the best by this metric, and short of the accuracy.
    above = max(values) + 0.01
    assert evaluator.evaluate(policy).value > above
    assert Measurer(worst, space, Fixed((above, 1e-9)), 12, 0.99).measure(policy).harvested == ()

    # Nothing beats this front, and a pass that may be raced is given up on it.
    best = Fixed((1.0, 1e-9))
    raced = Measurer(evaluator, space, best, 12, 0.99).measure(poor)
    assert raced.evaluation.samples < 900
    whole = Measurer(worst, space, best, 12, 0.99).measure(poor)
    assert (whole.harvested, whole.attributes, whole.evaluation.samples) == ((), {}, 900)


def test_neither_is_done_where_both_are_off(store: StudyStore, evaluator: Evaluator) -> None:
    measure = measurer(store, evaluator, harvest=0, racing=0)
    record_one(store, measure)
    assert len(store.evaluations(store.get("real").id)) == 1
    found = measure.measure(measure.space.uniform(2, 1.0))
    assert (found.harvested, found.attributes, found.evaluation.samples) == ((), {}, 900)
