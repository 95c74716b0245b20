"""The dashboard behind a proxy: host, origin, prefix, cookies and the throttle's client are right.

The snippets of docs/proxy.md run where their program is installed; a small proxy does what each of
them does, everywhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest
from postgres import free_port
from reverse_proxy import TOKEN, Client, SmallProxy
from running import ROOT, command_env, command_line

from dashboards import serving
from dashboards.app import create_app
from dashboards.logins import FREE_ATTEMPTS, Token
from dashboards.public import OWN_PROXIES, BehindProxy, PublicUrl, parse_networks
from dashboards.security import CSRF_COOKIE, CSRF_HEADER, SESSION_COOKIE
from search.errors import BadInput
from studies.records import StudyRecord
from studies.store.writer import StudyStore

PUBLIC = "https://lab.example.org/exitbits"
ORIGIN = "https://lab.example.org"
Make = Callable[..., StudyRecord]


@pytest.fixture
def dashboard(tmp_path: Path, make_record: Make) -> Iterator[int]:
    """Served with a public address; its port."""
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    store.create(make_record())
    app = create_app(
        store, token=Token(TOKEN), public=PublicUrl.parse(PUBLIC),
        proxies=parse_networks(OWN_PROXIES),
    )  # fmt: skip
    server = serving.create_server(app.server, "127.0.0.1", 0)
    threading.Thread(target=server.run, daemon=True).start()
    yield int(server.effective_port)
    server.close()


@pytest.fixture(params=["nginx, Caddy, Traefik", "a prefix taken off", "the host replaced"])
def proxy(request: pytest.FixtureRequest, dashboard: int) -> Iterator[int]:
    """A proxy before it; its port."""
    does = {
        "target": dashboard,
        "strips": request.param == "a prefix taken off",
        "keeps_host": request.param != "the host replaced",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (SmallProxy,), does))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def use(port: int) -> None:
    """What a person does through a proxy, and what must come of it."""
    person = Client(port)
    status, headers, _ = person.ask("GET", "/exitbits/launch")
    assert (status, headers["location"]) == (302, ["/exitbits/login?next=/launch"])
    status, _, page = person.ask("GET", "/exitbits/login")
    assert status == 200
    assert 'action="/exitbits/login"' in page
    (style,) = re.findall(r'href="(/[^"]+)"', page)
    assert person.ask("GET", style)[0] == 200
    status, headers, _ = person.log_in()
    assert (status, headers["location"]) == (303, ["/exitbits/"])
    cookies = [one for one in headers["set-cookie"] if one.startswith(SESSION_COOKIE)]
    assert cookies
    assert all("Secure" in one and "Path=/exitbits/" in one for one in cookies)
    status, _, page = person.ask("GET", "/exitbits/")
    assert status == 200
    config = json.loads(page.split('id="_dash-config" type="application/json">')[1].split("<")[0])
    assert config["requests_pathname_prefix"] == "/exitbits/"
    for path in re.findall(r'src="(/[^"]+)"', page):
        assert path.startswith("/exitbits/")
        assert person.ask("GET", path)[0] == 200
    status, _, layout = person.ask("GET", "/exitbits/_dash-layout")
    assert status == 200
    assert '"/exitbits/compare"' in json.dumps(json.loads(layout))
    own = {CSRF_HEADER: person.cookies[CSRF_COOKIE], "Content-Type": "application/json"}
    asked = {
        "output": "content.children", "outputs": {"id": "content", "property": "children"},
        "inputs": [
            {"id": "url", "property": "pathname", "value": "/exitbits/study/small"},
            {"id": "reconnect", "property": "n_intervals"},
        ],
        "state": [{"id": "url", "property": "search", "value": ""}],
        "changedPropIds": ["url.pathname"],
    }  # fmt: skip
    body = json.dumps(asked)
    status, _, text = person.ask(
        "POST", "/exitbits/_dash-update-component", body, Origin=ORIGIN, **own
    )
    assert status == 200, text
    assert "small" in text
    status, _, text = person.ask(
        "POST", "/exitbits/_dash-update-component", body, Origin="https://evil.example", **own
    )
    assert status == 403
    status, headers, _ = person.ask("POST", "/exitbits/logout", "x=1", Origin=ORIGIN)
    assert (status, headers["location"]) == (303, ["/exitbits/login"])


def test_a_dashboard_is_used_through_a_proxy(proxy: int) -> None:
    use(proxy)


def test_each_client_of_the_proxy_has_attempts_of_its_own(proxy: int) -> None:
    guessing = Client(proxy)
    for _ in range(FREE_ATTEMPTS):
        guessing.ask("POST", "/exitbits/login", "token=x", **{"X-Test-Client": "203.0.113.9"})
    tell = {"X-Test-Client": "203.0.113.9", "Origin": "null"}
    # Whatever the guesser says of itself: only what the proxy has added counts.
    guessing.address = "198.51.100.7"
    assert guessing.ask("POST", "/exitbits/login", "token=x", **tell)[0] == 429
    other = Client(proxy)
    found = other.ask(
        "POST", "/exitbits/login", urlencode({"token": TOKEN}), **{"X-Test-Client": "203.0.113.10"}
    )
    assert found[0] == 303


def test_other_hosts_are_not_answered(dashboard: int) -> None:
    assert Client(dashboard).ask("GET", "/exitbits/login", Host="evil.example")[0] == 421
    assert Client(dashboard).ask("GET", "/health", Host=f"127.0.0.1:{dashboard}")[0] == 200


def test_who_is_no_trusted_proxy_tells_nothing_of_its_client() -> None:
    seen = []

    def application(environ: dict[str, str], start_response: object) -> list[bytes]:
        seen.append(environ["REMOTE_ADDR"])
        return []

    behind = BehindProxy(application, PublicUrl.parse(PUBLIC), parse_networks(["10.0.0.0/8"]))
    for peer, told in (
        ("10.1.2.3", "203.0.113.9"),
        ("10.1.2.3", "198.51.100.7, 203.0.113.9"),
        ("192.0.2.1", "203.0.113.9"),
        ("10.1.2.3", "nonsense"),
        ("10.1.2.3", ""),
    ):
        behind({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": told, "PATH_INFO": "/"}, None)
    assert seen == ["203.0.113.9", "203.0.113.9", "192.0.2.1", "10.1.2.3", "10.1.2.3"]


@pytest.mark.parametrize(
    "text",
    ["lab.example.org", "ftp://x", "https://", "https://a@b/", "https://b/?x", "https://b/a b",
     "https://b:x/", "https://b/../x\n"],
)  # fmt: skip
def test_public_addresses_are_checked(text: str) -> None:
    with pytest.raises(BadInput, match="give one such as"):
        PublicUrl.parse(text)
    with pytest.raises(BadInput, match="trusted proxy"):
        parse_networks([text])


def test_a_public_dashboard_needs_a_token(tmp_path: Path) -> None:
    StudyStore(f"sqlite:///{tmp_path}/exitbits.db", create=True)
    done = subprocess.run(
        command_line(["serve", "--public-url", PUBLIC]), cwd=tmp_path, env=command_env(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "EXITBITS_TOKEN" in done.stderr


def snippet(heading: str) -> str:
    """The configuration below a heading of docs/proxy.md."""
    text = (ROOT / "docs" / "proxy.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return section.split("```")[1].partition("\n")[2]


def run_proxy(command: list[str], port: int, folder: Path) -> Iterator[None]:
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, "HOME": str(folder)}
        )
    try:
        for _ in range(100):
            try:
                Client(port).ask("GET", "/exitbits/login")
                break
            except OSError:
                assert process.poll() is None, (folder / "proxy.log").read_text()
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx here")
def test_the_snippet_for_nginx(dashboard: int, tmp_path: Path) -> None:
    port = free_port()
    server = snippet("nginx").replace("127.0.0.1:8050", f"127.0.0.1:{dashboard}")
    server = server.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    server = re.sub(r"\n *ssl_certificate[^\n]*", "", server)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log stderr; daemon off; events {{}} http {{ access_log off; "
        + "".join(
            f"{kind}_temp_path {tmp_path}/{kind}; "
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + server
        + "}"
    )
    command = ["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    for _ in run_proxy(command, port, tmp_path):
        use(port)


@pytest.mark.skipif(shutil.which("caddy") is None, reason="no Caddy here")
def test_the_snippet_for_caddy(dashboard: int, tmp_path: Path) -> None:
    port = free_port()
    site = snippet("Caddy").replace("127.0.0.1:8050", f"127.0.0.1:{dashboard}")
    site = site.replace("lab.example.org {", f"http://lab.example.org:{port} {{")
    (tmp_path / "Caddyfile").write_text("{\nadmin off\n}\n" + site)
    command = ["caddy", "run", "--config", str(tmp_path / "Caddyfile"), "--adapter", "caddyfile"]
    for _ in run_proxy(command, port, tmp_path):
        use(port)
