"""What calibration saw of activations.

Plain values; :mod:`search.quantize.calibration` fills them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from search.archive import pack, unpacked

SEEN_FORMAT = 1


@dataclass(frozen=True)
class Histogram:
    """What calibration saw of one activation tensor.

    Attributes:
        low, high: smallest and largest value.
        counts: values per bin, ``[bins]``, between ``low`` and ``high`` in equal steps.
    """

    low: float
    high: float
    counts: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """Middle of each bin."""
        step = (self.high - self.low) / len(self.counts)
        middles: np.ndarray = self.low + (np.arange(len(self.counts)) + 0.5) * step
        return middles


def seen_to_bytes(seen: Mapping[str, Histogram]) -> bytes:
    """Serialize histograms by operand as an ``.npz`` archive."""
    return pack(
        SEEN_FORMAT,
        operands=np.array([*seen]),
        bounds=np.array([(one.low, one.high) for one in seen.values()]),
        counts=np.stack([one.counts for one in seen.values()]),
    )


def seen_from_bytes(data: bytes) -> dict[str, Histogram]:
    """Read what :func:`seen_to_bytes` wrote.

    Raises:
        ValueError: when it is something else, or damaged.
    """
    with unpacked("calibration", data, SEEN_FORMAT) as archive:
        names, bounds, counts = (archive[key] for key in ("operands", "bounds", "counts"))
        if bounds.shape != (len(names), 2) or counts.shape[:1] != (len(names),):
            raise ValueError("operands and histograms do not agree")
        if not (np.isfinite(bounds).all() and (counts >= 0).all()):
            raise ValueError("histograms that are none")
        return {
            str(name): Histogram(float(low), float(high), row)
            for name, (low, high), row in zip(names, bounds, counts, strict=True)
        }
