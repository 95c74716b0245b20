"""Training images by the name of their data set, read and augmented by threads. Needs torch."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from search.cores import computing_threads
from search.data import TRAINING_DATA
from search.data.augment import Augmentation, augment, resolve_augmentation
from search.data.idx import read_idx_pair
from search.data.imagefolder import ImageFolderDataset
from search.data.images import open_image
from search.data.listing import ImageFile
from search.data.splits import DataOptions
from search.models.card import InputSpec
from search.training.loop import TrainingData

AHEAD = 2  # batches that are read while one is trained on


def open_training_data(
    dataset: str, folder: Path, spec: InputSpec, options: DataOptions, augmentation: str = "light"
) -> TrainingData:
    """The training images of a data set, augmented and normalized.

    Args:
        dataset: its name in :data:`search.data.TRAINING_DATA`.
        folder: where they lie.
        spec: what the model reads.
        options: what a study says of its images.
        augmentation: a key of :data:`search.data.augment.AUGMENTATIONS`.

    Raises:
        BadInput: when they cannot be read, or are at fault.
    """
    data: TrainingData = TRAINING_DATA.resolve(dataset)(folder, spec, options, augmentation)
    return data


def open_fashion_training(
    folder: Path, spec: InputSpec, options: DataOptions, augmentation: str
) -> TrainingData:
    """Fashion-MNIST's published files; any augmentation is flips and shifts."""
    some = resolve_augmentation(augmentation) is not None
    images, labels = read_idx_pair(folder, "train")
    return ArrayData(
        images[..., None], labels, spec.mean, spec.std, shift=2 if some else 0, flip=some
    )


def open_folder_training(
    folder: Path, spec: InputSpec, options: DataOptions, augmentation: str
) -> TrainingData:
    """An image folder's ``train``."""
    files = ImageFolderDataset(folder, spec, options).training_files()
    return FolderData(files, spec, resolve_augmentation(augmentation))


class FolderData:
    """Image files, read and augmented by a thread a core while the last batch is trained on.

    What an image looks like depends on the generator's seed alone, not on the threads.

    Args:
        files: of the images.
        spec: what the model wants of an image.
        augmentation: how they are changed, None for not at all.
    """

    def __init__(
        self, files: Sequence[ImageFile], spec: InputSpec, augmentation: Augmentation | None
    ) -> None:
        self.files, self.spec, self.augmentation = files, spec, augmentation
        self._mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
        self._std = torch.tensor(spec.std).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return len(self.files)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order: images ``[B, C, H, W]`` and targets ``[B]``."""
        order = torch.randperm(len(self), generator=generator).tolist()
        seed = int(torch.randint(2**62, (1,), generator=generator))
        starts = range(0, len(self) - batch_size + 1, batch_size)
        pool = ThreadPoolExecutor(computing_threads())
        pending: deque[tuple[list[int], list[Future[np.ndarray]]]] = deque()
        try:
            for start in starts:
                chosen = order[start : start + batch_size]
                pending.append((chosen, [pool.submit(self._read, i, seed) for i in chosen]))
                if len(pending) > AHEAD:
                    yield self._batch(*pending.popleft())
            while pending:
                yield self._batch(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, index: int, seed: int) -> np.ndarray:
        image = open_image(self.files[index].path, self.spec.size[0])
        draw = random.Random((seed << 32) + index)
        return augment(image, self.spec, self.augmentation, draw)

    def _batch(self, chosen: list[int], read: list[Future[np.ndarray]]) -> tuple[Tensor, Tensor]:
        pixels = torch.from_numpy(np.stack([one.result() for one in read])).permute(0, 3, 1, 2)
        targets = torch.tensor([self.files[i].target for i in chosen])
        return (pixels.float() / 255 - self._mean) / self._std, targets


class ArrayData:
    """Images held in memory, augmented by flips and shifts.

    Args:
        images: uint8 ``[N, H, W, C]``.
        targets: class indices, ``[N]`` or whatever shape the task has.
        mean, std: normalization a channel, of pixels in [0, 1].
        shift: largest shift in pixels, each way.
        flip: whether to mirror half of the images.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        shift: int = 2,
        flip: bool = True,
    ) -> None:
        self.images = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
        self.targets = torch.tensor(targets, dtype=torch.int64)
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)
        self.shift = shift
        self.flip = flip

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self), generator=generator)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield self._augment(self.images[chosen], generator), self.targets[chosen]

    def _augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < 0.5
            images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
        if self.shift:
            padded = F.pad(images, [self.shift] * 4)
            offsets = torch.randint(0, 2 * self.shift + 1, (2, count), generator=generator)
            rows = offsets[0].view(-1, 1) + torch.arange(height)
            columns = offsets[1].view(-1, 1) + torch.arange(width)
            index = torch.arange(count).view(-1, 1, 1)
            images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
            images = images.permute(0, 3, 1, 2)
        return (images.float() / 255 - self.mean) / self.std
