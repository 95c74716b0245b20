"""A store that this user cannot write, whatever its last writer left beside it, can be read."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from read_only import read_only
from running import command_env, run_here
from serving import serving
from small_study import measure, take

from search.errors import BadInput
from studies.records import StudyRecord
from studies.store.writer import StudyStore

READING = (
    ("status",),
    ("status", "--json"),
    ("front", "small"),
    ("pick", "small", "--max-drop", "1", "-o", "policy.json"),
    ("report", "small", "-o", "front.html"),
    ("study", "list"),
    ("study", "export", "small", "sqlite:///optuna.db"),
)
WRITING = (
    ("study", "archive", "small"),
    ("study", "rename", "small", "other"),
    ("stop", "small"),
    ("worker", "--until-done"),
    ("launch", "fashion"),
    ("submit", "fashion"),
    ("store", "upgrade"),
)
# A writer that is gone: its log is whole, and nobody has taken it up into the file.
CRASHING = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("pragma wal_autocheckpoint = 0")
connection.execute(f"pragma journal_mode = {sys.argv[2]}")
connection.execute("pragma cache_size = 1")
connection.execute("update studies set name = 'small'")
if sys.argv[2] == "delete":
    connection.execute("begin immediate")
    connection.execute("update studies set name = 'unfinished'")
    connection.execute("create table big as with recursive n(i) as (select 1 union all select i+1 "
                       "from n where i < 20000) select i, hex(randomblob(40)) as x from n")
os._exit(0)
"""


@pytest.fixture
def archive(tmp_path: Path, make_record: Callable[..., StudyRecord]) -> Path:
    """A folder with a store of one study; its name is another until a writer crashes."""
    folder = tmp_path / "arch #ive?"
    folder.mkdir()
    store = StudyStore(address_of(folder), create=True)
    store.create(make_record())
    claim = take(store, "small", "tester")
    assert claim
    store.record(claim, measure(claim.policy))
    store.database.engine.dispose()
    return folder


def address_of(folder: Path) -> str:
    return f"sqlite:///{folder}/store.db".replace("?", "%3F")


def wal(folder: Path) -> None:
    """Closed as a command closes it."""


def delete(folder: Path) -> None:
    """Without WAL, as a copy made by another tool."""
    connection = sqlite3.connect(folder / "store.db")
    connection.execute("pragma journal_mode = delete")
    connection.close()


def crash(folder: Path, mode: str) -> None:
    with sqlite3.connect(folder / "store.db") as connection:
        connection.execute("update studies set name = 'before'")
    connection.close()
    file = str(folder / "store.db")
    subprocess.run([sys.executable, "-c", CRASHING, file, mode], check=True)


def left_log(folder: Path) -> None:
    """A writer crashed, and both its files are there."""
    crash(folder, "wal")
    assert (folder / "store.db-wal").stat().st_size


def left_log_alone(folder: Path) -> None:
    """The same, copied without the shared memory."""
    left_log(folder)
    (folder / "store.db-shm").unlink()


def left_journal(folder: Path) -> None:
    """A writer without WAL crashed in the middle of a transaction."""
    delete(folder)
    crash(folder, "delete")
    assert (folder / "store.db-journal").stat().st_size


STATES = (wal, delete, left_log, left_log_alone, left_journal)


