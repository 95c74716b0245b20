"""Calibration against statistics that the tests collect through hooks of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from search.models.checkpoint import build_model
from search.models.early_exit import EarlyExitModel
from search.quantize.calibration import BINS, calibrate


@pytest.fixture(scope="module")
def batches(calibration_images: Tensor) -> list[Tensor]:
    return list(calibration_images[:60].split(25))


def test_extremes_and_counts_are_those_of_the_values_that_flow(
    fashion_model: EarlyExitModel, batches: list[Tensor]
):
    flowed: dict[str, list[np.ndarray]] = {}
    handles = []
    for name, module in fashion_model.named_modules():
        kind = type(module).__name__
        if kind in ("Linear", "Conv2d", "MatMul"):
            sides = ("left", "right") if kind == "MatMul" else ("input",)

            def note(_, inputs, name=name, sides=sides):
                for side, value in zip(sides, inputs, strict=True):
                    flowed.setdefault(f"{name}:{side}", []).append(value.numpy().ravel())

            handles.append(module.register_forward_pre_hook(note))
    with torch.inference_mode():
        for images in batches:
            fashion_model(images)
    for handle in handles:
        handle.remove()

    seen = calibrate(fashion_model, lambda: iter(batches))
    assert set(seen) == set(flowed)
    assert len(seen) == 3 + 6 * (4 + 2 * 2) + 4  # stem, blocks, heads
    for operand, found in seen.items():
        values = np.concatenate(flowed[operand])
        assert (found.low, found.high) == (values.min(), values.max()), operand
        assert (found.low >= 0) or not operand.endswith("attn.context:left")
        assert found.counts.sum() == len(values)
        expected, _ = np.histogram(values.astype(np.float64), BINS, (found.low, found.high))
        # A value on the edge of two bins may fall to either side, never farther.
        moved = np.abs(np.cumsum(found.counts) - np.cumsum(expected)).max()
        assert moved <= 1e-3 * len(values), operand
    assert sum(len(module._forward_pre_hooks) for module in fashion_model.modules()) == 0


def test_centers_are_the_middles_of_the_bins(fashion_model: EarlyExitModel, batches: list[Tensor]):
    found = calibrate(fashion_model, lambda: iter(batches))["backbone.head:input"]
    edges = np.linspace(found.low, found.high, BINS + 1)
    np.testing.assert_allclose(found.centers, (edges[:-1] + edges[1:]) / 2, atol=1e-12)


@pytest.mark.parametrize("where", ["images", "weights"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(where, value, fashion_card, batches, refused):
    model, images = build_model(fashion_card).eval(), batches[0].clone()
    if where == "images":
        images[3, 0, 5, 5] = value
    else:
        model.backbone.blocks[2].mlp.fc1.bias.data[0] = value
    with refused("not finite", "mlp.fc2" if where == "weights" else "patch_embed"):
        calibrate(model, lambda: iter([images]))
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == 0


def test_no_images_are_refused(fashion_model: EarlyExitModel, refused):
    with refused("no calibration images"):
        calibrate(fashion_model, lambda: iter([]))


def test_counts_beyond_float32_integers_are_exact():
    count = 2**24 * torch.get_num_threads() + 1000
    value = torch.zeros(count, 1)
    value[0] = 1
    seen = calibrate(nn.Sequential(nn.Linear(1, 1)), lambda: iter([value]))
    assert seen["0:input"].counts.sum() == count
