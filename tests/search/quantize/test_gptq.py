"""Weights fitted to their inputs: against dense solves, exhaustive rounding and real layers."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search.data.fashion import FashionDataset
from search.data.splits import DataOptions, Split
from search.disk_cache import DiskCalibrationCache
from search.evaluate import Evaluator
from search.loading import open_checkpoint
from search.policy import Bits
from search.quantize.codes import WeightCodes
from search.quantize.gptq import Gptq, regressed, round_in_turn
from search.quantize.inputs import moments_of, sample_inputs
from search.quantize.qparams import ActivationQParams
from search.quantize.ranges import nearest_codes, resolve_quantizer


def correlated(rows: int, channels: int, seed: int = 0) -> Tensor:
    """Inputs whose channels go together, as those of a network do."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(channels, channels)) + 2 * rng.normal(size=(channels, 1))
    return torch.tensor(rng.normal(size=(rows, channels)) @ mixing.T + 1, dtype=torch.float32)


def loss(weights: Tensor, found: Tensor, hessian: Tensor) -> Tensor:
    """What each output row loses ``[O]``."""
    off = found - weights
    return torch.einsum("ok,kl,ol->o", off, hessian, off)


def test_the_ridge_is_that_of_a_dense_least_squares_solve():
    inputs, weights = correlated(400, 7), torch.randn(5, 7, dtype=torch.float64)
    coded = ActivationQParams.covering(float(inputs.min()), float(inputs.max()), 2)
    moments, ridge = moments_of(inputs, coded), 0.3
    x, x_hat = inputs.double().numpy(), coded.quantized(inputs).double().numpy()
    prior = np.sqrt(len(x) * ridge) * np.eye(7)
    dense, *_ = np.linalg.lstsq(
        np.vstack([x_hat, prior]), np.vstack([x, prior]) @ weights.numpy().T, rcond=None
    )
    np.testing.assert_allclose(regressed(weights, moments, ridge).numpy(), dense.T, rtol=1e-9)

    def output_error(these: np.ndarray) -> float:
        return float(np.square(x @ weights.numpy().T - x_hat @ these.T).mean())

    assert output_error(dense.T) < 0.8 * output_error(weights.numpy())


def rounded_by_dense_solves(
    weights: Tensor, scale: Tensor, hessian: Tensor, bits: int
) -> np.ndarray:
    """One channel after the other; all that are left are solved for anew each time."""
    wanted, h, s = weights.numpy(), hessian.numpy(), scale.numpy()
    half, channels = 2 ** (bits - 1), wanted.shape[1]
    order = np.argsort(-np.diag(h), kind="stable")
    codes, fixed = np.zeros_like(wanted), []
    for k in order:
        free = [j for j in order if j not in fixed]
        now = wanted.copy()
        if fixed:
            off = codes[:, fixed] * s[:, None] - wanted[:, fixed]
            now[:, free] -= np.linalg.solve(h[np.ix_(free, free)], h[np.ix_(free, fixed)] @ off.T).T
        codes[:, k] = np.clip(np.round(now[:, k] / s), -half, half - 1)
        fixed.append(k)
    assert len(fixed) == channels
    return codes


@pytest.mark.parametrize(("channels", "bits"), [(1, 2), (6, 2), (20, 3), (150, 4), (300, 2)])
def test_rounding_in_turn_is_that_of_dense_solves(channels: int, bits: int):
    hessian = moments_of(correlated(3 * channels + 50, channels), None).coded
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(channels, dtype=torch.float64)
    weights = torch.randn(4, channels, dtype=torch.float64)
    scale = resolve_quantizer("mse").weight(weights.float(), bits).scale.double()
    found = round_in_turn(weights, scale, hessian, bits)
    assert np.array_equal(found, rounded_by_dense_solves(weights, scale, hessian, bits))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([2, 3]))
def test_rounding_in_turn_against_every_code_there_is(seed: int, bits: int):
    hessian = moments_of(correlated(60, 3, seed), None).coded
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(3, dtype=torch.float64)
    weights = torch.tensor(np.random.default_rng(seed).normal(size=(4, 3)))
    scale = resolve_quantizer("mse").weight(weights.float(), bits).scale.double()
    found = round_in_turn(weights, scale, hessian, bits)
    half = 2 ** (bits - 1)
    assert set(found.unique().tolist()) <= set(range(-half, half))
    every = torch.tensor([*product(range(-half, half), repeat=3)], dtype=torch.float64)
    least = torch.stack(
        [
            loss(row.expand(len(every), 3), every * step, hessian).min()
            for row, step in zip(weights, scale, strict=True)
        ]
    )
    mine = loss(weights, found * scale[:, None], hessian)
    assert bool((mine >= least - 1e-12).all())


