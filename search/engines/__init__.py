"""Engines: what runs a quantized model. A registry by name, without torch."""

from __future__ import annotations

from search.registry import Registry

ENGINES = Registry(
    "engine",
    "exitbits.engines",
    {
        "fast": "search.engines.cpu.engine:FastEngine",
        "reference": "search.engines.reference:ReferenceEngine",
    },
)
