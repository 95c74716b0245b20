"""What lies in an image folder: read, hidden, or named as a fault; never left out silently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from search.data.imagefolder import ImageFolderDataset
from search.data.listing import Listing, list_images, refuse_faults
from search.errors import BadInput
from search.models.card import InputSpec

SPEC = InputSpec(size=(3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


def put(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = "PNG" if path.suffix.lower() != ".gif" else "GIF"
    Image.new("RGB", (9, 9), (shade, 7, shade // 2)).save(path, kind)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for shade, name in enumerate(("ant", "bee")):
        put(tmp_path / f"root/val/{name}/1.png", 50 * shade)
    return tmp_path / "root"


def names(listing: Listing) -> list[str]:
    return [file.name for file in listing.files]


def faults(root: Path) -> dict[str, str]:
    return {fault.name: fault.reason for fault in list_images(root, "val").faults}


def test_what_systems_leave_behind_is_hidden(root: Path):
    for hidden in (
        ".ipynb_checkpoints/1.png", "__MACOSX/ant/1.png", "ant/._1.png", "ant/.thumbs/1.png",
        "ant/__MACOSX/1.png", "bee/@eaDir/1.png", ".DS_Store", "Thumbs.db", "ant/Thumbs.db",
    ):  # fmt: skip
        put(root / "val" / hidden)
    found = list_images(root, "val")
    assert found.classes == ("ant", "bee")
    assert names(found) == ["val/ant/1.png", "val/bee/1.png"]
    assert found.faults == ()


def test_every_suffix_of_a_format_is_read_in_any_case(root: Path):
    for name in ("2.PNG", "3.JpEg", "4.gif", "5.GIF", "6.jfif", "notes.txt", "deep/er/7.webp"):
        put(root / "val" / "ant" / name)
    assert names(list_images(root, "val")) == [
        "val/ant/1.png", "val/ant/2.PNG", "val/ant/3.JpEg", "val/ant/4.gif", "val/ant/5.GIF",
        "val/ant/6.jfif", "val/ant/deep/er/7.webp", "val/bee/1.png",
    ]  # fmt: skip


def test_links_are_followed_at_every_level(root: Path):
    elsewhere = root.parent / "elsewhere"
    put(elsewhere / "more" / "9.png")
    (root / "val" / "cow").symlink_to(elsewhere)
    (root / "val" / "ant" / "linked").symlink_to(elsewhere)
    (root / "val" / "bee" / "9.png").symlink_to(elsewhere / "more" / "9.png")
    found = list_images(root, "val")
    assert found.classes == ("ant", "bee", "cow")
    assert set(names(found)) >= {
        "val/ant/linked/more/9.png", "val/bee/9.png", "val/cow/more/9.png"
    }  # fmt: skip
    assert found.faults == ()


def test_what_cannot_be_read_is_named(root: Path):
    val = root / "val"
    (val / "ant" / "gone.png").symlink_to("nowhere")
    (val / "dog").symlink_to("nowhere")
    (val / "ant" / "round").symlink_to(val / "ant")
    os.mkfifo(val / "bee" / "pipe.jpg")
    put(val / "beside.png")
    put(val / "bee" / "photo.HEIC")
    (val / "eel").mkdir()
    assert faults(root) == {
        "val/ant/gone.png": "a link to nothing",
        "val/dog": "a link to nothing",
        "val/ant/round": "a link to a folder that it lies in",
        "val/bee/pipe.jpg": "no regular file",
        "val/beside.png": "lies beside the class folders: move it into one",
        "val/bee/photo.HEIC": "a format that is not read: convert it to PNG",
        "val/eel": "a class folder without images: fill or remove it",
    }
    assert list_images(root, "val").classes == ("ant", "bee")


def test_names_that_are_no_utf8_are_read_and_classes_of_such_names_refused(root: Path):
    put(Path(os.fsdecode(os.fsencode(root) + b"/val/ant/\xe9t\xe9.png")), 3)
    for part in ("search", "order", "certify"):
        try:
            split = ImageFolderDataset(root, SPEC).split(part)
        except BadInput:
            continue  # no image fell into it
        assert len(split.read(range(len(split)))) == len(split)
    put(Path(os.fsdecode(os.fsencode(root) + b"/val/\xe9t\xe9/1.png")))
    (reason,) = faults(root).values()
    assert reason == "the name of a class must be UTF-8: rename it"


def test_all_faults_are_listed_up_to_twenty(root: Path):
    for number in range(30):
        put(root / "val" / "ant" / f"{number:02d}.heic")
    with pytest.raises(BadInput, match="30 faults, the first is 'val/ant/00") as caught:
        refuse_faults(root, list_images(root, "val").faults)
    first, *lines = caught.value.lines()
    assert first == str(caught.value)
    assert len(lines) == 21
    assert lines[19].startswith("  'val/ant/19.heic': ")
    assert lines[20] == "  and 10 more"
