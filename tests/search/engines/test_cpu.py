"""The fast engine: the reference engine's answers, within the rounding of what is not a product."""

from __future__ import annotations

import ctypes
import itertools
import logging
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from bundled_model import open_bundled
from torch import Tensor

from search.data.batches import normalized_batches
from search.engines.base import resolve_engine
from search.engines.cpu import native
from search.engines.cpu.engine import FastEngine
from search.engines.reference import ReferenceEngine
from search.errors import BadInput
from search.evaluate import Evaluator
from search.models.early_exit import EarlyExitModel, all_exits
from search.quantize.calibration import calibrate
from search.quantize.kept import KeptTensors
from search.quantize.qparams import ModelQParams
from search.quantize.ranges import resolve_quantizer
from search.results import evaluate_trace
from search.space import PolicySpace

Engines = tuple[ReferenceEngine, FastEngine]

CONFIDENCE_TOLERANCE = 1e-3  # of the mean over samples and exits, at every bit-width


def engines_of(model: EarlyExitModel, images: Tensor) -> Engines:
    seen = calibrate(model, lambda: iter([images]))
    quantizer = resolve_quantizer("mse")
    return ReferenceEngine(model, ModelQParams(model, seen, quantizer)), FastEngine(
        model, ModelQParams(model, seen, quantizer)
    )


def bits_of(
    model: EarlyExitModel, shape: tuple[int, int, int], seed: int
) -> dict[str, tuple[int, int]]:
    rng = np.random.default_rng(seed)
    return {op.name: tuple(rng.integers(2, 9, 2).tolist()) for op in model.ledger(shape).ops}


@pytest.fixture(scope="module")
def evaluators() -> tuple[Evaluator, Evaluator]:
    """The bundled model on 1,000 search images, in the reference and in the fast engine."""
    found = []
    for name in ("reference", "fast"):
        evaluator = open_bundled(512)
        evaluator.quantized.engine_name = name
        evaluator.split = evaluator.split.head(1000)
        found.append(evaluator)
    return found[0], found[1]


@pytest.mark.parametrize("bits", range(2, 9))
def test_agreement_on_the_bundled_model(bits: int, evaluators: tuple[Evaluator, Evaluator]) -> None:
    reference, fast = evaluators
    policy = PolicySpace.from_ledger(reference.ledger, "block").uniform(bits, 0.9)
    one, other = reference.trace(policy.bits), fast.trace(policy.bits)
    assert (one.engine, other.engine) == ("reference", "fast")
    assert isinstance(fast.quantized.engine, FastEngine)
    assert len(fast.quantized.engine.fast_blocks) == 6
    assert np.abs(one.confidence - other.confidence).mean() < CONFIDENCE_TOLERANCE
    left = evaluate_trace(policy, one, reference.ledger, reference.task)
    right = evaluate_trace(policy, other, fast.ledger, fast.task)
    assert abs(left.value - right.value) <= left.standard_error / 3
    if bits >= 4:
        for threshold in (0.6, 0.9, 0.99):
            routes = [trace.replay([threshold] * 6) for trace in (one, other)]
            assert (routes[0].exits == routes[1].exits).mean() >= 0.995
            same = routes[0].statistic[:, 0] == routes[1].statistic[:, 0]
            assert same.mean() >= 0.995


@pytest.mark.parametrize("seed", range(4))
def test_mixed_bits_give_the_same_answers(
    seed: int, evaluators: tuple[Evaluator, Evaluator]
) -> None:
    reference, fast = evaluators
    bits = bits_of(reference.quantized.model, (1, 28, 28), seed)
    bits = {name: (max(a, 4), max(w, 4)) for name, (a, w) in bits.items()}
    images = next(normalized_batches(reference.split, reference.card.input, batch_size=200))
    answers = []
    for engine in (reference.quantized.engine, fast.quantized.engine):
        engine.set_bits(bits)
        answers.append(all_exits(engine.run, images))
    assert not torch.equal(answers[0], answers[1])  # it is another engine
    assert (answers[0].argmax(-1) == answers[1].argmax(-1)).float().mean() >= 0.995
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0.5)
    assert (answers[0] - answers[1]).abs().mean() < 5e-3