def test_it_comes_nearer_to_the_best_codes_than_rounding_each_alone():
    gained, lost = 0.0, 0.0
    for seed in range(20):
        hessian = moments_of(correlated(200, 16, seed), None).coded
        hessian += 0.01 * hessian.diagonal().mean() * torch.eye(16, dtype=torch.float64)
        weights = torch.tensor(np.random.default_rng(seed).normal(size=(4, 16)))
        scale = resolve_quantizer("mse").weight(weights.float(), 3).scale.double()
        alone = nearest_codes(weights, scale, 3) * scale[:, None]
        in_turn = round_in_turn(weights, scale, hessian, 3) * scale[:, None]
        lost += float(loss(weights, alone, hessian).sum())
        gained += float(loss(weights, in_turn, hessian).sum())
    assert gained < 0.6 * lost


def test_independent_inputs_are_rounded_each_alone():
    weights = torch.randn(6, 9, dtype=torch.float64)
    scale = resolve_quantizer("mse").weight(weights.float(), 3).scale.double()
    hessian = torch.diag(torch.rand(9, dtype=torch.float64) + 0.1)
    found = round_in_turn(weights, scale, hessian, 3)
    assert torch.equal(found, nearest_codes(weights, scale, 3))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["zero inputs", "one live channel", "zero weights"])
def test_degenerate_layers_get_codes_in_range(kind: str, bits: int):
    inputs, rows = correlated(50, 8), torch.randn(4, 8)
    if kind == "zero inputs":
        inputs = torch.zeros_like(inputs)
    elif kind == "one live channel":
        inputs[:, 1:] = 0
    else:
        rows = torch.zeros_like(rows)
    found = Gptq().fitted_weight(rows, bits, moments_of(inputs, None))
    assert found.codes.dtype == torch.int8
    assert found.codes.min() >= found.quant_min
    assert found.codes.max() <= found.quant_max
    assert bool(torch.isfinite(found.scale).all() and (found.scale > 0).all())


