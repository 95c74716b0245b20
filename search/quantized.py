"""A model that can run at any bits: weights, calibration, quantizer and engine. Needs torch.

One quantized model serves any number of splits, so what calibration saw and what the quantizer
chose is worked out once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import timm
import torch
from torch import Tensor

from search.caching import processor
from search.cost import Ledger
from search.data.batches import normalized_batches
from search.data.splits import Split
from search.digest import digest_of
from search.engines.base import Engine, EngineKind, resolve_engine
from search.engines.reference import ReferenceEngine
from search.models.card import ModelCard
from search.models.early_exit import EarlyExitModel, Read
from search.policy import Bits
from search.quantize import calibration
from search.quantize.drifting import RangeCache, RangesByDrift
from search.quantize.fitting import FitsInputs, FittedWeights, WeightCache
from search.quantize.histograms import Histogram
from search.quantize.qparams import ModelQParams
from search.quantize.ranges import resolve_quantizer
from search.tasks import Task, resolve_task
from search.tasks.torch_half import TorchTask, resolve_torch_task
from search.trace import ExitTrace


class CalibrationCache(Protocol):
    """Where what calibration saw is kept by content."""

    def load(self, key: str) -> dict[str, Histogram] | None:
        """What was seen under ``key``, or None."""

    def store(self, key: str, seen: dict[str, Histogram]) -> None:
        """Keep it under ``key``."""

    @property
    def weights(self) -> WeightCache:
        """Where weights are kept that were fitted to calibration images."""

    @property
    def ranges(self) -> RangeCache:
        """Where ranges are kept that were chosen by them."""


@dataclass
class QuantizedModel:
    """A model with everything that decides what it answers at given bits.

    Attributes:
        model, card: the full-precision early-exit model and its card.
        calibration: images that set the quantizer's ranges.
        quantizer: its name.
        engine_name: of the engine that runs quantized policies.
        device: where the model runs.
        calibrations: where what calibration saw is looked up first, or None to calibrate anew.
    """

    model: EarlyExitModel
    card: ModelCard
    calibration: Split
    quantizer: str = "mse"
    engine_name: str = ReferenceEngine.name
    device: str = "cpu"
    calibrations: CalibrationCache | None = None

    @cached_property
    def task(self) -> Task:
        """What the model's heads answer."""
        return resolve_task(self.card.task)

    @cached_property
    def torch_task(self) -> TorchTask:
        """What is done to their raw outputs."""
        return resolve_torch_task(self.card.task)

    @cached_property
    def ledger(self) -> Ledger:
        """The model's operations for one image."""
        return self.model.ledger(self.card.input.size)

    @property
    def engine_kind(self) -> EngineKind:
        """What runs it: the engine that was named, or the reference engine where that cannot."""
        return resolve_engine(self.engine_name, self.device)

    @cached_property
    def engine(self) -> Engine:
        """The quantized model, calibrated at first use."""
        return self.engine_kind(self.model.to(self.device), self.qparams)

    @cached_property
    def qparams(self) -> ModelQParams:
        """How its tensors become codes."""
        model, quantizer = self.model.to(self.device), resolve_quantizer(self.quantizer)
        if not isinstance(quantizer, FitsInputs):
            return ModelQParams(model, self._seen(), quantizer)
        caches, batches, by = self.calibrations, self._calibration_batches, self._calibrated_by
        fit = FittedWeights(
            model, batches, len(self.calibration), quantizer, caches.weights if caches else None, by
        )
        ranges = RangesByDrift(
            model, self.torch_task, batches, caches.ranges if caches else None, by
        )
        return ModelQParams(model, self._seen(), quantizer, fit, ranges)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that its answers to an image depend on, but the bits: plain values."""
        kind = self.engine_kind
        return {
            "model": self.card.digest,
            "calibration": self.calibration.digest,
            "quantizer": self._quantizer_identity,
            "engine": [kind.name, kind.version],
            "device": torch.device(self.device).type,
        }

    def run(self, bits: Bits, split: Split) -> Iterator[ExitTrace]:
        """The trace of every batch of a split at ``bits``, whatever else runs meanwhile.

        Raises:
            BadInput: when the bits do not fit the model.
        """
        widths, engine = self.ledger.widths(bits), self.engine
        batches = self._traces(engine.run, split, engine.name)
        while True:
            engine.set_bits(widths)  # whoever looked may have used the engine meanwhile
            part = next(batches, None)
            if part is None:
                return
            yield part

    @torch.inference_mode()
    def run_full_precision(self, split: Split) -> Iterator[ExitTrace]:
        """The trace of every batch of a split by the model as it was trained."""
        model = self.model.to(self.device)
        yield from self._traces(model.read_exits, split, ReferenceEngine.name)

    def _traces(
        self, run: Callable[[Tensor, Read], None], split: Split, engine: str
    ) -> Iterator[ExitTrace]:
        done = 0
        for images in normalized_batches(split, self.card.input, device=self.device):
            targets = split.targets[done : done + len(images)]
            done += len(images)
            yield self._trace(run, images, targets, engine)

    def _trace(
        self, run: Callable[[Tensor, Read], None], images: Tensor, targets: np.ndarray, engine: str
    ) -> ExitTrace:
        """The trace of one batch; an exit's raw outputs are reduced before the next exit runs."""
        confidences, statistics = [], []

        def read(_: int, outputs: Tensor) -> None:
            confidence, statistic = self.torch_task.reduce(outputs, targets)
            confidences.append(confidence)
            statistics.append(statistic)

        run(images, read)
        return ExitTrace(
            np.stack(confidences, axis=1),
            np.stack(statistics, axis=1),
            self.ledger.exit_blocks,
            engine,
        )

    @property
    def _quantizer_identity(self) -> str | list[str | int]:
        """Name and version; a first version's name alone, under which much is kept."""
        version = getattr(resolve_quantizer(self.quantizer), "version", 1)
        return self.quantizer if version == 1 else [self.quantizer, version]

    @property
    def _calibrated_by(self) -> dict[str, Any]:
        """What calibration depends on.

        Its sums are in floating point: other libraries or another processor may see otherwise.
        """
        return {
            "calibration": self.calibration.digest,
            "model": self.card.digest,
            "device": torch.device(self.device).type,
            "version": [calibration.VERSION, torch.__version__, timm.__version__],
            "processor": processor().decode(errors="replace"),
        }

    def _calibration_batches(self) -> Iterator[Tensor]:
        return normalized_batches(self.calibration, self.card.input, device=self.device)

    def _seen(self) -> dict[str, Histogram]:
        """What calibration saw of every operand, from the cache or from two passes."""
        key = digest_of(self._calibrated_by)
        if self.calibrations is not None and (known := self.calibrations.load(key)) is not None:
            return known
        seen = calibration.calibrate(self.model, self._calibration_batches)
        if self.calibrations is not None:
            self.calibrations.store(key, seen)
        return seen
