"""The reference engine: simple, eager, and exact in its integers.

A quantized product is computed on integer codes held in float32: every code and every partial sum
below 2^24 is exact there, so the result does not depend on batch size, threads or the order of
summation. One multiplication by the scales then gives the real value. Larger layers (more than
about 500 inputs at 8x8 bits) round in the last place like any float32 sum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.models.counted import MatMul, counted_modules
from search.models.early_exit import EarlyExitModel, Read
from search.policy import FULL_PRECISION
from search.quantize.calibration import operands
from search.quantize.qparams import ActivationQParams, ModelQParams, WeightQParams


class ActivationCodes(nn.Module):
    """An activation tensor as integer codes at the current bits; the identity at 32.

    Args:
        qparams_at: gives the tensor's quantization parameters at a width.
    """

    def __init__(self, qparams_at: Callable[[int], ActivationQParams]) -> None:
        super().__init__()
        self._qparams_at = qparams_at
        self.set_bits(FULL_PRECISION)

    def set_bits(self, bits: int) -> None:
        """Choose the width: 2 to 8, or 32 to leave values alone."""
        self.bits = bits
        self.scale = 1.0
        if bits == FULL_PRECISION:
            return
        qparams = self._qparams_at(bits)
        self.scale = qparams.scale
        self.lowest = qparams.quant_min - qparams.zero_point
        self.highest = qparams.quant_max - qparams.zero_point

    def forward(self, value: Tensor) -> Tensor:
        """Codes less the zero point, so that ``codes * scale`` is the quantized value."""
        if self.bits == FULL_PRECISION:
            return value
        return (value / self.scale).round_().clamp_(self.lowest, self.highest)


class QuantizedProduct(nn.Module):
    """A linear or convolution layer on codes, with the parameters of the layer it stands for.

    Args:
        source: the layer.
        inputs: what enters it, as codes.
        qparams_at: gives the weights' quantization parameters at their width and the inputs'.
    """

    def __init__(
        self,
        source: nn.Linear | nn.Conv2d,
        inputs: ActivationCodes,
        qparams_at: Callable[[int, int], WeightQParams],
    ) -> None:
        super().__init__()
        self.source, self.inputs = source, inputs
        self._qparams_at = qparams_at
        self.weight_bits = FULL_PRECISION
        self._operand: tuple[Tensor, Tensor] | None = None
        self._shape = (1, -1, 1, 1) if isinstance(source, nn.Conv2d) else (-1,)

    def set_bits(self, activation_bits: int, weight_bits: int) -> None:
        """Choose both widths."""
        if (activation_bits, weight_bits) != (self.inputs.bits, self.weight_bits):
            self.weight_bits, self._operand = weight_bits, None
        self.inputs.set_bits(activation_bits)

    def qparams(self) -> WeightQParams:
        """The weights' quantization parameters at the bits that are set."""
        return self._qparams_at(self.weight_bits, self.inputs.bits)

    def _weights(self) -> tuple[Tensor, Tensor]:
        """The weights at their bits, as codes in their own shape, and their scales ``[O]``."""
        if self._operand is None:
            weight = self.source.weight.detach()
            if self.weight_bits == FULL_PRECISION:
                self._operand = weight, weight.new_ones(len(weight))
            else:
                qparams = self.qparams()
                self._operand = qparams.codes.to(weight.dtype).view_as(weight), qparams.scale
        return self._operand

    def forward(self, value: Tensor) -> Tensor:
        codes, layer = self.inputs(value), self.source
        weights, scale = self._weights()
        if isinstance(layer, nn.Conv2d):
            product = F.conv2d(
                codes, weights, None, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        else:
            product = F.linear(codes, weights)
        scale = (scale * self.inputs.scale).view(self._shape)
        if layer.bias is None:
            return product * scale
        return torch.addcmul(layer.bias.detach().view(self._shape), product, scale)


class QuantizedMatMul(nn.Module):
    """The product of two activations, both as codes."""

    def __init__(self, left: ActivationCodes, right: ActivationCodes) -> None:
        super().__init__()
        self.left, self.right = left, right

    def set_bits(self, left_bits: int, right_bits: int) -> None:
        """Choose the width of each operand."""
        self.left.set_bits(left_bits)
        self.right.set_bits(right_bits)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        product: Tensor = self.left(left) @ self.right(right)
        return product * (self.left.scale * self.right.scale)


class ReferenceEngine:
    """A quantized copy of a model whose bits can be set anew for every policy.

    Args:
        model: full precision, in evaluation mode; it is copied, not changed.
        qparams: its quantization parameters.
    """

    name = "reference"
    version = 1

    @classmethod
    def unavailable(cls, device: str) -> str | None:
        """It runs wherever torch does."""
        return None

    def __init__(self, model: EarlyExitModel, qparams: ModelQParams) -> None:
        self.model = copy.deepcopy(model).eval()
        self.sites: dict[str, QuantizedProduct | QuantizedMatMul] = {}
        for name, module in list(counted_modules(self.model)):
            codes = [
                ActivationCodes(partial(qparams.activation, operand))
                for operand in operands(name, module)
            ]
            replacement: QuantizedProduct | QuantizedMatMul
            if isinstance(module, MatMul):
                replacement = QuantizedMatMul(codes[0], codes[1])
            else:
                replacement = QuantizedProduct(module, codes[0], partial(qparams.weight, name))
            parent = self.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], replacement)
            self.sites[name.removeprefix("backbone.")] = replacement

    def set_bits(self, widths: Mapping[str, tuple[int, int]]) -> None:
        for name, site in self.sites.items():
            site.set_bits(*widths[name])

    @torch.inference_mode()
    def run(self, images: Tensor, read: Read) -> None:
        self.model.read_exits(images, read)

    @torch.inference_mode()
    def run_states(self, images: Tensor, read: Read) -> list[Tensor]:
        states: list[Tensor] = []
        self.model.read_exits(images, read, lambda _, state: states.append(state))
        return states
