"""Make the bundled files again: ``python -m search.data.bundle_fashion DIR``.

Kept so that the committed bytes can be checked against their source; a test does it where the
published files are installed.
"""

from __future__ import annotations

import io
import lzma
import sys
from pathlib import Path

import numpy as np

from search.data.fashion import CALIBRATION_FILE, HELD_OUT_FILE
from search.data.idx import read_idx_pair

SEED = 20260501
CALIBRATION_IMAGES = 1024


def pack(images: np.ndarray, labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Rows of pixels and label ``[n, 785]`` uint8, in the given order."""
    rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
    packed: np.ndarray = rows[order]
    return packed


def bundle(folder: Path) -> dict[str, np.ndarray]:
    """Read the published files and lay out both bundled arrays by file name."""
    rng = np.random.RandomState(SEED)  # the legacy generator's stream is frozen for good
    held_out = read_idx_pair(folder, "t10k")
    train = read_idx_pair(folder, "train")
    return {
        HELD_OUT_FILE: pack(*held_out, rng.permutation(len(held_out[1]))),
        CALIBRATION_FILE: pack(*train, rng.permutation(len(train[1]))[:CALIBRATION_IMAGES]),
    }


def main() -> None:
    """Write the bundled files into ``assets/``."""
    target = Path(__file__).parent / "assets"
    for name, rows in bundle(Path(sys.argv[1])).items():
        buffer = io.BytesIO()
        np.save(buffer, rows)
        (target / name).write_bytes(
            lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)
        )
        print(f"{target / name}: {rows.shape}, {(target / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
