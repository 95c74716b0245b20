"""The quantizer ``gptq``: weights fitted to what enters their layer, in closed form, no labels.

Attention's operands, which meet no weights, get the ranges under which the next exit drifts least
(:mod:`search.quantize.drifting`). Weights take two steps a layer and pair of widths, each from the
full-precision model's own inputs, so that a layer's codes depend on no other layer's bits:

1. The activation's quantization error goes into the weights by ridge regression (ERQ, Zhong et
   al., arXiv 2407.06794): W' minimises E||W x - W' x^||^2 + r ||W' - W||^2.
2. The weights are rounded one input channel after the other, and what is lost in one is made up
   in those that come after (GPTQ, Frantar et al., arXiv 2210.17323), by the same inputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from search.quantize.histograms import Histogram
from search.quantize.inputs import InputMoments
from search.quantize.qparams import ActivationQParams, WeightQParams
from search.quantize.ranges import MeanSquaredError, squared_errors

DAMPING = 0.01  # of the mean second moment: the ridge, and what keeps the solve well posed
BLOCK = 128  # input channels whose errors reach the later ones in one product


class Gptq(MeanSquaredError):
    """See the module. Convolutions, and weights whose inputs are not known, are as by ``mse``."""

    name = "gptq"
    version = 2  # 1 chose the ranges of attention's operands by their squared error

    def activation(self, seen: Histogram, bits: int) -> ActivationQParams:
        """As by ``mse``, or the range that holds everything where that errs less."""
        candidates = [
            super().activation(seen, bits), ActivationQParams.holding(seen.low, seen.high, bits),
        ]  # fmt: skip
        return candidates[int(np.argmin(squared_errors(seen, candidates)))]

    def fitted_weight(self, rows: Tensor, bits: int, moments: InputMoments) -> WeightQParams:
        """Of the weights ``[O, K]`` of a layer with these inputs."""
        weights, ridge = rows.double(), _ridge(moments)
        target = regressed(weights, moments, ridge)
        scale = self.weight(target.float(), bits).scale
        codes = round_in_turn(target, scale.double(), _damped(moments.coded, ridge), bits)
        return WeightQParams(bits, scale, codes.to(torch.int8))


def _ridge(moments: InputMoments) -> float:
    """What is added to the diagonal; of inputs that are all zero, anything."""
    return DAMPING * float(moments.coded.diagonal().mean()) or 1.0


def _damped(moments: Tensor, ridge: float) -> Tensor:
    return moments + ridge * torch.eye(len(moments), dtype=moments.dtype)


def regressed(weights: Tensor, moments: InputMoments, ridge: float) -> Tensor:
    """Weights W' that make up for their inputs' quantization: step 1 of the module.

    Args:
        weights: float64 ``[O, K]``.
        moments: of the inputs.
        ridge: r, above 0.
    """
    factor = torch.linalg.cholesky(_damped(moments.coded, ridge))
    wanted = weights @ moments.crossed + ridge * weights
    found: Tensor = torch.cholesky_solve(wanted.T, factor).T
    return found


def round_in_turn(weights: Tensor, scale: Tensor, hessian: Tensor, bits: int) -> Tensor:
    """Codes ``[O, K]`` of weights, whose rounding errors later channels make up for.

    Channels that carry most come first, while all others can still make up for them.

    Args:
        weights: float64 ``[O, K]``.
        scale: ``[O]``.
        hessian: positive definite second moments of the inputs ``[K, K]``.
        bits: width.
    """
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    left = weights[:, order].clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    half, channels = 2 ** (bits - 1), weights.shape[1]
    codes = torch.empty_like(left)
    for start in range(0, channels, BLOCK):
        end = min(start + BLOCK, channels)
        lost = torch.empty_like(left[:, start:end])
        for k in range(start, end):
            code = torch.round(left[:, k] / scale).clamp_(-half, half - 1)
            codes[:, k] = code
            error = (left[:, k] - code * scale) / upper[k, k]
            left[:, k:end] -= error[:, None] * upper[k, k:end]
            lost[:, k - start] = error
        left[:, end:] -= lost @ upper[start:end, end:]
    restored: Tensor = torch.empty_like(codes)
    restored[:, order] = codes
    return restored
