"""Who may use the dashboard: hosts, the token, cross-site requests, and the headers of an answer.

On a loopback address everybody on the machine may use it. Anywhere else a token is asked for. It is
never part of an address: a login page takes it, and a cookie proves from then on that it was known.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from html import escape
from ipaddress import IPv6Address, ip_address
from urllib.parse import quote, urlsplit

from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from search.errors import BadInput

SESSION_COOKIE = "exitbits_session"
CSRF_COOKIE = "_csrf_token"
CSRF_HEADER = "X-CSRFToken"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/login", "/health", "/assets/style.css")
MIN_TOKEN = 16
MAX_BODY = 2**20

FREE_ATTEMPTS = 5
MAX_WAIT_S = 60.0
FORGET_S = 3600.0
KEPT_ADDRESSES = 10_000

# A path here. Browsers drop tabs and newlines and read "\" as "/", so "/\t/host" is "//host".
_PATH_HERE = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f-\xa0]*")

_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>exitbits: log in</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/assets/style.css"></head>
<body><main class="login"><h1>exitbits</h1><form method="post" action="/login">
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<input type="hidden" name="next" value="{next}"><button type="submit">Log in</button>
<p role="alert">{message}</p></form></main></body></html>"""


class Attempts:
    """Slows down those who try tokens: a few are free, then each wait is twice the last.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Count an attempt; seconds until ``address`` may make one, 0 for now."""
        address, now = _network(address), self._clock()
        with self._lock:  # counted before it is checked: many at once would all be the first
            made, free_from = self._known.pop(address, (0, now))
            if now > free_from + FORGET_S:
                made = 0
            if now >= free_from:
                made += 1
                # The exponent has a bound: a float has one too.
                over = min(made - FREE_ATTEMPTS, 16)
                free_from = now + (min(2.0**over, MAX_WAIT_S) if over >= 0 else 0.0)
                wait = 0.0
            else:
                wait = free_from - now
            self._known[address] = (made, free_from)
            while len(self._known) > KEPT_ADDRESSES:
                self._known.popitem(last=False)
            return wait

    def forgive(self, address: str) -> None:
        """Forget the attempts of one who knew the token."""
        with self._lock:
            self._known.pop(_network(address), None)


