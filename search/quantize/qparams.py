"""Quantization parameters: how a tensor becomes integer codes at a width, and back.

Worked out once by a quantizer; engines, training and whatever exports a model read these records
and decide nothing themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from search.models.counted import counted_modules
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

    @classmethod
    def covering(cls, low: float, high: float, bits: int) -> ActivationQParams:
        """Codes whose values span ``low`` to ``high``, stretched to contain zero."""
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
    """

    bits: int
    scale: Tensor
    codes: Tensor

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


class ModelQParams:
    """The quantization parameters of a model's counted operations, each worked out at first use.

    Args:
        model: full precision; its weights must not change while this is used.
        seen: what calibration saw of every activation operand.
        quantizer: chooses.

    Attributes:
        kept: weights' scales and codes, within a memory limit.
    """

    def __init__(
        self, model: nn.Module, seen: Mapping[str, Histogram], quantizer: Quantizer
    ) -> None:
        self._modules = dict(counted_modules(model))
        self._seen, self._quantizer = seen, quantizer
        self._activations: dict[tuple[str, int], ActivationQParams] = {}
        self.kept = KeptTensors()

    def activation(self, operand: str, bits: int) -> ActivationQParams:
        """Of an operand, named as in :func:`search.quantize.calibration.operands`."""
        key = operand, bits
        if key not in self._activations:
            self._activations[key] = self._quantizer.activation(self._seen[operand], bits)
        return self._activations[key]

    def weight(self, name: str, bits: int) -> WeightQParams:
        """Of a linear or convolution layer, by its module path."""

        def work_out() -> tuple[Tensor, Tensor]:
            weight = self._modules[name].weight
            assert isinstance(weight, Tensor)
            chosen = self._quantizer.weight(weight.detach().flatten(1), bits)
            return chosen.scale, chosen.codes

        return WeightQParams(bits, *self.kept.get((name, bits), work_out))
