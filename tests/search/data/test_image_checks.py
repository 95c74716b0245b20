"""Images are checked once, together, and no image may be in two splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.data import checks
from search.data.imagefolder import ImageFolderDataset
from search.data.splits import HELD_OUT_SPLITS, DataOptions, Split, few_images
from search.errors import BadInput
from search.models.card import InputSpec

SPEC = InputSpec(size=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXITBITS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of noise, no two alike."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 20)):
        for name in ("ant", "bee"):
            (tmp_path / "root" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (9, 9, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"root/{part}/{name}/{number}.png")
    return tmp_path / "root"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is decoded while checking."""
    found: list[int] = []
    plain = checks.decode

    def watched(content: bytes) -> Image.Image:
        found.append(len(content))
        return plain(content)

    monkeypatch.setattr(checks, "decode", watched)
    return found


def splits(root: Path, **options) -> dict[str, Split]:
    dataset = ImageFolderDataset(root, SPEC, DataOptions(**options))
    return {name: dataset.split(name) for name in ("calibration", *HELD_OUT_SPLITS)}


def sizes(found: dict[str, Split]) -> dict[str, int]:
    return {name: len(split) for name, split in found.items()}


def test_what_was_checked_is_not_decoded_again(root: Path, decoded: list[int]):
    first = splits(root)
    assert len(decoded) == 48
    decoded.clear()
    again = splits(root)
    assert decoded == []
    assert [one.digest for one in again.values()] == [one.digest for one in first.values()]
    root.rename(root.with_name("moved"))
    moved = splits(root.with_name("moved"))
    assert decoded == []
    assert moved["search"].digest == first["search"].digest


def test_a_changed_file_costs_its_class_alone_and_is_another_split(root: Path, decoded: list[int]):
    before = splits(root)
    decoded.clear()
    changed = root / "val" / "ant" / "3.png"
    stat = changed.stat()
    pixels = np.asarray(Image.open(changed)).copy()
    pixels[0, 0] ^= 255
    Image.fromarray(pixels).save(changed)
    assert changed.stat().st_size == stat.st_size  # noise: as long as before
    after = splits(root)
    assert len(decoded) == 20
    assert sum(after[name].digest != before[name].digest for name in HELD_OUT_SPLITS) == 1


def test_damaged_notes_and_a_cache_that_cannot_be_written_cost_time_only(
    root: Path, cache: Path, decoded: list[int]
):
    before = splits(root)
    for path in (cache / "checks").rglob("*.json"):
        path.write_bytes(b"[[1]]")
    decoded.clear()
    assert splits(root)["order"].digest == before["order"].digest
    assert len(decoded) == 48
    for path in (cache / "checks").rglob("*.json"):
        path.unlink()
        path.mkdir()
    assert splits(root)["order"].digest == before["order"].digest


def test_all_faults_of_all_splits_are_listed_at_once_and_mended_ones_forgotten(root: Path):
    bad = [root / f"val/{name}/{number}.png" for name in ("ant", "bee") for number in range(3)]
    kept = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"")
    (root / "train" / "ant" / "x.png").symlink_to("nowhere")
    with pytest.raises(BadInput, match="7 faults") as caught:
        splits(root)
    assert {detail.split("'")[1] for detail in caught.value.details} == {
        "train/ant/x.png", *(path.relative_to(root).as_posix() for path in bad)
    }  # fmt: skip
    for path, content in zip(bad, kept, strict=True):
        path.write_bytes(content)
    (root / "train" / "ant" / "x.png").unlink()
    assert sum(sizes(splits(root)).values()) == 48


def test_an_empty_class_is_a_fault_in_either_part_not_another_class(root: Path):
    (root / "val" / "cow").mkdir()
    with pytest.raises(BadInput, match="'val/cow': a class folder without images"):
        splits(root)
    (root / "val" / "cow").rmdir()
    for path in (root / "train" / "ant").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="'train/ant': a class folder without images"):
        splits(root)


def test_the_same_image_in_two_splits_is_named_and_refused_or_left_out(root: Path):
    before = sizes(splits(root))
    Image.open(root / "train/ant/0.png").save(root / "val/bee/copy.bmp")  # other bytes, same image
    with pytest.raises(BadInput, match=r"1 image .* lies in more than one split") as caught:
        splits(root)
    (detail,) = caught.value.details
    assert "val/bee/copy.bmp" in detail
    assert "train/ant/0.png' (calibration)" in detail
    after = sizes(splits(root, duplicates="leave-out"))
    assert after.pop("calibration") == before.pop("calibration") - 1
    assert sum(after.values()) == sum(before.values()) + 1
    files = ImageFolderDataset(root, SPEC, DataOptions(duplicates="leave-out")).training_files()
    assert "train/ant/0.png" not in {file.name for file in files}
    assert len(files) == 7


def test_of_held_out_copies_the_strictest_split_keeps_one(root: Path):
    for number in range(30):
        Image.open(root / "val/ant/0.png").save(root / f"val/ant/copy{number}.png")
    with pytest.raises(BadInput, match="lies in more than one split"):
        splits(root)
    before, after = 0, splits(root, duplicates="leave-out")
    for number in range(30):
        (root / f"val/ant/copy{number}.png").unlink()
    plain = splits(root)
    before = len(plain["search"]) + len(plain["order"])
    assert before - 1 <= len(after["search"]) + len(after["order"]) <= before
    assert len(after["certify"]) > len(plain["certify"])


def test_twice_in_one_split_is_no_leak(root: Path):
    Image.open(root / "train/ant/0.png").save(root / "train/bee/again.png")
    assert sizes(splits(root))["calibration"] == 9


def test_shares_deal_the_same_images_otherwise(root: Path):
    usual = sizes(splits(root))
    assert sizes(splits(root, shares=(30, 20, 50))) == usual
    late = sizes(splits(root, shares=(1, 1, 4)))
    assert late["certify"] > usual["certify"]
    assert sum(late.values()) == sum(usual.values())


def test_only_the_images_that_calibrate_are_checked_of_train(root: Path, decoded: list[int]):
    found = splits(root, calibration_images=3)
    assert len(found["calibration"]) == 3
    assert len(decoded) == 43


FLOWERS = Path(__file__).parents[4] / "shared" / "real" / "flowers"


@pytest.mark.slow
@pytest.mark.skipif(not FLOWERS.is_dir(), reason="no real photos beside this checkout")
def test_in_real_photos_the_one_that_is_in_two_splits_is_found():
    with pytest.raises(BadInput, match="1 image ") as caught:
        ImageFolderDataset(FLOWERS, SPEC).training_files()
    assert "train/roses/15922772266_1167a06620.jpg" in caught.value.details[0]
    dataset = ImageFolderDataset(FLOWERS, SPEC, DataOptions(duplicates="leave-out"))
    assert len(dataset.training_files()) == 999


def test_small_splits_are_told_with_the_size_of_their_error():
    def split(count: int) -> Split:
        return Split("search", "0", np.zeros(count), lambda indices: [])

    assert few_images(split(100)) is None
    assert "only 5 images" in str(few_images(split(5)))
    assert "up to 0.60" in str(few_images(split(5)))
    assert "up to 0.20" in str(few_images(split(25)))
    assert "only 1 image:" in str(few_images(split(1)))
