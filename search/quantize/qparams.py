"""Quantization parameters: how a tensor becomes integer codes at a width, and back.

Worked out once by a quantizer; engines, training and whatever exports a model read these records
and decide nothing themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from search.models.counted import counted_modules
from search.policy import FULL_PRECISION
from search.quantize.calibration import operands
from search.quantize.histograms import Histogram
from search.quantize.kept import KeptTensors


@dataclass(frozen=True, slots=True)
class ActivationQParams:
    """Of an activation tensor: value = scale * (code - zero_point), zero always being a level.

    Attributes:
        bits: width, 2 to 8.
        scale: of the whole tensor, above 0.
        zero_point: the code of zero.
    """

    bits: int
    scale: float
    zero_point: int

    @property
    def quant_min(self) -> int:
        """The lowest code."""
        return 0

    @property
    def quant_max(self) -> int:
        """The highest code."""
        return int(2**self.bits) - 1

    def quantized(self, values: Tensor) -> Tensor:
        """The values of the levels nearest to ``values``."""
        codes = torch.round(values / self.scale) + self.zero_point
        return (codes.clamp(self.quant_min, self.quant_max) - self.zero_point) * self.scale

    @classmethod
    def holding(cls, low: float, high: float, bits: int) -> ActivationQParams:
        """Codes of the least step whose values reach from ``low`` to ``high`` and contain zero."""
        low, high = min(low, 0.0), max(high, 0.0)
        top = 2**bits - 1
        if not low or not high:
            return cls.covering(low, high, bits)
        # Zero lies on a level: what the range gains on one side it may lose on the other.
        exact = top * -low / (high - low)
        near = (min(max(round_to(exact), 1), top - 1) for round_to in (math.floor, math.ceil))
        scale, zero_point = min((max(-low / zero, high / (top - zero)), zero) for zero in near)
        if scale < np.finfo(np.float32).tiny:
            return cls(bits, 1.0, 0)
        return cls(bits, float(scale), zero_point)

    @classmethod
    def covering(cls, low: float, high: float, bits: int) -> ActivationQParams:
        """Codes whose values span as much as ``low`` to ``high``, stretched to contain zero.

        Zero lies on a level, so that they may begin and end up to half a step off.
        """
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (2**bits - 1)
        # A denormal scale would divide to infinity; a tensor this small is zero for all purposes.
        if scale < np.finfo(np.float32).tiny:
            return cls(bits, 1.0, 0)
        return cls(bits, float(scale), round(-low / scale))


@dataclass(frozen=True, slots=True, eq=False)
class WeightQParams:
    """Of a layer's weights: value = scale * code, one scale an output channel.

    Attributes:
        bits: width, 2 to 8.
        scale: ``[O]``, above 0.
        codes: int8 ``[O, K]``, the rows flattened.
        fitted_to: width of the inputs that the codes were fitted to, None where they serve any.
    """

    bits: int
    scale: Tensor
    codes: Tensor
    fitted_to: int | None = None

    @property
    def quant_min(self) -> int:
        """The lowest code."""
        return -int(2 ** (self.bits - 1))

    @property
    def quant_max(self) -> int:
        """The highest code."""
        return int(2 ** (self.bits - 1)) - 1


class Quantizer(Protocol):
    """How quantization parameters are chosen."""

    name: str

    def weight(self, rows: Tensor, bits: int) -> WeightQParams:
        """Of the weights ``[O, K]`` of a layer."""

    def activation(self, seen: Histogram, bits: int) -> ActivationQParams:
        """Of an activation tensor, by what calibration saw of it."""


class Fit(Protocol):
    """What fits linear layers' weights to what enters them."""

    def __call__(
        self, name: str, rows: Tensor, widths: tuple[int, int], inputs: ActivationQParams | None
    ) -> WeightQParams:
        """Of a layer by its module path and weights ``[O, K]``, at the widths of inputs and weights
        and with the inputs' quantization parameters, None where they stay in full precision."""


class ChooseRange(Protocol):
    """What chooses activations' ranges by more than what was seen of them."""

    def __call__(self, operand: str, first: ActivationQParams) -> ActivationQParams:
        """Of an operand, at the width of the range that the quantizer chose first."""


class ModelQParams:
    """The quantization parameters of a model's counted operations, each worked out at first use.

    Args:
        model: full precision; its weights must not change while this is used.
        seen: what calibration saw of every activation operand.
        quantizer: chooses.
        fit: chooses the weights of linear layers, None for the quantizer as well.
        ranges: chooses activations' ranges after the quantizer, None for it alone.

    Attributes:
        kept: weights' scales and codes, within a memory limit.
    """

    def __init__(
        self,
        model: nn.Module,
        seen: Mapping[str, Histogram],
        quantizer: Quantizer,
        fit: Fit | None = None,
        ranges: ChooseRange | None = None,
    ) -> None:
        self._modules = dict(counted_modules(model))
        self._seen, self._quantizer, self._fit, self._ranges = seen, quantizer, fit, ranges
        self._activations: dict[tuple[str, int], ActivationQParams] = {}
        self.kept = KeptTensors()

    def activation(self, operand: str, bits: int) -> ActivationQParams:
        """Of an operand, named as in :func:`search.quantize.calibration.operands`."""
        key = operand, bits
        if key not in self._activations:
            chosen = self._quantizer.activation(self._seen[operand], bits)
            self._activations[key] = self._ranges(operand, chosen) if self._ranges else chosen
        return self._activations[key]

    def weight(self, name: str, bits: int, input_bits: int = FULL_PRECISION) -> WeightQParams:
        """Of a linear or convolution layer, by its module path, whose inputs have a width."""
        module, fit = self._modules[name], self._fit
        weight = module.weight
        assert isinstance(weight, Tensor)
        rows = weight.detach().flatten(1)
        if fit is None or not isinstance(module, nn.Linear):
            scale, codes = self.kept.get(
                (name, bits), lambda: _tensors(self._quantizer.weight(rows, bits))
            )
            return WeightQParams(bits, scale, codes)

        def fitted() -> tuple[Tensor, Tensor]:
            full = input_bits == FULL_PRECISION
            inputs = None if full else self.activation(operands(name, module)[0], input_bits)
            return _tensors(fit(name, rows, (input_bits, bits), inputs))

        scale, codes = self.kept.get((name, bits, input_bits), fitted)
        return WeightQParams(bits, scale, codes, input_bits)


def _tensors(chosen: WeightQParams) -> tuple[Tensor, Tensor]:
    return chosen.scale, chosen.codes
