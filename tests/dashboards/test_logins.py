"""Logging in and out: a session a login, which ends when it should; secrets others can read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dash import Dash
from flask.testing import FlaskClient
from running import command_env, command_line

from dashboards.actions import StudyActions
from dashboards.app import create_app
from dashboards.logins import KEPT_SESSIONS, SESSION_S, Sessions, Token
from dashboards.security import SESSION_COOKIE
from search.errors import BadInput
from studies.records import StudyRecord
from studies.store.writer import StudyStore

TOKEN, OTHER = "correct-horse-battery-staple", "another-horse-battery-staple"
Make = Callable[..., StudyRecord]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def app(tmp_path: Path, file: Path) -> Dash:
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    return create_app(store, token=Token(file=file), local=False)


def logged_in(app: Dash, token: str = TOKEN) -> FlaskClient:
    client = app.server.test_client()
    client.post("/login", data={"token": token})
    return client


def may(client: FlaskClient) -> bool:
    return client.get("/_dash-layout").status_code == 200


def test_every_login_is_a_session_of_its_own(app: Dash) -> None:
    one, other = logged_in(app), logged_in(app)
    cookies = [client.get_cookie(SESSION_COOKIE) for client in (one, other)]
    assert cookies[0] != cookies[1]
    assert may(one)
    assert may(other)
    kept = cookies[0]
    assert kept is not None
    answer = one.post("/logout")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
    assert one.get_cookie(SESSION_COOKIE) is None
    one.set_cookie(SESSION_COOKIE, kept.value)  # as one who has copied it
    assert not may(one)
    assert may(other)


def test_only_pages_of_ours_log_somebody_out(app: Dash) -> None:
    client = logged_in(app)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post("/logout", headers=headers).status_code == 403
    client.get("/logout")
    assert may(client)


def test_the_page_has_a_way_out_where_one_logs_in(app: Dash, tmp_path: Path) -> None:
    assert b"Log out" in logged_in(app).get("/_dash-layout").data
    local = create_app(StudyStore(f"sqlite:///{tmp_path}/s.db"))
    assert b"Log out" not in local.server.test_client().get("/_dash-layout").data


def test_sessions_end_when_the_token_changes(app: Dash, file: Path) -> None:
    client = logged_in(app)
    assert may(client)
    file.write_text(OTHER)
    assert not may(client)
    assert not may(logged_in(app, TOKEN))
    assert may(logged_in(app, OTHER))
    file.write_text("short")
    assert not may(logged_in(app, "short"))
    file.unlink()
    assert not may(logged_in(app, OTHER))
    file.write_text(OTHER + "\n")
    assert may(logged_in(app, OTHER))


def test_sessions_end_with_time_and_have_a_limit() -> None:
    now = [0.0]
    sessions = Sessions(Token(TOKEN), lambda: now[0])
    first = sessions.begin()
    now[0] = SESSION_S - 1
    assert sessions.knows(first)
    now[0] = SESSION_S
    assert not sessions.knows(first)
    several = [sessions.begin() for _ in range(KEPT_SESSIONS + 1)]
    assert not sessions.knows(several[0])
    assert sessions.knows(several[1])


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_secrets_that_others_can_read_get_a_warning(
    tmp_path: Path, mode: int, warned: bool
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x" * 30)
    secret.chmod(mode)
    for arguments, variable in (
        (["serve", "--store", f"sqlite:///{tmp_path}/none/x.db"], "EXITBITS_TOKEN_FILE"),
        (["status", "--store", "postgresql://me@127.0.0.1:1/x"], "EXITBITS_DB_PASSWORD_FILE"),
    ):
        done = subprocess.run(
            command_line(arguments), cwd=tmp_path, env={**command_env(), variable: str(secret)},
            text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode in (1, 2)
        assert ("other users can read the secret" in done.stderr) == warned
        assert done.stderr.count("other users") <= 1
        assert "x" * 30 not in done.stderr


STUDY = """
name = "small"
[model]
checkpoint = "{checkpoint}"
[data]
dataset = "imagefolder"
path = "{path}"
"""


def test_submitted_studies_stay_in_the_folders_that_are_allowed(tmp_path: Path) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    allowed.mkdir()
    outside.mkdir()
    (allowed / "link").symlink_to(outside)
    anywhere = StudyActions(store)
    bound = StudyActions(store, [allowed])
    for checkpoint, path, key in (
        (outside / "m.safetensors", allowed, "model.checkpoint"),
        (allowed / "m.safetensors", outside, "data.path"),
        (allowed / "m.safetensors", allowed / "link", "data.path"),
        (allowed / "m.safetensors", allowed / ".." / "outside", "data.path"),
    ):
        text = STUDY.format(checkpoint=checkpoint, path=path)
        anywhere.check(text, None, None)
        with pytest.raises(BadInput, match=key):
            bound.check(text, None, None)
        with pytest.raises(BadInput, match=key):
            bound.submit(text, None, None)
    bound.check(STUDY.format(checkpoint=allowed / "m.safetensors", path=allowed), None, None)
    bound.check(STUDY.format(checkpoint="bundled:fashion", path=allowed), None, None)
