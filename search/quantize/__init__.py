"""Quantizers: how numbers become codes. A registry by name, without torch."""

from __future__ import annotations

from search.registry import Registry

QUANTIZERS = Registry(
    "quantizer",
    "exitbits.quantizers",
    {
        "minmax": "search.quantize.ranges:MinMax",
        "mse": "search.quantize.ranges:MeanSquaredError",
        "gptq": "search.quantize.gptq:Gptq",
    },
)
