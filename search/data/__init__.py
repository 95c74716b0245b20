"""Data sets and their splits, and their training images; two registries by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search.data.splits import DataOptions
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

# What training and recovery read, under the data set's name; these need torch.
TRAINING_DATA = Registry(
    "training data",
    "exitbits.training_data",
    {
        "fashion": "search.training.data:open_fashion_training",
        "imagefolder": "search.training.data:open_folder_training",
    },
)


def open_dataset(
    name: str, path: Path | None, spec: InputSpec, options: DataOptions | None = None
) -> Dataset:
    """Open the data set called ``name``.

    Args:
        name: one of :data:`DATASETS`.
        path: folder of the files, for data sets that are not bundled.
        spec: what the model wants of an image.
        options: what a study says of its images.

    Raises:
        BadInput: for an unknown name, or a folder or options that do not fit.
    """
    dataset: Dataset = DATASETS.resolve(name)(path, spec, options or DataOptions())
    return dataset
