"""The compose file, held against the Compose schema and against the code it runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from fleet import Fleet
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from postgres import Postgres
from running import ROOT, command_line

from dashboards.commands import serve
from studies.cli import COMMANDS, added_commands, build_parser
from studies.store.address import PASSWORD_FILE, STORE, parse_url

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ROLES = (ROOT / "docker" / "roles.sql").read_text()
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("exitbits")]


def test_it_follows_the_compose_schema() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
            ROOT / "docker-compose.yml",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", OURS)
def test_commands_are_commands_of_ours(name: str) -> None:
    command = SERVICES[name]["command"]
    assert command[0] in {*COMMANDS, *added_commands()}
    build_parser(command[0]).parse_args(command)  # ends the test if it does not parse


@pytest.mark.parametrize("name", OURS)
def test_variables_are_read_by_the_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES[name]["environment"]
    source = "\n".join(
        path.read_text()
        for package in ("search", "studies", "dashboards")
        for path in (ROOT / package).rglob("*.py")
    )
    for variable in environment:
        assert variable in source
    assert environment[PASSWORD_FILE] == f"/run/secrets/{SERVICES[name]['secrets'][0]}"
    monkeypatch.setenv("EXITBITS_DB_PASSWORD", "x")
    url = parse_url(environment[STORE])
    database = SERVICES["database"]["environment"]
    assert url.host == "database"
    assert url.database == database["POSTGRES_DB"]
    assert url.username == ("exitbits_owner" if name == "migrate" else "exitbits")
    assert f"create role {url.username} login" in ROLES


def test_secrets_come_from_files_and_no_password_is_written_down() -> None:
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    for service in SERVICES.values():
        assert set(service["secrets"]) <= set(COMPOSE["secrets"])
        for variable, value in service["environment"].items():
            secret = "PASSWORD" in variable or "TOKEN" in variable
            assert not secret or str(value).startswith("/run/secrets/")
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_database_is_not_published_and_keeps_its_data() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["dashboard"]
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file()
    assert "database:/var/lib/postgresql" in SERVICES["database"]["volumes"]


def test_health_is_asked_over_tcp_which_answers_only_after_initialization() -> None:
    test = SERVICES["database"]["healthcheck"]["test"]
    assert test[:2] == ["CMD", "pg_isready"]
    assert "--host=127.0.0.1" in test


def test_the_dashboard_is_published_on_this_machine_only_and_asks_for_a_token() -> None:
    service = SERVICES["dashboard"]
    options = build_parser("serve").parse_args(service["command"])
    assert not serve.is_loopback(options.host)  # else the published port would reach nothing
    assert service["ports"] == [f"127.0.0.1:{options.port}:{options.port}"]
    secret = service["environment"][serve.TOKEN_FILE].removeprefix("/run/secrets/")
    assert secret in service["secrets"]
    assert secret in COMPOSE["secrets"]
    assert f"127.0.0.1:{options.port}/health" in service["healthcheck"]["test"][-1]


def test_services_wait_for_what_they_need() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert SERVICES["migrate"]["restart"] == "no"
    conditions = {
        name: wait["condition"] for name, wait in SERVICES["worker"]["depends_on"].items()
    }
    assert conditions == {
        "database": "service_healthy",
        "migrate": "service_completed_successfully",
    }
    # A container's name would forbid a second worker.
    assert "container_name" not in SERVICES["worker"]


def test_workers_are_unprivileged_and_drain_before_they_are_killed() -> None:
    from studies.store.claims import LEASE_S

    for name in OURS:
        service = SERVICES[name]
        assert int(service["user"].split(":")[0]) >= 1000
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
    worker = SERVICES["worker"]
    assert worker["stop_signal"] == "SIGTERM"
    minutes = int(worker["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > LEASE_S
    cache = worker["environment"]["EXITBITS_CACHE"]
    assert f"worker_cache:{cache}" in worker["volumes"]


def test_nobody_but_the_migration_may_change_tables() -> None:
    for name in OURS:
        owns = "db_owner_password" in SERVICES[name]["secrets"]
        assert owns == (name == "migrate")
        assert ("db_password" in SERVICES[name]["secrets"]) == (not owns)
    assert "superuser" not in ROLES.replace("The superuser", "").replace("as the superuser", "")
    assert SERVICES["database"]["environment"]["POSTGRES_USER"] == "postgres"


def test_no_two_services_share_what_they_run() -> None:
    named = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    ]
    assert len(named) == len(set(named))


def test_the_database_reaches_nothing_and_everything_has_limits() -> None:
    assert COMPOSE["networks"]["store"]["internal"] is True
    for name, service in SERVICES.items():
        assert set(service["networks"]) == {"store", *(["pages"] if name == "dashboard" else [])}
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert "no-new-privileges:true" in service["security_opt"]


@pytest.fixture
def roles(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Addresses of a real database in which the roles' file has run: the owner's, and the rest's.

    On a server of its own, since roles belong to a server.
    """
    server = Postgres()
    try:
        server.start()
        server.run_psql("postgres", "create database studies")
        server.run_psql("postgres", "create role postgres superuser login")
        script = ROLES.replace("create role exitbits ", "create role exitbits_app ")
        script = script.replace("to exitbits;", "to exitbits_app;")
        for secret in ("db_owner_password", "db_password"):
            (tmp_path / secret).write_text(f"{secret}'s \\ own\n")
            (tmp_path / secret).chmod(0o644)
        server.run_psql("studies", script.replace("/run/secrets", str(tmp_path)), "postgres")
        here = f"@127.0.0.1:{server.port}/studies"
        yield f"postgresql://exitbits_owner{here}", f"postgresql://exitbits_app{here}"
    finally:
        server.close()


