"""What thresholds can be chosen on one trace, and what becomes of a choice.

:mod:`search.thresholds.harvest` chooses among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from search.errors import BadInput, ExitbitsError
from search.front import as_points, front_indices
from search.policy import Bits, Policy
from search.risk.terms import check_alike
from search.tasks import Routed, Task
from search.trace import ExitTrace

AT_ONCE = 32  # threshold vectors: their masks stay in the cache


@dataclass(frozen=True)
class Harvest:
    """Threshold vectors of one trace, with what becomes of its samples under each.

    Attributes:
        thresholds: float64 ``[K, E]``, the last column 0.
        loss: mean loss of each, ``[K]``.
        shortfall: one minus the task's metric under each, ``[K]``: what is compared.
        cost: expected BOPs a sample, ``[K]``.
        boundary: boundary risk (flips a sample), ``[K]``; zeros without a reference trace.
    """

    thresholds: np.ndarray
    loss: np.ndarray
    shortfall: np.ndarray
    cost: np.ndarray
    boundary: np.ndarray

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def value(self) -> np.ndarray:
        """The task's metric under each vector, ``[K]``."""
        value: np.ndarray = 1 - self.shortfall
        return value

    def take(self, indices: np.ndarray) -> Harvest:
        """The vectors at ``indices``, in that order."""
        return Harvest(
            self.thresholds[indices],
            self.loss[indices],
            self.shortfall[indices],
            self.cost[indices],
            self.boundary[indices],
        )

    def policy(self, bits: Bits, index: int) -> Policy:
        """The bits under the vector at ``index``."""
        return Policy(bits, tuple(float(value) for value in self.thresholds[index]))

    def cheapest_within(self, risk: np.ndarray, bound: float) -> int | None:
        """Index of the cheapest vector whose risk ``[K]`` is at most ``bound``."""
        allowed = np.flatnonzero(risk <= bound)
        return int(allowed[np.argmin(self.cost[allowed])]) if len(allowed) else None

    def best_under(self, risk: np.ndarray, budget: float) -> int | None:
        """Index of the vector of least risk ``[K]`` at a cost of at most ``budget`` BOPs."""
        allowed = np.flatnonzero(self.cost <= budget)
        return int(allowed[np.argmin(risk[allowed])]) if len(allowed) else None


