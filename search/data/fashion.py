"""The bundled benchmark ``fashion``: Fashion-MNIST's 10,000 test images, split once and for all.

The committed file holds them in the order search (3,000), order (2,000), certify (5,000), so that
no random generator's version can ever move an image from one split to another. Beside it lie 1,024
training images for calibration. Source: Xiao, Rasul, Vollgraf, arXiv 1708.07747 (MIT licence).
"""

from __future__ import annotations

import io
import lzma
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from search.data.splits import SHARES, SPLITS, DataOptions, Split
from search.digest import digest_of_bytes
from search.errors import BadInput, ExitbitsError, unknown_choice
from search.models.card import InputSpec

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
MEAN, STD = (0.2860,), (0.3530,)  # of the 60,000 training images, pixels in [0, 1]
RANGES = {"search": (0, 3000), "order": (3000, 5000), "certify": (5000, 10000)}
HELD_OUT_FILE, CALIBRATION_FILE = "fashion-heldout.npy.xz", "fashion-calibration.npy.xz"


@lru_cache(maxsize=2)
def _load(file: str) -> np.ndarray:
    """Rows of 784 pixels and a label, uint8 ``[N, 785]``."""
    try:
        packed = resources.files("search.data").joinpath("assets", file).read_bytes()
        rows: np.ndarray = np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False)
    except (OSError, lzma.LZMAError, ValueError) as error:
        raise ExitbitsError(
            f"the bundled file {file} cannot be read ({error}): reinstall exitbits"
        ) from error
    return rows


class FashionDataset:
    """The bundled splits of Fashion-MNIST."""

    classes = CLASSES

    def split(self, name: str) -> Split:
        """Return one of ``search``, ``order``, ``certify``, ``calibration``."""
        if name not in SPLITS:
            raise unknown_choice("split", name, SPLITS)
        if name == "calibration":
            rows = _load(CALIBRATION_FILE)
        else:
            start, stop = RANGES[name]
            rows = _load(HELD_OUT_FILE)[start:stop]
        images = rows[:, :-1].reshape(-1, 28, 28, 1)
        digest = digest_of_bytes(rows.tobytes())
        return Split(name, digest, rows[:, -1].astype(np.int64), lambda indices: images[indices])


def open_fashion(path: Path | None, spec: InputSpec, options: DataOptions) -> FashionDataset:
    """Open the bundled benchmark for a model that reads its images.

    Raises:
        BadInput: when a folder or other shares are given, or the model reads images of another
            shape.
    """
    if path is not None:
        raise BadInput(f"data set 'fashion' is bundled: leave out the path {str(path)!r}")
    if options.shares != SHARES:
        raise BadInput(
            f"data.shares = {list(options.shares)}: 'fashion' was split once and for all: leave "
            "them out"
        )
    if spec.size != (1, 28, 28):
        raise BadInput(
            f"data set 'fashion' has images of 1x28x28, the model reads {spec.size}: "
            "use a model trained for it"
        )
    return FashionDataset()
