"""The reference engine: simple, eager, and exact in its integers.

A quantized product is computed on integer codes held in float32: every code and every partial sum
below 2^24 is exact there, so the result does not depend on batch size, threads or the order of
summation. One multiplication by the scales then gives the real value. Larger layers (more than
about 500 inputs at 8x8 bits) round in the last place like any float32 sum.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.engines.kept import KeptTensors
from search.models.counted import MatMul, counted_modules
from search.models.early_exit import EarlyExitModel
from search.policy import FULL_PRECISION
from search.quantize.calibration import operands
from search.quantize.histograms import Histogram
from search.quantize.ranges import AffineRange, Quantizer, weight_codes


class ActivationCodes(nn.Module):
    """An activation tensor as integer codes at the current bits; the identity at 32."""

    def __init__(self, seen: Histogram, quantizer: Quantizer) -> None:
        super().__init__()
        self._seen, self._quantizer = seen, quantizer
        self._ranges: dict[int, AffineRange] = {}
        self.set_bits(FULL_PRECISION)

    def set_bits(self, bits: int) -> None:
        """Choose the width: 2 to 8, or 32 to leave values alone."""
        self.bits = bits
        self.scale = 1.0
        if bits == FULL_PRECISION:
            return
        if bits not in self._ranges:
            self._ranges[bits] = self._quantizer.activation_range(self._seen, bits)
        chosen = self._ranges[bits]
        self.scale = chosen.scale
        self.lowest = -chosen.zero_point
        self.highest = 2**bits - 1 - chosen.zero_point

    def forward(self, value: Tensor) -> Tensor:
        """Codes less the zero point, so that ``codes * scale`` is the quantized value."""
        if self.bits == FULL_PRECISION:
            return value
        return (value / self.scale).round_().clamp_(self.lowest, self.highest)


class QuantizedProduct(nn.Module):
    """A linear or convolution layer on codes, with the parameters of the layer it stands for."""

    def __init__(
        self,
        source: nn.Linear | nn.Conv2d,
        inputs: ActivationCodes,
        quantizer: Quantizer,
        kept: KeptTensors,
    ) -> None:
        super().__init__()
        self.source, self.inputs = source, inputs
        self._quantizer, self._kept = quantizer, kept
        self._scales: dict[int, Tensor] = {}
        self._shape = (1, -1, 1, 1) if isinstance(source, nn.Conv2d) else (-1,)
        self.set_bits(FULL_PRECISION, FULL_PRECISION)

    def set_bits(self, activation_bits: int, weight_bits: int) -> None:
        """Choose both widths."""
        self.inputs.set_bits(activation_bits)
        self.weight_bits = weight_bits

    def weight_scale(self, bits: int) -> Tensor:
        """Scales ``[O]`` of the weights at ``bits``, chosen once; ones at 32."""
        if bits not in self._scales:
            rows = self.source.weight.detach().flatten(1)
            if bits == FULL_PRECISION:
                self._scales[bits] = rows.new_ones(len(rows))
            else:
                self._scales[bits] = self._quantizer.weight_scale(rows, bits)
        return self._scales[bits]

    def _codes(self) -> Tensor:
        """The weights at their bits, as codes in their own shape."""
        weight, bits = self.source.weight.detach(), self.weight_bits
        if bits == FULL_PRECISION:
            return weight
        (codes,) = self._kept.get(
            (self, bits), lambda: (weight_codes(weight.flatten(1), self.weight_scale(bits), bits),)
        )
        return codes.view_as(weight)

    def forward(self, value: Tensor) -> Tensor:
        codes, weights, layer = self.inputs(value), self._codes(), self.source
        if isinstance(layer, nn.Conv2d):
            product = F.conv2d(
                codes, weights, None, layer.stride, layer.padding, layer.dilation, layer.groups
            )
        else:
            product = F.linear(codes, weights)
        scale = (self.weight_scale(self.weight_bits) * self.inputs.scale).view(self._shape)
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
        seen: what calibration saw of every operand.
        quantizer: how ranges are chosen.
    """

    name = "reference"
    version = 1

    def __init__(
        self, model: EarlyExitModel, seen: Mapping[str, Histogram], quantizer: Quantizer
    ) -> None:
        self.model = copy.deepcopy(model).eval()
        self.kept = KeptTensors()
        self.sites: dict[str, QuantizedProduct | QuantizedMatMul] = {}
        for name, module in list(counted_modules(self.model)):
            codes = [ActivationCodes(seen[op], quantizer) for op in operands(name, module)]
            replacement: QuantizedProduct | QuantizedMatMul
            if isinstance(module, MatMul):
                replacement = QuantizedMatMul(codes[0], codes[1])
            else:
                replacement = QuantizedProduct(module, codes[0], quantizer, self.kept)
            parent = self.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], replacement)
            self.sites[name.removeprefix("backbone.")] = replacement

    def set_bits(self, bits: Mapping[str, tuple[int, int]]) -> None:
        """Set the bits ``(left, right)`` of every operation, by the ledger's names."""
        for name, site in self.sites.items():
            site.set_bits(*bits[name])

    @torch.inference_mode()
    def run(self, images: Tensor) -> Tensor:
        """Every exit's outputs for normalized images: ``[B, C, H, W]`` to ``[B, E, classes]``."""
        outputs: Tensor = self.model(images)
        return outputs

    @torch.inference_mode()
    def run_states(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same, and the output of every block."""
        return self.model.forward_states(images)
