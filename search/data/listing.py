"""What lies in a folder of images by class: every file is listed, hidden, or named as a fault."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from search.data.images import OTHER_SUFFIXES, SUFFIXES
from search.errors import BadInput

# Beside names that begin with a dot: what archives, file managers and file systems leave behind.
HIDDEN = frozenset({"__MACOSX", "@eaDir", "lost+found", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class ImageFile:
    """An image of a folder.

    Attributes:
        path: where it lies.
        name: its path below the root, the same text in every locale.
        target: number of its class.
        size, changed: in bytes, and in nanoseconds since 1970.
    """

    path: Path
    name: str
    target: int
    size: int
    changed: int


@dataclass(frozen=True)
class Fault:
    """Something that would be read wrong or left out.

    Attributes:
        name: its path below the root.
        reason: what is wrong with it.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name!r}: {self.reason}"


@dataclass(frozen=True)
class Listing:
    """A part of an image folder, such as ``train``.

    Attributes:
        classes: names of its class folders that hold something, sorted.
        files: images in sorted order.
        faults: what keeps it from being used.
    """

    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]
    faults: tuple[Fault, ...]


def list_images(root: Path, part: str) -> Listing:
    """List ``root/part/CLASS/**``, following links.

    Raises:
        BadInput: when the folder is missing or holds no image.
    """
    folder = root / part
    if not folder.is_dir():
        raise BadInput(f"no folder {str(folder)!r}: an image folder has train/CLASS and val/CLASS")
    classes: list[str] = []
    files: list[ImageFile] = []
    faults: list[Fault] = []
    empty: list[Fault] = []
    for found in _entries(folder, root, faults):
        if found.is_folder:
            before = len(files) + len(faults)
            files += _walk(found, root, len(classes), faults, [folder.stat()])
            if len(files) + len(faults) == before:
                empty.append(Fault(found.name, "a class folder without images: fill or remove it"))
                continue
            classes.append(found.name.rpartition("/")[2])
            faults += _faults_of_name(found)
        elif found.path.suffix.lower() in SUFFIXES:
            faults.append(Fault(found.name, "lies beside the class folders: move it into one"))
    if not files and not faults:
        raise BadInput(f"no images in {str(folder)!r}: put them into one folder per class")
    return Listing(tuple(classes), tuple(files), (*faults, *empty))


def refuse_faults(root: Path, faults: Sequence[Fault]) -> None:
    """Raise ``BadInput`` with all faults, where there are some."""
    if faults:
        what = f"{len(faults)} faults, the first is" if len(faults) > 1 else "a fault,"
        raise BadInput(
            f"the images in {str(root)!r} have {what} {faults[0]}; mend or remove what is named",
            details=[str(fault) for fault in faults],
        )


def text_of(path: Path) -> str:
    """A path with ``/`` between its parts; bytes that are not UTF-8 are escaped as surrogates."""
    return "/".join(os.fsencode(part).decode("utf-8", "surrogateescape") for part in path.parts)


@dataclass(frozen=True)
class _Entry:
    path: Path
    name: str
    stat: os.stat_result

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.stat.st_mode)


def _entries(folder: Path, root: Path, faults: list[Fault]) -> Iterator[_Entry]:
    """What a folder holds, sorted, without what is hidden; links are followed."""
    try:
        paths = sorted(folder.iterdir(), key=os.fsencode)
    except OSError as error:
        faults.append(Fault(text_of(folder.relative_to(root)), error.strerror or str(error)))
        return
    for path in paths:
        if path.name.startswith(".") or path.name in HIDDEN:
            continue
        name = text_of(path.relative_to(root))
        try:
            yield _Entry(path, name, path.stat())
        except OSError as error:
            if path.suffix.lower() in {"", *SUFFIXES, *OTHER_SUFFIXES}:
                dangling = "a link to nothing" if path.is_symlink() else error.strerror
                faults.append(Fault(name, str(dangling)))


def _walk(
    entry: _Entry, root: Path, target: int, faults: list[Fault], above: list[os.stat_result]
) -> Iterator[ImageFile]:
    if any(os.path.samestat(entry.stat, one) for one in above):
        faults.append(Fault(entry.name, "a link to a folder that it lies in"))
        return
    for found in _entries(entry.path, root, faults):
        suffix = found.path.suffix.lower()
        if found.is_folder:
            yield from _walk(found, root, target, faults, [*above, entry.stat])
        elif suffix in OTHER_SUFFIXES:
            faults.append(Fault(found.name, "a format that is not read: convert it to PNG"))
        elif suffix not in SUFFIXES:
            continue
        elif not stat.S_ISREG(found.stat.st_mode):
            faults.append(Fault(found.name, "no regular file"))
        else:
            size, changed = found.stat.st_size, found.stat.st_mtime_ns
            yield ImageFile(found.path, found.name, target, size, changed)


def _faults_of_name(entry: _Entry) -> Iterator[Fault]:
    """A class's name stands in cards and tables, so it must be text."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        yield Fault(entry.name, "the name of a class must be UTF-8: rename it")
