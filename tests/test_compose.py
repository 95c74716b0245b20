"""The compose file, held against the Compose schema and against the code it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ROOT

from dashboards.commands import serve
from studies.cli import COMMANDS, added_commands, build_parser
from studies.store.address import PASSWORD_FILE, STORE, parse_url

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
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
    assert (url.username, url.database) == (database["POSTGRES_USER"], database["POSTGRES_DB"])


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
            assert volume.split(":")[0] in COMPOSE["volumes"]
    assert SERVICES["database"]["volumes"] == ["database:/var/lib/postgresql"]


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
    assert f"cache:{cache}" in worker["volumes"]


def test_the_image_holds_what_it_installs() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    for package in ("search", "studies", "dashboards", "pyproject.toml", "LICENSE", "NOTICE"):
        assert package in dockerfile
        assert package in kept
        assert Path(ROOT / package).exists()
    (user,) = {service["user"] for name, service in SERVICES.items() if name in OURS}
    assert f"USER {user}" in dockerfile