SMALL: dict[str, Any] = {"embed_dim": 64, "num_heads": 2, "depth": 2}
SHAPES: dict[str, dict[str, Any]] = {
    "class token, one head": {"num_heads": 1, "mlp_ratio": 2.0},
    "narrow heads": {"embed_dim": 48, "num_heads": 3},
    "layer scale": {"init_values": 0.5},
    "no bias": {"qkv_bias": False},
    "average, registers": {"class_token": False, "global_pool": "avg", "reg_tokens": 3},
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("images", [1, 3])
def test_other_shapes(name: str, images: int) -> None:
    """Every block against the reference engine's on the same tokens: most values to rounding, and
    where a code moved, by no more than that code's step can do."""
    torch.manual_seed(1)
    backbone = timm.create_model(
        "vit_tiny_patch16_224", img_size=48, patch_size=8, num_classes=5, **(SMALL | SHAPES[name])
    )
    model = EarlyExitModel(backbone, (1, 2), "linear", 5).eval().requires_grad_(False)
    for block in model.backbone.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            layer.weight *= 12
    pictures = torch.randn(8, 3, 48, 48)
    reference, fast = engines_of(model, pictures)
    assert len(fast.fast_blocks) == 2
    for seed in range(3):
        bits = bits_of(model, (3, 48, 48), seed)
        reference.set_bits(bits)
        fast.set_bits(bits)
        tokens = reference.model.adapter.embed(pictures[:images])
        for one, other in zip(reference.model.backbone.blocks, fast.fast_blocks, strict=True):
            given = tokens.clone()
            expected, found = one(tokens), other(tokens)
            assert torch.equal(tokens, given)  # not changed in place
            off = (expected - found).abs()
            spread = float(expected.std())
            assert float((off < 1e-5 * spread).float().mean()) > 0.9, (seed, float(off.max()))
            assert float(off.mean()) < 2e-3 * spread
            tokens = expected


def test_what_the_kernels_do_not_know_runs_as_in_the_reference_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(1)
    backbone = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=64, num_heads=2, depth=2, num_classes=5,
        qk_norm=True,
    )  # fmt: skip
    model = EarlyExitModel(backbone, (1, 2), "linear", 5).eval().requires_grad_(False)
    pictures = torch.randn(4, 3, 32, 32)
    reference, fast = engines_of(model, pictures)
    assert fast.fast_blocks == []
    assert "engine 'fast' runs 0 of 2 blocks in compiled kernels" in caplog.text
    bits = bits_of(model, (3, 32, 32), 0)
    reference.set_bits(bits)
    fast.set_bits(bits)
    assert torch.equal(all_exits(reference.run, pictures), all_exits(fast.run, pictures))


def test_a_block_with_a_layer_in_full_precision_runs_as_in_the_reference_engine(
    fashion_model: EarlyExitModel, search_images: Tensor
) -> None:
    reference, fast = engines_of(fashion_model, search_images[:100])
    bits = bits_of(fashion_model, (1, 28, 28), 3)
    for name in bits:
        if name.endswith(("attn.proj", "mlp.fc2")):
            bits[name] = (bits[name][0], 32)
    reference.set_bits(bits)
    fast.set_bits(bits)
    expected = all_exits(reference.run, search_images[:20])
    assert torch.equal(expected, all_exits(fast.run, search_images[:20]))


def test_states_are_those_of_every_block(
    fashion_model: EarlyExitModel, search_images: Tensor
) -> None:
    _, fast = engines_of(fashion_model, search_images[:100])
    fast.set_bits(bits_of(fashion_model, (1, 28, 28), 0))
    outputs: list[Tensor] = []
    states = fast.run_states(search_images[:10], lambda _, one: outputs.append(one))
    assert torch.equal(torch.stack(outputs, dim=1), all_exits(fast.run, search_images[:10]))
    tokens = fast.model.adapter.embed(search_images[:10])
    for block, state in enumerate(states, start=1):
        tokens = fast.model.adapter.run_block(block, tokens)
        assert torch.equal(tokens, state)


