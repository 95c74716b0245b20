"""Everything that changes a store from the dashboard: submitting, stopping, raising, archiving."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from search.errors import BadInput, unknown_choice
from search.opening import is_path
from studies import changing
from studies.config import StudyConfig
from studies.config_file import load_config, preset_names
from studies.creating import check_same
from studies.store.address import STORE
from studies.store.writer import StudyStore

MAX_TEXT = 8_192  # more would take the reader of TOML seconds
MAX_AT_ONCE = 2
KEPT_SUBMISSIONS = 10

State = Literal["measuring", "done", "failed"]


@dataclass(frozen=True)
class Submission:
    """A study on its way into the store.

    Attributes:
        number: of the submission, from 1.
        study: its name.
        state: ``measuring`` the full-precision reference, ``done``, or ``failed``.
        words: what came of it, in one line; empty while it runs.
    """

    number: int
    study: str
    state: State = "measuring"
    words: str = ""


@dataclass
class _Child:
    """The process of a submission, and the folder that holds its text and what it prints."""

    process: subprocess.Popen[bytes]
    folder: tempfile.TemporaryDirectory[str]

    def words(self, name: str) -> str:
        """The last line that it printed to ``name``, without the folder's name."""
        with (Path(self.folder.name) / name).open("rb") as printed:
            printed.seek(max(0, os.fstat(printed.fileno()).st_size - 8192))
            lines = printed.read().decode(errors="replace").strip().splitlines()
        return _without(self.folder.name, lines[-1].removeprefix("exitbits: ")) if lines else ""

    def end(self) -> None:
        """End the process and those that it started."""
        # At once: it has no way of its own to end, and writes to the store in one transaction.
        if self.process.poll() is None:  # else its number may be another's by now
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.folder.cleanup()


class StudyActions:
    """The store, and the submissions that run for it.

    Args:
        store: where studies are changed.
        folders: below which models and images of submitted studies must lie; None for anywhere.
    """

    def __init__(self, store: StudyStore, folders: Sequence[Path] | None = None) -> None:
        self.store, self._folders = store, folders
        self._lock = threading.Lock()
        self._submissions: dict[int, Submission] = {}
        self._children: dict[int, _Child] = {}
        self._made = 0
        self._closed = False

    # Studies that are there

    def set_archived(self, study_id: int, archived: bool) -> str:
        """See :func:`studies.changing.set_archived`."""
        return changing.set_archived(self.store, study_id, archived)

    def stop(self, study_id: int) -> str:
        """See :func:`studies.changing.stop`."""
        return changing.stop(self.store, study_id)

    def raise_budget(self, study_id: int, trials: int) -> str:
        """See :func:`studies.changing.raise_budget`."""
        return changing.raise_budget(self.store, study_id, trials)

    # Submitting

    def check(self, text: str, name: str | None, trials: int | None) -> StudyConfig:
        """Check a study's TOML as ``exitbits submit`` would.

        Args:
            text: the TOML.
            name, trials: replace what it says.

        Raises:
            BadInput: as for a file; for a relative path; or when the store has the name with
                another configuration.
        """
        with tempfile.TemporaryDirectory(prefix="exitbits-") as folder:
            config = _load(_write(Path(folder), text), name, trials)
        self._check_folders(config)
        study = self.store.find(config.name)
        if study is not None:
            check_same(study, config, "name")
        return config

    def _check_folders(self, config: StudyConfig) -> None:
        """Raise ``BadInput`` for a path outside the folders that submitted studies may name."""
        checkpoint, path = config.model.checkpoint, config.data.path
        named = {"model.checkpoint": checkpoint if is_path(checkpoint) else None, "data.path": path}
        for key, text in named.items():
            if text is None or self._folders is None:
                continue
            found = Path(text).expanduser().resolve()
            if not any(found.is_relative_to(folder) for folder in self._folders):
                listed = ", ".join(map(str, self._folders))
                raise BadInput(f"{key} {text!r} is not below {listed}: move it there, or ask who "
                               "serves this dashboard")  # fmt: skip

    def submit(self, text: str, name: str | None, trials: int | None) -> Submission:
        """Check a study and submit it in a process of its own, which measures its reference.

        Raises:
            BadInput: as :meth:`check` does; or when as many as may be are under way.
        """
        config = self.check(text, name, trials)
        with self._lock:
            self._look()
            if self._closed:
                raise BadInput("the dashboard is ending: start it again")
            under_way = [self._submissions[number].study for number in self._children]
            if config.name in under_way:
                raise BadInput(f"study {config.name!r} is being submitted already: wait for it")
            if len(under_way) >= MAX_AT_ONCE:
                listed = " and ".join(map(repr, under_way))
                raise BadInput(
                    f"{listed} are being submitted: at most {MAX_AT_ONCE} at once, wait for one"
                )
            self._made += 1
            if not self._children:
                atexit.register(self.close)
            self._children[self._made] = _start(self.store.address, text, name, trials)
            submission = Submission(self._made, config.name)
            self._submissions[self._made] = submission
            return submission

    def submissions(self) -> list[Submission]:
        """The last submissions as they are now, the newest first."""
        with self._lock:
            self._look()
            return sorted(self._submissions.values(), key=lambda submission: -submission.number)

    def close(self) -> None:
        """End the submissions under way; none of them has changed the store."""
        with self._lock:
            self._closed = True
            self._look()
            for number, child in self._children.items():
                child.end()
                self._ended(number, "failed", "the dashboard ended before it was measured")
            self._children.clear()
            atexit.unregister(self.close)

    def _look(self) -> None:
        """Take note of processes that have ended."""
        for number, child in list(self._children.items()):
            code = child.process.poll()
            if code is None:
                continue
            if code == 0:
                self._ended(number, "done", child.words("stdout"))
            elif code < 0:
                cause = " (out of memory?)" if -code == signal.SIGKILL else ""
                self._ended(number, "failed", f"it was killed by signal {-code}{cause}")
            else:
                words = child.words("stderr") or f"it ended with code {code} and printed nothing"
                self._ended(number, "failed", words)
            child.folder.cleanup()
            del self._children[number]

    def _ended(self, number: int, state: State, words: str) -> None:
        self._submissions[number] = replace(self._submissions[number], state=state, words=words)
        while len(self._submissions) > KEPT_SUBMISSIONS:
            del self._submissions[min(self._submissions)]


