"""Arrays as one ``.npz`` archive with a format number: how traces and tables lie in a cache."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


def pack(version: int, **arrays: Any) -> bytes:
    """Serialize arrays under their names, with the version of their format."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, format=np.int64(version), **arrays)
    return buffer.getvalue()


@contextmanager
def unpacked(what: str, data: bytes, version: int) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays that :func:`pack` wrote, by name.

    Args:
        what: the noun, for the error.
        data: the archive.
        version: of the format that is expected.

    Raises:
        ValueError: for something else, another version, damage, or whatever the body raises.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if int(archive["format"]) != version:
                raise ValueError(f"{what} format {archive['format']}")
            yield archive
    except Exception as error:
        # A damaged zip can fail in many ways (zlib, struct, key, header); all mean the same.
        raise ValueError(f"not a readable {what} ({error})") from error