def test_forgetting_weights_changes_nothing(
    fashion_model: EarlyExitModel, search_images: Tensor
) -> None:
    seen = calibrate(fashion_model, lambda: iter([search_images[:100]]))
    qparams = ModelQParams(fashion_model, seen, resolve_quantizer("mse"))
    fast = FastEngine(fashion_model, qparams)
    one, other = (bits_of(fashion_model, (1, 28, 28), seed) for seed in (0, 1))
    fast.set_bits(one)
    expected = all_exits(fast.run, search_images[:10])
    fast.packed.limit = qparams.kept.limit = 0
    for bits in (other, one):
        fast.set_bits(bits)
        answer = all_exits(fast.run, search_images[:10])
    assert torch.equal(answer, expected)
    assert len(fast.packed) == len(qparams.kept) == 1


def test_kept_tensors_forget_what_was_used_longest_ago() -> None:
    kept, made = KeptTensors(limit=30), []

    def ask(key: str) -> None:
        kept.get(key, lambda: made.append(key) or (torch.zeros(10, dtype=torch.int8),))  # type: ignore[func-returns-value]

    for key in "abcadab":
        ask(key)
    assert made == ["a", "b", "c", "d", "b"]
    assert (kept.held, len(kept)) == (30, 3)


def test_an_image_that_is_not_finite_gives_no_figure(
    fashion_model: EarlyExitModel, search_images: Tensor
) -> None:
    _, fast = engines_of(fashion_model, search_images[:100])
    fast.set_bits(bits_of(fashion_model, (1, 28, 28), 0))
    block = fast.fast_blocks[0]
    tokens = fast.model.adapter.embed(search_images[:3])
    tokens[1, 4, 5] = torch.nan
    found = block(tokens)
    assert not torch.isfinite(found[1]).all()
    assert torch.isfinite(found[[0, 2]]).all()


@pytest.fixture
def fresh_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Kernels are looked for anew, in an empty cache folder, here and after the test."""

    def forget() -> None:
        native.load_kernels.cache_clear()
        resolve_engine.cache_clear()

    monkeypatch.setenv("EXITBITS_CACHE", str(tmp_path))
    forget()
    yield tmp_path
    forget()


@pytest.mark.parametrize(
    ("needs", "flags"),
    [
        ("", ("-march=x86-64",)),
        ("avx2", ("-march=x86-64-v3",)),
        ("avx512bw", ("-march=x86-64-v4",)),  # without VNNI
        ("", ("-march=native", "-O0")),
    ],
)
def test_kernels_for_any_processor_agree_too(
    needs: str, flags: tuple[str, ...], fresh_kernels: Path, monkeypatch: pytest.MonkeyPatch,
    fashion_model: EarlyExitModel, search_images: Tensor,
) -> None:  # fmt: skip
    if platform.machine() != "x86_64":
        pytest.skip("flags of another processor")
    if needs and f" {needs} " not in Path("/proc/cpuinfo").read_text():
        pytest.skip(f"no {needs} here")
    monkeypatch.setattr(native, "THREADED", (*native.THREADED, *flags))
    reference, fast = engines_of(fashion_model, search_images[:100])
    images = search_images[:40]
    for bits in (4, 8):
        answers = []
        for engine in (reference, fast):
            engine.set_bits({op.name: (bits, bits) for op in fashion_model.ledger((1, 28, 28)).ops})
            answers.append(engine.model.adapter.run_block(1, engine.model.adapter.embed(images)))
        off = (answers[0] - answers[1]).abs()
        assert float((off < 1e-5 * answers[0].std()).float().mean()) > 0.9
        assert float(off.mean()) < 2e-3 * float(answers[0].std())


def test_kernels_are_compiled_once(
    fresh_kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert isinstance(native.load_kernels(), ctypes.CDLL)
    assert [record for record in caplog.records if "compiling" in record.message]
    libraries = list((fresh_kernels / "kernels").iterdir())
    assert [library.suffix for library in libraries] == [".so"]
    caplog.clear()
    native.load_kernels.cache_clear()
    assert isinstance(native.load_kernels(), ctypes.CDLL)
    assert not caplog.records


@pytest.mark.parametrize("damage", ["a byte", "cut short", "a folder", "a dangling link"])
def test_a_damaged_library_is_never_loaded_and_built_anew(
    damage: str, fresh_kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Protection: its digest stands in its name and is compared before it is loaded."""
    assert isinstance(native.load_kernels(), ctypes.CDLL)
    (library,) = (fresh_kernels / "kernels").iterdir()
    whole = library.read_bytes()
    library.unlink()
    if damage == "a byte":
        library.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    elif damage == "cut short":
        library.write_bytes(whole[:-100])
    elif damage == "a folder":
        library.mkdir()
    else:
        library.symlink_to("nothing")
    caplog.set_level(logging.INFO)
    native.load_kernels.cache_clear()
    assert isinstance(native.load_kernels(), ctypes.CDLL)
    assert f"{library} is damaged" in caplog.text
    assert "compiling" in caplog.text
    if damage == "a folder":  # nothing of other people's is removed, and it is in the way
        assert "for this process alone" in caplog.text
        return
    assert library.read_bytes() == whole
    caplog.clear()
    native.load_kernels.cache_clear()
    assert isinstance(native.load_kernels(), ctypes.CDLL)
    assert not caplog.records


