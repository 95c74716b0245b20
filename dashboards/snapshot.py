"""What the dashboard knows of a store: every study, read on from its last revision."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dashboards.staircase import Staircase, course_of
from search.front import as_points, front_indices
from studies.fronts import FrontSummary
from studies.records import (
    EvaluationRow,
    Progress,
    StudyGone,
    StudyRecord,
    StudyVersion,
    UnreadableStudy,
)
from studies.store.reader import StudyReader
from studies.store.workers import WorkerState, list_workers

KINDS = ("anchor", "proposed", "harvest", "method")
KEPT_ROWS = 500_000  # of the studies looked at last; about a kilobyte each
PACE_TRIALS = 20
PATIENCE_S = 0.4  # of a page that shows all studies


@dataclass(frozen=True)
class Snapshot:
    """A study at one revision.

    Attributes:
        id: of the study, which tells it from another one that had its name.
        record: the study, with its budget as it stands.
        progress: its trials by state.
        rows: every evaluation, in the order of their recording.
        points: metric and GBOPs of ``rows``, ``[N, 2]``.
        kinds: index into ``KINDS`` of each row, ``[N]``.
        times: when each row was recorded, seconds since 1970, never falling, ``[N]``; NaN before
            the first trial ended.
        front: indices into ``rows``, by ascending cost.
        course: number of evaluations and the hypervolume from then on, ``[K, 2]``.
    """

    id: int
    record: StudyRecord
    progress: Progress
    rows: Sequence[EvaluationRow] = ()
    points: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    kinds: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int8))
    times: np.ndarray = field(default_factory=lambda: np.empty(0))
    front: tuple[int, ...] = ()
    course: np.ndarray = field(default_factory=lambda: np.zeros((1, 2)))

    @property
    def revision(self) -> int:
        """Of the last evaluation, 0 where there is none."""
        return self.rows[-1].revision if self.rows else 0

    @cached_property
    def summary(self) -> FrontSummary:
        """The front as every reader of it sees it, without details."""
        return FrontSummary(self.record, self.rows, self.front)

    @property
    def pace(self) -> float | None:
        """Trials a second, by the last ones that ended; None before there were two."""
        ended: dict[int | None, float] = {}
        for row, at in zip(reversed(self.rows), reversed(self.times), strict=True):
            if row.kind != "method":
                ended.setdefault(row.trial, float(at))
            if len(ended) > PACE_TRIALS:
                break
        span = max(ended.values()) - min(ended.values()) if ended else 0.0
        return (len(ended) - 1) / span if span > 0 else None

    @property
    def hypervolume(self) -> float:
        """Dominated fraction of the box from metric 0 and the W8A8 full-depth cost."""
        return float(self.course[-1, 1])

    def until(self, revision: int) -> np.ndarray:
        """Indices of the rows recorded up to ``revision``."""
        return np.flatnonzero(self._revisions <= revision)

    @cached_property
    def _revisions(self) -> np.ndarray:
        return np.fromiter((row.revision for row in self.rows), np.int64, len(self.rows))

    def extended(
        self, record: StudyRecord, progress: Progress, new: list[EvaluationRow]
    ) -> Snapshot:
        """This snapshot with what has happened since."""
        if not new:
            return replace(self, record=record, progress=progress)
        points = as_points([row.value for row in new], [row.gbops for row in new])
        stairs = Staircase(self.points[list(self.front)], self.summary.w8a8_gbops)
        course = course_of(stairs, points, len(self.points))
        kinds = np.array([KINDS.index(row.kind) for row in new], dtype=np.int8)
        everything = np.concatenate([self.points, points])
        # What was dominated stays so: only the old front and the new points are compared.
        near = np.array([*self.front, *range(len(self.points), len(everything))])
        return Snapshot(
            self.id,
            record,
            progress,
            [*self.rows, *new],
            everything,
            np.concatenate([self.kinds, kinds]),
            np.concatenate([self.times, _times(new, self.times[-1:])]),
            tuple(near[front_indices(everything[near])].tolist()),
            np.concatenate([self.course, np.array(course).reshape(-1, 2)]),
        )


def _times(rows: Sequence[EvaluationRow], before: np.ndarray) -> np.ndarray:
    """When ``rows`` were recorded; a contribution counts as of when the trial before it ended.

    Workers' clocks differ a little, and a course must not run backwards.
    """
    ended = [np.nan if row.finished is None else row.finished.timestamp() for row in rows]
    times: np.ndarray = np.fmax.accumulate(np.concatenate([before, ended]))[len(before) :]
    return times


class Snapshots:
    """The newest snapshot of every study, shared by all requests.

    Args:
        reader: of the store.
    """

    def __init__(self, reader: StudyReader) -> None:
        self.reader = reader
        self._lock = threading.Lock()
        self._locks: dict[int, threading.Lock] = {}
        # By the study's id: a name may be another study's by the next request.
        self._kept: OrderedDict[int, tuple[StudyVersion, Snapshot]] = OrderedDict()

    def get(self, name: str) -> Snapshot:
        """The study as it is now; only what is new is read.

        Raises:
            BadInput: when there is no such study.
            StoreUnavailable: when the database is away.
        """
        return self._at(self.reader.version(name))

    def all(
        self, *, archived: bool = False, patience_s: float = PATIENCE_S
    ) -> dict[str, Snapshot | UnreadableStudy | None]:
        """Every study by name, as it is now, or why it cannot be read.

        Reading many studies for the first time takes a while: what is not known after
        ``patience_s`` is None, and there the next time, or the time after.

        Raises:
            StoreUnavailable: when the database is away.
        """
        ending = time.monotonic() + patience_s
        found: dict[str, Snapshot | UnreadableStudy | None] = {}
        for version in self.reader.versions(archived=archived):
            if time.monotonic() >= ending:
                _, found[version.name] = self._kept.get(version.id, (None, None))
                continue
            try:
                found[version.name] = self._at(version)
            except StudyGone:
                continue  # since it was listed
            except UnreadableStudy as error:
                found[version.name] = error
        return found

    def _at(self, version: StudyVersion) -> Snapshot:
        """The study, read on where it is older than ``version``."""
        with self._lock:
            lock = self._locks.setdefault(version.id, threading.Lock())
        with lock:  # requests for one study wait for each other instead of reading it twice
            was, kept = self._kept.get(version.id, (None, None))
            if was == version and kept is not None:
                return kept
            record = self.reader.study(version.id).record
            progress = self.reader.progress(version.id)
            if kept is None:
                kept = Snapshot(version.id, record, progress)
            new = self.reader.evaluations(version.id, kept.revision)
            snapshot = kept.extended(record, progress, new)
            with self._lock:
                self._kept[version.id] = (version, snapshot)
                self._kept.move_to_end(version.id)
                rows = sum(len(each.rows) for _, each in self._kept.values())
                while rows > KEPT_ROWS and len(self._kept) > 1:
                    rows -= len(self._kept.popitem(last=False)[1][1].rows)
            return snapshot

    def names(self, *, archived: bool = False) -> list[str]:
        """Names of the studies."""
        return self.reader.names(archived=archived)

    def workers(self) -> Sequence[WorkerState]:
        """Who works on the store."""
        return list_workers(self.reader.database)
