"""IDX files: read plain or gzipped, refused when damaged."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.data.idx import read_idx_pair

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 3], np.uint8)
IMAGE_FILE = "t10k-images-idx3-ubyte"
LABEL_FILE = "t10k-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    """The format as published: two zero bytes, type 8, dimensions, sizes, data."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write(folder: Path, name: str, data: bytes, zipped: bool) -> None:
    file = folder / (f"{name}.gz" if zipped else name)
    file.write_bytes(gzip.compress(data) if zipped else data)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, IMAGE_FILE, idx(IMAGES), zipped=True)
    write(tmp_path, LABEL_FILE, idx(LABELS), zipped=False)
    return tmp_path


@pytest.mark.parametrize("zipped_images", [True, False])
@pytest.mark.parametrize("zipped_labels", [True, False])
def test_plain_and_gzipped_files_give_the_same(tmp_path: Path, zipped_images, zipped_labels):
    write(tmp_path, IMAGE_FILE, idx(IMAGES), zipped_images)
    write(tmp_path, LABEL_FILE, idx(LABELS), zipped_labels)
    images, labels = read_idx_pair(tmp_path, "t10k")
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)
    assert images.dtype == labels.dtype == np.uint8


def cut(name: str, length: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[:length])

    return damage


def break_deflate(folder: Path) -> None:
    file = folder / f"{IMAGE_FILE}.gz"
    data = bytearray(file.read_bytes())
    data[10] = 0xFF  # no such block type
    file.write_bytes(bytes(data))


def replace(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut(f"{IMAGE_FILE}.gz", 500), ["cannot read", f"{IMAGE_FILE}.gz"]),
        (break_deflate, ["cannot read", f"{IMAGE_FILE}.gz"]),
        (cut(f"{IMAGE_FILE}.gz", 0), [f"{IMAGE_FILE}.gz", "2051"]),
        (replace(f"{IMAGE_FILE}.gz", idx(IMAGES)), ["cannot read", f"{IMAGE_FILE}.gz"]),
        (replace(f"{IMAGE_FILE}.gz", gzip.compress(idx(LABELS))), [IMAGE_FILE, "2051"]),
        (replace(LABEL_FILE, idx(IMAGES)), [LABEL_FILE, "2049"]),
        (replace(LABEL_FILE, b"labels"), [LABEL_FILE, "2049"]),
        (replace(LABEL_FILE, b""), [LABEL_FILE, "2049"]),
        (replace(LABEL_FILE, idx(LABELS[:-1])), ["3920 pixels", "4 labels"]),
        (cut(LABEL_FILE, 10), ["3920 pixels", "2 labels"]),
        (replace(f"{IMAGE_FILE}.gz", gzip.compress(idx(IMAGES)[:-9])), ["3911 pixels"]),
        (lambda folder: (folder / LABEL_FILE).unlink(), [f"no {LABEL_FILE}[.gz]"]),
        (lambda folder: (folder / f"{IMAGE_FILE}.gz").unlink(), [f"no {IMAGE_FILE}[.gz]"]),
        pytest.param(
            cut(LABEL_FILE, 6),
            [LABEL_FILE],
        ),
    ],
    ids=[
        "gzip-truncated", "gzip-broken", "gzip-empty", "not-gzip", "magic-of-labels",
        "magic-of-images", "text", "empty", "fewer-labels", "labels-truncated", "images-truncated",
        "no-labels", "no-images", "header-truncated",
    ],
)  # fmt: skip
def test_damaged_files_are_refused(folder: Path, damage, words: list[str], refused):
    damage(folder)
    with refused(*words):
        read_idx_pair(folder, "t10k")


def test_a_missing_folder_is_refused(tmp_path: Path, refused):
    with refused("nowhere", "train-images"):
        read_idx_pair(tmp_path / "nowhere", "train")
