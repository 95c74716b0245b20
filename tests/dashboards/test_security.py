"""Who may use the dashboard, tried as an attacker would."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import re
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from dash import Dash, Input, Output, html
from dash_client import CALLBACK, callback_body, csrf
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Page
from small_study import take
from werkzeug.test import TestResponse

from dashboards import logins
from dashboards.app import create_app
from dashboards.logins import (
    FORGET_S,
    FREE_ATTEMPTS,
    KEPT_ADDRESSES,
    MAX_WAIT_S,
    Attempts,
    Token,
)
from dashboards.security import (
    CSRF_COOKIE,
    CSRF_HEADER,
    LOOPBACK,
    MAX_BODY,
    SESSION_COOKIE,
    Guard,
)
from search.errors import BadInput
from studies.records import StudyRecord
from studies.store.writer import StudyStore

TOKEN = "correct-horse-battery-staple"
PAGE = {"Accept": "text/html,application/xhtml+xml"}
STOP = {"type": "launch-stop", "study": 1}


@pytest.fixture
def store(tmp_path: Path, make_record: Callable[..., StudyRecord]) -> StudyStore:
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    store.create(make_record())
    assert take(store, "small", "tester")
    return store


@pytest.fixture
def app(store: StudyStore) -> Dash:
    """As on a loopback address."""
    return create_app(store)


@pytest.fixture
def client(app: Dash) -> FlaskClient:
    return app.server.test_client()


@pytest.fixture
def guarded_app(store: StudyStore) -> Dash:
    """As on an address that other machines reach."""
    return create_app(store, token=Token(TOKEN), local=False)


@pytest.fixture
def guarded(guarded_app: Dash) -> FlaskClient:
    return guarded_app.server.test_client()


def log_in(client: FlaskClient, token: str = TOKEN, **fields: str) -> TestResponse:
    return client.post("/login", data={"token": token, **fields})


def stop(app: Dash, client: FlaskClient, headers: dict[str, str]) -> TestResponse:
    """Press the button that stops the study."""
    body = callback_body(app, "launch-done.children", {"launch-stop.n_clicks": [(STOP, 1)]}, STOP)
    return client.post(CALLBACK, json=body, headers=headers)


# On a loopback address


def test_without_a_token_everything_answers(app: Dash, client: FlaskClient) -> None:
    for path in ("/", "/launch", "/study/small", "/_dash-layout", "/_dash-dependencies", "/health"):
        assert client.get(path, headers=PAGE).status_code == 200, path
    assert stop(app, client, csrf(client)).status_code == 200
    assert b"password" not in client.get("/login").data  # a page like any other address


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8050", "127.0.0.1.evil.example", "localhost.evil.example",
        "evil.example#127.0.0.1", "127.0.0.1@evil.example", "127.0.0.1:80@evil.example",
        "localhost.", "192.168.1.5", "0.0.0.0", "10.0.0.1:8050", "[::1", "[fe80::1]", "",
    ],
)  # fmt: skip
def test_another_name_for_this_machine_is_refused(
    app: Dash, client: FlaskClient, store: StudyStore, host: str
) -> None:
    """Protection: DNS rebinding, where an attacker's own name comes to mean 127.0.0.1."""
    own = csrf(client)
    for path in ("/", "/_dash-layout", "/health", "/assets/style.css", "/login"):
        answer = client.get(path, headers={"Host": host, **PAGE})
        assert answer.status_code in (400, 421), path
        assert b"exitbits" not in answer.data or b"is not this dashboard's" in answer.data
    assert stop(app, client, {"Host": host, **own}).status_code in (400, 421)
    assert store.get("small").record.config.budget.trials == 12


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8050", "localhost:1", "LOCALHOST", "[::1]:8050", "127.8.8.8"]
)
def test_names_of_this_machine_alone_are_answered(client: FlaskClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


# With a token


def test_a_page_leads_to_the_login_and_back(guarded: FlaskClient) -> None:
    answer = guarded.get("/study/a%2Fb?budget=0.5&x=log", headers=PAGE)
    assert answer.status_code == 302
    address = urlsplit(answer.headers["Location"])
    assert (address.netloc, address.path) == ("", "/login")
    (wanted,) = parse_qs(address.query)["next"]
    assert guarded.get(answer.headers["Location"]).status_code == 200
    assert log_in(guarded, next=wanted).headers["Location"] == wanted
    assert urlsplit(wanted).query == "budget=0.5&x=log"


@pytest.mark.parametrize(
    "path",
    [
        "/_dash-layout", "/_dash-dependencies", "/_dash-component-suites/dash/x.js",
        "/assets/client.js", "/assets/../assets/style.css", "//login", "/login/", "/LOGIN",
        "/health/", "/nothing",
    ],
)  # fmt: skip
def test_nothing_else_is_told_without_the_token(guarded: FlaskClient, path: str) -> None:
    answer = guarded.get(path)
    assert answer.status_code == 401
    assert answer.data == b"exitbits: log in first\n"
    assert guarded.head(path, headers=PAGE).status_code == 401
    assert guarded.options(path).status_code == 401


def test_what_the_login_page_and_health_checks_need_is_open(guarded: FlaskClient) -> None:
    for path in ("/login", "/assets/style.css", "/health"):
        assert guarded.get(path).status_code == 200, path


def test_a_callback_without_the_token_is_refused(
    guarded_app: Dash, guarded: FlaskClient, store: StudyStore
) -> None:
    guarded.set_cookie(CSRF_COOKIE, "mine")
    answer = stop(guarded_app, guarded, {CSRF_HEADER: "mine", **PAGE})
    assert answer.status_code == 401
    assert store.get("small").record.config.budget.trials == 12


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ü\ud800"])
def test_a_wrong_token_is_refused(guarded: FlaskClient, token: str) -> None:
    answer = log_in(guarded, token.encode(errors="surrogatepass"))  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert b"That is not the token" in answer.data
    assert guarded.get_cookie(SESSION_COOKIE) is None
    assert guarded.get("/_dash-layout").status_code == 401


def test_tokens_are_compared_in_constant_time(
    guarded: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        seen.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(logins, "hmac", type("Spy", (), {
        "compare_digest": staticmethod(compare), "new": staticmethod(hmac.new)}))  # fmt: skip
    for token in ("x", "x" * 5000, TOKEN):
        log_in(guarded, token)
    guarded.get("/_dash-layout")
    # Of one length whatever was sent, so that the time does not tell the token's.
    assert seen == [(32, 32)] * 4


def test_the_right_token_gives_a_cookie_that_scripts_cannot_read(guarded: FlaskClient) -> None:
    answer = log_in(guarded)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    (cookie,) = [one for one in answer.headers.getlist("Set-Cookie") if SESSION_COOKIE in one]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert attributes == {"httponly", "samesite=strict", "path=/"}
    for path in ("/", "/_dash-layout", "/_dash-dependencies"):
        assert guarded.get(path, headers=PAGE).status_code == 200
    assert guarded.get("/login?next=/launch").headers["Location"] == "/launch"


def test_the_cookie_is_sent_over_https_only_where_there_is_https(guarded: FlaskClient) -> None:
    answer = guarded.post("/login", data={"token": TOKEN}, base_url="https://host.example")
    (cookie,) = [one for one in answer.headers.getlist("Set-Cookie") if SESSION_COOKIE in one]
    assert "Secure" in cookie


def test_the_token_is_never_sent_back(guarded: FlaskClient) -> None:
    answers = [
        guarded.get("/", headers=PAGE),
        guarded.get("/login"),
        log_in(guarded, "x" + TOKEN),
        log_in(guarded),
        guarded.get("/", headers=PAGE),
        guarded.get("/_dash-layout"),
    ]
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    for answer in answers:
        told = f"{answer.headers}{answer.get_data(as_text=True)}"
        assert TOKEN not in told
        assert digest not in told


def test_a_token_in_an_address_is_not_taken(guarded: FlaskClient) -> None:
    for answer in (
        guarded.get(f"/login?token={TOKEN}"),
        guarded.post(f"/login?token={TOKEN}"),
        guarded.get(f"/_dash-layout?token={TOKEN}"),
        guarded.get("/_dash-layout", headers={"Authorization": f"Bearer {TOKEN}"}),
    ):
        assert answer.status_code in (200, 401)
        assert guarded.get_cookie(SESSION_COOKIE) is None
        assert TOKEN not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "cookie", ["", "x", TOKEN, hashlib.sha256(TOKEN.encode()).hexdigest(), "0" * 64]
)
def test_a_made_up_cookie_is_refused(guarded: FlaskClient, cookie: str) -> None:
    guarded.set_cookie(SESSION_COOKIE, cookie)
    assert guarded.get("/_dash-layout").status_code == 401


def test_cookies_of_an_earlier_start_are_refused(guarded: FlaskClient, store: StudyStore) -> None:
    log_in(guarded)
    cookie = guarded.get_cookie(SESSION_COOKIE)
    assert cookie is not None
    later = create_app(store, token=Token(TOKEN), local=False).server.test_client()
    later.set_cookie(SESSION_COOKIE, cookie.value)
    assert later.get("/_dash-layout").status_code == 401
    assert guarded.get("/_dash-layout").status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example",
        "/\t/evil.example", "/\n/evil.example", "/\r\n/evil.example", "\t//evil.example",
        " //evil.example", "https://evil.example", "https:evil.example", "data:text/html,x",
        "javascript:alert(1)",
        "evil.example", "@evil.example", "", "/x\\y", "/x\x00", "/x\r\nSet-Cookie: a=b", "/x y",
        "/\u00a0/evil.example", "/login", "/login?next=/login",
    ],
)  # fmt: skip
def test_a_login_leads_to_no_other_site(guarded: FlaskClient, wanted: str) -> None:
    page = guarded.get(f"/login?next={quote(wanted)}")
    assert 'name="next" value="/"' in page.get_data(as_text=True)
    by_address = guarded.post(f"/login?next={quote(wanted)}", data={"token": TOKEN})
    by_form = log_in(guarded, next=wanted)
    known = guarded.get(f"/login?next={quote(wanted)}")
    for answer in (by_address, by_form, known):
        assert answer.headers["Location"] == "/"
        assert "a=b" not in str(answer.headers)


