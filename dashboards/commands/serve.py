"""``exitbits serve``: the dashboard."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dashboards.logins import MIN_TOKEN, Token
from dashboards.public import OWN_PROXIES, PublicUrl, parse_networks
from dashboards.security import LOOPBACK
from search.errors import BadInput, ExitbitsError
from studies.commands.common import add_store, read_store
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
    parser.add_argument(
        "--public-url", metavar="URL",
        help="address by which browsers reach it through a proxy, such as "
        "https://lab.example.org/exitbits; needs a token",
    )  # fmt: skip
    parser.add_argument(
        "--trusted-proxy", metavar="NETWORK", action="append",
        help="with --public-url: address or network of the proxy, whose X-Forwarded-For says who "
        "asks; may be repeated (default: this machine)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-folder", metavar="DIR", type=Path, action="append",
        help="folder below which models and images of studies submitted here must lie; may be "
        "repeated (default: anywhere that this user can read)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8050, help="port (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop, by Ctrl-C or SIGTERM: that is its regular end."""
    if not 0 <= args.port <= 65535:
        raise BadInput(f"port {args.port} is none: choose from 1 to 65535, or 0 for any free one")
    local, token = is_loopback(args.host), read_token()
    public = None if args.public_url is None else PublicUrl.parse(args.public_url)
    proxies = parse_networks(args.trusted_proxy or OWN_PROXIES)
    folders = None if args.allow_folder is None else _folders(args.allow_folder)
    if token is None and not local:
        raise BadInput(
            f"address {args.host!r} can be reached from elsewhere: set a token of at least "
            f"{MIN_TOKEN} characters in {TOKEN} or in the file {TOKEN_FILE} names, or leave "
            "--host out"
        )
    store = StudyStore(read_store(args), patience_s=PAGE_PATIENCE_S)
    from dashboards.app import create_app
    from dashboards.serving import create_server

    app = create_app(
        store, token=token, local=local, public=public, proxies=proxies, folders=folders
    )
    try:
        server = create_server(app.server, args.host, args.port)
    except OSError as error:
        raise ExitbitsError(
            f"cannot listen on {args.host}:{args.port} ({error.strerror or error}): "
            "choose another --port or --host"
        ) from error
    host = f"[{args.host}]" if ":" in args.host else args.host
    asked = ", asks for the token" if token else ""
    here = f"http://{host}:{server.effective_port}"
    there = "" if public is None else f", for others {public.origin}{public.prefix}/"
    print(f"dashboard of {store.database.shown}: {here}{there}{asked}", flush=True)
    print("Ctrl-C stops it", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        server.run()  # ends on Ctrl-C
    finally:
        server.close()
    return 0


def _folders(given: Sequence[Path]) -> list[Path]:
    for folder in given:
        if not folder.is_dir():
            raise BadInput(f"no folder {str(folder)!r}: --allow-folder names one that exists")
    return [folder.resolve() for folder in given]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def read_token() -> Token | None:
    """The token from the environment, or None.

    Raises:
        BadInput: when it is too short, or its file cannot be read.
    """
    if (text := os.environ.get(TOKEN)) is not None:
        return Token(text)
    if path := os.environ.get(TOKEN_FILE):
        return Token(file=Path(path))
    return None
