"""Logging in: the token and whether it has changed, sessions, and what slows down who guesses."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from search.errors import BadInput
from search.files import warn_if_others_read

MIN_TOKEN = 16
FREE_ATTEMPTS = 5
MAX_WAIT_S = 60.0
FORGET_S = 3600.0
KEPT_ADDRESSES = 10_000
SESSION_S = 12 * 3600.0
KEPT_SESSIONS = 1000


class Token:
    """What whoever logs in must know; where it stands in a file, as the file stands now.

    Args:
        text: the token, or None where it is a file's.
        file: which holds it.

    Raises:
        BadInput: for a token that can be guessed or not typed, or a file that cannot be read.
    """

    def __init__(self, text: str | None = None, *, file: Path | None = None) -> None:
        self._file, self._seen = file, (0, 0, 0)
        self._key = secrets.token_bytes(32)
        self._proof = b""
        if file is not None:
            warn_if_others_read(file)
            self._seen = _stamp(file)
            text = _read(file)
        self._take(text or "")

    def _take(self, text: str) -> None:
        if len(text) < MIN_TOKEN or not text.isprintable():
            raise BadInput(
                f"the token has {len(text)} characters: give at least {MIN_TOKEN}, all printable, "
                "for example what 'openssl rand -base64 32' prints"
            )
        self._proof = self._of(text)

    def _of(self, text: str) -> bytes:
        """What stands for ``text`` in comparisons: of one length, whatever was sent."""
        return hmac.new(self._key, text.encode(errors="replace"), hashlib.sha256).digest()

    @property
    def proof(self) -> bytes:
        """Stands for the token as it is now; another one for another token."""
        if self._file is not None:
            try:
                if (now := _stamp(self._file)) != self._seen:
                    self._take(_read(self._file))
                    self._seen = now
            except BadInput:
                # Taken away, or half written: nobody is let in until it can be read.
                return secrets.token_bytes(32)
        return self._proof

    def is_it(self, given: str) -> bool:
        """Whether somebody knows the token."""
        return hmac.compare_digest(self._of(given), self.proof)


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> BadInput:
    reason = getattr(error, "strerror", None) or "it is no text"
    return BadInput(
        f"cannot read the token file {str(file)!r} ({reason}): check EXITBITS_TOKEN_FILE"
    )


class Sessions:
    """Who is logged in: a session a login, until its end, half a day later, or another token.

    Args:
        token: which they knew.
        clock: seconds that never go back.
    """

    def __init__(self, token: Token, clock: Callable[[], float] = time.monotonic) -> None:
        self._token, self._clock = token, clock
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    def begin(self) -> str:
        """A new session, by the secret that its cookie holds."""
        secret = secrets.token_urlsafe(32)
        with self._lock:
            self._known[_digest(secret)] = (self._token.proof, self._clock() + SESSION_S)
            while len(self._known) > KEPT_SESSIONS:
                self._known.popitem(last=False)
        return secret

    def knows(self, secret: str) -> bool:
        """Whether ``secret`` is that of a session."""
        with self._lock:
            known = self._known.get(_digest(secret))
        if known is None:
            return False
        proof, until = known
        return hmac.compare_digest(proof, self._token.proof) and self._clock() < until

    def end(self, secret: str) -> None:
        """Forget a session."""
        with self._lock:
            self._known.pop(_digest(secret), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


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