def preset_text(name: str) -> str:
    """The TOML of a preset.

    Raises:
        BadInput: when there is none of that name.
    """
    if name not in preset_names():
        raise unknown_choice("preset", name, preset_names())
    return resources.files("studies").joinpath("presets", f"{name}.toml").read_text("utf-8")


def _write(folder: Path, text: str) -> Path:
    """The text as a file of a folder that only this user can read."""
    if len(text) > MAX_TEXT:
        raise BadInput(f"the text has {len(text)} characters: at most {MAX_TEXT} are read")
    file = folder / "study.toml"
    try:
        file.write_text(text, encoding="utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"the text holds {error.object[error.start]!r}: remove it") from error
    return file


def _load(file: Path, name: str | None, trials: int | None) -> StudyConfig:
    """Read the file as the command does; its errors do not say where it lies."""
    try:
        config = load_config(str(file), name=name, trials=trials)
    except BadInput as error:
        raise BadInput(_without(str(file.parent), str(error))) from error
    except (RuntimeError, ValueError) as error:
        # What has no error of its own: nesting or digits without end, the home of nobody.
        raise BadInput(f"study.toml: cannot be read ({error})") from error
    for key, path in (
        ("model.checkpoint", config.model.checkpoint),
        ("data.path", config.data.path),
    ):
        # The reader takes relative paths from the file's folder, which nobody meant here.
        if path is not None and f"{path}{os.sep}".startswith(f"{file.parent}{os.sep}"):
            raise BadInput(
                f"{key} {_without(str(file.parent), path)!r} is relative: give the whole path, as "
                "it is on the machine of the dashboard and of every worker"
            )
    return config


def _without(folder: str, words: str) -> str:
    return words.replace(f"{folder}{os.sep}", "").replace(folder, "")


def _start(address: str, text: str, name: str | None, trials: int | None) -> _Child:
    """Start ``exitbits submit``.

    The store's address goes through the environment, where it may hold a password; so does a
    password that the environment held before. Modules are never taken from the working folder.
    """
    folder = tempfile.TemporaryDirectory(prefix="exitbits-submit-")
    try:
        file = _write(Path(folder.name), text)
        command = [sys.executable, "-P", "-m", "studies.cli", "submit", str(file)]
        # In one word with its option: a name may begin with a dash.
        command += [] if name is None else [f"--name={name}"]
        command += [] if trials is None else [f"--trials={trials}"]
        with (
            (file.parent / "stdout").open("wb") as stdout,
            (file.parent / "stderr").open("wb") as stderr,
        ):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, STORE: address},
                process_group=0,  # Ctrl-C reaches the server only, which then ends it
            )
    except BaseException:
        folder.cleanup()
        raise
    return _Child(process, folder)