class Guard:
    """Refuses what may not be answered.

    Args:
        token: asked for, or None where only this machine can reach the dashboard.
        hosts: names by which it may be addressed beside loopback addresses, or None for any, which
            needs a token.
        attempts: slows down wrong logins.

    Raises:
        BadInput: without a token where one is needed, or for one that can be guessed or not typed.
    """

    def __init__(
        self,
        token: str | None,
        hosts: tuple[str, ...] | None,
        attempts: Attempts | None = None,
    ) -> None:
        if token is None and hosts is None:
            raise BadInput(
                "a dashboard that other machines can reach needs a token: give one, or serve it "
                "on 127.0.0.1"
            )
        if token is not None and (len(token) < MIN_TOKEN or not token.isprintable()):
            raise BadInput(
                f"the token has {len(token)} characters: give at least {MIN_TOKEN}, all printable, "
                "for example what 'openssl rand -hex 24' prints"
            )
        self._hosts, self._attempts = hosts, attempts or Attempts()
        self._key = secrets.token_bytes(32)
        self._token = None if token is None else self._proof(token)
        # What the cookie of one who knew the token says; another after every start.
        self._session = self._proof(f"session {token}").hex()
        self._inline_scripts: Callable[[], Sequence[str]] | None = None

    def protect(
        self, server: Flask, inline_scripts: Callable[[], Sequence[str]] | None = None
    ) -> None:
        """Put the guard before every request of ``server``.

        Args:
            server: of the dashboard.
            inline_scripts: gives the hashes of scripts that may stand in a page, as
                ``Dash.csp_hashes`` does; without it, any may.
        """
        self._inline_scripts = inline_scripts
        server.config["MAX_CONTENT_LENGTH"] = MAX_BODY
        server.before_request(self._check)
        server.after_request(self._finish)
        if self._token is not None:
            server.add_url_rule("/login", "login", self._login, methods=["GET", "POST"])

    def _proof(self, text: str) -> bytes:
        """What stands for ``text`` in comparisons: of one length, whatever was sent."""
        return hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256).digest()

    def _is_known(self) -> bool:
        if self._token is None:
            return True
        given = self._proof(request.cookies.get(SESSION_COOKIE, ""))
        return hmac.compare_digest(given, self._proof(self._session))

    def _check(self) -> AnyResponse | None:
        host = _host()
        if self._hosts is not None and host not in self._hosts and not _is_loopback(host):
            return _refuse(f"host {host!r} is not this dashboard's: use http://127.0.0.1", 421)
        if (request.content_length or 0) > MAX_BODY:
            return _refuse(f"more than {MAX_BODY} bytes: send less", 413)
        changes = request.method not in ("GET", "HEAD", "OPTIONS")
        # Other ports of this host are another origin, although their requests carry our cookies.
        if changes and request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return _refuse("this request comes from another site", 403)
        if request.path in OPEN_PATHS:
            return None
        if not self._is_known():
            if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
                return redirect(f"/login?next={quote(request.full_path.rstrip('?'), safe='/')}")
            return _refuse("log in first", 401)
        if changes and not self._is_ours():
            return _refuse("this request comes from another page: reload and try again", 403)
        return None

    def _is_ours(self) -> bool:
        """Only a page of this origin can send the header, and know the cookie to repeat in it."""
        cookie = request.cookies.get(CSRF_COOKIE, "")
        header = request.headers.get(CSRF_HEADER, "")
        return bool(cookie) and hmac.compare_digest(self._proof(cookie), self._proof(header))

    def _login(self) -> AnyResponse:
        wanted = _path_here(request.values.get("next", "/"))
        if request.method != "POST":
            if self._is_known():
                return redirect(wanted)
            return _login_page(wanted, "", 200)
        address = request.remote_addr or ""
        wait = self._attempts.wait_s(address)
        if wait:
            page = _login_page(wanted, f"Too many attempts: try again in {wait:.0f} s.", 429)
            page.headers["Retry-After"] = str(int(wait) + 1)
            return page
        # Only from the form: what stands in an address is kept in histories and logs.
        if not hmac.compare_digest(self._proof(request.form.get("token", "")), self._token or b""):
            return _login_page(wanted, "That is not the token: try again.", 401)
        self._attempts.forgive(address)
        answer = redirect(wanted, 303)
        answer.set_cookie(
            SESSION_COOKIE, self._session, httponly=True, samesite="Strict",
            secure=request.is_secure, path="/",
        )  # fmt: skip
        return answer

    def _finish(self, response: Response) -> Response:
        # On pages, which are never kept in a cache; and on a refusal, after which a page that was
        # open before the browser lost its cookie can go on.
        if (
            not request.cookies.get(CSRF_COOKIE)
            and (response.mimetype == "text/html" or response.status_code == 403)
        ):  # fmt: skip
            response.set_cookie(
                CSRF_COOKIE, secrets.token_urlsafe(32), samesite="Strict",
                secure=request.is_secure, path="/",
            )  # fmt: skip
        response.headers["Content-Security-Policy"] = self._policy()
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if request.is_secure or self._hosts is not None:
            # Browsers heed it only there, and complain elsewhere.
            response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        if not request.path.startswith(("/assets/", "/_dash-component-suites/")):
            response.headers["Cache-Control"] = "no-store"
        return response

    def _policy(self) -> str:
        if self._inline_scripts is None:
            scripts = "'unsafe-inline'"
        else:
            scripts = " ".join(self._inline_scripts())
        # plotly.js compiles its WebGL shaders' wrappers, and sets styles on what it draws.
        return (
            f"default-src 'self'; script-src 'self' 'unsafe-eval' {scripts}; "
            "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
            "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
            "form-action 'self'; frame-ancestors 'none'"
        )


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def _refuse(message: str, code: int) -> Response:
    return Response(f"exitbits: {message}\n", code, mimetype="text/plain")


def _login_page(wanted: str, message: str, code: int) -> Response:
    return Response(_LOGIN.format(next=escape(wanted), message=message), code, mimetype="text/html")


def _host() -> str:
    """By which name the dashboard was addressed, without its port; empty for none that is valid."""
    try:
        return urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    """Whether ``host`` is an address of this machine alone; a name may be made to mean one."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _path_here(wanted: str) -> str:
    """``wanted`` where it is a path of this site, else the first page."""
    if not _PATH_HERE.fullmatch(wanted) or urlsplit(wanted).path == "/login":
        return "/"
    return wanted


def _network(address: str) -> str:
    """What one person can change no more than: an IPv4 address, or an IPv6 network."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return found.exploded[:19]
