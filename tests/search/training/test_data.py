"""Training images by the name of their data set: the same pixels from the same seed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search.data import DATASETS, TRAINING_DATA
from search.data.augment import AUGMENTATIONS, augment, resolve_augmentation
from search.data.images import fit
from search.data.splits import DataOptions
from search.models.card import InputSpec
from search.training import data as module
from search.training.data import FolderData, open_training_data

SPEC = InputSpec(size=(3, 12, 16), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXITBITS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 1)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def epoch(data: FolderData, seed: int = 0, batch: int = 4) -> tuple[torch.Tensor, list[int]]:
    batches = list(data.batches(batch, torch.Generator().manual_seed(seed)))
    return torch.cat([images for images, _ in batches]), torch.cat([t for _, t in batches]).tolist()


def test_every_data_set_has_training_images():
    assert set(TRAINING_DATA) == set(DATASETS)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_seed_decides_the_pixels_not_the_threads(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    data = open_training_data("imagefolder", root, SPEC, DataOptions(), name)
    assert len(data) == 10
    images, targets = epoch(data)
    assert images.shape == (8, 3, 12, 16)
    assert images.dtype == torch.float32
    assert set(targets) == {0, 1}
    monkeypatch.setattr(module, "computing_threads", lambda: 1)
    again, _ = epoch(data)
    assert torch.equal(images, again)
    other, _ = epoch(data, seed=1)
    assert not torch.equal(images, other)


def test_without_augmentation_images_are_as_in_evaluation(root: Path):
    data = open_training_data("imagefolder", root, SPEC, DataOptions(), "none")
    images, _ = epoch(data, batch=10)
    found = {((one * 0.25 + 0.5) * 255).round().byte().numpy().tobytes() for one in images}
    expected = {
        fit(Image.open(path), SPEC).transpose(2, 0, 1).tobytes()
        for path in (root / "train").rglob("*.png")
    }
    assert found == expected


def test_light_keeps_most_of_an_image_and_its_colours_strong_does_not():
    rows, columns = np.mgrid[:60, :80]
    image = Image.fromarray(np.stack([rows * 4, columns * 3, rows * 0 + 99], -1).astype(np.uint8))
    spreads, blues = {}, {}
    for name in ("light", "strong"):
        draw = random.Random(0)
        made = [augment(image, SPEC, resolve_augmentation(name), draw) for _ in range(60)]
        # The red channel runs from top to bottom: its range is the height that a crop took.
        spreads[name] = min(int(np.ptp(one[..., 0])) / 236 for one in made)
        blues[name] = {int(one[5, 5, 2]) for one in made}
        mirrored = np.mean([one[5, 0, 1] > one[5, -1, 1] for one in made])
        assert 0.3 < mirrored < 0.7
    assert spreads["light"] > 0.65
    assert spreads["strong"] < 0.5
    assert blues["light"] == {99}
    assert len(blues["strong"]) > 20


@pytest.mark.parametrize("size", [(1, 1), (200, 3), (3, 200)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_can_be_augmented(size: tuple[int, int], channels: int):
    spec = InputSpec(size=(channels, 12, 16), mean=(0,) * channels, std=(1,) * channels)
    image = Image.new("L" if channels == 1 else "RGB", size)
    for name in AUGMENTATIONS:
        made = augment(image, spec, resolve_augmentation(name), random.Random(1))
        assert made.shape == (12, 16, channels)


def test_unknown_names_are_refused(root: Path, refused):
    with refused("augmentation 'wild'", "light, none, strong"):
        open_training_data("imagefolder", root, SPEC, DataOptions(), "wild")
    with refused("training data 'cifar'", "fashion, imagefolder"):
        open_training_data("cifar", root, SPEC, DataOptions())


def test_an_error_of_one_image_ends_the_epoch_with_its_name(root: Path, refused):
    data = open_training_data("imagefolder", root, SPEC, DataOptions())
    damaged = root / "train" / "ant" / "3.png"
    damaged.write_bytes(b"")
    with refused("cannot read image", str(damaged), "an empty file"):
        epoch(data, batch=10)
