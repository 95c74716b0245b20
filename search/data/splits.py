"""Data sets in named, disjoint splits.

``search`` measures objectives, ``order`` ranks candidates, ``certify`` tests them; ``calibration``
sets quantizer ranges and comes from training images. A split is named by the digest of its
content, so a trace can never be read against other data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from search.digest import digest_of
from search.errors import BadInput, ExitbitsError

HELD_OUT_SPLITS = ("search", "order", "certify")
SPLITS = (*HELD_OUT_SPLITS, "calibration")
FEW = 100  # images, below which a share of them is known to a tenth at best
SHARES = (0.3, 0.2, 0.5)  # of the held-out splits, where nothing else is said


@dataclass(frozen=True)
class DataOptions:
    """What a study may say of its images.

    Attributes:
        calibration_images: how many training images set the quantizer's ranges, 1 up.
        shares: of search, order and certify, by weight.
        duplicates: whether an image in two splits is refused, or kept in one of them only.
    """

    calibration_images: int = 512
    shares: tuple[float, float, float] = SHARES
    duplicates: Literal["refuse", "leave-out"] = "refuse"


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

    def samples(self, indices: np.ndarray) -> np.ndarray:
        """What :attr:`read` gives as one array.

        Raises:
            BadInput: when they cannot be read, whatever the data set raised: it is never the fault
                of who asked.
        """
        try:
            return np.asarray(self.read(indices))
        except (ExitbitsError, MemoryError):
            raise
        except Exception as error:
            raise BadInput(
                f"the samples of split {self.name!r} cannot be read "
                f"({type(error).__name__}: {error}): check the data"
            ) from error

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


def few_images(split: Split) -> str | None:
    """What to say of a split so small that figures on it mean little; None for others.

    The error is two standard errors of a share near one half, or three over the number of images
    where all or none are right (the rule of three), whichever is larger.
    """
    count = len(split)
    if count >= FEW:
        return None
    error = min(1.0, max(1 / np.sqrt(count), 3 / count))
    return (
        f"split {split.name} has only {count} image{'' if count == 1 else 's'}: accuracy on it is "
        f"uncertain by up to {error:.2f}; add images to val, or set data.shares"
    )