@pytest.mark.parametrize("wanted", ["/", "/launch", "/study/a%2Fb?x=1&y=%22", "/study///x", "/ü"])
def test_a_login_leads_to_any_page_here(guarded: FlaskClient, wanted: str) -> None:
    answer = log_in(guarded, next=wanted)
    assert answer.headers["Location"] in (wanted, quote(wanted))


def test_markup_in_an_address_is_text_on_the_login_page(guarded: FlaskClient) -> None:
    page = guarded.get("/login?next=" + quote('/"><script>alert(1)</script>'))
    text = page.get_data(as_text=True)
    assert "<script" not in text
    assert "&quot;&gt;&lt;script&gt;alert(1)" in text


@pytest.mark.parametrize(
    ("token", "why"),
    [("", "has 0 characters"), ("short", "has 5"), ("x" * 15, "16"), ("x" * 20 + "\n", "print")],
)
def test_tokens_that_can_be_guessed_are_refused(store: StudyStore, token: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        create_app(store, token=Token(token))


def test_a_dashboard_that_others_reach_needs_a_token(store: StudyStore) -> None:
    with pytest.raises(BadInput, match="needs a token"):
        create_app(store, local=False)


# Requests from other sites


@pytest.mark.parametrize("token", [None, TOKEN])
def test_what_changes_something_needs_the_pages_own_header(
    store: StudyStore, token: str | None
) -> None:
    app = create_app(store, token=Token(token) if token else None)
    client = app.server.test_client()
    if token:
        log_in(client)
    own = csrf(client)
    for headers in (
        {},
        {CSRF_HEADER: ""},
        {CSRF_HEADER: "wrong"},
        {CSRF_HEADER: own[CSRF_HEADER][:-1]},
        {CSRF_HEADER: own[CSRF_HEADER] + "x"},
        {"X-CSRF": own[CSRF_HEADER]},
    ):
        assert stop(app, client, headers).status_code == 403, headers
    assert store.get("small").record.config.budget.trials == 12
    assert stop(app, client, own).status_code == 200
    assert store.get("small").record.config.budget.trials == 1


def test_an_empty_cookie_with_an_empty_header_is_refused(app: Dash, client: FlaskClient) -> None:
    client.set_cookie(CSRF_COOKIE, "")
    assert stop(app, client, {CSRF_HEADER: ""}).status_code == 403
    csrf(client)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_a_browser_that_names_another_site_is_refused(
    app: Dash, client: FlaskClient, store: StudyStore, site: str
) -> None:
    """Another port of this machine is "same-site": its requests carry this dashboard's cookies."""
    answer = stop(app, client, {"Sec-Fetch-Site": site, **csrf(client)})
    assert answer.status_code == 403
    assert store.get("small").record.config.budget.trials == 12
    assert stop(app, client, {"Sec-Fetch-Site": "same-origin", **csrf(client)}).status_code == 200


def test_other_sites_cannot_make_a_browser_try_tokens(guarded: FlaskClient) -> None:
    answer = guarded.post("/login", data={"token": TOKEN}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403
    assert guarded.get_cookie(SESSION_COOKIE) is None


def test_other_sites_are_not_told_that_they_may_read_or_send(client: FlaskClient) -> None:
    answer = client.options(
        CALLBACK,
        headers={"Origin": "http://127.0.0.1:9", "Access-Control-Request-Headers": CSRF_HEADER},
    )
    assert [name for name in answer.headers.keys() if name.startswith("Access-Control")] == []  # noqa: SIM118


def test_pages_give_the_cookie_once_and_only_to_this_site(client: FlaskClient) -> None:
    (cookie,) = client.get("/", headers=PAGE).headers.getlist("Set-Cookie")
    assert cookie.startswith(f"{CSRF_COOKIE}=")
    assert "SameSite=Strict" in cookie
    assert "HttpOnly" not in cookie  # the page's script repeats it
    assert "Set-Cookie" not in client.get("/", headers=PAGE).headers
    assert len(cookie.split("=")[1].split(";")[0]) >= 32


def test_a_page_whose_cookie_is_gone_goes_on_after_one_refusal(
    app: Dash, client: FlaskClient
) -> None:
    assert stop(app, client, {}).status_code == 403
    assert stop(app, client, csrf(client)).status_code == 200


def test_files_that_caches_may_keep_carry_no_cookie(client: FlaskClient) -> None:
    assert "Set-Cookie" not in client.get("/assets/style.css").headers


# Attempts to log in


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_attempts_are_slowed_down_more_and_more() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    assert [attempts.wait_s("1.2.3.4") for _ in range(FREE_ATTEMPTS)] == [0] * FREE_ATTEMPTS
    waits = []
    for _ in range(10):
        wait = attempts.wait_s("1.2.3.4")
        waits.append(wait)
        clock.now += wait / 2
        assert attempts.wait_s("1.2.3.4") == pytest.approx(wait / 2)  # asking makes it no longer
        clock.now += wait / 2
        assert attempts.wait_s("1.2.3.4") == 0
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, MAX_WAIT_S, MAX_WAIT_S, *[MAX_WAIT_S] * 2])
    assert attempts.wait_s("5.6.7.8") == 0


