"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import Postgres, new_database
from running import command_env, command_line
from small_study import FIELDS, small_ledger

from studies.config import StudyConfig, parse_config
from studies.records import StudyRecord

# Beside other test processes, torch keeps to one core: its threads spin while they wait.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every
# process that they start; one that handles it passes on the usual answer.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take longest, from the top down: a process that began one last would keep all waiting.
LONGEST = (
    "dashboards/test_browser.py",
    "studies/commands/test_launch.py",
    "studies/commands/test_methods.py",
    "studies/store/test_leases.py",
    "test_packaging.py",
    "search/engines/test_cpu.py",
    "studies/launchers/test_ray.py",
    "studies/store/test_contributions.py",
    "dashboards/test_browser_flows.py",
    "studies/work/test_service.py",
    "test_notebook.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; the others stay in their order."""
    folder = Path(__file__).parent
    place = {folder / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """What a command that runs in this process sets in its environment ends with the test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace cache that all tests of a session share, so that a pass is paid for once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def exitbits(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command in a folder of the test's own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command_line(arguments), cwd=tmp_path, env=command_env(), text=True,
            capture_output=True, timeout=240, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Address of a PostgreSQL server that all tests share."""
    if named := os.environ.get("EXITBITS_TEST_DATABASE_URL"):
        yield named
        return
    server = Postgres()
    server.start()
    yield server.url()
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty store, once on each database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return new_database(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def make_record() -> Callable[..., StudyRecord]:
    """Build a study record; keyword arguments replace sections of its configuration."""

    def make(**changes: object) -> StudyRecord:
        config: StudyConfig = parse_config({**FIELDS, **changes}, "test")
        return StudyRecord(config, small_ledger(), 0.9, "accuracy", "f" * 64, "d" * 64)

    return make
