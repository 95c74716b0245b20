"""Ctrl-C that cannot get lost.

A KeyboardInterrupt is raised wherever the program happens to be. Where that is inside somebody
else's import, destructor or callback, it may be swallowed there. So it is remembered as well, and
a loop that runs for long asks.
"""

from __future__ import annotations

import signal
from types import FrameType

_seen = False


def watch(*more: signal.Signals) -> None:
    """From here on, remember SIGINT and the signals given, and raise KeyboardInterrupt for them.

    What the process was started to ignore (as by ``nohup``) it goes on ignoring.
    """
    global _seen
    _seen = False
    for number in (signal.SIGINT, *more):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _remember)


def raise_if_seen() -> None:
    """Raise KeyboardInterrupt if one came since :func:`watch`: whoever asks had not heard of it."""
    global _seen
    if _seen:
        _seen = False
        raise KeyboardInterrupt


def heard() -> None:
    """Forget what was seen: who calls has caught its KeyboardInterrupt, only another is news."""
    global _seen
    _seen = False


def _remember(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt
