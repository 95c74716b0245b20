"""Training images read from a folder, with timm's training augmentation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from search.data.imagefolder import open_image
from search.errors import BadInput
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
        return self.transform(open_image(path, self.spec.size[0])), target


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
        loader = DataLoader(
            self._files,
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=min(cores, len(self._files) // batch_size),
            generator=generator,
        )
        try:
            yield from loader
        except BadInput as error:
            # A reading process hands its error over as text, behind its whole stack trace.
            raise BadInput(str(error).strip().splitlines()[-1].partition("BadInput: ")[2]) from None
