"""Sensitivity tables: what each layer group does to the model when it alone is quantized.

Plain values; :mod:`search.sensitivity` measures them, :mod:`search.bits.allocation` allocates
bits by them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.archive import pack, unpacked
from search.errors import ExitbitsError
from search.policy import FULL_PRECISION

TABLE_FORMAT = 1


@dataclass(frozen=True)
class Sensitivity:
    """What one group does to the model when it alone is quantized.

    Attributes:
        block: 1-based block that the group lies in.
        bits: ascending widths that were measured, ``[B]``.
        noise: nu(b), relative squared error of the block's output, ``[B]``.
        drift: KL divergence from full precision at every exit, ``[B, E]``.
    """

    block: int
    bits: tuple[int, ...]
    noise: np.ndarray
    drift: np.ndarray

    def at(self, bits: int) -> tuple[float, np.ndarray]:
        """Noise and drift at a width; both are zero at 32."""
        if bits == FULL_PRECISION:
            return 0.0, np.zeros(self.drift.shape[1])
        if bits not in self.bits:
            raise ExitbitsError(f"no sensitivity was measured at {bits} bits, only at {self.bits}")
        index = self.bits.index(bits)
        return float(self.noise[index]), self.drift[index]

    def to_bytes(self) -> bytes:
        """Serialize as an ``.npz`` archive."""
        return pack(
            TABLE_FORMAT,
            block=np.int64(self.block),
            bits=np.asarray(self.bits),
            noise=self.noise,
            drift=self.drift,
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Sensitivity:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            ValueError: when it is something else, or damaged.
        """
        with unpacked("sensitivity", data, TABLE_FORMAT) as archive:
            found = cls(
                int(archive["block"]),
                tuple(int(width) for width in archive["bits"]),
                archive["noise"],
                archive["drift"],
            )
            rows = len(found.bits)
            if found.noise.shape != (rows,) or found.drift.shape[:1] != (rows,):
                raise ValueError("figures and bits do not agree")
            if not (np.isfinite(found.noise).all() and np.isfinite(found.drift).all()):
                raise ValueError("figures that are not finite")
            return found


@dataclass(frozen=True)
class SensitivityTables:
    """The sensitivities of every weight group and every activation group, by name."""

    weights: dict[str, Sensitivity]
    activations: dict[str, Sensitivity]