@pytest.fixture(params=STATES, ids=[state.__name__ for state in STATES])
def locked(request: pytest.FixtureRequest, archive: Path) -> Iterator[Path]:
    request.param(archive)
    with read_only(archive):
        yield archive


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_reading_command_reads_it(locked: Path, tmp_path: Path) -> None:
    before = contents(locked)
    for words in READING:
        done = run_here((*words, "--store", address_of(locked)), tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    done = run_here(("status", "--json", "--store", address_of(locked)), tmp_path)
    (shown,) = json.loads(done.stdout)["studies"]
    assert (shown["study"], shown["finished"], shown["evaluations"]) == ("small", 1, 1)
    assert contents(locked) == before


def test_what_writes_says_so_in_one_line(archive: Path, tmp_path: Path) -> None:
    with read_only(archive):
        for words in WRITING:
            done = run_here((*words, "--store", address_of(archive)), tmp_path)
            assert done.returncode == 2, (words, done.stderr)
            assert done.stderr.count("exitbits:") == 1
            assert "read-only" in done.stderr or "cannot write store" in done.stderr
            assert "Traceback" not in done.stderr


def test_a_copy_of_an_unfinished_log_is_not_written_either(archive: Path) -> None:
    """Protection: what was changed there would be lost without a word."""
    left_log_alone(archive)
    with read_only(archive):
        store = StudyStore(address_of(archive))
        with pytest.raises(BadInput, match="read-only"):
            store.rename(store.get("small").id, "other")
        assert store.names() == ["small"]


def test_the_dashboard_serves_it(archive: Path, tmp_path: Path) -> None:
    with read_only(archive), serving(tmp_path) as serve:
        address = serve(address_of(archive))
        with urllib.request.urlopen(f"{address}/health", timeout=20) as answer:
            assert answer.read() == b"ok\n"


# A user who may read what others write, once everything that Python needs is loaded.
READER = """
import os, sys
from search.errors import BadInput
from studies.store.writer import StudyStore
StudyStore(sys.argv[1]).names()
os.setgroups([]), os.setgid(65534), os.setuid(65534)
store = None
for line in sys.stdin:
    try:
        store = store if line.strip() == "again" and store else StudyStore(sys.argv[2])
        print(*store.names(), flush=True)
    except BadInput as error:
        print(error, flush=True)
"""


class Reader:
    """Another user's process that reads a store.

    Args:
        known: address of any store.
        address: of the store.
    """

    def __init__(self, known: str, address: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", READER, known, address], text=True, env=command_env(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def names(self, how: str) -> str:
        """What it sees, opening the store ``anew`` or on what it opened, ``again``."""
        assert self.process.stdin
        assert self.process.stdout
        print(how, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip()


@pytest.fixture
def shared(archive: Path) -> Iterator[Path]:
    """The archive where another user gets at it; folders of tests are their user's alone."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    around = Path(tempfile.mkdtemp(dir="/var/tmp"))
    around.chmod(0o755)
    yield Path(shutil.copytree(archive, around / "archive"))
    shutil.rmtree(around)


@pytest.fixture
def reader(archive: Path, shared: Path) -> Iterator[Reader]:
    started = Reader(address_of(archive), address_of(shared))
    yield started
    started.process.kill()
    started.process.communicate()


def test_another_user_reads_beside_the_owner_and_leaves_nothing(
    shared: Path, reader: Reader
) -> None:
    """Protection: shared memory that a reader made would lock the owner out."""
    assert reader.names("anew") == "small"
    shared.chmod(0o777)  # the file is still the owner's alone
    assert reader.names("anew") == "small"
    assert [path.name for path in shared.iterdir()] == ["store.db"]
    shared.chmod(0o755)
    store = StudyStore(address_of(shared))
    store.rename(store.get("small").id, "renamed")  # and stays open, its log not taken up
    assert (shared / "store.db-wal").stat().st_size
    assert reader.names("anew") == "renamed"


def test_what_another_user_may_not_read_is_said(shared: Path, reader: Reader) -> None:
    (shared / "store.db").chmod(0o600)
    assert "cannot read store" in reader.names("anew")


def test_an_empty_log_is_none(archive: Path) -> None:
    (archive / "store.db-wal").touch()
    with read_only(archive):
        assert StudyStore(address_of(archive)).names() == ["small"]


def test_a_reader_sees_what_the_owner_begins_to_write(shared: Path, reader: Reader) -> None:
    """Nobody wrote when it opened the store; then a writer came, and went."""
    assert reader.names("anew") == "small"
    store = StudyStore(address_of(shared))
    for name in ("second", "third"):
        (old,) = store.names()
        store.rename(store.get(old).id, name)
        assert reader.names("again") == name
    store.database.engine.dispose()
    assert [path.name for path in shared.iterdir()] == ["store.db"]
    assert reader.names("again") == "third"
