"""``exitbits serve``: the dashboard."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
from pathlib import Path

from dashboards.security import LOOPBACK, MIN_TOKEN
from search.errors import BadInput, ExitbitsError
from studies.commands.common import add_store, read_store
from studies.store.database import EmptyStore
from studies.store.writer import StudyStore

TOKEN, TOKEN_FILE = "EXITBITS_TOKEN", "EXITBITS_TOKEN_FILE"
PAGE_PATIENCE_S = 0.0  # a page says at once that it is not up to date, and asks again by itself


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits serve``."""
    add_store(parser)
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on (default %(default)s); any but a loopback address needs a token "
        f"in {TOKEN} or in the file that {TOKEN_FILE} names",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8050, help="port (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop, by Ctrl-C or SIGTERM: that is its regular end."""
    if not 0 <= args.port <= 65535:
        raise BadInput(f"port {args.port} is none: choose from 1 to 65535, or 0 for any free one")
    local, token = is_loopback(args.host), read_token()
    if token is None and not local:
        raise BadInput(
            f"address {args.host!r} can be reached from elsewhere: set a token of at least "
            f"{MIN_TOKEN} characters in {TOKEN} or in the file {TOKEN_FILE} names, or leave "
            "--host out"
        )
    address = read_store(args)
    try:
        store = StudyStore(address, patience_s=PAGE_PATIENCE_S)
    except EmptyStore:
        # Studies may come while it is open.
        store = StudyStore(address, create=True, patience_s=PAGE_PATIENCE_S)
    from dashboards.app import create_app
    from dashboards.serving import create_server

    app = create_app(store, token=token, local=local)
    try:
        server = create_server(app.server, args.host, args.port)
    except OSError as error:
        raise ExitbitsError(
            f"cannot listen on {args.host}:{args.port} ({error.strerror or error}): "
            "choose another --port or --host"
        ) from error
    host = f"[{args.host}]" if ":" in args.host else args.host
    asked = ", asks for the token" if token else ""
    print(f"dashboard of {store.database.shown}: http://{host}:{server.effective_port}{asked}",
          flush=True)  # fmt: skip
    print("Ctrl-C stops it", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.run()  # ends on Ctrl-C
    finally:
        server.close()
    return 0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def read_token() -> str | None:
    """The token from the environment, or None.

    Raises:
        BadInput: when it is too short, or its file cannot be read.
    """
    token = os.environ.get(TOKEN)
    if token is None and (path := os.environ.get(TOKEN_FILE)):
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise BadInput(
                f"cannot read the token file {path!r} ({reason}): check {TOKEN_FILE}"
            ) from error
    if token is not None and len(token) < MIN_TOKEN:
        raise BadInput(
            f"the token has {len(token)} characters: use at least {MIN_TOKEN}, such as what "
            "'openssl rand -base64 32' prints"
        )
    return token
