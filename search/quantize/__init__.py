"""Quantizers: how numbers become codes. A registry by name, without torch."""

QUANTIZERS: dict[str, str] = {
    "minmax": "search.quantize.ranges:MinMax",
    "mse": "search.quantize.ranges:MeanSquaredError",
}
