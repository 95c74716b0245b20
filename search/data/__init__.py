"""Data sets and their splits; a registry by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.registry import Registry

if TYPE_CHECKING:
    from search.data.splits import Dataset
    from search.models.card import InputSpec

DATASETS = Registry(
    "data set",
    "exitbits.datasets",
    {
        "fashion": "search.data.fashion:open_fashion",
        "imagefolder": "search.data.imagefolder:open_imagefolder",
    },
)


def open_dataset(name: str, path: Path | None, spec: InputSpec) -> Dataset:
    """Open the data set called ``name``.

    Args:
        name: one of :data:`DATASETS`.
        path: folder of the files, for data sets that are not bundled.
        spec: what the model wants of an image.

    Raises:
        BadInput: for an unknown name, or a folder that does not fit.
    """
    dataset: Dataset = DATASETS.resolve(name)(path, spec)
    return dataset
