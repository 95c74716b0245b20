"""Traces, tables, calibrations and what is fitted, on disk by content, for all processes here.

Every file is written in one atomic step.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from search.bits.tables import Sensitivity
from search.errors import BadInput
from search.files import check_folder_writable, write_atomically
from search.quantize.codes import CodeRange, WeightCodes
from search.quantize.histograms import Histogram, seen_from_bytes, seen_to_bytes
from search.trace import ExitTrace

log = logging.getLogger(__name__)

Value = TypeVar("Value")


class _DiskCache:
    """A folder with one file per key.

    Two processes that compute the same value at once write the same bytes; the later rename wins
    and no reader ever sees half a file. What is damaged, cannot be read or is no file counts as
    absent, and is written anew where it can be.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._what = kind.removesuffix("s")
        self.folder = folder / kind
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_folder_writable(self.folder)
        except OSError as error:
            raise BadInput(
                f"cannot write to cache folder {str(folder)!r} ({error.strerror}): "
                "choose a writable one with --cache or EXITBITS_CACHE"
            ) from error

    def path(self, key: str) -> Path:
        """Where the value under ``key`` lies."""
        return self.folder / key[:2] / f"{key}.npz"

    def _read(self, key: str, decode: Callable[[bytes], Value]) -> Value | None:
        path = self.path(key)
        try:
            # Anything else (a folder, a pipe that nobody writes to) is none of ours.
            return decode(path.read_bytes()) if path.is_file() else None
        except (OSError, ValueError):
            return None

    def _keep(self, key: str, encode: Callable[[], bytes]) -> None:
        try:
            self._write(self.path(key), encode())
        except OSError as error:
            # The value itself is at hand; only the next one who wants it must compute it again.
            remedy = "free some room" if error.errno == errno.ENOSPC else "remove what is there"
            log.warning(
                "%s not kept in %s (%s): %s", self._what, self.folder, error.strerror, remedy
            )

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, data)


class DiskTraceCache(_DiskCache):
    """Traces in the folder ``traces`` below ``folder``, which is created if missing.

    Raises:
        BadInput: when the folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "traces")

    def load(self, key: str) -> ExitTrace | None:
        """The trace under ``key``, or None where there is none that can be read."""
        return self._read(key, ExitTrace.from_bytes)

    def store(self, key: str, trace: ExitTrace) -> None:
        """Keep ``trace`` under ``key``; where the disk is full, warn and go on without."""
        self._keep(key, trace.to_bytes)


class DiskTableCache(_DiskCache):
    """Sensitivities in the folder ``tables``, likewise."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "tables")

    def load(self, key: str) -> Sensitivity | None:
        """The row under ``key``, or None where there is none that can be read."""
        return self._read(key, Sensitivity.from_bytes)

    def store(self, key: str, row: Sensitivity) -> None:
        """Keep ``row`` under ``key``; where the disk is full, warn and go on without."""
        self._keep(key, row.to_bytes)


class DiskWeightCache(_DiskCache):
    """Weights fitted to calibration images, in the folder ``weights``, likewise."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "weights")

    def load(self, key: str) -> WeightCodes | None:
        """The weights under ``key``, or None where there are none that can be read."""
        return self._read(key, WeightCodes.from_bytes)

    def store(self, key: str, weights: WeightCodes) -> None:
        """Keep them under ``key``; where the disk is full, warn and go on without."""
        self._keep(key, weights.to_bytes)


class DiskRangeCache(_DiskCache):
    """Ranges chosen by calibration images, in the folder ``ranges``, likewise."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "ranges")

    def load(self, key: str) -> CodeRange | None:
        """The range under ``key``, or None where there is none that can be read."""
        return self._read(key, CodeRange.from_bytes)

    def store(self, key: str, chosen: CodeRange) -> None:
        """Keep it under ``key``; where the disk is full, warn and go on without."""
        self._keep(key, chosen.to_bytes)


class DiskCalibrationCache(_DiskCache):
    """What calibration saw, in the folder ``calibrations``, likewise.

    Attributes:
        weights, ranges: those that were fitted to the same images.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "calibrations")
        self.weights = DiskWeightCache(folder)
        self.ranges = DiskRangeCache(folder)

    def load(self, key: str) -> dict[str, Histogram] | None:
        """What was seen under ``key``, or None where there is nothing that can be read."""
        return self._read(key, seen_from_bytes)

    def store(self, key: str, seen: dict[str, Histogram]) -> None:
        """Keep it under ``key``; where the disk is full, warn and go on without."""
        self._keep(key, lambda: seen_to_bytes(seen))


class DiskCaches:
    """All of them below one folder.

    Attributes:
        traces, tables, calibrations: the caches.

    Raises:
        BadInput: when the folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self.traces = DiskTraceCache(folder)
        self.tables = DiskTableCache(folder)
        self.calibrations = DiskCalibrationCache(folder)
