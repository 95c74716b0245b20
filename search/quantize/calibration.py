"""Calibration: what values flow into every counted operation, seen once for all bit-widths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from search.errors import BadInput
from search.models.counted import MatMul, counted_modules
from search.quantize.histograms import Histogram

BINS = 2048
VERSION = 1  # of what is watched and how, for caches

Observe = Callable[[str, Tensor], None]
Batches = Callable[[], Iterator[Tensor]]


def operands(name: str, module: nn.Module) -> tuple[str, ...]:
    """Names of the activation tensors that enter a counted module."""
    return (f"{name}:left", f"{name}:right") if isinstance(module, MatMul) else (f"{name}:input",)


@contextmanager
def _watching(model: nn.Module, observe: Observe) -> Iterator[None]:
    handles = []
    for name, module in counted_modules(model):
        names = operands(name, module)

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], names: tuple[str, ...] = names) -> None:
            for operand, value in zip(names, inputs, strict=True):
                observe(operand, value)

        handles.append(module.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def calibrate(model: nn.Module, batches: Batches) -> dict[str, Histogram]:
    """Watch the full-precision model over calibration images, in two passes.

    The first pass finds each tensor's extremes, the second fills its histogram between them.

    Args:
        model: in evaluation mode.
        batches: gives the same normalized images ``[B, C, H, W]`` at every call.

    Returns:
        a histogram for every activation operand of every counted module.

    Raises:
        BadInput: when there are no images, or an activation is not finite.
    """
    extremes: dict[str, tuple[float, float]] = {}

    def widen(operand: str, value: Tensor) -> None:
        low, high = (float(bound) for bound in torch.aminmax(value))
        if not np.isfinite([low, high]).all():
            raise BadInput(
                f"activation {operand} is not finite during calibration: "
                "check the checkpoint and the calibration images"
            )
        known = extremes.get(operand, (low, high))
        extremes[operand] = (min(low, known[0]), max(high, known[1]))

    def fill(operand: str, value: Tensor) -> None:
        low, high = extremes[operand]
        # In parts: float32 bins stop counting at 2^24.
        for part in torch.split(value.float().flatten(), 2**23):
            found = torch.histc(part, BINS, low, high).double().cpu().numpy()
            counts[operand] = counts.get(operand, 0) + found

    counts: dict[str, np.ndarray] = {}
    for observe in (widen, fill):
        with _watching(model, observe):
            for images in batches():
                model(images)
    if not extremes:
        raise BadInput("no calibration images: give at least one")
    return {
        operand: Histogram(low, high, counts[operand]) for operand, (low, high) in extremes.items()
    }
