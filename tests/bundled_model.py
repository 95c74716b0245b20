"""The bundled model's evaluator, as a study with few calibration images opens it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from search.data import fashion
from search.evaluate import Evaluator, TraceCache
from search.training.data import ArrayData
from studies.config import parse_config
from studies.work.opening import open_evaluator


def open_bundled(calibration_images: int, cache: TraceCache | None = None) -> Evaluator:
    """The evaluator of ``bundled:fashion`` on the search split."""
    fields = {
        "name": "bundled",
        "model": {"checkpoint": "bundled:fashion"},
        "data": {"dataset": "fashion", "calibration_images": calibration_images},
    }
    return open_evaluator(parse_config(fields, "test"), cache=cache)


def with_model(evaluator: Evaluator, **changes: Any) -> Evaluator:
    """The same evaluator, parts of its quantized model replaced."""
    return replace(evaluator, quantized=replace(evaluator.quantized, **changes))


def training_data(count: int) -> ArrayData:
    """So many of the bundled calibration images, to train on."""
    split = fashion.FashionDataset().split("calibration").head(count)
    return ArrayData(split.read(np.arange(count)), split.targets, fashion.MEAN, fashion.STD)
