"""Figures as the plain dictionaries that plotly.js takes.

Plotly's own classes check every property in milliseconds a trace, which a page that polls cannot
spend; the tests hand these figures to those classes instead.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np

Trace = dict[str, Any]
Figure = dict[str, Any]

_NAMES = {"float32": "f4", "float64": "f8"}


def typed(values: np.ndarray) -> dict[str, str]:
    """Numbers ``[N]``, float32 or float64, as plotly.js reads them without parsing.

    The format is plotly.js's typed array specification: base64 of the machine's bytes, which are
    little-endian wherever this runs.
    """
    return {
        "dtype": _NAMES[values.dtype.name],
        "bdata": b64encode(np.ascontiguousarray(values).tobytes()).decode(),
    }
