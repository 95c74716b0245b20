"""Compiled kernels where a compiler has no OpenMP, and a system no files in memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from without_linux import compiler_without_openmp

from search.engines.cpu import library, native
from search.engines.cpu.engine import FastEngine
from search.models.early_exit import EarlyExitModel
from search.quantize.calibration import calibrate
from search.quantize.qparams import ModelQParams
from search.quantize.ranges import resolve_quantizer


@pytest.fixture
def fresh_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Kernels are looked for anew, in an empty cache folder, here and after the test."""
    monkeypatch.setenv("EXITBITS_CACHE", str(tmp_path))
    native.load_kernels.cache_clear()
    yield
    native.load_kernels.cache_clear()


def test_without_openmp_kernels_run_on_one_thread_and_answer_the_same(
    tmp_path: Path, fresh_kernels: None, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, fashion_model: EarlyExitModel, search_images: Tensor,
) -> None:  # fmt: skip
    """As with Apple's compiler. What is kept for it is not taken where there is OpenMP."""
    seen = calibrate(fashion_model, lambda: iter([search_images[:100]]))
    parameters = ModelQParams(fashion_model, seen, resolve_quantizer("mse"))
    answers = []
    bits = {op.name: (4, 4) for op in fashion_model.ledger((1, 28, 28)).ops}
    for compiler in (compiler_without_openmp(tmp_path), None):
        if compiler:
            monkeypatch.setenv("CXX", str(compiler))
        else:
            monkeypatch.delenv("CXX", raising=False)
        native.load_kernels.cache_clear()
        caplog.clear()
        fast = FastEngine(fashion_model, parameters)
        fast.set_bits(bits)
        answers.append(fast.model.adapter.run_block(1, fast.model.adapter.embed(search_images[:9])))
        assert ("one thread" in caplog.text) == bool(compiler)
    assert torch.equal(answers[0], answers[1])


@pytest.mark.parametrize("lacking", ["memory files", "/proc"])
def test_a_library_is_loaded_without_files_in_memory(
    lacking: str, tmp_path: Path, fresh_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "/proc":
        monkeypatch.setattr(library, "_MEMORY", tmp_path / "absent")
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    kernels = native.load_kernels()
    assert isinstance(kernels, ctypes.CDLL)
    assert not kernels._name.startswith("/proc")
    assert not Path(kernels._name).exists()  # nobody else can change it
