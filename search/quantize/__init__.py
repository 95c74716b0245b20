"""Quantizers, calibration and execution engines."""

QUANTIZERS: dict[str, str] = {
    "minmax": "search.quantize.ranges:MinMax",
    "mse": "search.quantize.ranges:MeanSquaredError",
}