def test_sampled_rows_are_rows_that_enter_the_layers(fashion_model, monkeypatch):
    images = torch.randn(6, 1, 28, 28)
    entered: dict[str, Tensor] = {}
    chosen = {"backbone.blocks.0.attn.qkv", "backbone.blocks.5.mlp.fc2", "heads.1.fc"}
    handles = [
        fashion_model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: entered.update({name: inputs[0]})
        )
        for name in chosen
    ]
    with torch.inference_mode():
        fashion_model(images)
    for handle in handles:
        handle.remove()
    whole = sample_inputs(fashion_model, lambda: iter([images[:4], images[4:]]), 6)
    for name in chosen:
        torch.testing.assert_close(whole[name], entered[name].flatten(0, -2))

    monkeypatch.setattr("search.quantize.inputs.ROWS", 60)
    monkeypatch.setattr("search.quantize.inputs.ROWS_A_CHANNEL", 0)
    some = sample_inputs(fashion_model, lambda: iter([images[:4], images[4:]]), 6)
    tokens = entered["backbone.blocks.0.attn.qkv"]
    places = [(image + step * tokens.shape[1] // 10) % tokens.shape[1]
              for image in range(6) for step in range(10)]  # fmt: skip
    rows = torch.stack([tokens[i // 10, place] for i, place in enumerate(places)])
    torch.testing.assert_close(some["backbone.blocks.0.attn.qkv"], rows)
    assert len(some["heads.1.fc"]) == 6
    assert set(some) == {
        name for name, module in fashion_model.named_modules() if isinstance(module, nn.Linear)
    }


@pytest.fixture(scope="module")
def images() -> Split:
    return FashionDataset().split("search").head(400)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> DiskCalibrationCache:
    """What is fitted in one test serves the others."""
    return DiskCalibrationCache(tmp_path_factory.mktemp("kept"))


def quantized_by(name: str, cache: DiskCalibrationCache, **options: object):
    """The bundled model under a quantizer."""
    return open_checkpoint(
        "bundled:fashion", quantizer=name, data=DataOptions(calibration_images=128),
        calibrations=cache, **options,
    ).quantized  # fmt: skip


def uniform(weights: int, activations: int) -> Bits:
    return Bits("block", (weights,) * 6, (activations,) * 6)


@pytest.mark.parametrize(("weights", "activations", "gain"), [(2, 2, 0.05), (2, 4, 0.01)])
def test_few_bits_answer_better_than_under_ranges_alone(
    images: Split, kept: DiskCalibrationCache, weights: int, activations: int, gain: float
):
    found = {}
    for name in ("mse", "gptq"):
        trace = Evaluator(quantized_by(name, kept), images).trace(uniform(weights, activations))
        found[name] = (trace.statistic[..., 0] == images.targets[:, None]).mean(axis=0)
    assert (found["gptq"] >= found["mse"]).all()
    assert found["gptq"][-1] >= found["mse"][-1] + gain


def test_codes_are_those_of_the_widths_of_inputs_and_weights_alone(tmp_path):
    """Neither of other layers' bits, nor of the engine, nor of what was asked for before."""
    fast, reference = (
        quantized_by("gptq", DiskCalibrationCache(tmp_path / engine), engine=engine)
        for engine in ("fast", "reference")
    )
    layer = "backbone.blocks.3.mlp.fc1"
    for bits in (uniform(3, 4), replace(uniform(2, 8), weights=(2, 2, 2, 3, 2, 2),
                                        activations=(8, 8, 8, 4, 8, 8))):  # fmt: skip
        for one in (fast, reference):
            one.engine.set_bits(one.ledger.widths(bits))
            site = one.engine.sites[layer.removeprefix("backbone.")]
            chosen = site.qparams()
            assert (chosen.bits, chosen.fitted_to) == (3, 4)
            expected = fast.qparams.weight(layer, 3, 4)
            assert torch.equal(chosen.codes, expected.codes)
            assert torch.equal(chosen.scale, expected.scale)
    other = fast.qparams.weight(layer, 3, 2)
    assert not torch.equal(other.codes, expected.codes)
    # A product on these codes is exact: the reference engine's weights are the integers.
    codes, _ = reference.engine.sites[layer.removeprefix("backbone.")]._weights()
    assert torch.equal(codes, expected.codes.float())


def test_both_engines_agree_under_fitted_weights(images: Split, kept: DiskCalibrationCache):
    traces = [
        Evaluator(quantized_by("gptq", kept, engine=engine), images).trace(uniform(3, 3))
        for engine in ("reference", "fast")
    ]
    assert [trace.engine for trace in traces] == ["reference", "fast"]
    assert np.abs(traces[0].confidence - traces[1].confidence).mean() < 1e-3


def test_what_does_not_stand_on_inputs_is_as_by_mse(kept: DiskCalibrationCache):
    by_mse, by_gptq = (quantized_by(one, kept).qparams for one in ("mse", "gptq"))
    stem = "backbone.patch_embed.proj"
    assert torch.equal(by_mse.weight(stem, 4).codes, by_gptq.weight(stem, 4, 4).codes)
    assert by_gptq.weight(stem, 4, 4).fitted_to is None


def test_fitted_weights_are_kept_by_content(tmp_path, images: Split, caplog):
    caplog.set_level(logging.INFO, "search.quantize.fitting")
    cache, bits = DiskCalibrationCache(tmp_path), uniform(3, 3)
    first = Evaluator(quantized_by("gptq", cache), images).trace(bits)
    assert sum("fits weights" in record.message for record in caplog.records) == 1
    files = sorted((tmp_path / "weights").rglob("*.npz"))
    assert len(files) == 4 * 6 + 6  # of every block and head
    contents = {path: path.read_bytes() for path in files}

    caplog.clear()
    again = Evaluator(quantized_by("gptq", cache), images).trace(bits)
    assert not caplog.records  # nothing was fitted
    assert again.to_bytes() == first.to_bytes()

    files[0].write_bytes(b"damaged")
    files[1].unlink()
    third = Evaluator(quantized_by("gptq", cache), images).trace(bits)
    assert third.to_bytes() == first.to_bytes()
    for path in files[:2]:
        found, before = (WeightCodes.from_bytes(one) for one in (path.read_bytes(), contents[path]))
        assert np.array_equal(found.codes, before.codes)
        assert np.array_equal(found.scale, before.scale)

    Evaluator(quantized_by("gptq", cache), images).trace(uniform(3, 4))
    assert len(sorted((tmp_path / "weights").rglob("*.npz"))) == len(files) + 4 * 6


def test_codes_that_cannot_be_of_a_layer_are_none():
    good = WeightCodes(np.ones(2, np.float32), np.zeros((2, 3), np.int8))
    assert np.array_equal(WeightCodes.from_bytes(good.to_bytes()).codes, good.codes)
    for scale, codes in (
        (np.ones(3, np.float32), good.codes), (np.zeros(2, np.float32), good.codes),
        (np.full(2, np.nan, np.float32), good.codes), (np.ones(2), good.codes),
        (good.scale, np.zeros((2, 3), np.int16)), (good.scale, np.zeros(2, np.int8)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="weights"):
            WeightCodes.from_bytes(WeightCodes(scale, codes).to_bytes())


def test_the_identity_of_a_quantized_model_names_versions_after_the_first(
    kept: DiskCalibrationCache,
):
    names = ("mse", "gptq", "minmax")
    found = [quantized_by(name, kept).identity["quantizer"] for name in names]
    assert found == ["mse", ["gptq", 2], ["minmax", 2]]
