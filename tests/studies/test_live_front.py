"""A worker's view of a study's front grows with what anyone records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_study import grow

from search.front import as_points, front_indices
from studies.live_front import LiveFront
from studies.records import StudyGone, StudyRecord
from studies.store.contributions import Contribution, contribute
from studies.store.writer import StudyStore

Make = Callable[..., StudyRecord]


def test_a_front_is_learned_as_it_grows(address: str, make_record: Make) -> None:
    store = StudyStore(address, create=True)
    study = store.create(make_record())
    assert study
    front = LiveFront(store, study.id)
    front.learn()
    assert front.points.shape == (0, 2)
    assert front.beyond(np.array([[0.1, 9.0]])).all()
    grow(store, "small", 3, harvest=True)
    front.learn()
    grow(store, "small", 3, harvest=True)
    front.learn()
    rows = store.evaluations(study.id)
    assert len(rows) == 12
    points = as_points([row.value for row in rows], [row.gbops for row in rows])
    np.testing.assert_array_equal(front.points, points[front_indices(points)])
    assert front.best_by_bits == {
        row.policy.bits: max(each.value for each in rows if each.policy.bits == row.policy.bits)
        for row in rows
    }
    value, cost = front.points[-1]
    near = [[value, cost], [value + 0.001, cost], [value, cost - 1e-6], [value, cost + 1]]
    np.testing.assert_array_equal(front.beyond(np.array(near)), [False, True, True, False])
    # A recovered model's figures say nothing about this model's bits.
    evaluation = store.details(rows[:1])[0]
    better = Contribution("better", evaluation, "f" * 64, Path("f.safetensors"))
    contribute(store, study.id, [better])
    before = front.points
    front.learn()
    np.testing.assert_array_equal(front.points, before)


def test_the_front_of_a_deleted_study_is_not_anothers(address: str, make_record: Make) -> None:
    store = StudyStore(address, create=True)
    study = store.create(make_record())
    assert study
    front = LiveFront(store, study.id)
    grow(store, "small", 3)
    front.learn()
    store.delete(study.id)
    again = store.create(make_record())
    assert again
    grow(store, "small", 6)
    with pytest.raises(StudyGone):
        front.learn()
    other = LiveFront(store, again.id)
    other.learn()
    assert {row.trial for row in other.rows} <= set(range(6))
