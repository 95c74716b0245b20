"""Quantization that gradients pass: the model of the reference engine, made trainable.

Rounding is treated as the identity when gradients flow back (the straight-through estimator,
Bengio et al., arXiv 1308.3432); where a value is clipped its gradient is zero. Scales are tensors
that stand still between refreshes, so a compiled step serves any bits.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.models.counted import MatMul, counted_modules
from search.models.early_exit import EarlyExitModel
from search.policy import FULL_PRECISION
from search.quantize.calibration import Batches, calibrate, operands
from search.quantize.qparams import (
    ActivationQParams,
    ModelQParams,
    Quantizer,
    WeightQParams,
)


def fake_quantize(value: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The nearest level of ``value`` with codes from ``low`` to ``high``; gradients as for clip."""
    codes = value / scale
    rounded = codes.round()
    levels = torch.minimum(torch.maximum(rounded, low), high)
    # Not through minimum or clamp: they halve the gradient of values on the outermost levels.
    passed = torch.where((rounded >= low) & (rounded <= high), codes, 0.0)
    return (passed + (levels - passed).detach()) * scale


class _Levels(nn.Module):
    """The levels of one tensor: a scale and the lowest and highest code."""

    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.set_bits(bits)
        for name in ("scale", "low", "high"):
            self.register_buffer(name, torch.ones(()), persistent=False)

    def set_bits(self, bits: int) -> None:
        """Choose the width; the levels are to be taken anew."""
        self.bits = bits
        self.active = bits != FULL_PRECISION  # asked at every pass: a compiled one serves any bits

    def take_activation(self, qparams: ActivationQParams) -> None:
        """Take the levels of an activation."""
        self.scale = torch.full_like(self.scale, qparams.scale)
        self.low = torch.full_like(self.low, qparams.quant_min - qparams.zero_point)
        self.high = torch.full_like(self.high, qparams.quant_max - qparams.zero_point)

    def take_weight(self, qparams: WeightQParams, dimensions: int) -> None:
        """Take the levels of a weight of so many dimensions."""
        self.scale = qparams.scale.view(-1, *[1] * (dimensions - 1))
        self.low = torch.full_like(self.low, qparams.quant_min)
        self.high = torch.full_like(self.high, qparams.quant_max)

    def forward(self, value: Tensor) -> Tensor:
        if not self.active:
            return value
        return fake_quantize(value, self.scale, self.low, self.high)


class _TrainableProduct(nn.Module):
    """A linear or convolution layer whose weights learn to be quantized."""

    def __init__(self, source: nn.Linear | nn.Conv2d, bits: tuple[int, int]) -> None:
        super().__init__()
        self.source = source
        self.left, self.right = _Levels(bits[0]), _Levels(bits[1])

    def forward(self, value: Tensor) -> Tensor:
        layer = self.source
        weight = self.right(layer.weight)
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(
                self.left(value), weight, layer.bias, layer.stride, layer.padding, layer.dilation,
                layer.groups,
            )  # fmt: skip
        return F.linear(self.left(value), weight, layer.bias)


class _TrainableMatMul(nn.Module):
    """The product of two quantized activations."""

    def __init__(self, bits: tuple[int, int]) -> None:
        super().__init__()
        self.left, self.right = _Levels(bits[0]), _Levels(bits[1])

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        product: Tensor = self.left(left) @ self.right(right)
        return product


class StraightThrough:
    """A quantized twin of a model that shares its parameters.

    Args:
        model: full precision; training the twin changes it.
        bits: ``(left, right)`` of every operation, by the ledger's names.
        quantizer: how ranges are chosen.
    """

    def __init__(
        self, model: EarlyExitModel, bits: Mapping[str, tuple[int, int]], quantizer: Quantizer
    ) -> None:
        self.plain = model
        self._quantizer = quantizer
        self._qparams: ModelQParams | None = None
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        self.model: EarlyExitModel = copy.deepcopy(model, shared)
        self._sites: dict[str, _TrainableProduct | _TrainableMatMul] = {}
        self._operands: dict[str, tuple[str, ...]] = {}
        for name, module in list(counted_modules(self.model)):
            widths = bits[name.removeprefix("backbone.")]
            site: _TrainableProduct | _TrainableMatMul
            if isinstance(module, MatMul):
                site = _TrainableMatMul(widths)
            else:
                site = _TrainableProduct(module, widths)
            self._operands[name] = operands(name, module)
            parent = self.model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], site)
            self._sites[name] = site

    def set_bits(self, bits: Mapping[str, tuple[int, int]]) -> None:
        """Go on under other bits, with ranges as they were chosen last.

        Args:
            bits: ``(left, right)`` of every operation, by the ledger's names.
        """
        for name, site in self._sites.items():
            for levels, width in zip(
                (site.left, site.right), bits[name.removeprefix("backbone.")], strict=True
            ):
                levels.set_bits(width)
        if self._qparams is not None:
            self._take_levels(self._qparams)

    def refresh(self, batches: Batches) -> None:
        """Choose all ranges anew for the weights as they are, as an engine would.

        Args:
            batches: the calibration images, normalized.
        """
        was_training = self.plain.training
        self.plain.eval()
        self._qparams = ModelQParams(self.plain, calibrate(self.plain, batches), self._quantizer)
        self.plain.train(was_training)
        self._take_levels(self._qparams)

    def _take_levels(self, qparams: ModelQParams) -> None:
        for name, site in self._sites.items():
            names = self._operands[name]
            for operand, levels in zip(names, (site.left, site.right), strict=False):
                if levels.active:
                    levels.take_activation(qparams.activation(operand, levels.bits))
            if isinstance(site, _TrainableProduct) and site.right.active:
                chosen = qparams.weight(name, site.right.bits)
                site.right.take_weight(chosen, site.source.weight.ndim)
