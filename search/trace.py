"""What every exit said of every sample under one set of bits, and what thresholds make of it.

A trace costs one pass of the quantized model; every threshold vector afterwards costs NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.archive import pack, unpacked
from search.errors import BadInput, ExitbitsError

TRACE_FORMAT = 2


@dataclass(frozen=True)
class Routing:
    """Where samples leave under given thresholds.

    Attributes:
        exits: index (0-based) of the exit taken, int ``[N]``.
        statistic: the task's per-sample statistic at that exit ``[N, S]``.
        exit_blocks: block (1-based) that each exit follows.
    """

    exits: np.ndarray
    statistic: np.ndarray
    exit_blocks: tuple[int, ...]

    @property
    def exit_rates(self) -> np.ndarray:
        """Fraction of samples leaving at each exit, ``[E]``, summing to 1."""
        counts = np.bincount(self.exits, minlength=len(self.exit_blocks))
        rates: np.ndarray = counts / len(self.exits)
        return rates

    @property
    def utilization(self) -> np.ndarray:
        """Fraction of samples that run each block, ``[blocks]``: u_l = P[exit's block >= l]."""
        depth = np.asarray(self.exit_blocks)[self.exits]
        blocks = np.arange(1, self.exit_blocks[-1] + 1)
        used: np.ndarray = (depth[:, None] >= blocks).mean(axis=0)
        return used

    @property
    def mean_exit(self) -> float:
        """Mean number of blocks executed a sample."""
        return float(np.asarray(self.exit_blocks)[self.exits].mean())


@dataclass(frozen=True)
class ExitTrace:
    """Every exit's confidence and per-sample statistic.

    Attributes:
        confidence: float32 ``[N, E]`` in [0, 1].
        statistic: ``[N, E, S]``; its meaning is the task's.
        exit_blocks: block (1-based) that each exit follows.
        engine: name of the engine that ran the model.
    """

    confidence: np.ndarray
    statistic: np.ndarray
    exit_blocks: tuple[int, ...]
    engine: str = "reference"

    def __post_init__(self) -> None:
        if self.confidence.shape != self.statistic.shape[:2] or self.confidence.shape[1] != len(
            self.exit_blocks
        ):
            raise ExitbitsError(
                f"trace of shapes {self.confidence.shape} and {self.statistic.shape} does not fit "
                f"{len(self.exit_blocks)} exits"
            )
        if not np.isfinite(self.confidence).all():
            raise ExitbitsError(
                "the model gave confidences that are not finite: check the checkpoint and the data"
            )

    def __len__(self) -> int:
        return len(self.confidence)

    @classmethod
    def joined(cls, parts: Sequence[ExitTrace]) -> ExitTrace:
        """One trace of all samples of ``parts``, in their order."""
        return cls(
            np.concatenate([part.confidence for part in parts]),
            np.concatenate([part.statistic for part in parts]),
            parts[0].exit_blocks,
            parts[0].engine,
        )

    def take(self, samples: np.ndarray) -> ExitTrace:
        """The trace of the samples with these indices, in this order."""
        return ExitTrace(
            self.confidence[samples], self.statistic[samples], self.exit_blocks, self.engine
        )

    def replay(self, thresholds: Sequence[float]) -> Routing:
        """Route every sample to the first exit whose confidence is at least its threshold.

        Args:
            thresholds: one per exit, in [0, 1]; the last exit takes whoever is left.

        Raises:
            BadInput: for another number of thresholds than exits.
        """
        if len(thresholds) != len(self.exit_blocks):
            raise BadInput(
                f"{len(thresholds)} thresholds for {len(self.exit_blocks)} exits: give one per exit"
            )
        leaves = self.confidence >= np.asarray(thresholds, dtype=np.float64)
        leaves[:, -1] = True
        exits = leaves.argmax(axis=1)
        return Routing(exits, self.statistic[np.arange(len(exits)), exits], self.exit_blocks)

    def to_bytes(self) -> bytes:
        """Serialize as an ``.npz`` archive."""
        return pack(
            TRACE_FORMAT,
            confidence=self.confidence,
            statistic=self.statistic,
            exit_blocks=np.asarray(self.exit_blocks),
            engine=np.asarray(self.engine),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ExitTrace:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            ValueError: when it is something else, or damaged.
        """
        with unpacked("trace", data, TRACE_FORMAT) as archive:
            return cls(
                archive["confidence"],
                archive["statistic"],
                tuple(int(block) for block in archive["exit_blocks"]),
                str(archive["engine"]),
            )
