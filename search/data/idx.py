"""The IDX files in which MNIST and Fashion-MNIST are published, gzipped or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from search.errors import BadInput

_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049


def read_idx_pair(folder: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Read ``{prefix}-images-idx3-ubyte[.gz]`` and its labels from ``folder``.

    Args:
        folder: where the published files lie.
        prefix: ``"train"`` or ``"t10k"``.

    Returns:
        images ``[N, 28, 28]`` and labels ``[N]``, both uint8.

    Raises:
        BadInput: when a file is missing, truncated or of another format.
    """
    images = _read(folder, f"{prefix}-images-idx3-ubyte", _IMAGES_MAGIC, header=16)
    labels = _read(folder, f"{prefix}-labels-idx1-ubyte", _LABELS_MAGIC, header=8)
    if len(images) != 28 * 28 * len(labels):
        raise BadInput(
            f"{prefix} files in {str(folder)!r} do not belong together: "
            f"{len(images)} pixels for {len(labels)} labels; fetch both again"
        )
    return images.reshape(-1, 28, 28), labels


def _read(folder: Path, name: str, magic: int, header: int) -> np.ndarray:
    for path in (folder / f"{name}.gz", folder / name):
        if not path.is_file():
            continue
        try:
            raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"cannot read {str(path)!r} ({error}): fetch the file again") from error
        if len(raw) <= header or int.from_bytes(raw[:4], "big") != magic:
            raise BadInput(
                f"{str(path)!r} is not a whole IDX file of the kind {magic}: fetch it again"
            )
        return np.frombuffer(raw, dtype=np.uint8, offset=header)
    raise BadInput(
        f"no {name}[.gz] in {str(folder)!r}: name the folder that holds the four published "
        "Fashion-MNIST files (Debian's package dataset-fashion-mnist puts them into "
        "/usr/share/datasets/fashion-mnist)"
    )
