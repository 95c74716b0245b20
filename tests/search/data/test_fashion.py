"""The bundled benchmark: pinned splits, no image twice, and the published files it came from."""

from __future__ import annotations

import io
import lzma
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from search.data import open_dataset
from search.data.bundle_fashion import bundle
from search.data.fashion import CLASSES, MEAN, STD, FashionDataset
from search.data.idx import read_idx_pair
from search.data.splits import SPLITS, Split
from search.models.card import InputSpec

PUBLISHED = Path("/usr/share/datasets/fashion-mnist")
published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"no published files in {PUBLISHED}")
SPEC = InputSpec(size=(1, 28, 28), mean=MEAN, std=STD)

PINNED = {
    "search": (3000, "05da4f3514fbfa08951552afdd2a9390b6b5435e87c90dd14c43619884442cf5"),
    "order": (2000, "6bf4216305b7aba52e52f3659c07f4481cacb0603fc18ac8d0f5d5b2b9a75a35"),
    "certify": (5000, "b46d13a35a9f3cf67cddf9037deb57329fea57e466d69c3f0582a22d21a9a641"),
    "calibration": (1024, "012c8b0b0a44c03767668b9681d2c751347ff104ca14760dc5aacdf68212adb5"),
}


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    dataset = FashionDataset()
    return {name: dataset.split(name) for name in SPLITS}


@pytest.mark.parametrize("name", SPLITS)
def test_sizes_digests_and_classes_are_pinned(splits: dict[str, Split], name: str):
    split = splits[name]
    assert (len(split), split.digest) == PINNED[name]
    assert split.name == name
    assert split.targets.dtype == np.int64
    assert set(split.targets) == set(range(10)) == set(range(len(CLASSES)))
    images = split.read(np.arange(len(split)))
    assert images.shape == (len(split), 28, 28, 1)
    assert images.dtype == np.uint8


def test_no_image_appears_twice_within_or_across_splits(splits: dict[str, Split]):
    images = [
        image.tobytes() for split in splits.values() for image in split.read(np.arange(len(split)))
    ]
    assert len(set(images)) == len(images) == 11_024


def test_a_head_is_the_first_samples_under_another_digest(splits: dict[str, Split]):
    split = splits["search"]
    head = split.head(7)
    assert (len(head), head.name) == (7, "search")
    assert head.targets.tolist() == split.targets[:7].tolist()
    assert np.array_equal(head.read(np.arange(7)), split.read(np.arange(7)))
    assert len({split.digest, head.digest, split.head(8).digest}) == 3
    assert split.head(3000) is split.head(9999) is split


@published
def test_the_bundled_files_are_made_of_the_published_ones():
    for name, rows in bundle(PUBLISHED).items():
        buffer = io.BytesIO()
        np.save(buffer, rows)
        committed = resources.files("search.data").joinpath("assets", name).read_bytes()
        assert lzma.decompress(committed) == buffer.getvalue(), name


@published
def test_the_normalization_is_that_of_the_training_images():
    pixels = read_idx_pair(PUBLISHED, "train")[0]
    counts = np.bincount(pixels.ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = np.average(values, weights=counts)
    std = np.average((values - mean) ** 2, weights=counts) ** 0.5
    assert (mean, std) == (pytest.approx(MEAN[0], abs=5e-5), pytest.approx(STD[0], abs=5e-5))


def test_wrong_names_paths_and_models_are_refused(refused):
    assert isinstance(open_dataset("fashion", None, SPEC), FashionDataset)
    with refused("split 'test'", "calibration, certify, order, search"):
        FashionDataset().split("test")
    with refused("data set 'cifar'", "fashion, imagefolder"):
        open_dataset("cifar", None, SPEC)
    with refused("'/data'", "bundled"):
        open_dataset("fashion", Path("/data"), SPEC)
    with refused("1x28x28", "(3, 28, 28)"):
        open_dataset("fashion", None, InputSpec(size=(3, 28, 28), mean=(0,) * 3, std=(1,) * 3))
