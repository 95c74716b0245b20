"""Quantizers: integer grids, clipping bounds and squared errors at every bit-width."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from search.engines.reference import ActivationCodes
from search.policy import QUANTIZED_BITS
from search.quantize import QUANTIZERS
from search.quantize.histograms import Histogram
from search.quantize.qparams import ActivationQParams
from search.quantize.ranges import Quantizer, nearest_codes, resolve_quantizer

every_bits = pytest.mark.parametrize("bits", QUANTIZED_BITS)
every_quantizer = pytest.mark.parametrize("name", sorted(QUANTIZERS))

SAMPLES = {
    "normal": lambda rng: rng.normal(size=20_000),
    "heavy": lambda rng: rng.standard_t(2, size=20_000),
    "one-sided": lambda rng: np.maximum(rng.normal(size=20_000), -0.17),  # like GELU
    "far-from-zero": lambda rng: 5 + rng.random(20_000),
    "negative": lambda rng: -rng.gamma(2, size=20_000),
}


def sample(kind: str) -> np.ndarray:
    return SAMPLES[kind](np.random.default_rng(3)).astype(np.float32)


def histogram(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    counts, _ = np.histogram(values, 2048, (low, high))
    return Histogram(low, high, counts.astype(np.float64))


def quantized(values: np.ndarray, seen: Histogram, quantizer: Quantizer, bits: int):
    """Codes, scale and zero point of float32 values."""
    codes = ActivationCodes(partial(quantizer.activation, seen))
    codes.set_bits(bits)
    return codes(torch.tensor(values)).double().numpy(), codes.scale


def squared_error(seen: Histogram, scale: float, zero_point: int, bits: int) -> float:
    """Weighted squared error over a histogram, one bin at a time."""
    step = (seen.high - seen.low) / len(seen.counts)
    total = 0.0
    for index, count in enumerate(seen.counts):
        value = seen.low + (index + 0.5) * step
        code = min(max(round(value / scale) + zero_point, 0), 2**bits - 1)
        total += count * (scale * (code - zero_point) - value) ** 2
    return total


@every_bits
@every_quantizer
def test_weights_lie_on_at_most_two_to_the_bits_levels_a_channel(name: str, bits: int):
    rows = torch.tensor(np.stack([sample(kind)[:500] for kind in SAMPLES]))
    scale = resolve_quantizer(name).weight(rows, bits).scale
    codes = nearest_codes(rows, scale, bits)
    qparams = resolve_quantizer(name).weight(rows, bits)
    assert torch.equal(qparams.codes.float(), codes)
    assert (qparams.quant_min, qparams.quant_max) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert scale.shape == (len(rows),)
    assert (scale > 0).all()
    assert torch.equal(codes, codes.round())
    assert codes.min() >= -(2 ** (bits - 1))
    assert codes.max() <= 2 ** (bits - 1) - 1
    values = codes * scale[:, None]
    for row, step in zip(values, scale, strict=True):
        assert len(row.unique()) <= 2**bits
        assert torch.equal(torch.round(row / step) * step, row)


@every_bits
@every_quantizer
@pytest.mark.parametrize("kind", SAMPLES)
def test_activations_lie_on_a_grid_that_holds_zero(name: str, bits: int, kind: str):
    values = sample(kind)
    codes, scale = quantized(
        np.append(values * 2, 0), histogram(values), resolve_quantizer(name), bits
    )
    assert np.array_equal(codes, np.round(codes))
    assert len(np.unique(codes)) <= 2**bits
    assert codes.max() - codes.min() <= 2**bits - 1
    assert codes[-1] == 0  # zero is a level
    assert scale > 0


@every_bits
@every_quantizer
def test_softmax_outputs_are_quantized_without_a_sign(name: str, bits: int):
    values = np.random.default_rng(0).dirichlet([0.3] * 20, size=500).astype(np.float32).ravel()
    quantizer, seen = resolve_quantizer(name), histogram(values)
    assert quantizer.activation(seen, bits).zero_point == 0
    codes, scale = quantized(values, seen, quantizer, bits)
    assert codes.min() == 0
    assert codes.max() == 2**bits - 1
    if name == "minmax":
        assert scale == pytest.approx(values.max() / (2**bits - 1))


@given(
    st.floats(-100, 100, width=32),
    st.floats(2**-6, 100, width=32),
    st.sampled_from(QUANTIZED_BITS),
)
def test_minmax_never_clips_an_activation_it_saw(low: float, width: float, bits: int):
    values = np.linspace(low, low + width, 257, dtype=np.float32)
    seen = histogram(values)
    chosen = resolve_quantizer("minmax").activation(seen, bits)
    levels = (np.arange(2**bits) - chosen.zero_point) * chosen.scale
    slack = 1e-6 * (abs(low) + width)
    assert levels[0] <= seen.low + slack
    assert levels[-1] >= seen.high - slack
    # Nor is its step larger than it takes: one level less of zero's neighbours would not hold it.
    least = (max(seen.high, 0) - min(seen.low, 0)) / (2**bits - 1)
    every = [
        max(-min(seen.low, 0) / zero if zero else 0, max(seen.high, 0) / rest if rest else 0)
        for zero in range(2**bits)
        for rest in [2**bits - 1 - zero]
        if (zero or seen.low >= 0) and (rest or seen.high <= 0)
    ]
    assert chosen.scale == pytest.approx(min(every), rel=1e-9)
    assert chosen.scale >= least * (1 - 1e-9)
    codes, scale = quantized(values, seen, resolve_quantizer("minmax"), bits)
    assert np.abs(codes * scale - values).max() <= scale * (0.5 + 1e-4)


@every_bits
def test_minmax_never_clips_a_weight(bits: int):
    rows = torch.tensor(np.stack([sample(kind) for kind in SAMPLES]))
    scale = resolve_quantizer("minmax").weight(rows, bits).scale
    error = (nearest_codes(rows, scale, bits) * scale[:, None] - rows).abs().amax(dim=1)
    assert (error <= scale * (0.5 + 1e-5)).all()


@every_bits
@pytest.mark.parametrize("kind", SAMPLES)
def test_mse_is_never_worse_than_the_whole_range_and_gptq_than_either(bits: int, kind: str):
    seen = histogram(sample(kind))
    chosen = {
        name: resolve_quantizer(name).activation(seen, bits) for name in ("minmax", "mse", "gptq")
    }
    chosen["whole"] = ActivationQParams.covering(seen.low, seen.high, bits)
    errors = {
        name: squared_error(seen, one.scale, one.zero_point, bits) for name, one in chosen.items()
    }
    assert errors["mse"] <= errors["whole"] * (1 + 1e-9)
    assert errors["gptq"] <= min(errors["mse"], errors["minmax"]) * (1 + 1e-9)
    if kind == "heavy" and bits in (3, 4):
        assert errors["mse"] < 0.8 * errors["minmax"]


def weight_errors(rows: Tensor, scale: Tensor, bits: int) -> np.ndarray:
    values, step = rows.double().numpy(), scale.double().numpy()[:, None]
    codes = np.clip(np.round(values / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return np.square(codes * step - values).sum(axis=1)


@every_bits
def test_mse_of_weights_is_never_worse_than_minmax_and_near_the_best_of_a_fine_grid(bits: int):
    rows = torch.tensor(np.stack([sample(kind)[:400] for kind in SAMPLES]))
    widest = resolve_quantizer("minmax").weight(rows, bits).scale
    minmax = weight_errors(rows, widest, bits)
    mse = weight_errors(rows, resolve_quantizer("mse").weight(rows, bits).scale, bits)
    finest = np.min([weight_errors(rows, widest * f, bits) for f in np.linspace(0.3, 1.2, 901)], 0)
    assert (mse <= minmax * (1 + 1e-5)).all()
    assert (mse <= finest * 1.2).all()
    if bits in (3, 4):
        assert (mse < minmax).all()
        assert mse[[*SAMPLES].index("normal")] < 0.7 * minmax[[*SAMPLES].index("normal")]


DEGENERATE = {
    "zero": np.zeros(50, np.float32),
    "positive": np.full(50, 3.7, np.float32),
    "negative": np.full(50, -3.7, np.float32),
    "outlier": np.append(np.full(49, 1e-3, np.float32), np.float32(1e4)),
    "denormal": np.full(50, 1e-41, np.float32),
}


@every_bits
@every_quantizer
@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_tensors_are_quantized_to_finite_values_near_them(name, bits, kind):
    values = DEGENERATE[kind]
    largest = np.abs(values).max().astype(np.float64)
    nothing = np.finfo(np.float32).tiny  # what is smaller may become zero
    quantizer = resolve_quantizer(name)

    codes, scale = quantized(values, histogram_as_calibrated(values), quantizer, bits)
    assert np.isfinite(codes).all()
    assert np.abs(codes * scale - values).max() <= largest / (2**bits - 1) * 1.001 + nothing

    rows = torch.tensor(values)[None]
    weight_scale = quantizer.weight(rows, bits).scale
    restored = nearest_codes(rows, weight_scale, bits).double() * weight_scale[:, None].double()
    assert torch.isfinite(restored).all()
    assert (restored - rows).abs().max() <= largest / (2 ** (bits - 1) - 1) * 1.001 + nothing


def histogram_as_calibrated(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(torch.tensor(values), 2048, low, high).double().numpy()
    return Histogram(low, high, counts)


def test_full_precision_leaves_activations_alone():
    seen = histogram(sample("normal"))
    codes = ActivationCodes(partial(resolve_quantizer("mse").activation, seen))
    value = torch.tensor(sample("normal"))
    codes.set_bits(4)
    codes.set_bits(32)
    assert codes(value) is value
    assert codes.scale == 1


def test_an_unknown_quantizer_is_refused(refused):
    with refused("quantizer 'log'", "minmax, mse"):
        resolve_quantizer("log")
