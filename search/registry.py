"""Registries: members known by name without importing them, some from outside the package.

A registry's own members are a dict of names to ``"module:attribute"``. Other distributions add
theirs by entry points in the registry's group, so a member from outside is named in a study like
any other.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from search.errors import BadInput, unknown_choice


@dataclass(frozen=True)
class Registry:
    """Names, and what they stand for. Iterates over the names, sorted.

    Attributes:
        what: the noun for errors, for example ``"sampler"``.
        group: of the entry points that add members, for example ``"exitbits.samplers"``.
        built_in: names to ``"module:attribute"``.
    """

    what: str
    group: str
    built_in: Mapping[str, str]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.built_in, *(point.name for point in self._plugged_in())}))

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or any(point.name == name for point in self._plugged_in())

    def check(self, name: str) -> None:
        """Make sure that ``name`` stands for one member.

        Raises:
            BadInput: when no member has the name, or several have it.
        """
        if name not in self:
            raise unknown_choice(self.what, name, self)
        points = [point for point in self._plugged_in() if point.name == name]
        givers = [_distribution(point) for point in points]
        if name in self.built_in:
            givers.insert(0, "exitbits itself")
        if len(givers) > 1:
            raise BadInput(
                f"{self.what} {name!r} comes from {' and '.join(givers)}: "
                "a name stands for one member, so uninstall or rename the other"
            )

    def resolve(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            BadInput: when no member has the name, several have it, or one from outside cannot be
                imported.
        """
        self.check(name)
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        point = next(point for point in self._plugged_in() if point.name == name)
        try:
            return point.load()
        except Exception as error:  # code from outside may raise anything
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise BadInput(
                f"{self.what} {name!r} ({point.value} of {_distribution(point)}) cannot be "
                f"imported ({reason}): repair, update or uninstall that distribution"
            ) from error

    def _plugged_in(self) -> EntryPoints:
        return _installed(self.group)


@cache
def _installed(group: str) -> EntryPoints:
    """The group's entry points of all distributions, read once: that takes milliseconds."""
    return entry_points(group=group)


def _distribution(point: EntryPoint) -> str:
    """Name and version of what an entry point comes from."""
    source = point.dist
    return "an unnamed distribution" if source is None else f"{source.name} {source.version}"