def test_a_library_that_runs_is_not_changed_by_who_writes_to_the_cache(
    fresh_kernels: Path, fashion_model: EarlyExitModel, search_images: Tensor
) -> None:
    """Protection: what runs is a private copy; in place, this is a bus error."""
    engines_of(fashion_model, search_images[:100])  # its kernels are loaded
    (library,) = (fresh_kernels / "kernels").iterdir()
    with library.open("r+b") as file:
        file.truncate(0)
    _, fast = engines_of(fashion_model, search_images[:100])
    fast.set_bits({op.name: (4, 4) for op in fashion_model.ledger((1, 28, 28)).ops})
    fast.model.adapter.run_block(1, fast.model.adapter.embed(search_images[:20]))
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(fresh_kernels) not in maps.read_text()


def test_kernels_that_cannot_be_kept_run_all_the_same(
    fresh_kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (fresh_kernels / "kernels").write_text("a file where the folder should be")
    assert isinstance(native.load_kernels(), ctypes.CDLL)
    assert "for this process alone" in caplog.text


@pytest.mark.parametrize(
    ("compiler", "word"), [("no-such-compiler", "CXX"), ("false", "cannot be built")]
)
def test_without_a_compiler_the_reference_engine_runs(
    compiler: str, word: str, fresh_kernels: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, fashion_model: EarlyExitModel,
) -> None:  # fmt: skip
    monkeypatch.setenv("CXX", compiler)
    assert resolve_engine("fast") is ReferenceEngine
    (record,) = caplog.records
    assert word in record.message
    assert "\n" not in record.message
    with pytest.raises(native.KernelsUnavailable, match=word):
        FastEngine(fashion_model, ModelQParams(fashion_model, {}, resolve_quantizer("mse")))


def test_a_compiler_that_ctrl_c_ended_is_not_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\ntrap - INT\nkill -INT $$\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert str(native.load_kernels.__wrapped__()) == ""
    assert caplog.text == ""


def test_names() -> None:
    assert resolve_engine("reference") is ReferenceEngine
    assert resolve_engine("fast") is FastEngine
    with pytest.raises(BadInput, match="fast, reference"):
        resolve_engine("quick")


def test_gelu_and_softmax_at_their_ends(fashion_model: EarlyExitModel) -> None:
    """Tokens far larger than any that calibration saw: every code is at its end."""
    images = torch.randn(100, 1, 28, 28)
    reference, fast = engines_of(fashion_model, images)
    for bits, scale in itertools.product((3, 8), (1e-6, 1e3, 1e12)):
        answers = []
        for engine in (reference, fast):
            engine.set_bits({op.name: (bits, bits) for op in fashion_model.ledger((1, 28, 28)).ops})
            tokens = engine.model.adapter.embed(images[:5]) * scale
            answers.append(engine.model.adapter.run_block(1, tokens))
        off = (answers[0] - answers[1]).abs() / answers[0].abs().mean()
        assert float((off < 1e-5).float().mean()) > 0.9


def test_a_library_that_lays_its_structures_out_otherwise_is_not_called(
    fresh_kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one left in the cache by another version would: it is refused before the first call."""

    class Longer(ctypes.Structure):
        _fields_ = (*native.Linear._fields_, ("more", ctypes.c_int64))

    Longer.__name__ = "Linear"
    monkeypatch.setattr(native, "Linear", Longer)
    reason = native.load_kernels()
    assert isinstance(reason, native.KernelsUnavailable)
    assert "Linear" in str(reason)
    assert str(fresh_kernels / "kernels") in str(reason)
    assert resolve_engine("fast") is ReferenceEngine
