"""Image folders: splits that stay, pixels as timm would crop them, and damaged sets refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data.transforms_factory import create_transform

from search.data import open_dataset
from search.data.imagefolder import ImageFolderDataset
from search.data.images import read_image
from search.data.splits import HELD_OUT_SPLITS, Split
from search.models.card import InputSpec

SPEC = InputSpec(size=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
CLASSES = ("ant", "bee")
PER_CLASS = 100


def add(root: Path, part: str, name: str, number: int, suffix: str = "png") -> Path:
    """A small image of one colour, which tells its class and number."""
    path = root / part / name / f"{number:03d}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = (200 * (name == "bee"), number, 77 + (part == "train"))
    Image.new("RGB", (12, 10), colour).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in CLASSES:
        for number in range(PER_CLASS):
            add(tmp_path, "val", name, number)
        for number in range(6):
            add(tmp_path, "train", name, number, "bmp")
    (tmp_path / "val" / "ant" / "notes.txt").write_text("not an image")
    return tmp_path


def home_of(path: str) -> str:
    """The held-out split of a file: 30, 20 and 50% of the range of its path's SHA-256."""
    fraction = int(hashlib.sha256(path.encode()).hexdigest(), 16) / 2**256
    return "search" if fraction < 0.3 else "order" if fraction < 0.5 else "certify"


def members(split: Split) -> list[tuple[int, int]]:
    """Class and number of every image, read off its colour, in order."""
    pixels = split.read(np.arange(len(split)))[:, 4, 4]
    return [(int(red) // 200, int(green)) for red, green, _ in pixels]


def splits_of(root: Path) -> dict[str, Split]:
    dataset = ImageFolderDataset(root, SPEC)
    return {name: dataset.split(name) for name in HELD_OUT_SPLITS}


def test_splits_are_disjoint_and_cover_all_of_val(root: Path):
    assert ImageFolderDataset(root, SPEC).classes == CLASSES
    splits = splits_of(root)
    everything = [member for split in splits.values() for member in members(split)]
    assert sorted(everything) == [(c, n) for c in (0, 1) for n in range(PER_CLASS)]
    for name, split in splits.items():
        assert split.targets.tolist() == [label for label, _ in members(split)]
        assert len(split) > 20
        assert {home_of(f"val/{CLASSES[c]}/{n:03d}.png") for c, n in members(split)} == {name}
    assert len({split.digest for split in splits.values()}) == 3


def test_files_keep_their_split_when_others_come_or_go(root: Path):
    before = {name: members(split) for name, split in splits_of(root).items()}
    digests = {name: split.digest for name, split in splits_of(root).items()}
    add(root, "val", "ant", 150)
    after = splits_of(root)
    (new_home,) = [name for name in after if (0, 150) in members(after[name])]
    for name, split in after.items():
        assert [member for member in members(split) if member != (0, 150)] == before[name]
        assert (split.digest != digests[name]) == (name == new_home)
    (root / "val" / "ant" / "150.png").unlink()
    assert {name: split.digest for name, split in splits_of(root).items()} == digests


def test_the_digest_changes_with_the_crop_and_with_the_size_of_a_file(root: Path):
    digest = ImageFolderDataset(root, SPEC).split("certify").digest
    cropped = SPEC.model_copy(update={"crop_pct": 0.9})
    assert ImageFolderDataset(root, cropped).split("certify").digest != digest
    for number in range(PER_CLASS):
        other = Image.new("RGB", (40, 40), (9, number, 9))
        other.save(root / "val" / "bee" / f"{number:03d}.png")
    assert ImageFolderDataset(root, SPEC).split("certify").digest != digest


def test_calibration_comes_from_train_mixed_over_classes(root: Path):
    split = ImageFolderDataset(root, SPEC).split("calibration")
    assert sorted(members(split)) == [(c, n) for c in (0, 1) for n in range(6)]
    assert split.targets.tolist() == [label for label, _ in members(split)]
    assert set(split.targets[:6]) == {0, 1}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize(
    "size", [(90, 31), (31, 90), (7, 5), (1, 1), (33, 32), (400, 400)], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_any_image_becomes_uint8_of_the_models_size(tmp_path, channels, crop_pct, size, mode):
    spec = InputSpec(
        size=(channels, 24, 32), mean=(0.5,) * channels, std=(1,) * channels, crop_pct=crop_pct
    )
    Image.new(mode, size).save(tmp_path / "image.png")
    pixels = read_image(tmp_path / "image.png", spec)
    assert pixels.shape == (24, 32, channels)
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0])
def test_pixels_are_those_of_timms_evaluation_transform(tmp_path: Path, crop_pct: float):
    spec = InputSpec(size=(3, 224, 224), mean=(0,) * 3, std=(1,) * 3, crop_pct=crop_pct)
    transform = create_transform(
        spec.size, mean=spec.mean, std=spec.std, interpolation="bicubic", crop_pct=crop_pct
    )
    for width, height in ((640, 480), (375, 500), (224, 224), (225, 300), (120, 100)):
        rows, columns = np.mgrid[:height, :width]
        pattern = np.stack([rows * 3, columns * 2, rows + columns], axis=-1).astype(np.uint8)
        path = tmp_path / "image.png"
        Image.fromarray(pattern).save(path)
        with Image.open(path) as image:
            expected = (transform(image) * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(read_image(path, spec), expected), (width, height)


def test_sixteen_bit_images_keep_their_shades(tmp_path: Path):
    shades = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(shades).save(tmp_path / "deep.png")
    pixels = read_image(tmp_path / "deep.png", SPEC)
    np.testing.assert_allclose(pixels[..., 0], shades / 257, atol=2)


def overwrite(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(
    "damage", [overwrite(b"junk"), overwrite(b"\0"), halve, become_a_folder, Path.unlink]
)
def test_a_damaged_image_is_named(tmp_path: Path, suffix: str, damage, refused):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    assert read_image(path, SPEC).shape == (8, 8, 3)
    damage(path)
    with refused("cannot read image", str(path)):
        read_image(path, SPEC)


def test_an_image_that_is_damaged_after_it_was_checked_is_named(root: Path, refused):
    split = ImageFolderDataset(root, SPEC).split("search")
    for number in range(PER_CLASS):
        (root / "val" / "bee" / f"{number:03d}.png").write_bytes(b"junk")
    with refused("cannot read image", "val/bee/"):
        split.read(np.arange(len(split)))


def test_missing_empty_and_differing_folders_are_refused(root: Path, refused):
    with refused("imagefolder", "needs a path"):
        open_dataset("imagefolder", None, SPEC)
    with refused("no folder", "nowhere/val"):
        open_dataset("imagefolder", root / "nowhere", SPEC)
    with refused("split 'test'"):
        open_dataset("imagefolder", root, SPEC).split("test")

    empty = root / "empty"
    (empty / "val" / "ant").mkdir(parents=True)
    with refused("no images", "empty/val"):
        open_dataset("imagefolder", empty, SPEC)
    add(empty, "val", "ant", 0)
    dataset = open_dataset("imagefolder", empty, SPEC)
    with refused("no folder", "empty/train"):
        dataset.split("calibration")
    for name in HELD_OUT_SPLITS:
        if name == home_of("val/ant/000.png"):
            assert len(dataset.split(name)) == 1
        else:
            with refused(f"split {name!r} without images"):
                dataset.split(name)

    add(root, "train", "cow", 0)
    with refused("differ in classes", "cow"):
        open_dataset("imagefolder", root, SPEC).split("calibration")
