"""Views that stand in a page's address: frozen dataclasses, written and read as a query."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlencode

import numpy as np
from flask import has_request_context, request


def at(path: str) -> str:
    """A path of the dashboard as a browser asks for it: behind a proxy it may have a prefix."""
    return f"{request.script_root}{path}" if has_request_context() else path


def inner(path: str) -> str:
    """What :func:`at` was given."""
    return path.removeprefix(at("")) or "/"


MAX_QUERY = 16_384  # characters of a view's address; browsers and proxies bear no more
MAX_FIELDS = 1000


def query_fields(query: str) -> dict[str, list[str]]:
    """The fields of an address; none of one that is longer than any page's."""
    if len(query) > MAX_QUERY:
        return {}
    try:
        return parse_qs(query.lstrip("?"), max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}


@dataclass(frozen=True)
class Addressed:
    """A view whose fields all have defaults.

    Attributes:
        readers: how each field is read from its text; a ``ValueError`` means that it cannot be.
    """

    readers: ClassVar[Mapping[str, Callable[[str], Any]]]

    def to_query(self) -> str:
        """As the query part of an address; empty for the view that a page begins with."""
        given: dict[str, str] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if value != one.default:
                given[one.name] = _written(value)
        return f"?{urlencode(given, safe=',~;')}" if given else ""

    @classmethod
    def from_query(cls, query: str) -> Self:
        """Read an address. What cannot be read is left out: an old link still opens."""
        given = {key: values[-1] for key, values in query_fields(query).items()}
        kept: dict[str, Any] = {}
        for name, read in cls.readers.items():
            try:
                if name in given:
                    kept[name] = read(given[name])
            except ValueError:
                continue
        return cls(**kept)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, (int, float)):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):
            return ";".join(_written(one) for one in value)
        return ",".join(_written(one) for one in value)
    return str(value)


def number(text: str) -> float:
    """A finite number."""
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(text)
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    """One of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return read
