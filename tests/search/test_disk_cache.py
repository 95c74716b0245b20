"""Traces on disk: whole or absent, never half."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from search.disk_cache import DiskCalibrationCache, DiskTraceCache
from search.errors import BadInput
from search.quantize.histograms import Histogram
from search.trace import ExitTrace


def trace() -> ExitTrace:
    rng = np.random.default_rng(0)
    return ExitTrace(
        rng.random((50, 3), dtype=np.float32), rng.integers(0, 9, (50, 3, 2)), (1, 2, 3)
    )


def test_a_trace_comes_back_bit_for_bit(tmp_path: Path) -> None:
    cache = DiskTraceCache(tmp_path)
    cache.store("ab" * 32, trace())
    back = cache.load("ab" * 32)
    assert back is not None
    np.testing.assert_array_equal(back.confidence, trace().confidence)
    np.testing.assert_array_equal(back.statistic, trace().statistic)
    assert back.exit_blocks == (1, 2, 3)


def test_an_unknown_key_is_absent(tmp_path: Path) -> None:
    assert DiskTraceCache(tmp_path).load("cd" * 32) is None


@pytest.mark.parametrize("keep", [0, 10, -20])
def test_a_damaged_file_counts_as_absent_and_is_written_anew(tmp_path: Path, keep: int) -> None:
    cache = DiskTraceCache(tmp_path)
    cache.store("ab" * 32, trace())
    path = cache.path("ab" * 32)
    path.write_bytes(path.read_bytes()[:keep])
    assert cache.load("ab" * 32) is None
    cache.store("ab" * 32, trace())
    assert cache.load("ab" * 32) is not None


@pytest.mark.parametrize("what", ["folder", "loop", "dangling", "pipe", "file above"])
def test_an_entry_that_is_no_file_of_ours_counts_as_absent(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is computed again and never ends anything; a pipe is not waited for."""
    cache = DiskTraceCache(tmp_path)
    path = cache.path("ab" * 32)
    if what == "file above":
        path.parent.write_text("")
    else:
        path.parent.mkdir()
    if what == "folder":
        (path / "inside").mkdir(parents=True)
    elif what in ("loop", "dangling"):
        path.symlink_to(path.name if what == "loop" else "nothing")
    elif what == "pipe":
        os.mkfifo(path)
    assert cache.load("ab" * 32) is None
    cache.store("ab" * 32, trace())
    if what in ("folder", "file above"):  # nothing of other people's is removed
        assert cache.load("ab" * 32) is None
        assert "trace not kept in" in caplog.text
        assert "remove what is there" in caplog.text
    else:
        assert cache.load("ab" * 32) is not None


def test_one_bit_that_turned_is_noticed_anywhere(tmp_path: Path) -> None:
    cache = DiskTraceCache(tmp_path)
    cache.store("ab" * 32, trace())
    path = cache.path("ab" * 32)
    whole, first = path.read_bytes(), trace()
    for place in range(0, len(whole), 7):
        turned = bytearray(whole)
        turned[place] ^= 0x10
        path.write_bytes(turned)
        back = cache.load("ab" * 32)
        if back is not None:  # in what is no part of the content, such as a date
            np.testing.assert_array_equal(back.confidence, first.confidence)
            np.testing.assert_array_equal(back.statistic, first.statistic)
            assert (back.exit_blocks, back.engine) == (first.exit_blocks, first.engine)


def test_a_trace_that_cannot_be_kept_is_a_warning_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Unwritable(ExitTrace):
        def to_bytes(self) -> bytes:
            raise OSError(28, "No space left on device")

    cache = DiskTraceCache(tmp_path)
    whole = trace()
    cache.store("ab" * 32, Unwritable(whole.confidence, whole.statistic, whole.exit_blocks))
    assert "No space left on device" in caplog.text
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="--cache"):
        DiskTraceCache(tmp_path / "file")


def test_what_calibration_saw_comes_back_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seen = {
        name: Histogram(-rng.random(), rng.random(), rng.integers(0, 9, 2048).astype(float))
        for name in ("head:input", "block.scores:left")
    }
    cache = DiskCalibrationCache(tmp_path)
    assert cache.load("ab" * 32) is None
    cache.store("ab" * 32, seen)
    back = cache.load("ab" * 32)
    assert back is not None
    assert [*back] == [*seen]
    for name, one in seen.items():
        assert (back[name].low, back[name].high) == (one.low, one.high)
        np.testing.assert_array_equal(back[name].counts, one.counts)
    path = cache.path("ab" * 32)
    path.write_bytes(path.read_bytes()[:-30])
    assert cache.load("ab" * 32) is None
