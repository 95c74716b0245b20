"""Image folders: ``DIR/train/CLASS/*`` for training and calibration, ``DIR/val/CLASS/*`` held out.

The held-out files are dealt into search (30%), order (20%) and certify (50%), or by other shares,
by the SHA-256 of their relative paths, so that a file keeps its split when others come or go. All
of them are decoded once before anything long begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from search.data.checks import Seen, check_images
from search.data.images import READING, read_image
from search.data.listing import Fault, ImageFile, Listing, list_images, refuse_faults
from search.data.splits import HELD_OUT_SPLITS, SPLITS, DataOptions, Split
from search.digest import digest_of
from search.errors import BadInput, unknown_choice
from search.models.card import InputSpec

TRAIN = "calibration"  # what duplicates say of images from train
KEEPS = ("certify", "order", "search", TRAIN)  # who keeps an image that is in several


class ImageFolderDataset:
    """An image folder in the four splits.

    Args:
        path: the folder.
        spec: what the model reads.
        options: shares of the splits, what becomes of duplicates, how many images calibrate.

    Raises:
        BadInput: when there is no image in ``val``.
    """

    def __init__(self, path: Path, spec: InputSpec, options: DataOptions | None = None) -> None:
        self.path, self.spec, self.options = path, spec, options or DataOptions()
        self._val = list_images(path, "val")
        self._seen = Seen()
        self.classes = self._val.classes

    def split(self, name: str) -> Split:
        """Return one of ``search``, ``order``, ``certify``, ``calibration``.

        Raises:
            BadInput: for another name, where the folder gives the split no image, or where a file
                that was checked is at fault.
        """
        if name not in SPLITS:
            raise unknown_choice("split", name, SPLITS)
        checked = self._checked(self._calibration if name == TRAIN else ())
        files = [file for file in checked if self._home(file) == name]
        if not files:
            raise BadInput(
                f"{str(self.path)!r} leaves split {name!r} without images: add images to val"
                + ("" if name == TRAIN else ", or set data.shares")
            )
        targets = np.array([file.target for file in files])
        return Split(name, self._digest(files), targets, self._reader(files))

    def training_files(self) -> tuple[ImageFile, ...]:
        """The checked images of ``train``.

        Raises:
            BadInput: where a file of either part is at fault, or their classes differ.
        """
        checked = self._checked(self._train.files)
        return tuple(file for file in checked if self._home(file) == TRAIN)

    @cached_property
    def _train(self) -> Listing:
        found = list_images(self.path, "train")
        if found.classes != self.classes:
            refuse_faults(self.path, [*self._val.faults, *found.faults])
            odd = ", ".join(map(repr, sorted(set(found.classes) ^ set(self.classes))[:5]))
            raise BadInput(f"train and val in {str(self.path)!r} differ in classes: {odd}")
        return found

    @cached_property
    def _calibration(self) -> tuple[ImageFile, ...]:
        """The training images that calibrate, in their order: mixed over classes."""
        ordered = sorted(self._train.files, key=_fraction)
        return tuple(ordered[: self.options.calibration_images])

    def _checked(self, train: Sequence[ImageFile]) -> list[ImageFile]:
        """Images of val and some of train, all of them read and none of them in two splits."""
        faults = [*self._val.faults, *(self._train.faults if train else ())]
        # In the order of the folder, by which what is known of a class is found.
        both = [*self._val.files, *sorted(train, key=lambda file: (file.target, file.name))]
        check_images(both, self._seen)
        refuse_faults(self.path, [*faults, *self._seen.faults])
        return self._without_duplicates([*self._val.files, *train])

    def _without_duplicates(self, files: Sequence[ImageFile]) -> list[ImageFile]:
        """Files without those that another split keeps.

        Raises:
            BadInput: where there are some and the options refuse them.
        """
        homes: dict[str, dict[str, ImageFile]] = {}
        for file in files:
            homes.setdefault(self._seen.pixels[file.name], {}).setdefault(self._home(file), file)
        several = [by_home for by_home in homes.values() if len(by_home) > 1]
        if several and self.options.duplicates == "refuse":
            raise BadInput(
                f"{_count(len(several), 'image')} in {str(self.path)!r} "
                f"{'lie' if len(several) > 1 else 'lies'} in more than one split, so that figures "
                "would flatter: remove the copies, or leave them out (data.duplicates = "
                '"leave-out", train --leave-out-duplicates)',
                details=[str(_duplicate(by_home)) for by_home in several],
            )
        keeps = {
            digest: next(home for home in KEEPS if home in by_home)
            for digest, by_home in homes.items()
        }
        pixels = self._seen.pixels
        return [file for file in files if self._home(file) == keeps[pixels[file.name]]]

    def _home(self, file: ImageFile) -> str:
        """The split that a file belongs to."""
        if file.name.startswith("train/"):
            return TRAIN
        shares, fraction = np.array(self.options.shares), _fraction(file)
        bounds = np.cumsum(shares / shares.sum())
        return HELD_OUT_SPLITS[int((fraction >= bounds[:-1]).sum())]

    def _digest(self, files: Sequence[ImageFile]) -> str:
        return digest_of(
            [
                READING,
                self.spec.model_dump(mode="json"),
                [[file.name, self._seen.contents[file.name], file.target] for file in files],
            ]
        )

    def _reader(self, files: Sequence[ImageFile]) -> Callable[[np.ndarray], np.ndarray]:
        def read(indices: np.ndarray) -> np.ndarray:
            return np.stack([read_image(files[i].path, self.spec) for i in indices])

        return read


def _fraction(file: ImageFile) -> float:
    digest = hashlib.sha256(file.name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duplicate(by_home: dict[str, ImageFile]) -> Fault:
    first, *others = by_home.items()
    copies = ", ".join(f"{file.name!r} ({home})" for home, file in others)
    return Fault(first[1].name, f"in {first[0]}, the same as {copies}")


def open_imagefolder(
    path: Path | None, spec: InputSpec, options: DataOptions
) -> ImageFolderDataset:
    """Open an image folder for a model that reads images as ``spec`` says."""
    if path is None:
        raise BadInput("data set 'imagefolder' needs a path: set data.path to the folder")
    return ImageFolderDataset(path, spec, options)
