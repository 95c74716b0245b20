"""Quantizers: how the range of a tensor is chosen at each bit-width. A registry by name.

Weights are symmetric with one scale per output channel; activations are affine with one scale per
tensor. ``minmax`` covers everything that was seen and is the honest floor; ``mse`` clips where that
lowers the mean squared error (as in Banner et al., arXiv 1810.05723, by search instead of a fit).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from search.quantize import QUANTIZERS
from search.quantize.histograms import Histogram
from search.registry import resolve


@dataclass(frozen=True, slots=True)
class AffineRange:
    """Scale and zero point of an activation tensor: value = scale * (code - zero_point).

    Codes are integers in [0, 2^bits - 1]; zero is always a level.
    """

    scale: float
    zero_point: int

    @classmethod
    def covering(cls, low: float, high: float, bits: int) -> AffineRange:
        """The range whose levels span ``low`` to ``high``, stretched to contain zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        top = 2**bits - 1
        scale = (high - low) / top
        # A denormal scale would divide to infinity; a tensor this small is zero for all purposes.
        if scale < np.finfo(np.float32).tiny:
            return cls(1.0, 0)
        return cls(float(scale), round(-low / scale))


class Quantizer(Protocol):
    """How ranges are chosen."""

    name: str

    def weight_scale(self, rows: Tensor, bits: int) -> Tensor:
        """Scales ``[O]`` for weights ``[O, K]``; codes go from -2^(bits-1) to 2^(bits-1) - 1."""

    def activation_range(self, seen: Histogram, bits: int) -> AffineRange:
        """Range of an activation tensor at ``bits``."""


def weight_codes(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Integer codes, kept in floating point, of weights ``[O, K]`` under scales ``[O]``."""
    half = 2 ** (bits - 1)
    return torch.clamp(torch.round(rows / scale[:, None]), -half, half - 1)


class MinMax:
    """Everything seen fits: no clipping, so outliers set the step."""

    name = "minmax"

    def weight_scale(self, rows: Tensor, bits: int) -> Tensor:
        peak = rows.abs().amax(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
        scale: Tensor = peak / (2 ** (bits - 1) - 1)
        return scale

    def activation_range(self, seen: Histogram, bits: int) -> AffineRange:
        return AffineRange.covering(seen.low, seen.high, bits)


class MeanSquaredError:
    """The range that minimises the mean squared quantization error, by grid search."""

    name = "mse"
    _weight_grid = np.linspace(0.2, 1.2, 51)
    _clip_grid = np.linspace(0.04, 1.0, 49)

    def weight_scale(self, rows: Tensor, bits: int) -> Tensor:
        widest = MinMax().weight_scale(rows, bits)
        best_scale, best_error = widest, torch.full_like(widest, torch.inf)
        for factor in self._weight_grid:
            scale = widest * float(factor)
            error = (weight_codes(rows, scale, bits) * scale[:, None] - rows).square().sum(dim=1)
            better = error < best_error
            best_scale = torch.where(better, scale, best_scale)
            best_error = torch.where(better, error, best_error)
        return best_scale

    def activation_range(self, seen: Histogram, bits: int) -> AffineRange:
        low = min(seen.low, 0.0)
        high = max(seen.high, 0.0)
        values, counts = seen.centers, seen.counts
        lows = [low * float(clip) for clip in self._clip_grid] if low < 0 else [0.0]
        highs = [high * float(clip) for clip in self._clip_grid] if high > 0 else [0.0]

        def best(candidates: list[tuple[float, float]]) -> tuple[float, float]:
            """The bounds with the least squared error, the first of equals."""
            chosen = [AffineRange.covering(*bounds, bits) for bounds in candidates]
            scale = np.array([one.scale for one in chosen])[:, None]
            zero_point = np.array([one.zero_point for one in chosen])[:, None]
            codes = np.round(values / scale) + zero_point
            np.clip(codes, 0, 2**bits - 1, out=codes)
            off = np.square((codes - zero_point) * scale - values)
            return candidates[int(np.argmin([counts @ row for row in off]))]

        # Each bound in turn until neither moves; two or three rounds in practice.
        bounds = (low, high)
        for _ in range(8):
            better = best([(one, bounds[1]) for one in lows])
            better = best([(better[0], one) for one in highs])
            if better == bounds:
                break
            bounds = better
        return AffineRange.covering(*bounds, bits)


def resolve_quantizer(name: str) -> Quantizer:
    """Return the quantizer called ``name``."""
    quantizer: Quantizer = resolve("quantizer", name, QUANTIZERS)()
    return quantizer
