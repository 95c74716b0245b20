"""Traces on disk by content, shared by the workers of a machine and written in one atomic step."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from search.errors import BadInput
from search.trace import ExitTrace

log = logging.getLogger(__name__)


def default_cache_folder() -> Path:
    """``$EXITBITS_CACHE``, else ``exitbits`` in the user's cache folder."""
    if named := os.environ.get("EXITBITS_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "exitbits"


class DiskTraceCache:
    """A folder with one file per trace.

    Two workers that compute the same trace at once write the same bytes; the later rename wins and
    no reader ever sees half a file. A damaged file counts as absent and is written anew.

    Args:
        folder: created if missing.

    Raises:
        BadInput: when the folder cannot be created or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "traces"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise BadInput(
                f"cannot write to cache folder {str(folder)!r} ({error.strerror}): "
                "choose a writable one with --cache or EXITBITS_CACHE"
            ) from error

    def path(self, key: str) -> Path:
        """Where the trace under ``key`` lies."""
        return self.folder / key[:2] / f"{key}.npz"

    def load(self, key: str) -> ExitTrace | None:
        """The trace under ``key``, or None where there is none that can be read."""
        try:
            return ExitTrace.from_bytes(self.path(key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def store(self, key: str, trace: ExitTrace) -> None:
        """Keep ``trace`` under ``key``; where the disk is full, warn and go on without."""
        try:
            self._write(self.path(key), trace)
        except OSError as error:
            # The trace itself is at hand; only the next one who wants it must compute it again.
            log.warning("trace not kept in %s (%s): free some room", self.folder, error.strerror)

    def _write(self, path: Path, trace: ExitTrace) -> None:
        path.parent.mkdir(exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(trace.to_bytes())
            Path(partial).replace(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
