"""Image folders: ``DIR/train/CLASS/*`` for training and calibration, ``DIR/val/CLASS/*`` held out.

The held-out files are dealt into search (30%), order (20%) and certify (50%) by the SHA-256 of
their relative paths, so that a file keeps its split when others come or go.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from search.data.splits import SPLITS, Split
from search.digest import digest_of
from search.errors import BadInput, unknown_choice
from search.models.card import InputSpec

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
SHARES = {"search": 0.3, "order": 0.2, "certify": 0.5}


def list_images(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names, and the files with their class indices, both in sorted order.

    Raises:
        BadInput: when the folder is missing or holds no class with an image.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {str(folder)!r}: an image folder has train/CLASS and val/CLASS")
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    files = [
        (path, index)
        for index, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise BadInput(f"no images in {str(folder)!r}: put them into one folder per class")
    return classes, files


def open_image(path: Path, channels: int) -> Image.Image:
    """Read an image file as grey (one channel) or RGB.

    Raises:
        BadInput: naming the file that cannot be read.
    """
    try:
        with Image.open(path) as raw:
            if raw.mode.startswith("I"):
                # 16-bit grey: Pillow would cut it off at 255 instead of scaling it.
                grey = Image.fromarray((np.asarray(raw) >> 8).astype(np.uint8))
                return grey.convert("L" if channels == 1 else "RGB")
            return raw.convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput(
            f"cannot read image {str(path)!r} ({error}): remove or replace it"
        ) from error


def read_image(path: Path, spec: InputSpec) -> np.ndarray:
    """Read, resize the shorter side, crop the centre: uint8 ``[H, W, C]``.

    The shorter side becomes the crop size divided by ``spec.crop_pct``, with the rounding of timm's
    evaluation transform.
    """
    channels, height, width = spec.size
    image = open_image(path, channels)
    short = math.floor(max(height, width) / spec.crop_pct)
    if image.width <= image.height:
        size = (short, int(short * image.height / image.width))
    else:
        size = (int(short * image.width / image.height), short)
    resampling = {
        "bilinear": Image.Resampling.BILINEAR,
        "nearest": Image.Resampling.NEAREST,
    }.get(spec.interpolation, Image.Resampling.BICUBIC)
    image = image.resize(size, resampling)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    return pixels.reshape(height, width, channels)


class ImageFolderDataset:
    """An image folder in the four splits."""

    def __init__(self, path: Path, spec: InputSpec) -> None:
        self.path, self.spec = path, spec
        self.classes, self._held_out = list_images(path / "val")

    def split(self, name: str) -> Split:
        """Return one of ``search``, ``order``, ``certify``, ``calibration``.

        Raises:
            BadInput: for another name, or where the folder gives the split no image.
        """
        if name not in SPLITS:
            raise unknown_choice("split", name, SPLITS)
        if name == "calibration":
            classes, files = list_images(self.path / "train")
            if classes != self.classes:
                odd = ", ".join(sorted(set(classes) ^ set(self.classes))[:5])
                raise BadInput(f"train and val in {str(self.path)!r} differ in classes: {odd}")
            files = sorted(files, key=lambda file: self._fraction(file[0]))
        else:
            files = [file for file in self._held_out if self._split_of(file[0]) == name]
        if not files:
            raise BadInput(
                f"{str(self.path)!r} leaves split {name!r} without images: add images to val"
            )
        return Split(
            name, self._digest(files), np.array([f[1] for f in files]), self._reader(files)
        )

    def _fraction(self, path: Path) -> float:
        name = path.relative_to(self.path).as_posix()
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64

    def _split_of(self, path: Path) -> str:
        fraction = self._fraction(path)
        if fraction < SHARES["search"]:
            return "search"
        return "order" if fraction < SHARES["search"] + SHARES["order"] else "certify"

    def _digest(self, files: Sequence[tuple[Path, int]]) -> str:
        # Paths and sizes, not contents: hashing a large data set would take longer than a search.
        return digest_of(
            [
                self.spec.model_dump(mode="json"),
                [[p.relative_to(self.path).as_posix(), p.stat().st_size, c] for p, c in files],
            ]
        )

    def _reader(self, files: Sequence[tuple[Path, int]]) -> Callable[[np.ndarray], np.ndarray]:
        def read(indices: np.ndarray) -> np.ndarray:
            return np.stack([read_image(files[i][0], self.spec) for i in indices])

        return read


def open_imagefolder(path: Path | None, spec: InputSpec) -> ImageFolderDataset:
    """Open an image folder for a model that reads images as ``spec`` says."""
    if path is None:
        raise BadInput("data set 'imagefolder' needs a path: set data.path to the folder")
    return ImageFolderDataset(path, spec)