def test_attempts_are_forgotten_in_time_and_forgiven_to_who_knows_the_token() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(FREE_ATTEMPTS):
        attempts.wait_s("1.2.3.4")
    assert attempts.wait_s("1.2.3.4") > 0
    clock.now += FORGET_S + 10
    assert [attempts.wait_s("1.2.3.4") for _ in range(FREE_ATTEMPTS)] == [0] * FREE_ATTEMPTS
    assert attempts.wait_s("1.2.3.4") > 0
    attempts.forgive("1.2.3.4")
    assert attempts.wait_s("1.2.3.4") == 0


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),  # one line has all of a /64
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
        ("::ffff:1.2.3.4", "1.2.3.4", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "unix:", False),
    ],
)
def test_what_one_person_can_change_is_one_address(one: str, other: str, together: bool) -> None:
    attempts = Attempts(Clock())
    for _ in range(FREE_ATTEMPTS):
        attempts.wait_s(one)
    assert (attempts.wait_s(other) > 0) is together


def test_many_addresses_take_no_more_than_some_memory() -> None:
    attempts = Attempts(Clock())
    for number in range(KEPT_ADDRESSES + 50):
        attempts.wait_s(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts._known) == KEPT_ADDRESSES


def test_attempts_at_once_are_all_counted() -> None:
    attempts, barrier = Attempts(Clock()), threading.Barrier(16)
    waits: list[float] = []

    def attempt() -> None:
        barrier.wait(30)
        waits.append(attempts.wait_s("1.2.3.4"))

    threads = [threading.Thread(target=attempt) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(wait == 0 for wait in waits) == FREE_ATTEMPTS


def test_a_login_that_must_wait_says_so_even_with_the_right_token() -> None:
    clock, server = Clock(), Flask("bare")
    Guard(Token(TOKEN), None, Attempts(clock)).protect(server)
    client = server.test_client()
    for _ in range(FREE_ATTEMPTS):
        client.head("/login")
        client.get("/login")  # only tokens that are sent count
        assert log_in(client, "wrong").status_code == 401
    answer = log_in(client)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "try again in 1 s" in answer.get_data(as_text=True)
    assert client.get_cookie(SESSION_COOKIE) is None
    clock.now += 2
    assert log_in(client).status_code == 303


# Answers


def policy_of(answer: TestResponse) -> dict[str, list[str]]:
    """The content security policy."""
    parts = [part.split() for part in answer.headers["Content-Security-Policy"].split(";")]
    return {part[0]: part[1:] for part in parts}


def test_every_answer_has_the_headers(guarded_app: Dash) -> None:
    server = guarded_app.server

    @server.get("/broken")
    def broken() -> str:
        raise RuntimeError("a secret of the server")

    server.config["PROPAGATE_EXCEPTIONS"] = False
    client = server.test_client()
    big = {"data": b"x" * (MAX_BODY + 1)}
    answers = [
        (302, client.get("/", headers=PAGE)),
        (401, client.get("/")),
        (200, client.get("/login")),
        (401, log_in(client, "wrong")),
        (413, client.post("/login", **big)),
        (303, log_in(client)),
        (200, client.get("/", headers=PAGE)),
        (200, client.get("/_dash-layout")),
        (200, client.get("/health")),
        (200, client.get("/assets/style.css")),
        (404, client.get("/assets/none.css")),
        (403, client.post(CALLBACK)),
        (405, client.put("/_dash-layout", headers=csrf(client))),
        (415, client.post(CALLBACK, data=b"x", headers=csrf(client))),
        (413, client.post(CALLBACK, headers=csrf(client), **big)),
        (500, client.get("/broken")),
    ]
    for code, answer in answers:
        assert answer.status_code == code
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert policy_of(answer)["default-src"] == ["'self'"]
        assert b"secret of the server" not in answer.data


def test_a_refused_host_gets_the_headers_too(client: FlaskClient) -> None:
    answer = client.get("/", headers={"Host": "evil.example"})
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert policy_of(answer)["default-src"] == ["'self'"]


def test_what_the_store_holds_is_kept_in_no_cache(client: FlaskClient) -> None:
    for path in ("/", "/_dash-layout", "/_dash-dependencies", "/health"):
        assert client.get(path).headers["Cache-Control"] == "no-store", path
    assert client.get("/assets/style.css").headers["Cache-Control"] != "no-store"


@pytest.mark.parametrize("path", [CALLBACK, "/login", "/health", "/"])
def test_a_body_that_is_too_large_is_refused(client: FlaskClient, path: str) -> None:
    assert MAX_BODY <= 8 * 2**20
    answer = client.post(path, data=b"x" * (MAX_BODY + 1), headers=csrf(client))
    assert answer.status_code == 413


def test_a_body_that_hides_its_length_is_not_read_to_its_end(client: FlaskClient) -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            self.given += len(buffer)
            assert self.given < 4 * MAX_BODY
            buffer[:] = b" " * len(buffer)
            return len(buffer)

    body = Endless()
    chunked = {
        "wsgi.input": body, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked",
    }  # fmt: skip
    answer = client.post(
        CALLBACK, content_type="application/json", headers=csrf(client), environ_overrides=chunked
    )
    assert answer.status_code in (400, 413)
    assert 0 < body.given <= 2 * MAX_BODY


def inline_scripts(page: str) -> list[str]:
    """Scripts that stand in a page and would run."""
    page = re.sub(r"<!--.*?-->", "", page, flags=re.S)
    found = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.S)
    return [text for attributes, text in found if text and "application/json" not in attributes]


