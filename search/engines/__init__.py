"""Engines: what runs a quantized model. A registry by name, without torch."""

ENGINES: dict[str, str] = {
    "fast": "search.engines.cpu.engine:FastEngine",
    "reference": "search.engines.reference:ReferenceEngine",
}
