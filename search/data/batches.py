"""The images of a split as a model reads them. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from search.data.splits import Split
from search.models.card import InputSpec

BATCH_SIZE = 100  # small enough that a block's activations stay in the cache

PIXELS = 2_000_000  # of a batch that is scored: at 384 px a ViT-B then takes about 0.3 GB


def batch_that_fits(spec: InputSpec) -> int:
    """Images a batch, however large they are, for passes in full precision."""
    _, height, width = spec.size
    return min(500, max(1, PIXELS // (height * width)))


def normalized_batches(
    split: Split, spec: InputSpec, batch_size: int = BATCH_SIZE, device: str = "cpu"
) -> Iterator[Tensor]:
    """The images of a split in order, float32 ``[B, C, H, W]``, normalized for the model."""
    mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
    for start in range(0, len(split), batch_size):
        indices = np.arange(start, min(start + batch_size, len(split)))
        pixels = torch.tensor(split.samples(indices), device=device)
        yield (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