def test_only_scripts_of_this_server_may_run(client: FlaskClient) -> None:
    answer = client.get("/", headers=PAGE)
    allowed = policy_of(answer)["script-src"]
    scripts = inline_scripts(answer.get_data(as_text=True))
    assert len(scripts) >= 3  # the renderer's, and those of the theme
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'"
        for one in scripts
    }
    # WebGL figures need 'unsafe-eval'.
    assert set(allowed) == {"'self'", "'unsafe-eval'", *hashes}


def test_a_page_may_not_load_send_or_be_framed_elsewhere(client: FlaskClient) -> None:
    policy = policy_of(client.get("/", headers=PAGE))
    for name in ("default-src", "connect-src", "form-action"):
        assert policy[name] == ["'self'"], name
    for name in ("object-src", "base-uri", "frame-ancestors"):
        assert policy[name] == ["'none'"], name
    sources = {source for parts in policy.values() for source in parts}
    assert not [one for one in sources if "*" in one or "http" in one]


def test_hashes_cover_callbacks_that_come_after_the_guard() -> None:
    app = Dash("late")
    Guard(None, LOOPBACK).protect(app.server, app.csp_hashes)
    app.layout = html.Div([html.Button(id="button"), html.P(id="text")])
    app.clientside_callback(
        "function (clicks) { return 'clicked ' + clicks; }",
        Output("text", "children"),
        Input("button", "n_clicks"),
    )
    answer = app.server.test_client().get("/")
    scripts = inline_scripts(answer.get_data(as_text=True))
    assert any("clicked" in one for one in scripts)
    allowed = policy_of(answer)["script-src"]
    assert "'unsafe-inline'" not in allowed
    assert len([one for one in allowed if one.startswith("'sha256-")]) == len(scripts)


def test_a_script_that_came_into_a_page_does_not_run(
    serve: Callable[..., str], page: Page, tmp_path: Path, store: StudyStore
) -> None:
    address = serve(store.address)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda one: errors.append(one.text) if one.type == "error" else None)
    page.goto(f"{address}/launch")
    page.wait_for_selector("#launch-open .panel")
    page.click("#theme-button")  # a clientside callback, whose script stands in the page
    page.wait_for_selector("html[data-theme=dark]")
    assert errors == []
    page.evaluate(
        """() => { const script = document.createElement("script");
        script.textContent = "window.intruded = true"; document.body.append(script);
        const image = document.createElement("div");
        image.innerHTML = '<img src="data:," onerror="window.intruded = true">';
        document.body.append(image); }"""
    )
    page.wait_for_timeout(500)
    assert page.evaluate("window.intruded") is None
    assert [one for one in errors if "Content Security Policy" in one]
