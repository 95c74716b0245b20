"""Ranges of attention's operands, by what the next exit answers. Needs torch.

A product of two activations has no weights that could make up for its rounding, and the squared
error of an operand says little of what a softmax makes of it. So the range of such an operand is
the one under which, all else in full precision, the first exit after it drifts least from its own
answers. It depends on the operand and its width alone, like weights that are fitted. The measure is
the drift of APQ (arXiv 2605.07317), taken at one exit; choosing ranges by it is ours.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from search.digest import digest_of
from search.models.counted import MatMul
from search.models.early_exit import EarlyExitModel
from search.quantize.calibration import Batches
from search.quantize.codes import CodeRange
from search.quantize.qparams import ActivationQParams
from search.tasks.torch_half import TorchTask

log = logging.getLogger(__name__)

VERSION = 1  # of how ranges are chosen, for caches
STEPS = np.geomspace(0.6, 3.0, 11)  # tried, in units of the step of least squared error
TOKENS = 4096  # of all images together: every try runs a block on them
LEAST_IMAGES = 16


class RangeCache(Protocol):
    """Where chosen ranges are kept by content."""

    def load(self, key: str) -> CodeRange | None:
        """What was chosen under ``key``, or None."""

    def store(self, key: str, chosen: CodeRange) -> None:
        """Keep it under ``key``."""


class RangesByDrift:
    """Chooses ranges where they are asked for and not known yet.

    Args:
        model: full precision, in evaluation mode.
        task: compares answers.
        batches: gives the normalized calibration images.
        cache: looked up first, None to choose anew.
        identity: what a choice depends on beside operand and width: plain values.
    """

    def __init__(
        self,
        model: EarlyExitModel,
        task: TorchTask,
        batches: Batches,
        cache: RangeCache | None,
        identity: Mapping[str, Any],
    ) -> None:
        self._model, self._task, self._batches = model, task, batches
        self._cache, self._identity = cache, dict(identity)
        self._states: list[Tensor] | None = None
        self._answers: dict[int, Tensor] = {}

    def __call__(self, operand: str, first: ActivationQParams) -> ActivationQParams:
        """See :class:`search.quantize.qparams.ChooseRange`."""
        name, _, side = operand.rpartition(":")
        module = self._model.get_submodule(name)
        part, block = self._model.adapter.place(name.removeprefix("backbone."))
        if not isinstance(module, MatMul) or part != "block":
            return first
        key = digest_of(
            {**self._identity, "ranges": VERSION, "operand": operand, "bits": first.bits,
             "first": [first.scale, first.zero_point]}
        )  # fmt: skip
        known = self._cache.load(key) if self._cache else None
        if known is not None and 0 <= known.zero_point <= first.quant_max:
            return ActivationQParams(first.bits, known.scale, known.zero_point)
        found = self._choose(module, 0 if side == "left" else 1, block, first)
        if self._cache:
            self._cache.store(key, CodeRange(found.scale, found.zero_point))
        return found

    def _choose(
        self, module: MatMul, side: int, block: int, first: ActivationQParams
    ) -> ActivationQParams:
        best, least = first, self._drift(module, side, block, first)
        for candidate in _candidates(first):
            drift = self._drift(module, side, block, candidate)
            if drift < least:
                best, least = candidate, drift
        for candidate in _shifted(best):
            drift = self._drift(module, side, block, candidate)
            if drift < least:
                best, least = candidate, drift
        return best

    @torch.inference_mode()
    def _drift(self, module: MatMul, side: int, block: int, qparams: ActivationQParams) -> float:
        """Mean divergence of the first exit after a block from its answers in full precision."""
        if self._states is None:
            self._states = self._run()

        def code(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            left, right = inputs
            return (
                (qparams.quantized(left), right) if side == 0 else (left, qparams.quantized(right))
            )

        with module.register_forward_pre_hook(code):
            answers = self._answer(block, self._states[block - 1])
        expected = self._answers[self._exit_after(block)]
        return float(self._task.divergence(expected[:, None], answers[:, None]).mean())

    def _exit_after(self, block: int) -> int:
        return min(each for each in self._model.exit_blocks if each >= block)

    def _answer(self, block: int, state: Tensor) -> Tensor:
        """The first exit's raw outputs from the state that enters a block on."""
        last = self._exit_after(block)
        for each in range(block, last + 1):
            state = self._model.adapter.run_block(each, state)
        return self._model.read_exit(last, state)

    def _run(self) -> list[Tensor]:
        """The states that enter every block, and with them every exit's answers."""
        log.info("ranges of attention's operands are chosen by what the next exit answers")
        images = torch.cat(list(_head(self._batches(), self._wanted)))
        adapter, states = self._model.adapter, [self._model.adapter.embed(images)]
        for block in range(1, adapter.num_blocks + 1):
            states.append(adapter.run_block(block, states[-1]))
            if block in self._model.exit_blocks:
                self._answers[block] = self._model.read_exit(block, states[-1])
        return states[:-1]

    @property
    def _wanted(self) -> int:
        height, width = self._model.adapter.shape(1).grid
        return max(LEAST_IMAGES, TOKENS // (height * width))


def _candidates(first: ActivationQParams) -> list[ActivationQParams]:
    """Narrower and wider steps about the same zero."""
    return [replace(first, scale=first.scale * float(step)) for step in STEPS]


def _shifted(best: ActivationQParams) -> list[ActivationQParams]:
    """Zero one code to either side, where both sides are seen: one that is alone stays so."""
    if not 0 < best.zero_point < best.quant_max:
        return []
    near = (best.zero_point - 1, best.zero_point + 1)
    return [replace(best, zero_point=one) for one in near if 0 < one < best.quant_max]


def _head(batches: Iterator[Tensor], images: int) -> Iterator[Tensor]:
    """The first images of some batches."""
    for batch in batches:
        yield batch[:images]
        images -= len(batch)
        if images <= 0:
            return
