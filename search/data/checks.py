"""Every image is decoded once before long work, in parallel; what was found is kept.

What is known of a class's files is kept under the digest of their names, sizes and times, so that
workers and later runs read none of them again, and one mended file costs its class alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import PIL

from search.caching import default_cache_folder
from search.cores import computing_threads
from search.data.images import READING, UnreadableImage, decode, read_bytes
from search.data.listing import Fault, ImageFile
from search.digest import digest_of, digest_of_bytes
from search.files import write_atomically

CHUNK = 64  # files: enough to keep all threads busy, few enough to stop soon


class Seen:
    """What checking found, by the files' names.

    Attributes:
        contents: SHA-256 of every file.
        pixels: digest of what it shows, whatever its format.
        faults: what cannot be read.
    """

    def __init__(self) -> None:
        self.contents: dict[str, str] = {}
        self.pixels: dict[str, str] = {}
        self.faults: list[Fault] = []

    def add(self, rows: Iterable[Sequence[str]]) -> None:
        """Take up rows of name and reason, or of name, content and pixels."""
        for name, *found in rows:
            if len(found) == 1:
                self.faults.append(Fault(name, found[0]))
            else:
                self.contents[name], self.pixels[name] = found


def check_images(files: Sequence[ImageFile], seen: Seen) -> None:
    """Decode every file that is not known yet, and add to what was seen."""
    with ThreadPoolExecutor(computing_threads()) as pool:
        for _, group in groupby(files, key=lambda file: (file.name.split("/")[0], file.target)):
            members = list(group)
            if all(file.name in seen.contents for file in members):
                continue
            path = _kept_at(members)
            rows = _load(path, members)
            if rows is None:
                rows = []
                for start in range(0, len(members), CHUNK):
                    rows += pool.map(_check, members[start : start + CHUNK])
                _keep(path, rows)
            seen.add(rows)


def _check(file: ImageFile) -> list[str]:
    try:
        content = read_bytes(file.path)
        image = decode(content)
    except UnreadableImage as error:
        return [file.name, str(error)]
    shown = hashlib.sha256(repr(image.size).encode())
    shown.update(image.tobytes())
    return [file.name, digest_of_bytes(content), shown.hexdigest()]


def _kept_at(files: Sequence[ImageFile]) -> Path:
    known = [[file.name, file.size, file.changed] for file in files]
    key = digest_of(["check", READING, PIL.__version__, known])
    return default_cache_folder() / "checks" / key[:2] / f"{key}.json"


def _load(path: Path, files: Sequence[ImageFile]) -> list[list[str]] | None:
    try:
        rows: list[list[str]] = json.loads(path.read_bytes())
        if [row[0] for row in rows] == [file.name for file in files]:
            return rows
    except (OSError, ValueError, TypeError, IndexError, KeyError):
        pass  # absent or damaged: check again
    return None


def _keep(path: Path, rows: list[list[str]]) -> None:
    if any(len(row) == 2 for row in rows):
        return  # a fault may lie in the disk, not in the file
    with contextlib.suppress(OSError):  # only the next one must check again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(rows))
