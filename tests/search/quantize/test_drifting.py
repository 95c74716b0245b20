"""Ranges by what the next exit answers, against the reference engine with that operand as codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from search.data.batches import normalized_batches
from search.data.splits import DataOptions
from search.disk_cache import DiskRangeCache
from search.engines.reference import ReferenceEngine
from search.loading import open_checkpoint
from search.models.early_exit import EarlyExitModel
from search.quantize.codes import CodeRange
from search.quantize.drifting import STEPS, RangesByDrift
from search.quantize.qparams import ActivationQParams, ModelQParams
from search.quantize.ranges import resolve_quantizer
from search.tasks.classification_torch import TorchClassification

SCORES, CONTEXT = "backbone.blocks.2.attn.scores", "backbone.blocks.0.attn.context"


class Batches:
    """The images of a test in small batches; counts how often they are read."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.read = images, 0

    def __call__(self) -> Iterator[Tensor]:
        self.read += 1
        yield from self.images.split(30)


IMAGES = 20


@pytest.fixture
def batches(calibration_images: Tensor, monkeypatch: pytest.MonkeyPatch) -> Batches:
    monkeypatch.setattr("search.quantize.drifting.TOKENS", IMAGES * 49)
    return Batches(calibration_images)


def ranges_of(
    model: EarlyExitModel, batches: Batches, cache: DiskRangeCache | None = None, name: str = "one"
) -> RangesByDrift:
    return RangesByDrift(model, TorchClassification(), batches, cache, {"model": name})


def drift_by_engine(
    model: EarlyExitModel, images: Tensor, operand: str, chosen: ActivationQParams, exit_index: int
) -> float:
    """KL from full precision at an exit, nothing else being codes."""

    class Only:
        def activation(self, name: str, bits: int) -> ActivationQParams:
            assert (name, bits) == (operand, chosen.bits)
            return chosen

        def weight(self, name: str, bits: int, input_bits: int) -> None:
            raise AssertionError(f"{name} is in full precision")

    engine = ReferenceEngine(model, Only())  # type: ignore[arg-type]
    site = operand.removeprefix("backbone.").partition(":")[0]
    widths = dict.fromkeys(engine.sites, (32, 32))
    widths[site] = (chosen.bits, 32) if operand.endswith("left") else (32, chosen.bits)
    engine.set_bits(widths)
    answers: list[Tensor] = []
    with torch.inference_mode():
        expected = model(images)[:, exit_index]
        engine.run(images, lambda _, outputs: answers.append(outputs))
    p, q = F.softmax(expected, -1), F.log_softmax(answers[exit_index], -1)
    return float((p * (p.log() - q)).sum(-1).mean())


@pytest.mark.parametrize(
    ("operand", "exit_index"),
    [(f"{SCORES}:left", 2), (f"{SCORES}:right", 2), (f"{CONTEXT}:right", 0)],
)
@pytest.mark.parametrize("bits", [2, 3])
def test_no_other_step_drifts_less_at_the_next_exit(
    fashion_model: EarlyExitModel, qparams: ModelQParams, batches: Batches, operand: str,
    exit_index: int, bits: int,
):  # fmt: skip
    first = qparams.activation(operand, bits)
    found = ranges_of(fashion_model, batches)(operand, first)
    images = batches.images[:IMAGES]

    def drift(chosen: ActivationQParams) -> float:
        return drift_by_engine(fashion_model, images, operand, chosen, exit_index)

    tried = [first, *(replace(first, scale=first.scale * float(step)) for step in STEPS)]
    drifts = [drift(one) for one in tried]
    best = tried[int(np.argmin(drifts))]
    near = [best, *(replace(best, zero_point=best.zero_point + off) for off in (-1, 1))]
    near = [one for one in near if 0 < one.zero_point < one.quant_max or one == best]
    assert found == near[int(np.argmin([drift(one) for one in near]))]


def test_on_other_images_too_a_trained_model_drifts_less():
    data = DataOptions(calibration_images=128)
    opened = open_checkpoint("bundled:fashion-deep", quantizer="gptq", data=data)
    quantized = opened.quantized
    images = next(
        normalized_batches(opened.split("search").head(300), quantized.card.input, batch_size=300)
    )
    by_error = ModelQParams(quantized.model, quantized._seen(), resolve_quantizer("mse"))
    for block, exit_index in ((0, 0), (5, 5), (11, 11)):
        operand = f"backbone.blocks.{block}.attn.scores:right"
        drifts = [
            drift_by_engine(quantized.model, images, operand, chosen, exit_index)
            for chosen in (qparams.activation(operand, 3) for qparams in
                           (quantized.qparams, by_error))
        ]  # fmt: skip
        assert drifts[0] < 0.5 * drifts[1]


def test_probabilities_stay_codes_from_zero_and_inputs_of_layers_as_they_were(
    fashion_model: EarlyExitModel, qparams: ModelQParams, batches: Batches
):
    ranges = ranges_of(fashion_model, batches)
    assert ranges(f"{CONTEXT}:left", qparams.activation(f"{CONTEXT}:left", 3)).zero_point == 0
    for operand in ("backbone.blocks.0.mlp.fc1:input", "heads.1.fc:input"):
        first = qparams.activation(operand, 3)
        assert ranges(operand, first) is first
    assert batches.read == 1


def test_a_choice_is_kept_by_content(
    fashion_model: EarlyExitModel, qparams: ModelQParams, batches: Batches, tmp_path
):
    cache, operand = DiskRangeCache(tmp_path), f"{SCORES}:right"
    first = qparams.activation(operand, 3)
    found = ranges_of(fashion_model, batches, cache)(operand, first)
    assert ranges_of(fashion_model, batches, cache)(operand, first) == found
    assert batches.read == 1  # the second read nothing but the cache
    [file] = tmp_path.rglob("*.npz")
    for damage in (b"damaged", CodeRange(1.0, 99).to_bytes()):
        file.write_bytes(damage)
        assert ranges_of(fashion_model, batches, cache)(operand, first) == found
    assert CodeRange.from_bytes(file.read_bytes()) == CodeRange(found.scale, found.zero_point)
    assert batches.read == 3
    ranges_of(fashion_model, batches, cache, "another")(operand, first)
    ranges_of(fashion_model, batches, cache)(operand, replace(first, scale=2 * first.scale))
    assert batches.read == 5


@pytest.mark.parametrize("bad", [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, -1)])
def test_a_range_that_is_none(bad: tuple[float, int]):
    with pytest.raises(ValueError, match="range of codes"):
        CodeRange.from_bytes(CodeRange(*bad).to_bytes())
    with pytest.raises(ValueError, match="range of codes"):
        CodeRange.from_bytes(b"")
