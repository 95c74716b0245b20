"""Who may use the dashboard: hosts, the token, cross-site requests, and the headers of an answer.

On a loopback address everybody on the machine may use it. Anywhere else a token is asked for. It is
never part of an address: a login page takes it, and a cookie proves from then on that it was known.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from html import escape
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from flask import Flask, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from dashboards.address import at
from dashboards.logins import Attempts, Sessions, Token
from search.errors import BadInput

SESSION_COOKIE = "exitbits_session"
CSRF_COOKIE = "_csrf_token"
CSRF_HEADER = "X-CSRFToken"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/login", "/health", "/assets/style.css")
MAX_BODY = 2**20

# A path here. Browsers drop tabs and newlines and read "\" as "/", so "/\t/host" is "//host".
_PATH_HERE = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f-\xa0]*")

_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>exitbits: log in</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="{root}/assets/style.css"></head>
<body><main class="login"><h1>exitbits</h1><form method="post" action="{root}/login">
<label for="token">Access token</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus required>
<input type="hidden" name="next" value="{next}"><button type="submit">Log in</button>
<p role="alert">{message}</p></form></main></body></html>"""


class Guard:
    """Refuses what may not be answered.

    Args:
        token: asked for, or None where only this machine can reach the dashboard.
        hosts: names by which it may be addressed beside loopback addresses, or None for any, which
            needs a token.
        attempts: slows down wrong logins.
        origin: of the pages where a proxy serves them, such as ``https://lab.example.org``.

    Raises:
        BadInput: without a token where one is needed, or for one that can be guessed or not typed.
    """

    def __init__(
        self,
        token: Token | None,
        hosts: tuple[str, ...] | None,
        attempts: Attempts | None = None,
        *,
        origin: str | None = None,
    ) -> None:
        if token is None and hosts is None:
            raise BadInput(
                "a dashboard that other machines can reach needs a token: give one, or serve it "
                "on 127.0.0.1"
            )
        self._hosts, self._attempts, self._origin = hosts, attempts or Attempts(), origin
        self._token = token
        self._sessions = None if token is None else Sessions(token)
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
            server.add_url_rule("/logout", "logout", self._logout, methods=["POST"])

    def _is_known(self) -> bool:
        return self._sessions is None or self._sessions.knows(
            request.cookies.get(SESSION_COOKIE, "")
        )

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
        if changes and not self._is_own(request.headers.get("Origin", "null")):
            return _refuse(
                "this request comes from a page at another address: behind a proxy, serve with "
                "--public-url", 403,
            )  # fmt: skip
        if request.path in OPEN_PATHS:
            return None
        if not self._is_known():
            if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
                wanted = quote(request.full_path.rstrip("?"), safe="/")
                return redirect(at(f"/login?next={wanted}"))
            return _refuse("log in first", 401)
        if changes and request.path != "/logout" and not self._is_ours():
            return _refuse("this request comes from another page: reload and try again", 403)
        return None

    def _is_ours(self) -> bool:
        """Only a page of this origin can send the header, and know the cookie to repeat in it."""
        cookie = request.cookies.get(CSRF_COOKIE, "")
        header = request.headers.get(CSRF_HEADER, "")
        return bool(cookie) and hmac.compare_digest(cookie.encode(), header.encode())

    def _is_own(self, origin: str) -> bool:
        """Whether pages of ours have the origin; forms do not tell theirs."""
        if origin in ("null", self._origin):
            return True
        return urlsplit(origin).netloc == request.host

    def _login(self) -> AnyResponse:
        wanted = _path_here(request.values.get("next", "/"))
        if request.method != "POST":
            if self._is_known():
                return redirect(at(wanted))
            return _login_page(wanted, "", 200)
        assert self._token is not None
        assert self._sessions is not None
        address = request.remote_addr or ""
        wait = self._attempts.wait_s(address)
        if wait:
            page = _login_page(wanted, f"Too many attempts: try again in {wait:.0f} s.", 429)
            page.headers["Retry-After"] = str(int(wait) + 1)
            return page
        # Only from the form: what stands in an address is kept in histories and logs.
        if not self._token.is_it(request.form.get("token", "")):
            return _login_page(wanted, "That is not the token: try again.", 401)
        self._attempts.forgive(address)
        answer = redirect(at(wanted), 303)
        answer.set_cookie(
            SESSION_COOKIE, self._sessions.begin(), httponly=True, samesite="Strict",
            secure=request.is_secure, path=at("/"),
        )  # fmt: skip
        return answer

    def _logout(self) -> AnyResponse:
        assert self._sessions is not None
        self._sessions.end(request.cookies.get(SESSION_COOKIE, ""))
        answer = redirect(at("/login"), 303)
        answer.delete_cookie(SESSION_COOKIE, path=at("/"))
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
                secure=request.is_secure, path=at("/"),
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
    page = _LOGIN.format(root=escape(at("")), next=escape(wanted), message=message)
    return Response(page, code, mimetype="text/html")


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
