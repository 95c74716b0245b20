"""Weights fitted to what enters their layer: sampled at first use, kept by content. Needs torch."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from search.digest import digest_of
from search.quantize.calibration import Batches
from search.quantize.codes import WeightCodes
from search.quantize.inputs import InputMoments, moments_of, sample_inputs
from search.quantize.kept import KeptTensors
from search.quantize.qparams import ActivationQParams, WeightQParams

log = logging.getLogger(__name__)

PROGRESS_S = 15.0  # between two lines


@runtime_checkable
class FitsInputs(Protocol):
    """A quantizer that fits a linear layer's weights to what enters it.

    Attributes:
        version: raised whenever it may choose otherwise; what it chose is kept by it.
    """

    name: str
    version: int

    def fitted_weight(self, rows: Tensor, bits: int, moments: InputMoments) -> WeightQParams:
        """Of the weights ``[O, K]`` of a layer whose inputs have these moments."""


class WeightCache(Protocol):
    """Where fitted weights are kept by content."""

    def load(self, key: str) -> WeightCodes | None:
        """What was fitted under ``key``, or None."""

    def store(self, key: str, weights: WeightCodes) -> None:
        """Keep it under ``key``."""


class FittedWeights:
    """Fits weights where they are asked for and not known yet.

    Args:
        model: full precision, in evaluation mode.
        batches: gives the normalized calibration images.
        images: how many they are.
        quantizer: fits.
        cache: looked up first, None to fit anew.
        identity: what the fit depends on beside layer, widths and quantizer: plain values.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        images: int,
        quantizer: FitsInputs,
        cache: WeightCache | None,
        identity: Mapping[str, Any],
    ) -> None:
        self._model, self._batches, self._images = model, batches, images
        self._quantizer, self._cache, self._identity = quantizer, cache, dict(identity)
        self._sampled: dict[str, Tensor] | None = None
        self._moments = KeptTensors()
        self._fitted, self._told = 0, time.monotonic()

    def __call__(
        self, name: str, rows: Tensor, widths: tuple[int, int], inputs: ActivationQParams | None
    ) -> WeightQParams:
        """See :class:`search.quantize.qparams.Fit`."""
        quantizer = [self._quantizer.name, self._quantizer.version]
        key = digest_of(
            {**self._identity, "quantizer": quantizer, "layer": name, "widths": list(widths)}
        )
        bits = widths[1]
        known = self._cache.load(key) if self._cache else None
        if known is not None and known.codes.shape == rows.shape:
            scale, codes = (torch.from_numpy(one) for one in (known.scale, known.codes))
            return WeightQParams(bits, scale.to(rows.device), codes.to(rows.device), widths[0])
        found = self._quantizer.fitted_weight(
            rows.cpu(), bits, self._moments_of(name, widths[0], inputs)
        )
        if self._cache:
            self._cache.store(key, WeightCodes(found.scale.numpy(), found.codes.numpy()))
        self._tell()
        return WeightQParams(
            bits, found.scale.to(rows.device), found.codes.to(rows.device), widths[0]
        )

    def _moments_of(self, name: str, width: int, inputs: ActivationQParams | None) -> InputMoments:
        return InputMoments(*self._moments.get((name, width), lambda: self._measure(name, inputs)))

    def _measure(self, name: str, inputs: ActivationQParams | None) -> tuple[Tensor, Tensor]:
        if self._sampled is None:
            log.info(
                "quantizer %r fits weights to what enters their layers, once for every pair of "
                "widths", self._quantizer.name,
            )  # fmt: skip
            sampled = sample_inputs(self._model, self._batches, self._images)
            self._sampled = {layer: found.cpu() for layer, found in sampled.items()}
        moments = moments_of(self._sampled[name], inputs)
        return moments.coded, moments.crossed

    def _tell(self) -> None:
        self._fitted += 1
        if time.monotonic() - self._told > PROGRESS_S:
            self._told = time.monotonic()
            log.info("%d layers' weights fitted so far", self._fitted)
