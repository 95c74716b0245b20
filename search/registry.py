"""Registries whose names are known without importing what they name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from search.errors import unknown_choice


def resolve(what: str, name: str, registry: Mapping[str, str]) -> Any:
    """Import and return what ``name`` stands for.

    Args:
        what: the noun for the error.
        name: the key.
        registry: names to ``"module:attribute"``.

    Raises:
        BadInput: when the name is unknown.
    """
    if name not in registry:
        raise unknown_choice(what, name, registry)
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
