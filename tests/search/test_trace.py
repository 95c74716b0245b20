"""Exit traces: replay against a plain loop, and bytes that survive or are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.errors import ExitbitsError
from search.trace import TRACE_FORMAT, ExitTrace

LEVELS = [0.0, 0.25, float(np.float32(0.7)), 0.7, 0.75, float(np.float32(0.1)), 0.1, 1.0]


def random_trace(
    seed: int, samples: int = 40, exit_blocks: tuple[int, ...] = (1, 3, 4)
) -> ExitTrace:
    rng = np.random.default_rng(seed)
    # A few levels only, so that confidences often equal thresholds.
    confidence = rng.choice(LEVELS, (samples, len(exit_blocks))).astype(np.float32)
    statistic = rng.integers(0, 10, (samples, len(exit_blocks), 2)).astype(np.int32)
    return ExitTrace(confidence, statistic, exit_blocks)


@given(
    st.integers(0, 10**6),
    st.sampled_from([(6,), (1, 6), (2, 3, 7), (1, 2, 3, 4)]),
    st.data(),
)
@settings(max_examples=200)
def test_replay_equals_a_plain_loop(seed: int, exit_blocks: tuple[int, ...], data: st.DataObject):
    trace = random_trace(seed, 1 + seed % 40, exit_blocks)
    thresholds = [
        *(data.draw(st.sampled_from(LEVELS) | st.floats(0, 1)) for _ in exit_blocks[:-1]),
        0.0,
    ]
    taken = []
    for row in trace.confidence:
        exit_index = 0
        while exit_index < len(row) - 1 and not float(row[exit_index]) >= thresholds[exit_index]:
            exit_index += 1
        taken.append(exit_index)

    routing = trace.replay(thresholds)
    assert routing.exits.tolist() == taken
    assert routing.statistic.tolist() == [
        trace.statistic[i, e].tolist() for i, e in enumerate(taken)
    ]
    count = len(taken)
    assert routing.exit_rates == pytest.approx(
        [taken.count(e) / count for e in range(len(exit_blocks))]
    )
    assert routing.exit_rates.sum() == pytest.approx(1)
    depths = [exit_blocks[e] for e in taken]
    assert routing.utilization == pytest.approx(
        [sum(depth >= block for depth in depths) / count for block in range(1, exit_blocks[-1] + 1)]
    )
    assert routing.mean_exit == pytest.approx(sum(depths) / count)


def test_a_confidence_equal_to_the_threshold_exits():
    confidence = np.array(
        [[0.5, 0.5], [np.nextafter(np.float32(0.5), np.float32(0)), 0.5]], np.float32
    )
    trace = ExitTrace(confidence, np.zeros((2, 2, 1), np.int32), (1, 2))
    assert trace.replay([0.5, 0.0]).exits.tolist() == [0, 1]


def test_threshold_zero_takes_everyone_and_one_only_the_certain():
    trace = random_trace(3, samples=500)
    assert set(trace.replay([0, 0, 0]).exits) == {0}
    certain = trace.confidence == 1
    exits = trace.replay([1, 1, 0]).exits
    assert exits.tolist() == np.where(certain[:, 0], 0, np.where(certain[:, 1], 1, 2)).tolist()
    assert set(exits) == {0, 1, 2}


@pytest.mark.parametrize("thresholds", [[], [0.5, 0.0], [0.5, 0.5, 0.5, 0.0]], ids=len)
def test_another_number_of_thresholds_is_refused(thresholds: list[float], refused):
    with refused(f"{len(thresholds)} thresholds for 3 exits"):
        random_trace(0).replay(thresholds)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_confidences_that_are_not_finite_are_refused(value: float, refused):
    trace = random_trace(0)
    confidence = trace.confidence.copy()
    confidence[7, 1] = value
    with refused("not finite", exit_code=1):
        ExitTrace(confidence, trace.statistic, trace.exit_blocks)


@pytest.mark.parametrize("cut", [np.s_[:-1], np.s_[:, :-1]], ids=["samples", "exits"])
def test_shapes_that_do_not_fit_are_refused(cut: object):
    trace = random_trace(0)
    with pytest.raises(ExitbitsError, match="does not fit 3 exits"):
        ExitTrace(trace.confidence[cut], trace.statistic, trace.exit_blocks)


def same(one: ExitTrace, other: ExitTrace) -> bool:
    return (
        np.array_equal(one.confidence, other.confidence)
        and np.array_equal(one.statistic, other.statistic)
        and one.exit_blocks == other.exit_blocks
        and one.engine == other.engine
        and one.confidence.dtype == other.confidence.dtype
        and one.statistic.dtype == other.statistic.dtype
    )


def test_bytes_round_trip():
    for samples in (1, 300):
        trace = random_trace(samples, samples)
        assert same(ExitTrace.from_bytes(trace.to_bytes()), trace)


def test_every_truncation_is_refused():
    data = random_trace(0).to_bytes()
    for length in range(len(data)):
        with pytest.raises(ValueError, match="not a readable trace"):
            ExitTrace.from_bytes(data[:length])


def test_a_flipped_bit_never_changes_a_value():
    """A few bits mean nothing (zip's time stamps, deflate's padding); all others are noticed."""
    trace = random_trace(0, samples=100)
    data = trace.to_bytes()
    bits = range(0, len(data) * 8, 3)
    noticed = 0
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert same(ExitTrace.from_bytes(bytes(flipped)), trace)
        except ValueError:
            noticed += 1
    assert noticed > 0.75 * len(bits)


def other_archive(**changes: object) -> bytes:
    trace = random_trace(0)
    buffer = io.BytesIO()
    fields = {
        "format": TRACE_FORMAT,
        "confidence": trace.confidence,
        "statistic": trace.statistic,
        "exit_blocks": trace.exit_blocks,
        "engine": trace.engine,
    }
    kept = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    np.savez(buffer, **kept)
    return buffer.getvalue()


def saved_array(value: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an archive",
        saved_array(np.zeros((3, 2))),
        other_archive(format=TRACE_FORMAT + 1),
        other_archive(confidence=None),
        other_archive(exit_blocks=(1, 2)),
        other_archive(confidence=np.full((40, 3), np.nan, np.float32)),
        other_archive(statistic=np.array([{}], dtype=object)),
    ],
    ids=["empty", "text", "npy", "another-format", "field-missing", "exits", "nan", "pickle"],
)
def test_bytes_that_are_no_trace_are_refused(data: bytes):
    assert same(ExitTrace.from_bytes(other_archive()), random_trace(0))
    with pytest.raises(ValueError, match="not a readable trace"):
        ExitTrace.from_bytes(data)
