"""Sensitivities of the bundled model, against hooks of the tests' own."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from bundled_model import open_bundled, with_model
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from search.bits.allocation import AllocationProblem, Usage
from search.bits.tables import Sensitivity, SensitivityTables
from search.data.batches import normalized_batches
from search.evaluate import Evaluator
from search.models.early_exit import EarlyExitModel
from search.policy import QUANTIZED_BITS, Bits, Granularity
from search.quantize.calibration import calibrate, operands
from search.quantize.ranges import nearest_codes, resolve_quantizer
from search.sensitivity import SensitivityMeter, check_additivity
from search.space import PolicySpace

IMAGES = 16
CALIBRATION = 64
BLOCKS = 6
GROUPS = [f"block{block}" for block in range(1, BLOCKS + 1)]


class DictCache:
    """Rows by key; notes every question and every row that it is given."""

    def __init__(self) -> None:
        self.rows: dict[str, Sensitivity] = {}
        self.asked: list[str] = []
        self.stored: list[str] = []

    def load(self, key: str) -> Sensitivity | None:
        self.asked.append(key)
        return self.rows.get(key)

    def store(self, key: str, row: Sensitivity) -> None:
        self.stored.append(key)
        self.rows[key] = row


class AllBut(DictCache):
    """Knows every row but those asked for at given places, so that only these are measured."""

    def __init__(self, *unknown: int) -> None:
        super().__init__()
        self.unknown = unknown

    def load(self, key: str) -> Sensitivity | None:
        super().load(key)
        canned = Sensitivity(1, (0,), np.zeros(1), np.zeros((1, 1)))
        return None if len(self.asked) - 1 in self.unknown else canned


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return open_bundled(CALIBRATION)


@pytest.fixture(scope="module")
def known() -> DictCache:
    return DictCache()


@pytest.fixture(scope="module")
def tables(evaluator: Evaluator, known: DictCache) -> SensitivityTables:
    return SensitivityMeter(evaluator.quantized, "block", known, IMAGES).tables()


def rows_of(tables: SensitivityTables) -> dict[tuple[str, str], Sensitivity]:
    return {
        (side, name): row
        for side, rows in (("weights", tables.weights), ("activations", tables.activations))
        for name, row in rows.items()
    }


def same(one: Sensitivity, other: Sensitivity) -> bool:
    return (
        (one.block, one.bits) == (other.block, other.bits)
        and np.array_equal(one.noise, other.noise)
        and np.array_equal(one.drift, other.drift)
    )


def first_images(evaluator: Evaluator, count: int) -> Tensor:
    split = evaluator.quantized.calibration.head(count)
    return next(normalized_batches(split, evaluator.card.input, batch_size=count))


@torch.inference_mode()
def flow(model: EarlyExitModel, images: Tensor, block: int) -> tuple[np.ndarray, np.ndarray]:
    """What leaves a block, and the logits of every exit."""
    caught: list[Tensor] = []
    handle = model.backbone.blocks[block - 1].register_forward_hook(
        lambda _module, _inputs, output: caught.append(output)
    )
    logits = model(images)
    handle.remove()
    return caught[0].double().numpy(), logits.double().numpy()


def quantize_alone(evaluator: Evaluator, side: str, layers: list[str], bits: int) -> EarlyExitModel:
    """A copy of the model with one side of some layers rounded in plain real numbers."""
    quantizer = resolve_quantizer(evaluator.quantized.quantizer)
    seen = {}
    if side == "activations":
        seen = calibrate(
            evaluator.quantized.model,
            lambda: normalized_batches(evaluator.quantized.calibration, evaluator.card.input),
        )
    model = copy.deepcopy(evaluator.quantized.model)
    touched = 0
    for name, module in model.named_modules():
        if name.removeprefix("backbone.") not in layers:
            continue
        touched += 1
        if side == "weights" and isinstance(module, nn.Linear):
            rows = module.weight.detach()
            scale = quantizer.weight(rows, bits).scale
            module.weight.data = nearest_codes(rows, scale, bits) * scale[:, None]
        if side == "activations":
            ranges = [quantizer.activation(seen[op], bits) for op in operands(name, module)]

            def rounded(_module, inputs, ranges=ranges):
                return tuple(
                    chosen.scale
                    * (
                        (value / chosen.scale)
                        .round()
                        .clamp(-chosen.zero_point, 2**bits - 1 - chosen.zero_point)
                    )
                    for value, chosen in zip(inputs, ranges, strict=True)
                )

            module.register_forward_pre_hook(rounded)
    assert touched == len(layers)
    return model


def compared(
    evaluator: Evaluator, changed: EarlyExitModel, images: Tensor, block: int
) -> tuple[float, np.ndarray]:
    """Noise after a block, and the drift at every exit: KL(p || q) by its sum over classes."""
    truth, logits = flow(evaluator.quantized.model, images, block)
    found, other = flow(changed, images, block)
    p = softmax(logits, axis=-1)
    divergence = (p * (np.log(p) - log_softmax(other, axis=-1))).sum(axis=-1)
    return float(((found - truth) ** 2).sum() / (truth**2).sum()), divergence.mean(axis=0)


def layers_of(block: int) -> list[str]:
    inside = ("attn.qkv", "attn.scores", "attn.context", "attn.proj", "mlp.fc1", "mlp.fc2")
    return [f"blocks.{block - 1}.{layer}" for layer in inside]


def test_every_group_has_its_row(tables: SensitivityTables):
    assert list(tables.weights) == list(tables.activations) == GROUPS
    for (_, name), row in rows_of(tables).items():
        assert row.block == int(name.removeprefix("block"))
        assert row.bits == QUANTIZED_BITS
        assert row.noise.shape == (7,)
        assert row.drift.shape == (7, BLOCKS)


def test_noise_and_drift_vanish_with_more_bits(tables: SensitivityTables):
    for name, row in rows_of(tables).items():
        assert (np.diff(row.noise) < 0).all(), name
        assert 1e-3 < row.noise[0] < 1, name
        assert 0 < row.noise[-1] < 2e-3 * row.noise[0], name
        last = row.drift[:, -1]
        assert last[0] > 1e-5, name
        assert 0 <= last[-1] < 0.02 * last[0], name


def test_exits_before_a_block_do_not_drift(tables: SensitivityTables):
    for name, row in rows_of(tables).items():
        assert (row.drift[:, : row.block - 1] == 0).all(), name
        assert (row.drift[0, row.block - 1 :] > 0).all(), name


@pytest.mark.parametrize(("side", "block"), [("weights", 3), ("activations", 2)])
@pytest.mark.parametrize("bits", [2, 4])
def test_a_row_is_what_hooks_see(
    evaluator: Evaluator, tables: SensitivityTables, side: str, block: int, bits: int
):
    changed = quantize_alone(evaluator, side, layers_of(block), bits)
    noise, drift = compared(evaluator, changed, first_images(evaluator, IMAGES), block)
    found, drifted = rows_of(tables)[side, f"block{block}"].at(bits)
    # Codes times scales are summed in another order than real numbers, and may round to others.
    assert found == pytest.approx(noise, rel=1e-3)
    np.testing.assert_allclose(drifted, drift, rtol=0.02, atol=1e-9)


@pytest.mark.parametrize(
    ("side", "layer", "ops"),
    [
        ("weights", "blocks.1.mlp.fc1", ["blocks.1.mlp.fc1"]),
        # Both products share a group, and quantize both of their sides.
        ("activations", "blocks.4.attn", ["blocks.4.attn.scores", "blocks.4.attn.context"]),
    ],
)
def test_a_row_of_one_layer_is_what_hooks_see(
    evaluator: Evaluator, side: str, layer: str, ops: list[str]
):
    weights, activations = evaluator.ledger.groups("layer")
    assert (len(weights), len(activations)) == (4 * BLOCKS, 5 * BLOCKS)
    names = [*(("weights", name) for name in weights), *(("activations", n) for n in activations)]
    cache = AllBut(names.index((side, layer)))
    row = rows_of(SensitivityMeter(evaluator.quantized, "layer", cache, IMAGES).tables())[
        side, layer
    ]
    assert len(cache.stored) == 1
    assert row.block == int(layer.split(".")[1]) + 1

    changed = quantize_alone(evaluator, side, ops, 3)
    noise, drift = compared(evaluator, changed, first_images(evaluator, IMAGES), row.block)
    found, drifted = row.at(3)
    assert found == pytest.approx(noise, rel=1e-3)
    np.testing.assert_allclose(drifted, drift, rtol=0.02, atol=1e-9)


def test_rows_are_measured_once(evaluator: Evaluator, tables: SensitivityTables, known: DictCache):
    assert len(known.stored) == len(set(known.stored)) == 2 * BLOCKS
    stored = list(known.stored)
    fresh = replace(evaluator.quantized)
    again = SensitivityMeter(fresh, "block", known, IMAGES).tables()
    assert known.stored == stored
    assert known.asked == stored * 2
    for name, row in rows_of(again).items():
        assert same(row, rows_of(tables)[name])
    assert "engine" not in vars(fresh)  # nothing was calibrated, let alone run


def test_an_interrupted_measurement_goes_on_where_it_stopped(
    evaluator: Evaluator, tables: SensitivityTables, known: DictCache
):
    cache = DictCache()
    # All but three rows are there, so that the test is a short one.
    missing = (2, 7, 8)
    cache.rows = {
        key: known.rows[key] for index, key in enumerate(known.stored) if index not in missing
    }
    seen: list[tuple[int, int]] = []

    def stop(done: int, of: int) -> None:
        seen.append((done, of))
        if done == 8:
            raise KeyboardInterrupt

    meter = SensitivityMeter(evaluator.quantized, "block", cache, IMAGES)
    with pytest.raises(KeyboardInterrupt):
        meter.tables(stop)
    assert seen == [(done, 2 * BLOCKS) for done in range(9)]
    assert cache.stored == [known.stored[2], known.stored[7]]

    seen.clear()
    resumed = meter.tables(lambda done, of: seen.append((done, of)))
    assert seen == [(done, 2 * BLOCKS) for done in range(2 * BLOCKS + 1)]
    assert cache.stored == [known.stored[index] for index in missing]
    for name, row in rows_of(resumed).items():
        assert same(row, rows_of(tables)[name])


def keys(evaluator: Evaluator, granularity: Granularity = "block", images: int = 16) -> set[str]:
    cache = AllBut()
    SensitivityMeter(evaluator.quantized, granularity, cache, images).tables()
    assert len(cache.asked) == len(set(cache.asked))
    return set(cache.asked)


def test_a_key_names_all_that_a_row_depends_on(evaluator: Evaluator):
    plain = keys(evaluator)
    assert keys(replace(evaluator)) == plain
    # Neither what is evaluated on nor where traces are kept has a part in it.
    assert keys(replace(evaluator, split=evaluator.split.head(10))) == plain
    for name, others in {
        "images": keys(evaluator, images=17),
        "granularity": keys(evaluator, "layer"),
        "quantizer": keys(with_model(evaluator, quantizer="minmax")),
        "calibration": keys(
            with_model(evaluator, calibration=evaluator.quantized.calibration.head(40))
        ),
        "model": keys(
            with_model(
                evaluator, card=evaluator.card.model_copy(update={"weights_sha256": "1" * 64})
            )
        ),
        "device": keys(with_model(evaluator, device="meta")),
        "engine": keys(with_model(evaluator, engine_name="reference")),
    }.items():
        assert not plain & others, name
    # The same images are run, but others have set the ranges.
    fewer = with_model(evaluator, calibration=evaluator.quantized.calibration.head(40))
    assert not keys(evaluator, images=40) & keys(fewer, images=40)


def bits_of(changes: dict[str, int]) -> Bits:
    """Full precision but for some groups, named ``w.block3`` and so on."""
    weights = tuple(changes.get(f"w.{name}", 32) for name in GROUPS)
    activations = tuple(changes.get(f"a.{name}", 32) for name in GROUPS)
    return Bits("block", weights, activations)


def test_quantizing_one_group_jointly_is_its_row(evaluator: Evaluator, tables: SensitivityTables):
    meter = SensitivityMeter(evaluator.quantized, "block", images=IMAGES)
    nothing = meter.joint(bits_of({}))
    assert nothing.noise.tolist() == [0]
    assert (nothing.drift == 0).all()
    for side, short in (("weights", "w"), ("activations", "a")):
        row = rows_of(tables)[side, "block6"]
        found = meter.joint(bits_of({f"{short}.block6": 3}))
        assert (found.noise[0], found.drift[0].tolist()) == (row.at(3)[0], row.at(3)[1].tolist())


def test_more_images_than_a_batch_are_averaged(evaluator: Evaluator):
    """150 images go through in batches of 100 and 50, and count alike."""
    more = with_model(evaluator, calibration=evaluator.split.head(150))
    found = SensitivityMeter(more.quantized, "block", images=150).joint(bits_of({"w.block5": 2}))
    changed = quantize_alone(more, "weights", layers_of(5), 2)
    noise, drift = compared(more, changed, first_images(more, 150), BLOCKS)
    assert found.noise[0] == pytest.approx(noise, rel=1e-3)
    np.testing.assert_allclose(found.drift[0], drift, rtol=0.02, atol=1e-9)


def test_the_tables_rank_whole_policies(evaluator: Evaluator, tables: SensitivityTables):
    space = PolicySpace.from_ledger(evaluator.ledger, "block")
    problem = AllocationProblem(space, evaluator.ledger, tables, Usage.full_depth(evaluator.ledger))
    meter = SensitivityMeter(evaluator.quantized, "block", images=IMAGES)
    found = check_additivity(meter, problem, policies=12)
    assert found.policies == 12
    assert found.noise > 0.9
    assert found.drift > 0.9
    assert check_additivity(meter, problem, policies=4, seed=1) == check_additivity(
        meter, problem, policies=4, seed=1
    )
