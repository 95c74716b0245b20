"""What a quantizer chose by calibration images, as it lies in a cache. Plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.archive import pack, unpacked

CODES_FORMAT = 1


@dataclass(frozen=True, eq=False)
class WeightCodes:
    """A layer's weights at one width.

    Attributes:
        scale: float32 ``[O]``, above 0.
        codes: int8 ``[O, K]``.
    """

    scale: np.ndarray
    codes: np.ndarray

    def to_bytes(self) -> bytes:
        """Serialize as an ``.npz`` archive."""
        return pack(CODES_FORMAT, scale=self.scale, codes=self.codes)

    @classmethod
    def from_bytes(cls, data: bytes) -> WeightCodes:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            ValueError: when it is something else, or damaged.
        """
        with unpacked("weights' codes", data, CODES_FORMAT) as archive:
            scale, codes = archive["scale"], archive["codes"]
            if scale.dtype != np.float32 or codes.dtype != np.int8 or codes.ndim != 2:
                raise ValueError(f"{codes.dtype} codes under {scale.dtype} scales")
            if scale.shape != codes.shape[:1] or not (np.isfinite(scale) & (scale > 0)).all():
                raise ValueError("scales that are none of these codes")
            return cls(scale, codes)


@dataclass(frozen=True)
class CodeRange:
    """An activation's codes at one width.

    Attributes:
        scale: above 0.
        zero_point: the code of zero, 0 up.
    """

    scale: float
    zero_point: int

    def to_bytes(self) -> bytes:
        """Serialize as an ``.npz`` archive."""
        return pack(
            CODES_FORMAT, scale=np.float64(self.scale), zero_point=np.int64(self.zero_point)
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> CodeRange:
        """Read what :meth:`to_bytes` wrote.

        Raises:
            ValueError: when it is something else, or damaged.
        """
        with unpacked("range of codes", data, CODES_FORMAT) as archive:
            scale, zero_point = float(archive["scale"]), int(archive["zero_point"])
            if not (np.isfinite(scale) and scale > 0) or zero_point < 0:
                raise ValueError(f"scale {scale}, zero point {zero_point}")
            return cls(scale, zero_point)
