"""Which engine runs quantized policies, by name. Needs torch."""

from __future__ import annotations

import logging
from functools import cache

import torch

from search.engines import ENGINES
from search.engines.cpu.native import load_kernels
from search.engines.reference import ReferenceEngine
from search.registry import resolve

log = logging.getLogger(__name__)


@cache
def resolve_engine(name: str, device: str = "cpu") -> type[ReferenceEngine]:
    """The engine called ``name``, or the reference engine where that one cannot run.

    What an engine measured carries the name of the engine that really ran.

    Args:
        name: a key of ``ENGINES``.
        device: where the model runs. The fast engine's kernels are for CPUs.

    Raises:
        BadInput: when the name is unknown.
    """
    engine: type[ReferenceEngine] = resolve("engine", name, ENGINES)
    if engine.name == ReferenceEngine.name:
        return engine
    if torch.device(device).type != "cpu":
        log.warning("engine %r is for CPUs: on %s the reference engine runs", name, device)
        return ReferenceEngine
    # Why there are none has been said where they were looked for.
    return engine if load_kernels() is not None else ReferenceEngine
