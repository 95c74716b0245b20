"""The server's connections: none that has sent half a request keeps its place for long."""

from __future__ import annotations

from typing import Any

import waitress
from waitress.channel import HTTPChannel

from dashboards.security import MAX_BODY

THREADS = 8
REQUEST_S = 20  # for a request to arrive as a whole, and between two of one connection
CHECK_S = 2
CONNECTIONS = 1000


class _Channel(HTTPChannel):
    """A connection on which only whole requests count as a sign of life."""

    last_activity: float

    def handle_read(self) -> None:
        """Read what has come; a request that is not complete does not put the deadline off."""
        before = self.last_activity
        super().handle_read()
        if self.request is not None:
            self.last_activity = before


def create_server(application: Any, host: str, port: int) -> Any:
    """A server of ``application`` that listens; ``run`` serves until it is closed.

    Raises:
        OSError: when it cannot listen there.
    """
    sockets: dict[int, Any] = {}
    server = waitress.create_server(
        application,
        map=sockets,
        host=host,
        port=port,
        threads=THREADS,
        ident="exitbits",
        max_request_body_size=MAX_BODY,
        channel_timeout=REQUEST_S,
        cleanup_interval=CHECK_S,
        connection_limit=CONNECTIONS,
        clear_untrusted_proxy_headers=False,  # see BehindProxy, which knows whom to trust
        asyncore_use_poll=True,  # select cannot look at as many
    )
    for one in sockets.values():
        if hasattr(one, "channel_class"):
            one.channel_class = _Channel
    return server
