"""Quantizers, calibration and execution engines."""

ENGINES: dict[str, str] = {
    "fast": "search.quantize.fast:FastEngine",
    "reference": "search.quantize.reference:ReferenceEngine",
}

QUANTIZERS: dict[str, str] = {
    "minmax": "search.quantize.ranges:MinMax",
    "mse": "search.quantize.ranges:MeanSquaredError",
}
