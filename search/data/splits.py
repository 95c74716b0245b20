"""Data sets in named, disjoint splits.

``search`` measures objectives, ``order`` ranks candidates, ``certify`` tests them; ``calibration``
sets quantizer ranges and comes from training images. A split is named by the digest of its
content, so a trace can never be read against other data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from search.digest import digest_of

HELD_OUT_SPLITS = ("search", "order", "certify")
SPLITS = (*HELD_OUT_SPLITS, "calibration")


@dataclass(frozen=True)
class Split:
    """A part of a data set, images read on demand.

    Attributes:
        name: one of :data:`SPLITS`.
        digest: SHA-256 that names the content.
        targets: class indices ``[N]``, or whatever the task wants of a sample, samples first.
        read: maps sample indices, int64 ``[n]``, to images ``[n, H, W, C]`` uint8 of the size that
            the model reads; a list of ``n`` arrays will do.
    """

    name: str
    digest: str
    targets: np.ndarray
    read: Callable[[np.ndarray], np.ndarray | list[np.ndarray]]

    def __len__(self) -> int:
        return len(self.targets)

    def head(self, count: int) -> Split:
        """The first ``count`` samples, under a digest of their own."""
        count = min(count, len(self))
        if count == len(self):
            return self
        return Split(self.name, f"{self.digest}[:{count}]", self.targets[:count], self.read)

    def take(self, indices: np.ndarray) -> Split:
        """The samples at ``indices``, in that order, under a digest of their own."""
        chosen = np.asarray(indices, dtype=np.int64)
        digest = f"{self.digest}[{digest_of(chosen.tolist())[:16]}]"
        return Split(
            self.name, digest, self.targets[chosen], lambda indices: self.read(chosen[indices])
        )


class Dataset(Protocol):
    """A source of splits."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the targets' numbers."""

    def split(self, name: str) -> Split:
        """Return a split by name; unknown names raise ``BadInput``."""
