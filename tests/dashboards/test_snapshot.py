"""Snapshots grow by what is new, and say the same as reading everything at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from small_study import grow
from sqlalchemy import event

from dashboards.snapshot import KINDS, Snapshots
from search.errors import BadInput
from search.front import hypervolume
from studies.fronts import FrontSummary
from studies.records import StudyRecord
from studies.store.writer import StudyStore

MakeRecord = Callable[..., StudyRecord]


def test_growing_gives_what_reading_at_once_gives(address: str, make_record: MakeRecord) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record(budget={"trials": 60}))
    snapshots = Snapshots(store)
    assert snapshots.get("small").rows == ()
    for trials in (1, 0, 7, 1, 20):
        grow(store, "small", trials, harvest=True)
        found = snapshots.get("small")
        expected = FrontSummary.load(store, store.get("small"))
        assert list(found.rows) == list(expected.rows)
        assert list(found.front) == list(expected.front)
        assert found.hypervolume == pytest.approx(expected.hypervolume, abs=1e-12)
        assert [KINDS[kind] for kind in found.kinds] == [row.kind for row in found.rows]
        np.testing.assert_array_equal(found.points, expected.points)


def test_the_course_is_the_hypervolume_of_every_beginning(
    address: str, make_record: MakeRecord
) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record(budget={"trials": 30}))
    snapshots = Snapshots(store)
    for trials in (3, 12):
        grow(store, "small", trials, harvest=True)
        snapshots.get("small")
    found = snapshots.get("small")
    corner = found.summary.w8a8_gbops
    course = dict(found.course.tolist())
    level = 0.0
    for count in range(1, len(found.rows) + 1):
        level = course.get(count, level)
        assert level == pytest.approx(hypervolume(found.points[:count], corner), abs=1e-12)


def test_a_poll_without_news_reads_no_evaluation(address: str, make_record: MakeRecord) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record())
    grow(store, "small", 4, harvest=True)
    snapshots = Snapshots(store)
    before = snapshots.get("small")
    fetched: list[str] = []
    event.listen(
        store.database.engine, "after_cursor_execute", lambda *args: fetched.append(args[2])
    )
    after = snapshots.get("small")
    assert after is before
    assert len([one for one in fetched if one.lstrip().upper().startswith("SELECT")]) == 1


def test_until_names_the_rows_of_a_revision(address: str, make_record: MakeRecord) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record())
    grow(store, "small", 5, harvest=True)
    found = Snapshots(store).get("small")
    middle = found.rows[4].revision
    assert [found.rows[int(i)].revision <= middle for i in found.until(middle)] == [True] * len(
        found.until(middle)
    )
    assert len(found.until(found.revision)) == len(found.rows)
    assert len(found.until(0)) == 0


def test_a_study_made_anew_begins_anew(address: str, make_record: MakeRecord) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record())
    grow(store, "small", 3, harvest=True)
    snapshots = Snapshots(store)
    assert len(snapshots.get("small").rows) == 6
    store.delete(store.get("small").id)
    with pytest.raises(BadInput, match="no study 'small'"):
        snapshots.get("small")
    store.create(make_record())
    assert len(snapshots.get("small").rows) == 0
