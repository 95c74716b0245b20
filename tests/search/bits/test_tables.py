"""Sensitivity tables: what they answer, and bytes that survive or are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest

from search.bits.tables import Sensitivity
from search.policy import FULL_PRECISION, QUANTIZED_BITS


def random_row(seed: int, bits: tuple[int, ...] = QUANTIZED_BITS, exits: int = 4) -> Sensitivity:
    rng = np.random.default_rng(seed)
    return Sensitivity(1 + seed % 6, bits, rng.random(len(bits)), rng.random((len(bits), exits)))


def same(one: Sensitivity, other: Sensitivity) -> bool:
    return (
        (one.block, one.bits) == (other.block, other.bits)
        and np.array_equal(one.noise, other.noise)
        and np.array_equal(one.drift, other.drift)
        and one.noise.dtype == other.noise.dtype
        and one.drift.dtype == other.drift.dtype
    )


@pytest.mark.parametrize("bits", [QUANTIZED_BITS, (3,), (2, 4, 8)], ids=len)
@pytest.mark.parametrize("exits", [1, 6])
def test_bytes_round_trip(bits: tuple[int, ...], exits: int):
    row = random_row(5, bits, exits)
    read = Sensitivity.from_bytes(row.to_bytes())
    assert same(read, row)
    # NumPy's integers are no keys for JSON, and print otherwise.
    assert {type(read.block), *map(type, read.bits)} == {int}


def test_a_width_is_answered_with_its_own_row():
    row = random_row(1, (2, 4, 8))
    for index, bits in enumerate((2, 4, 8)):
        noise, drift = row.at(bits)
        assert noise == row.noise[index]
        assert drift.tolist() == row.drift[index].tolist()


def test_full_precision_does_nothing():
    noise, drift = random_row(2, exits=3).at(FULL_PRECISION)
    assert noise == 0
    assert drift.tolist() == [0, 0, 0]


@pytest.mark.parametrize("bits", [1, 3, 5, 16])
def test_a_width_that_was_not_measured_is_refused(bits: int, refused):
    with refused(f"at {bits} bits", "(2, 4, 8)", exit_code=1):
        random_row(3, (2, 4, 8)).at(bits)


def test_every_truncation_is_refused():
    data = random_row(0).to_bytes()
    for length in range(len(data)):
        with pytest.raises(ValueError, match="not a readable sensitivity"):
            Sensitivity.from_bytes(data[:length])


def test_a_flipped_bit_never_changes_a_value():
    """Some bits mean nothing (zip says much twice, or not to us); all others are noticed."""
    row = random_row(0)
    data = row.to_bytes()
    bits = range(0, len(data) * 8, 3)
    noticed = 0
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert same(Sensitivity.from_bytes(bytes(flipped)), row)
        except ValueError:
            noticed += 1
    assert noticed > 0.5 * len(bits)


def other_archive(**changes: object) -> bytes:
    row = random_row(0)
    fields = {
        "format": 1,
        "block": row.block,
        "bits": row.bits,
        "noise": row.noise,
        "drift": row.drift,
    }
    kept = {name: value for name, value in {**fields, **changes}.items() if value is not None}
    buffer = io.BytesIO()
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
        other_archive(format=2),
        other_archive(drift=None),
        other_archive(bits=np.array(["two"])),
        other_archive(noise=np.array([{}], dtype=object)),
    ],
    ids=["empty", "text", "npy", "format-2", "field-missing", "words", "pickle"],
)
def test_bytes_that_are_no_table_are_refused(data: bytes):
    assert same(Sensitivity.from_bytes(other_archive()), random_row(0))
    with pytest.raises(ValueError, match="not a readable sensitivity"):
        Sensitivity.from_bytes(data)
