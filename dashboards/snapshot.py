"""What the dashboard knows of a store: every study, read on from its last revision."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from search.front import front_indices, hypervolume
from studies.fleet import WorkerState, list_workers
from studies.fronts import FrontSummary
from studies.reading import StudyReader
from studies.records import Progress, Recorded, StudyRecord

KINDS = ("anchor", "proposed", "harvest", "method")
KEPT_STUDIES = 64


@dataclass(frozen=True)
class Snapshot:
    """A study at one revision.

    Attributes:
        record: the study, with its budget as it stands.
        progress: its trials by state.
        rows: every evaluation, in the order of their recording.
        points: metric and GBOPs of ``rows``, ``[N, 2]``.
        kinds: index into ``KINDS`` of each row, ``[N]``.
        front: indices into ``rows``, by ascending cost.
        course: number of evaluations and the hypervolume from then on, ``[K, 2]``.
    """

    record: StudyRecord
    progress: Progress
    rows: Sequence[Recorded] = ()
    points: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    kinds: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int8))
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
    def hypervolume(self) -> float:
        """Dominated fraction of the box from metric 0 and the W8A8 full-depth cost."""
        return float(self.course[-1, 1])

    def until(self, revision: int) -> np.ndarray:
        """Indices of the rows recorded up to ``revision``."""
        return np.flatnonzero(self._revisions <= revision)

    @cached_property
    def _revisions(self) -> np.ndarray:
        return np.fromiter((row.revision for row in self.rows), np.int64, len(self.rows))

    def extended(self, record: StudyRecord, progress: Progress, new: list[Recorded]) -> Snapshot:
        """This snapshot with what has happened since."""
        if not new:
            return replace(self, record=record, progress=progress)
        points = np.array([[row.value, row.gbops] for row in new])
        everything = np.concatenate([self.points, points])
        corner = self.summary.w8a8_gbops
        front = np.array(self.front, dtype=np.int64)
        course = [tuple(self.course[-1])]
        for index, (value, gbops) in enumerate(points, start=len(self.points)):
            known = everything[front]
            if ((known[:, 0] >= value) & (known[:, 1] <= gbops)).any():
                continue
            front = np.append(front, index)
            front = front[front_indices(everything[front])]
            course.append((index + 1, hypervolume(everything[front], corner)))
        front = _with_equals(everything, front)
        kinds = np.array([KINDS.index(row.kind) for row in new], dtype=np.int8)
        return Snapshot(
            record,
            progress,
            [*self.rows, *new],
            everything,
            np.concatenate([self.kinds, kinds]),
            tuple(int(index) for index in front),
            np.concatenate([self.course, np.array(course[1:]).reshape(-1, 2)]),
        )


def _with_equals(points: np.ndarray, front: np.ndarray) -> np.ndarray:
    """The front with every point that equals one of it, by ascending cost, as fronts are here."""
    near = np.flatnonzero(np.isin(points[:, 1], points[front, 1]))
    found: np.ndarray = near[front_indices(points[near])]
    return found


class Snapshots:
    """The newest snapshot of every study, shared by all requests.

    Args:
        reader: of the store.
    """

    def __init__(self, reader: StudyReader) -> None:
        self.reader = reader
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._known: OrderedDict[str, tuple[tuple[int, int], Snapshot]] = OrderedDict()

    def get(self, name: str) -> Snapshot:
        """The study as it is now; only what is new is read.

        Raises:
            BadInput: when there is no such study.
            StoreUnavailable: when the database is away.
        """
        version = self.reader.version(name)  # first: a name that is none leaves no lock behind
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:  # requests for one study wait for each other instead of reading it twice
            was, known = self._known.get(name, (None, None))
            if was == version and known is not None:
                return known
            record, progress = self.reader.get(name), self.reader.progress(name)
            if known is None or was is None or was[0] != version[0]:
                known = Snapshot(record, progress)  # new, or deleted and made again
            found = known.extended(record, progress, self.reader.evaluations(name, known.revision))
            with self._lock:
                self._known[name] = (version, found)
                self._known.move_to_end(name)
                while len(self._known) > KEPT_STUDIES:
                    self._known.popitem(last=False)
            return found

    def names(self, *, archived: bool = False) -> list[str]:
        """Names of the studies."""
        return self.reader.names(archived=archived)

    def workers(self) -> Sequence[WorkerState]:
        """Who works on the store."""
        return list_workers(self.reader.database)
