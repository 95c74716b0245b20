"""Files written whole or not at all, and whether others could have written what is read."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # not on every system


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place when the block ends.

    Nobody can guess its name or have made it before, so what is written follows nobody's link.
    When the block fails or is interrupted, nothing is left of it, and ``path`` is as it was. A
    file that is replaced passes its mode on.

    Raises:
        OSError: when it cannot be written there.
    """
    partial = path.parent / f".exitbits-{secrets.token_hex(16)}.partial"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS
        os.close(os.open(partial, flags, 0o666))  # less what the umask takes away
        yield partial
        try:
            before = path.lstat().st_mode
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISREG(before):
                partial.chmod(stat.S_IMODE(before))
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file in one atomic step; text as UTF-8.

    Raises:
        OSError: when it cannot be written.
    """
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def check_folder_writable(folder: Path) -> None:
    """Raise ``OSError`` unless a file can be written in ``folder``; nothing is left there."""
    with tempfile.TemporaryFile(dir=folder):
        pass


def is_ours(path: Path) -> bool:
    """Whether only this user, or root, can have written what lies at ``path``, a folder or file.

    False for a link: where it points to is somebody's choice.
    """
    try:
        found = path.lstat()
    except OSError:
        return False
    known = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return known and found.st_uid in (os.geteuid(), 0) and not writable


@cache
def warn_if_others_read(secret: Path) -> None:
    """Warn, once, where other users of the machine can read a file that holds a secret."""
    with suppress(OSError):  # who reads it says what is wrong
        if secret.stat().st_mode & stat.S_IROTH:
            log.warning(
                "other users can read the secret in %r: 'chmod o-r' takes that away", str(secret)
            )
