"""Cores that a process may use: affinity and the quotas of control groups, as Linux writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import command_env

from search.cores import asked_threads, compute_with, environment, usable_cores

CPU = Path("/sys/fs/cgroup/cpu")


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def process(folder: Path, groups: str, mounts: str) -> Path:
    """What Linux says of a process, with control groups that are mounted in ``folder``."""
    described = folder / "process"
    described.mkdir()
    (described / "cgroup").write_text(groups)
    (described / "mountinfo").write_text(mounts.replace("MOUNT", str(folder).replace(" ", "\\040")))
    return described


def quota2(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


def quota1(folder: Path, quota: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")


VERSION_2 = "26 25 0:22 / MOUNT/c\\040g rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
VERSION_1 = "30 25 0:26 {root} MOUNT/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("inner", "outer", "cores"),
    [
        ("max 100000", None, 16),
        ("400000 100000", None, 4),
        ("150000 100000", None, 2),  # a part of a core counts as one
        ("1000 100000", None, 1),
        ("max 100000", "300000 100000", 3),  # of a group around it
        ("800000 100000", "200000 50000", 4),
        ("9900000 100000", None, 16),
        ("nonsense", "300000 100000", 3),
    ],
)
def test_version_2(tmp_path: Path, inner: str, outer: str | None, cores: int) -> None:
    quota2(tmp_path / "c g" / "user" / "mine", inner)
    if outer:
        quota2(tmp_path / "c g" / "user", outer)
    assert usable_cores(process(tmp_path, "0::/user/mine\n", VERSION_2)) == cores


@pytest.mark.parametrize(
    ("root", "path", "place"),
    [
        ("/", "/docker/a1", "docker/a1"),
        ("/docker/a1", "/docker/a1", ""),  # a container sees its own group only
        ("/docker/a1", "/docker/a1/inner", "inner"),
        ("/", "/docker/a1", ""),  # of the whole hierarchy
        ("/", "/docker/a1", "docker"),
    ],
)
def test_version_1(tmp_path: Path, root: str, path: str, place: str) -> None:
    quota1(tmp_path / "cpu" / place, 250_000)
    groups = f"9:memory:/else\n4:cpu,cpuacct:{path}\n0::/\n"
    mounts = VERSION_2 + VERSION_1.format(root=root)
    assert usable_cores(process(tmp_path, groups, mounts)) == 3


def test_no_limit_of_version_1(tmp_path: Path) -> None:
    quota1(tmp_path / "cpu", -1)
    assert usable_cores(process(tmp_path, "1:cpu:/\n", VERSION_1.format(root="/"))) == 16


def test_a_system_that_knows_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert usable_cores(tmp_path / "absent") == 10
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "absent") == 1


@pytest.fixture
def one_core_group() -> Iterator[Path]:
    """A control group of the kernel's, where one can be made."""
    group = CPU / f"exitbits-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    yield group
    group.rmdir()


def test_the_kernels_own_groups(one_core_group: Path) -> None:
    try:
        (one_core_group / "cpu.cfs_quota_us").write_text("100000")
    except OSError:
        pytest.skip("no quota can be set here")
    program = (
        "import os, pathlib, search.cores as cores\n"
        f"pathlib.Path({str(one_core_group / 'cgroup.procs')!r}).write_text(str(os.getpid()))\n"
        "os.sched_getaffinity = lambda pid: set(range(16))\n"
        "print(cores.usable_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=command_env(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("said", "threads"),
    [("3", 3), ("4,2", 4), (" 2 ", 2), ("", None), ("0", None), ("-1", None), ("many", None)],
)
def test_what_the_environment_asks_for(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert asked_threads() == threads


def test_how_threads_wait_is_left_to_whoever_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert environment(3)["OMP_WAIT_POLICY"] == "passive"
    assert environment(3)["GOMP_SPINCOUNT"] == "2000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert environment(3)["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in environment(3)  # it would count for more than the policy
    compute_with(3)
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    assert os.environ["KMP_BLOCKTIME"] == "0"
    assert asked_threads() == 3
