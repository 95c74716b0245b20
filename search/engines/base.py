"""The seam between models and what runs them quantized, and its resolver. Needs torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Protocol

from torch import Tensor

from search.engines import ENGINES
from search.engines.reference import ReferenceEngine
from search.models.early_exit import EarlyExitModel, Read
from search.quantize.qparams import ModelQParams

log = logging.getLogger(__name__)


class Engine(Protocol):
    """A quantized model whose bits can be set anew for every policy.

    Attributes:
        name: in the registry, in traces and in records.
        version: raised whenever the same bits may give other answers; traces are kept by it.
    """

    name: str
    version: int

    def set_bits(self, widths: Mapping[str, tuple[int, int]]) -> None:
        """Set the widths ``(left, right)`` of every operation, by the ledger's names."""

    def run(self, images: Tensor, read: Read) -> None:
        """Hand every exit's raw outputs for normalized images ``[B, C, H, W]`` to ``read``.

        In the order of the exits, and without keeping them: those of one exit may be large.
        """

    def run_states(self, images: Tensor, read: Read) -> list[Tensor]:
        """The same, and what leaves every block."""


class EngineKind(Protocol):
    """What builds an engine: a class in the registry.

    Attributes:
        name, version: of the engines that it builds.
    """

    name: str
    version: int

    def unavailable(self, device: str) -> str | None:
        """Why it cannot run on ``device``, in one line, and what to do; None where it can."""

    def __call__(self, model: EarlyExitModel, qparams: ModelQParams) -> Engine:
        """Build one for a model in evaluation mode, which is copied, not changed."""


@cache
def resolve_engine(name: str, device: str = "cpu") -> EngineKind:
    """The engine called ``name``, or the reference engine where that one cannot run.

    What an engine measured carries the name of the engine that really ran.

    Args:
        name: a key of ``ENGINES``.
        device: where the model runs.

    Raises:
        BadInput: when the name is unknown.
    """
    kind: EngineKind = ENGINES.resolve(name)
    reason = kind.unavailable(device)
    if reason is None:
        return kind
    if reason:
        log.warning("%s", reason)
    return ReferenceEngine
