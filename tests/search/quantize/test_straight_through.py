"""Quantization that gradients pass: forward as the reference engine, backward as clipping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from bundled_model import open_bundled
from torch import Tensor

from search.data.batches import normalized_batches
from search.engines.reference import ReferenceEngine
from search.evaluate import Evaluator
from search.models.early_exit import EarlyExitModel, all_exits
from search.quantize.calibration import calibrate
from search.quantize.qparams import ModelQParams
from search.quantize.ranges import resolve_quantizer
from search.quantize.straight_through import (
    StraightThrough,
    _TrainableMatMul,
    _TrainableProduct,
    fake_quantize,
)

CALIBRATION = 32
Bits = dict[str, tuple[int, int]]
NewTwin = Callable[..., StraightThrough]


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return open_bundled(CALIBRATION)


@pytest.fixture(scope="module")
def images(evaluator: Evaluator) -> Tensor:
    return next(normalized_batches(evaluator.split.head(8), evaluator.card.input))


@pytest.fixture(scope="module")
def calibration(evaluator: Evaluator) -> Tensor:
    return next(normalized_batches(evaluator.quantized.calibration, evaluator.card.input))


@pytest.fixture
def model(evaluator: Evaluator) -> EarlyExitModel:
    """The bundled model, for the test alone."""
    return copy.deepcopy(evaluator.quantized.model)


def uniform(evaluator: Evaluator, left: int, right: int | None = None) -> Bits:
    return {op.name: (left, right or left) for op in evaluator.ledger.ops}


def random_bits(evaluator: Evaluator) -> Bits:
    """Widths from 2 to 8 and, here and there, full precision."""
    rng = np.random.default_rng(0)
    widths = [2, 3, 4, 5, 6, 7, 8, 32]
    return {op.name: tuple(rng.choice(widths, 2).tolist()) for op in evaluator.ledger.ops}


def make_twin(
    model: EarlyExitModel, bits: Bits, calibration: Tensor, quantizer: str = "minmax"
) -> StraightThrough:
    twin = StraightThrough(model, bits, resolve_quantizer(quantizer))
    twin.model.to(calibration.dtype)  # levels are as exact as the model itself
    twin.refresh(lambda: iter([calibration]))
    return twin


def weight_sites(twin: StraightThrough) -> Iterator[tuple[str, _TrainableProduct]]:
    for name, site in twin._sites.items():
        if isinstance(site, _TrainableProduct):
            yield name, site


# Forward


@pytest.mark.parametrize(
    ("quantizer", "left_right"),
    [
        ("mse", (2, 2)), ("mse", (4, 4)), ("mse", (8, 8)), ("minmax", (2, 8)), ("minmax", (3, 3)),
        ("minmax", (6, 6)), ("minmax", (32, 4)), ("minmax", (4, 32)),
    ],
)  # fmt: skip
def test_it_answers_as_the_reference_engine(
    evaluator: Evaluator,
    model: EarlyExitModel,
    calibration: Tensor,
    images: Tensor,
    left_right: tuple[int, int],
    quantizer: str,
) -> None:
    # In float64: in float32 another order of summation now and then rounds to the next code, from
    # where the two go ways of their own.
    model, images, calibration = model.double(), images.double(), calibration.double()
    bits = uniform(evaluator, *left_right)
    twin = make_twin(model, bits, calibration, quantizer)
    seen = calibrate(model, lambda: iter([calibration]))
    engine = ReferenceEngine(model, ModelQParams(model, seen, resolve_quantizer(quantizer)))
    engine.set_bits(bits)
    with torch.no_grad():
        answers, plain = twin.model.eval()(images), model.eval()(images)
    torch.testing.assert_close(answers, all_exits(engine.run, images), rtol=0, atol=1e-6)
    assert (answers - plain).abs().max() > 1e-3  # and not just as the model without quantization


def test_widths_may_differ_between_operations(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, images: Tensor
) -> None:
    model, images, calibration = model.double(), images.double(), calibration.double()
    bits = random_bits(evaluator)
    twin = make_twin(model, bits, calibration)
    seen = calibrate(model, lambda: iter([calibration]))
    engine = ReferenceEngine(model, ModelQParams(model, seen, resolve_quantizer("minmax")))
    engine.set_bits(bits)
    with torch.no_grad():
        answers = twin.model.eval()(images)
    torch.testing.assert_close(answers, all_exits(engine.run, images), rtol=0, atol=1e-6)


def test_it_answers_as_the_reference_engine_in_float32_too(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, images: Tensor
) -> None:
    bits = uniform(evaluator, 4)
    twin = make_twin(model, bits, calibration, "mse")
    seen = calibrate(model, lambda: iter([calibration]))
    engine = ReferenceEngine(model, ModelQParams(model, seen, resolve_quantizer("mse")))
    engine.set_bits(bits)
    with torch.no_grad():
        answers = twin.model.eval()(images)
    difference = (answers - all_exits(engine.run, images)).abs()
    assert difference.quantile(0.9) < 1e-3
    assert (answers.argmax(-1) == all_exits(engine.run, images).argmax(-1)).float().mean() > 0.95


def test_32_bits_everywhere_is_the_model_itself(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, images: Tensor
) -> None:
    twin = make_twin(model, uniform(evaluator, 32), calibration)
    with torch.no_grad():
        assert torch.equal(twin.model.eval()(images), model.eval()(images))


# Levels


@pytest.mark.parametrize(("low", "high"), [(-2, 1), (-8, 7), (0, 7), (-5, 10), (-128, 127)])
@pytest.mark.parametrize("scale", [1.0, 0.037, 12.5])
def test_values_become_the_nearest_level(scale: float, low: int, high: int) -> None:
    value = torch.linspace(-1.5 * 130, 1.5 * 130, 4001) * scale
    found = fake_quantize(value, torch.tensor(scale), torch.tensor(low), torch.tensor(high))
    codes = np.clip(np.rint(value.numpy() / np.float32(scale)), low, high)
    assert np.array_equal(found.numpy(), codes.astype(np.float32) * np.float32(scale))
    assert set(np.unique(codes)) == set(range(low, high + 1))


def test_every_quantized_weight_lies_on_its_channels_grid(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor
) -> None:
    twin = make_twin(model, uniform(evaluator, 3), calibration, "mse")
    checked = 0
    for name, site in weight_sites(twin):
        rows = site.right(site.source.weight).detach().flatten(1)
        scale = resolve_quantizer("mse").weight(site.source.weight.detach().flatten(1), 3).scale
        codes = rows / scale[:, None]
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-5)
        assert codes.min() >= -4 - 1e-5, name
        assert codes.max() <= 3 + 1e-5, name
        assert len(codes.round().unique()) == 8, name
        checked += 1
    assert checked == sum(op.kind != "matmul" for op in evaluator.ledger.ops)


# Gradients


def gradient_at(codes: list[float], low: int, high: int, scale: float = 0.25) -> list[float]:
    value = (torch.tensor(codes) * scale).requires_grad_()
    levels = torch.tensor(scale), torch.tensor(float(low)), torch.tensor(float(high))
    (gradient,) = torch.autograd.grad(fake_quantize(value, *levels).sum(), value)
    return gradient.tolist()


def test_between_the_outermost_levels_the_gradient_is_one() -> None:
    codes = [-7.4, -3.5, -1.0, -0.2, 0.0, 0.49, 0.51, 2.0, 6.4]
    assert gradient_at(codes, -8, 7) == [1.0] * len(codes)


def test_beyond_the_clip_range_the_gradient_is_zero() -> None:
    codes = [-1e6, -100.0, -8.6, 7.6, 8.0, 1e6]
    assert gradient_at(codes, -8, 7) == [0.0] * len(codes)


@pytest.mark.parametrize(("low", "high"), [(-2, 1), (0, 3), (-8, 7)])
def test_the_outermost_levels_are_inside_the_clip_range(low: int, high: int) -> None:
    """At 2 bits these are half of all levels: a gradient halved there is halved nearly everywhere.

    ``torch.minimum`` and ``torch.maximum`` split the gradient between equal operands.
    """
    codes = [float(low), low + 0.3, high - 0.3, float(high)]
    assert gradient_at(codes, low, high) == [1.0] * len(codes)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_the_gradient_reaches_every_parameter(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, images: Tensor, width: int
) -> None:
    twin = make_twin(model, uniform(evaluator, width), calibration, "mse")
    twin.model.train()
    twin.model(images).square().mean().backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None]
    assert missing == []
    empty = [name for name, value in model.named_parameters() if not value.grad.any()]
    assert empty == []
    for name, site in weight_sites(twin):
        gradient = model.get_submodule(name).weight.grad
        assert gradient is site.source.weight.grad
        assert gradient.isfinite().all(), name
        if name.endswith("qkv"):
            # Queries and keys are reached through the operands of ``scores`` alone.
            assert all(part.any() for part in gradient.chunk(3)), name


def test_the_last_exits_loss_reaches_the_embedding_through_every_activation(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, images: Tensor
) -> None:
    twin = make_twin(model, uniform(evaluator, 4), calibration)
    twin.model.train()
    twin.model(images)[:, -1].square().mean().backward()
    embedding = dict(model.backbone.patch_embed.named_parameters())
    assert len(embedding) > 4
    for name, value in embedding.items():
        assert value.grad is not None, name
        assert value.grad.any(), name
    # The heads before have no part in it.
    assert not any(value.grad.any() for value in model.heads.parameters())


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_gradient_passes_both_operands_of_an_attention_product(side: str) -> None:
    site = _TrainableMatMul((4, 4))
    for levels in (site.left, site.right):
        levels.scale, levels.low, levels.high = (
            torch.tensor(value) for value in (0.25, -100.0, 100.0)
        )
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(2, 3, 4, generator=generator, requires_grad=True)
    right = torch.randn(2, 4, 5, generator=generator, requires_grad=True)
    out = torch.randn(2, 3, 5, generator=generator)
    (site(left, right) * out).sum().backward()
    on_grid = [(value.detach() / 0.25).round() * 0.25 for value in (left, right)]
    # As if the product had been of the quantized values all along.
    if side == "left":
        torch.testing.assert_close(left.grad, out @ on_grid[1].transpose(-2, -1))
    else:
        torch.testing.assert_close(right.grad, on_grid[0].transpose(-2, -1) @ out)


# Sharing and refreshing


def test_parameters_and_statistics_are_the_plain_models_own(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, images: Tensor
) -> None:
    kinds = [type(module) for module in model.modules()]
    twin = make_twin(model, uniform(evaluator, 4), calibration)
    assert [type(module) for module in model.modules()] == kinds
    shared = {id(value) for value in model.parameters()}
    assert {id(value) for value in twin.model.parameters()} == shared
    with torch.no_grad():
        model.eval()
        before = model(images)
        for parameter in twin.model.parameters():
            parameter.mul_(1.1)
        after = model(images)
        assert not torch.allclose(before, after)
        # What a batch norm sees of the twin is what the plain model keeps.
        statistics = {name: value.clone() for name, value in model.named_buffers()}
        twin.model.train()(images)
    assert statistics
    for name, value in model.named_buffers():
        assert not torch.equal(value, statistics[name]), name


def test_scales_stand_still_until_a_refresh_follows_the_weights(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, images: Tensor
) -> None:
    bits = uniform(evaluator, 4)
    twin = make_twin(model, bits, calibration)

    def scales() -> dict[str, Tensor]:
        return {
            f"{name}.{side}": getattr(site, side).scale.clone()
            for name, site in twin._sites.items()
            for side in ("left", "right")
        }

    before = scales()
    changed = "backbone.blocks.2.mlp.fc1"
    with torch.no_grad():
        model.get_submodule(changed).weight.mul_(2)
        twin.model.eval()(images)
    still = scales()
    assert all(torch.equal(value, still[name]) for name, value in before.items())

    twin.refresh(lambda: iter([calibration]))
    after = scales()
    torch.testing.assert_close(after[f"{changed}.right"], 2 * before[f"{changed}.right"])
    assert torch.equal(after[f"{changed}.left"], before[f"{changed}.left"])
    following = "backbone.blocks.2.mlp.fc2.left"
    assert after[following] > 1.2 * before[following]
    # As one that was made for the changed weights.
    fresh = make_twin(model, bits, calibration)
    with torch.no_grad():
        assert torch.equal(twin.model.eval()(images), fresh.model.eval()(images))


@pytest.mark.parametrize("training", [True, False])
def test_a_refresh_leaves_mode_and_statistics_alone(
    evaluator: Evaluator, model: EarlyExitModel, calibration: Tensor, training: bool
) -> None:
    twin = StraightThrough(model, uniform(evaluator, 4), resolve_quantizer("minmax"))
    model.train(training)
    twin.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    twin.refresh(lambda: iter([calibration]))
    assert model.training is training
    assert twin.model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
