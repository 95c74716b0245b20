"""The dashboard behind a proxy: the address that browsers know it by, and who they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from search.errors import BadInput

# Whoever is on this machine; a proxy elsewhere is named.
OWN_PROXIES = ("127.0.0.0/8", "::1/128")

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class PublicUrl:
    """By which address browsers reach the dashboard.

    Attributes:
        scheme: ``http`` or ``https``.
        host: its name.
        port: None for the scheme's own.
        prefix: path below which it lies, without a slash at its end; often empty.
    """

    scheme: str
    host: str
    port: int | None = None
    prefix: str = ""

    @property
    def origin(self) -> str:
        """Scheme, host and port, as browsers write them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port is None else f":{self.port}")

    @classmethod
    def parse(cls, text: str) -> PublicUrl:
        """Read an address such as ``https://lab.example.org/exitbits``.

        Raises:
            BadInput: for anything else.
        """
        try:
            parts = urlsplit(text)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        except ValueError:
            scheme, host, port, parts = "", "", None, urlsplit("")
        prefix = parts.path.rstrip("/")
        plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        if (
            scheme not in ("http", "https")
            or not re.fullmatch(r"[a-z0-9.:_-]+", host)
            or not re.fullmatch(r"(/(?!\.)[A-Za-z0-9._~-]+)*", prefix)
            or not plain
        ):
            raise BadInput(
                f"public address {text!r}: give one such as https://lab.example.org/exitbits"
            )
        return cls(
            scheme, host, None if port == {"http": 80, "https": 443}[scheme] else port, prefix
        )


def parse_networks(given: Iterable[str]) -> tuple[Network, ...]:
    """Read addresses and networks of proxies.

    Raises:
        BadInput: for what is neither.
    """
    found = []
    for text in given:
        try:
            found.append(ip_network(text, strict=False))
        except ValueError:
            raise BadInput(
                f"trusted proxy {text!r}: give an address or a network, such as 172.18.0.0/16"
            ) from None
    return tuple(found)


class BehindProxy:
    """Puts the public address in the place of the proxy's in every request.

    Prefixes may have been taken off by the proxy, or not. Only what a trusted proxy says of its
    client is believed, and of that only what the proxy itself has added.

    Args:
        application: answers the requests.
        public: by which address browsers reach it.
        proxies: whose word is taken for who asks.
    """

    def __init__(self, application: Any, public: PublicUrl, proxies: Sequence[Network]) -> None:
        self._application, self._public, self._proxies = application, public, proxies

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request."""
        prefix, path = self._public.prefix, environ.get("PATH_INFO", "")
        if prefix and (path == prefix or path.startswith(f"{prefix}/")):
            environ["PATH_INFO"] = path[len(prefix) :] or "/"
        environ["SCRIPT_NAME"] = prefix
        environ["wsgi.url_scheme"] = self._public.scheme
        environ["REMOTE_ADDR"] = self._client(environ)
        return self._application(environ, start_response)

    def _client(self, environ: dict[str, Any]) -> str:
        peer: str = environ.get("REMOTE_ADDR", "")
        told = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
        try:
            address = ip_address(peer)
            trusted = any(address in network for network in self._proxies)
            return str(ip_address(told)) if trusted and told else peer
        except ValueError:
            return peer