def test_a_role_that_cannot_change_tables_suffices(roles: tuple[str, str], tmp_path: Path) -> None:
    owner, app = roles
    fleet = Fleet(tmp_path, app, tmp_path / "cache")
    early = subprocess.run(
        command_line(["store", "upgrade"]), env=fleet.environment(), cwd=tmp_path, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert early.returncode != 0  # it may make no table
    assert "Traceback" not in early.stderr
    Fleet(tmp_path, owner, tmp_path / "cache").run("store", "upgrade")
    fleet.submit("small", 6)
    try:
        fleet.worker("w", "--until-done", "--study", "small").wait(timeout=120)
    finally:
        fleet.close()
    assert "6/6 done" in fleet.run("status")
    assert "Pareto front of small" in fleet.run("front", "small")
    fleet.run("study", "archive", "small")
    fleet.run("study", "delete", "--yes", "small")
    url = parse_url(app).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (
            "create table mine (x int)", "drop table studies", "alter table studies add x int",
            "create temporary table mine (x int)", "create role mine", "create schema mine",
        ):  # fmt: skip
            with pytest.raises((psycopg.errors.InsufficientPrivilege,)):
                connection.execute(statement)  # type: ignore[arg-type]


def test_the_image_holds_what_it_installs() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    for package in (
        "search", "studies", "dashboards", "pyproject.toml", "LICENSE", "NOTICE",
        "docker/requirements.txt",
    ):  # fmt: skip
        assert package in dockerfile
        assert package in kept
        assert Path(ROOT / package).exists()
    (user,) = {service["user"] for name, service in SERVICES.items() if name in OURS}
    assert f"USER {user}" in dockerfile


def test_the_image_installs_nothing_but_what_is_locked_by_its_hash() -> None:
    installs = re.findall("pip install.*", (ROOT / "Dockerfile").read_text())
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-index" in installs[1]
    assert all("--no-deps" in each for each in installs)


def test_the_lock_holds_what_the_package_asks_for() -> None:
    text = (ROOT / "docker" / "requirements.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    locked = {}
    for line in lines:
        found, *hashes = line.split("--hash=")
        assert hashes, line
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", each.strip()) for each in hashes)
        requirement = Requirement(found)
        (version,) = requirement.specifier
        assert version.operator == "=="
        locked[canonicalize_name(requirement.name)] = version.version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    assert (ROOT / "docker" / "build.in").read_text().split() == project["build-system"]["requires"]
    for each in map(Requirement, wanted):
        assert locked[canonicalize_name(each.name)] in each.specifier
