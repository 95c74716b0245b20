"""Quantizers: how the range of a tensor is chosen at each bit-width. A registry by name.

Weights are symmetric with one scale per output channel; activations are affine with one scale per
tensor. ``minmax`` covers everything that was seen and is the honest floor; ``mse`` clips where that
lowers the mean squared error (as in Banner et al., arXiv 1810.05723, by search instead of a fit).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from search.quantize import QUANTIZERS
from search.quantize.histograms import Histogram
from search.quantize.qparams import ActivationQParams, Quantizer, WeightQParams


def nearest_codes(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Integer codes, kept in floating point, of weights ``[O, K]`` under scales ``[O]``."""
    half = 2 ** (bits - 1)
    return torch.clamp(torch.round(rows / scale[:, None]), -half, half - 1)


def _rounded(rows: Tensor, scale: Tensor, bits: int) -> WeightQParams:
    return WeightQParams(bits, scale, nearest_codes(rows, scale, bits).to(torch.int8))


def squared_errors(seen: Histogram, candidates: Sequence[ActivationQParams]) -> np.ndarray:
    """Sum of squared errors over what was seen, under each of some parameters of equal width."""
    scale = np.array([qparams.scale for qparams in candidates])[:, None]
    zero_point = np.array([qparams.zero_point for qparams in candidates])[:, None]
    codes = np.round(seen.centers / scale) + zero_point
    np.clip(codes, 0, candidates[0].quant_max, out=codes)
    off = np.square((codes - zero_point) * scale - seen.centers)
    return np.array([seen.counts @ row for row in off])


class MinMax:
    """Everything seen fits: no clipping, so outliers set the step."""

    name = "minmax"
    version = 2  # 1 clipped up to half a step

    def weight(self, rows: Tensor, bits: int) -> WeightQParams:
        return _rounded(rows, _widest_scale(rows, bits), bits)

    def activation(self, seen: Histogram, bits: int) -> ActivationQParams:
        return ActivationQParams.holding(seen.low, seen.high, bits)


def _widest_scale(rows: Tensor, bits: int) -> Tensor:
    """Scales ``[O]`` that clip no weight of ``[O, K]``."""
    peak = rows.abs().amax(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
    scale: Tensor = peak / (2 ** (bits - 1) - 1)
    return scale


class MeanSquaredError:
    """The range that minimises the mean squared quantization error, by grid search."""

    name = "mse"
    version = 1
    _weight_grid = np.linspace(0.2, 1.2, 51)
    _clip_grid = np.linspace(0.04, 1.0, 49)

    def weight(self, rows: Tensor, bits: int) -> WeightQParams:
        widest = _widest_scale(rows, bits)
        best_scale, best_error = widest, torch.full_like(widest, torch.inf)
        for factor in self._weight_grid:
            scale = widest * float(factor)
            codes = nearest_codes(rows, scale, bits)
            error = (codes * scale[:, None] - rows).square().sum(dim=1)
            better = error < best_error
            best_scale = torch.where(better, scale, best_scale)
            best_error = torch.where(better, error, best_error)
        return _rounded(rows, best_scale, bits)

    def activation(self, seen: Histogram, bits: int) -> ActivationQParams:
        low = min(seen.low, 0.0)
        high = max(seen.high, 0.0)
        lows = [low * float(clip) for clip in self._clip_grid] if low < 0 else [0.0]
        highs = [high * float(clip) for clip in self._clip_grid] if high > 0 else [0.0]

        def best(candidates: list[tuple[float, float]]) -> tuple[float, float]:
            """The bounds with the least squared error, the first of equals."""
            chosen = [ActivationQParams.covering(*bounds, bits) for bounds in candidates]
            return candidates[int(np.argmin(squared_errors(seen, chosen)))]

        # Each bound in turn until neither moves; two or three rounds in practice.
        bounds = (low, high)
        for _ in range(8):
            better = best([(bound, bounds[1]) for bound in lows])
            better = best([(better[0], bound) for bound in highs])
            if better == bounds:
                break
            bounds = better
        return ActivationQParams.covering(*bounds, bits)


def resolve_quantizer(name: str) -> Quantizer:
    """Return the quantizer called ``name``."""
    quantizer: Quantizer = QUANTIZERS.resolve(name)()
    return quantizer
