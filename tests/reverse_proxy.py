"""A small reverse proxy and a browser before it, for tests of the dashboard behind one."""

from __future__ import annotations

import http.client
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlencode

TOKEN = "correct-horse-battery-staple"
Answer = tuple[int, dict[str, list[str]], str]


class Client:
    """A browser as a proxy's visitor: one address for all, cookies kept."""

    def __init__(self, port: int, address: str = "") -> None:
        self.port, self.address, self.cookies = port, address, dict[str, str]()

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        given = {"Host": "lab.example.org", "Accept": "text/html", **headers}
        if self.address:
            given["X-Forwarded-For"] = self.address
        if self.cookies:
            given["Cookie"] = "; ".join(f"{key}={value}" for key, value in self.cookies.items())
        if body:
            given.setdefault("Content-Type", "application/x-www-form-urlencoded")
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        text, found = answer.read().decode(), dict[str, list[str]]()
        for key, value in answer.getheaders():
            found.setdefault(key.lower(), []).append(value)
        for cookie in found.get("set-cookie", []):
            name, _, value = cookie.partition("=")
            self.cookies[name] = value.partition(";")[0]
        connection.close()
        return answer.status, found, text

    def log_in(self, token: str = TOKEN, path: str = "/exitbits/login") -> Answer:
        return self.ask("POST", path, urlencode({"token": token}), Origin="null")


class SmallProxy(BaseHTTPRequestHandler):
    """Passes requests on as nginx, Caddy and Traefik do; says who asks, adding to what it heard."""

    target = 0
    strips, keeps_host = False, True

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.removeprefix("/exitbits") or "/" if self.strips else self.path
        headers = dict(self.headers.items())
        heard = headers.get("X-Forwarded-For")
        # As X-Test-Client, since all of a test's connections come from one address.
        peer = headers.pop("X-Test-Client", self.client_address[0])
        headers["X-Forwarded-For"] = f"{heard}, {peer}" if heard else peer
        if not self.keeps_host:
            headers["Host"] = f"127.0.0.1:{self.target}"
        connection = http.client.HTTPConnection("127.0.0.1", self.target, timeout=20)
        connection.request(self.command, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        self.send_response_only(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("transfer-encoding", "connection"):
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(text)
        connection.close()

    do_GET = do_POST = _pass  # noqa: N815 - named by http.server

    def log_message(self, *_: object) -> None:
        """Say nothing."""