@dataclass(frozen=True)
class ExitChoices:
    """Everything about a trace that choosing thresholds needs.

    Attributes:
        trace: of the quantized model.
        task: gives losses and objective.
        path_bops: cost of leaving at each exit, ``[E]``, ascending.
        low, high: allowed range of thresholds, within [0, 1].
        reference: the full-precision trace, when boundary risk counts.
    """

    trace: ExitTrace
    task: Task
    path_bops: np.ndarray
    low: float = 0.0
    high: float = 1.0
    reference: ExitTrace | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise BadInput(f"threshold range {self.low} to {self.high}: give 0 <= low <= high <= 1")
        if self.reference is not None:
            check_alike(self.trace, self.reference)

    @cached_property
    def loss(self) -> np.ndarray:
        """Loss of every sample at every exit, ``[N, E]``."""
        exits = range(self.trace.confidence.shape[1])
        return np.stack([self.task.loss(self.trace.statistic[:, e]) for e in exits], axis=1)

    @cached_property
    def lines(self) -> list[Line]:
        """The choices at every exit but the last."""
        reference = self.reference
        return [
            Line.at(
                self.trace.confidence[:, e].astype(np.float64),
                None if reference is None else reference.confidence[:, e].astype(np.float64),
                self.low,
                self.high,
            )
            for e in range(self.trace.confidence.shape[1] - 1)
        ]

    def measure(self, thresholds: np.ndarray) -> Harvest:
        """Replay threshold vectors ``[K, E]`` as they are, in their order."""
        found = self.tally(thresholds)
        shortfall, cost = self.shortfall(thresholds, found), found.rates @ self.path_bops
        return Harvest(thresholds, found.loss, shortfall, cost, found.boundary)

    def shortfall(self, thresholds: np.ndarray, tally: Tally) -> np.ndarray:
        """One minus the task's metric under threshold vectors with that tally, ``[K]``."""

        def statistics() -> Iterator[np.ndarray]:
            for vector in thresholds.tolist():
                yield self.trace.replay(vector).statistic

        return self.task.shortfall(Routed(tally.loss, statistics))

    def tally(self, thresholds: np.ndarray) -> Tally:
        """What becomes of the samples under each of many threshold vectors ``[K, E]``."""
        found = Tally.empty(len(thresholds), thresholds.shape[1])
        for start in range(0, len(thresholds), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            self._tally(thresholds[part], found.loss[part], found.rates[part], found.boundary[part])
        return found

    def _tally(
        self, thresholds: np.ndarray, loss: np.ndarray, rates: np.ndarray, boundary: np.ndarray
    ) -> None:
        samples, last = len(self.trace), thresholds.shape[1] - 1
        remaining = np.ones((len(thresholds), samples), dtype=bool)
        for e in range(last + 1):
            stays = None
            if e < last:
                bound = thresholds[:, e, None]
                stays = self._by_exit[0][e] < bound
                if self._by_exit[1] is not None:
                    flips = stays != (self._by_exit[1][e] < bound)
                    boundary += np.count_nonzero(flips & remaining, axis=1) / samples
            leaves = remaining if stays is None else remaining & ~stays
            loss += leaves.astype(np.float64) @ self.loss[:, e] / samples
            rates[:, e] = np.count_nonzero(leaves, axis=1) / samples
            if stays is not None:
                remaining &= stays

    @cached_property
    def _by_exit(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Confidences of trace and reference, ``[E, N]`` so that each exit's lie together.

        In float64, as replay compares them.
        """
        reference = self.reference
        return (
            np.ascontiguousarray(self.trace.confidence.T, dtype=np.float64),
            None
            if reference is None
            else np.ascontiguousarray(reference.confidence.T, dtype=np.float64),
        )


@dataclass(frozen=True)
class Tally:
    """What becomes of all samples under ``K`` threshold vectors.

    Attributes:
        loss: mean loss, ``[K]``.
        rates: fraction of samples that leave by each exit, ``[K, E]``.
        boundary: boundary risk (flips a sample), ``[K]``; zeros without a reference trace.
    """

    loss: np.ndarray
    rates: np.ndarray
    boundary: np.ndarray

    @classmethod
    def empty(cls, vectors: int, exits: int) -> Tally:
        """Nothing counted yet."""
        return cls(np.zeros(vectors), np.zeros((vectors, exits)), np.zeros(vectors))


@dataclass(frozen=True)
class Line:
    """The thresholds that tell one exit's samples apart.

    Attributes:
        order: samples by falling confidence, ``[N]``.
        counts: how many samples leave under each candidate, ascending, ``[M]``.
        values: the candidate thresholds, ``[M]``.
        below_lower, below_upper: with a reference, how many samples have the smaller (the larger)
            of their two confidences below each candidate, ``[M]``.
        lower_order, upper_order: samples by that smaller (larger) confidence, ``[N]``.
    """

    order: np.ndarray
    counts: np.ndarray
    values: np.ndarray
    below_lower: np.ndarray | None = None
    below_upper: np.ndarray | None = None
    lower_order: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    upper_order: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def at(
        cls, confidence: np.ndarray, reference: np.ndarray | None, low: float, high: float
    ) -> Line:
        """The choices at an exit with these confidences ``[N]``, between ``low`` and ``high``."""
        order = np.argsort(-confidence, kind="stable")
        ranked = confidence[order]
        # A candidate lies between two neighbours, as far from both as the range allows.
        upper = np.concatenate([[np.inf], ranked])
        lower = np.concatenate([ranked, [-np.inf]])
        values = (np.maximum(lower, low) + np.minimum(upper, high)) / 2
        values[0], values[-1] = high, low
        counts = np.flatnonzero((lower < values) & (values <= upper))
        values = values[counts]
        if reference is None:
            return cls(order, counts, values)
        smaller, larger = np.minimum(confidence, reference), np.maximum(confidence, reference)
        lower_order, upper_order = np.argsort(smaller), np.argsort(larger)
        return cls(
            order,
            counts,
            values,
            np.searchsorted(smaller[lower_order], values),
            np.searchsorted(larger[upper_order], values),
            lower_order,
            upper_order,
        )

    def prefix(self, change: np.ndarray) -> np.ndarray:
        """Sum of ``change`` ``[L, N]`` over the samples that leave, per candidate ``[L, M]``."""
        return _sums(change[:, self.order])[:, self.counts]

    def flips(self, reached: np.ndarray) -> np.ndarray:
        """Reached samples ``[L, N]`` whose decision full precision would not share, ``[L, M]``."""
        if self.below_lower is None or self.below_upper is None:
            raise ExitbitsError("flips need a full-precision trace to compare with")
        lower = _sums(reached[:, self.lower_order])[:, self.below_lower]
        upper = _sums(reached[:, self.upper_order])[:, self.below_upper]
        difference: np.ndarray = lower - upper
        return difference


def _sums(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, ..., N values of each row, ``[L, N + 1]``.

    By torch, which is several times faster at it than :func:`numpy.cumsum`. Loaded here, since
    whoever has a trace to harvest has it loaded, and a command's arguments are read without it.
    """
    import torch

    sums = np.zeros((len(values), values.shape[1] + 1))
    torch.cumsum(
        torch.from_numpy(values), dim=1, dtype=torch.float64, out=torch.from_numpy(sums)[:, 1:]
    )
    return sums


def front_of(measured: Harvest, risk: np.ndarray) -> Harvest:
    """Those vectors that are not dominated in risk ``[K]`` and cost, cheapest first."""
    return measured.take(front_indices(as_points(1 - risk, measured.cost)))
