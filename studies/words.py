"""Names, numbers and durations as people and file systems read them."""

from __future__ import annotations

from html import escape


def file_name(study: str) -> str:
    """A study's name as the beginning of a file's: whatever else it holds becomes ``_``."""
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in study)
    # File systems count bytes; 200 leave room for an ending.
    return safe.encode()[:200].decode(errors="ignore")


def counted(count: int, noun: str) -> str:
    """A number of things: ``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def report_mark(study: str) -> str:
    """The line of a page's head by which a later report of the same study knows it as its own."""
    return f'<meta name="generator" content="exitbits report of {escape(study)}">'


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
