"""The reference engine, and what every engine keeps: full precision at 32 bits, no hidden state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from search.cost import Ledger
from search.engines.reference import ReferenceEngine
from search.models.early_exit import EarlyExitModel, all_exits
from search.quantize.histograms import Histogram
from search.quantize.ranges import resolve_quantizer

NewEngine = Callable[[], ReferenceEngine]


@pytest.fixture(scope="module")
def ledger(fashion_model: EarlyExitModel) -> Ledger:
    return fashion_model.ledger((1, 28, 28))


def uniform(ledger: Ledger, bits: int) -> dict[str, tuple[int, int]]:
    return {op.name: (bits, bits) for op in ledger.ops}


def random_bits(ledger: Ledger, seed: int) -> dict[str, tuple[int, int]]:
    rng = np.random.default_rng(seed)
    return {op.name: tuple(rng.integers(2, 9, 2).tolist()) for op in ledger.ops}


def test_all_32_bits_is_the_full_precision_model(
    fashion_model: EarlyExitModel, new_any_engine: NewEngine, ledger: Ledger, search_images: Tensor
):
    engine = new_any_engine()
    images = search_images[:50]
    with torch.inference_mode():
        expected = fashion_model(images)
    engine.set_bits(uniform(ledger, 4))
    assert not torch.allclose(all_exits(engine.run, images), expected, atol=1e-2)
    engine.set_bits(uniform(ledger, 32))
    torch.testing.assert_close(all_exits(engine.run, images), expected, rtol=0, atol=1e-5)


def test_the_model_itself_is_not_changed(fashion_model: EarlyExitModel, new_any_engine: NewEngine):
    before = {name: value.clone() for name, value in fashion_model.state_dict().items()}
    kinds = [type(module) for module in fashion_model.modules()]
    new_any_engine().set_bits(random_bits(fashion_model.ledger((1, 28, 28)), 0))
    assert [type(module) for module in fashion_model.modules()] == kinds
    assert all(torch.equal(fashion_model.state_dict()[n], value) for n, value in before.items())


def test_the_engine_replaces_exactly_what_the_ledger_counts(
    new_any_engine: NewEngine, ledger: Ledger
):
    assert set(new_any_engine().sites) == {op.name for op in ledger.ops}


def dequantized(histogram: Histogram, value: Tensor, bits: int) -> Tensor:
    """An activation on its grid in float64; the division is float32 as in the engine."""
    chosen = resolve_quantizer("mse").activation(histogram, bits)
    integers = np.rint(value.numpy() / np.float32(chosen.scale)) + chosen.zero_point
    integers = np.clip(integers, 0, 2**bits - 1) - chosen.zero_point
    return torch.tensor(integers.astype(np.float64) * chosen.scale)


def dequantized_weight(weight: Tensor, bits: int) -> Tensor:
    rows = weight.flatten(1)
    scale = resolve_quantizer("mse").weight(rows, bits).scale.numpy()[:, None]
    half = 2 ** (bits - 1)
    integers = np.clip(np.rint(rows.numpy() / scale), -half, half - 1)
    return torch.tensor(integers.astype(np.float64) * scale.astype(np.float64)).view_as(weight)


@pytest.mark.parametrize(("left", "right"), [(4, 4), (8, 8), (5, 7), (2, 8), (32, 3), (6, 32)])
@pytest.mark.parametrize(
    "name",
    [
        "patch_embed.stages.3",
        "blocks.1.attn.qkv",
        "blocks.3.mlp.fc2",
        "heads.2.fc",
        "blocks.2.attn.scores",
        "blocks.2.attn.context",
    ],
)
def test_a_product_equals_float64_arithmetic_on_dequantized_operands(
    name: str, left: int, right: int, new_engine: NewEngine, search_images: Tensor,
    seen: dict[str, Histogram],
):  # fmt: skip
    engine = new_engine()
    site = engine.sites[name]
    path = name if name.startswith("heads.") else f"backbone.{name}"
    caught: list[tuple[tuple[Tensor, ...], Tensor]] = []
    handle = site.register_forward_hook(lambda _, inputs, output: caught.append((inputs, output)))
    site.set_bits(left, right)
    all_exits(engine.run, search_images[:5])
    handle.remove()
    ((inputs, output),) = caught

    def operand(side: str, value: Tensor, bits: int) -> Tensor:
        return value.double() if bits == 32 else dequantized(seen[f"{path}:{side}"], value, bits)

    if name.endswith(("scores", "context")):
        expected = operand("left", inputs[0], left) @ operand("right", inputs[1], right)
    else:
        layer = site.source
        value = operand("input", inputs[0], left)
        weight = layer.weight.double() if right == 32 else dequantized_weight(layer.weight, right)
        bias = None if layer.bias is None else layer.bias.double()
        if value.ndim == 4:
            expected = F.conv2d(value, weight, bias, layer.stride, layer.padding)
        else:
            expected = F.linear(value, weight, bias)
    tolerance = 1e-6 if 32 not in (left, right) else 1e-5
    largest = float(expected.abs().max())
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance * largest)


def test_answers_are_bit_identical_for_any_batch_size_and_thread_count(
    new_any_engine: NewEngine, ledger: Ledger, search_images: Tensor
):
    engine = new_any_engine()
    engine.set_bits(uniform(ledger, 4))
    images = search_images[:100]
    threads = torch.get_num_threads()
    expected = all_exits(engine.run, images)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for batch, first in ((1, 10), (7, 28), (100, 100)):
                parts = images[:first].split(batch)
                answers = torch.cat([all_exits(engine.run, part) for part in parts])
                assert torch.equal(answers, expected[:first]), (count, batch)
    finally:
        torch.set_num_threads(threads)


def test_bits_leave_no_trace_of_the_bits_before(
    new_any_engine: NewEngine, ledger: Ledger, search_images: Tensor
):
    images = search_images[:20]
    one, other = random_bits(ledger, 1), random_bits(ledger, 2)
    engine, fresh = new_any_engine(), new_any_engine()
    fresh.set_bits(one)
    expected = all_exits(fresh.run, images)
    answers = []
    for bits in (one, other, uniform(ledger, 32), one):
        engine.set_bits(bits)
        answers.append(all_exits(engine.run, images))
    assert torch.equal(answers[0], expected)
    assert torch.equal(answers[3], expected)
    assert not torch.equal(answers[1], expected)


@pytest.mark.parametrize("side", [0, 1], ids=["left", "right"])
def test_the_bits_of_every_layer_reach_the_answer(
    side: int, new_any_engine: NewEngine, ledger: Ledger, search_images: Tensor
):
    engine, images = new_any_engine(), search_images[:4]
    base = uniform(ledger, 6)
    engine.set_bits(base)
    expected = all_exits(engine.run, images)
    for op in ledger.ops:
        changed = (3, 6) if side == 0 else (6, 3)
        engine.set_bits({**base, op.name: changed})
        answer = all_exits(engine.run, images)
        exits = [e for e, block in enumerate(ledger.exit_blocks) if block >= op.block]
        if op.part == "head":
            exits = [ledger.exit_blocks.index(op.block)]
        untouched = [e for e in range(4) if e not in exits]
        assert not torch.equal(answer[:, exits], expected[:, exits]), op.name
        assert torch.equal(answer[:, untouched], expected[:, untouched]), op.name


def test_layers_with_a_forward_of_their_own_are_refused(refused):
    backbone = timm.create_model("vit_tiny_r_s16_p8_224", depth=1, num_classes=10)
    with refused("StdConv2dSame", "neither counted nor quantized"):
        EarlyExitModel(backbone, (1,), "linear", 10)
