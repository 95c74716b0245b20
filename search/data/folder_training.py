"""Training images read from a folder, with timm's training augmentation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from search.models.card import InputSpec


class _Files(Dataset[tuple[Tensor, int]]):
    def __init__(self, files: Sequence[tuple[Path, int]], spec: InputSpec) -> None:
        self.files, self.spec = files, spec
        self.transform: Any = create_transform(
            spec.size,
            is_training=True,
            mean=spec.mean,
            std=spec.std,
            interpolation=spec.interpolation,
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, target = self.files[index]
        with Image.open(path) as raw:
            image = raw.convert("L" if self.spec.size[0] == 1 else "RGB")
        return self.transform(image), target


class FolderData:
    """The images of ``files``, read and augmented by one process a core.

    Args:
        files: paths and class indices.
        spec: what the model wants of an image.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], spec: InputSpec) -> None:
        self._files = _Files(files, spec)

    def __len__(self) -> int:
        return len(self._files)

    def batches(
        self, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order: images ``[B, C, H, W]`` and targets ``[B]``."""
        cores = len(os.sched_getaffinity(0))
        yield from DataLoader(
            self._files,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=min(cores, len(self._files) // batch_size),
            generator=generator,
        )
