"""``exitbits serve`` and ``exitbits report``: their refusals, and what they import."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import command_env, command_line
from small_study import measure, take

from studies.records import StudyRecord
from studies.store.writer import StudyStore

Run = Callable[..., subprocess.CompletedProcess[str]]


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(arguments), cwd=folder, env={**command_env(), **environment}, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--host", "0.0.0.0"], {}, ["'0.0.0.0'", "EXITBITS_TOKEN", "16"]),
        (["--host", "0.0.0.0"], {"EXITBITS_TOKEN": "short"}, ["5 characters", "openssl"]),
        (["--host", "0.0.0.0"], {"EXITBITS_TOKEN_FILE": "none"}, ["'none'", "EXITBITS_TOKEN_FILE"]),
        (["--port", "70000"], {}, ["70000", "65535"]),
        (["--port", "many"], {}, ["many"]),
        (["--store", "mysql://x"], {}, ["mysql"]),
    ],
)
def test_bad_usage_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], words: list[str]
) -> None:
    done = run(tmp_path, "serve", *arguments, **environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        StudyStore(f"sqlite:///{tmp_path}/exitbits.db", create=True)
        done = run(tmp_path, "serve", "--port", port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


def imported(program: str, *names: str) -> list[str]:
    """Which of the modules a program has imported at its end."""
    program += f"\nprint(sorted({set(names)} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}"], capture_output=True, text=True,
        check=True, env=command_env(),
    )  # fmt: skip
    found: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


def test_the_dashboard_needs_neither_torch_nor_timm() -> None:
    program = "import dashboards.app, dashboards.commands.serve, dashboards.commands.report"
    assert imported(program, "dash") == ["dash"]
    assert imported(program, "torch", "timm") == []


def test_other_commands_do_not_import_the_dashboard() -> None:
    program = (
        "from studies.cli import main\n"
        "try:\n    main(['status', '--help'])\nexcept SystemExit:\n    pass"
    )
    assert imported(program, "dash", "dashboards", "waitress") == []


def test_a_report_is_the_page_of_the_front(
    tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> None:
    address = f"sqlite:///{tmp_path}/s.db"
    store = StudyStore(address, create=True)
    store.create(make_record())
    done = run(tmp_path, "report", "small", "--store", address, "-o", "front.html")
    assert done.returncode == 2
    assert "no evaluations yet" in done.stderr
    claim = take(store, "small", "tester")
    assert claim
    store.record(claim, measure(claim.policy))
    done = run(tmp_path, "report", "small", "--store", address, "-o", "front.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str((tmp_path / "front.html").resolve())
    assert claim.policy.digest[:8] in (tmp_path / "front.html").read_text()
    # Again: an earlier report of the study is replaced, another file only when that is said.
    assert run(tmp_path, "report", "small", "--store", address, "-o", "front.html").returncode == 0
    (tmp_path / "thesis.html").write_text("years of work")
    command = ["report", "small", "--store", address, "-o", "thesis.html"]
    done = run(tmp_path, *command)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (tmp_path / "thesis.html").read_text() == "years of work"
    assert run(tmp_path, *command, "--force").returncode == 0
    assert claim.policy.digest[:8] in (tmp_path / "thesis.html").read_text()
    done = run(tmp_path, "report", "other", "--store", address, "-o", "front.html")
    assert done.returncode == 2
    assert "'other'" in done.stderr
