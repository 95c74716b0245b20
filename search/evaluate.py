"""From a policy to its trace: run every exit once over a split, remember.

The trace depends on the bits alone, so it is looked up under their digest together with the
digests of everything else it depends on; on a hit, the model does not run. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from search.cost import Ledger
from search.data.splits import Split
from search.digest import digest_of
from search.models.card import RECOVERED_FROM, ModelCard
from search.policy import Bits, Policy
from search.results import Evaluation, evaluate_trace
from search.tasks import Task
from search.thresholds.racing import race_order
from search.trace import ExitTrace

ORDER = 1  # version of the order in which images make up batches


class TraceCache(Protocol):
    """Where traces are kept by content."""

    def load(self, key: str) -> ExitTrace | None:
        """The trace under ``key``, or None."""

    def store(self, key: str, trace: ExitTrace) -> None:
        """Keep ``trace`` under ``key``."""


class TracedModel(Protocol):
    """What answers images at any bits. A ``QuantizedModel`` is one."""

    @property
    def card(self) -> ModelCard:
        """Names the model and what it was trained for."""

    @property
    def task(self) -> Task:
        """What the model's heads answer."""

    @property
    def ledger(self) -> Ledger:
        """The model's operations for one image."""

    @property
    def calibration(self) -> Split:
        """The images that set the quantizer's ranges."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that its answers depend on but the bits: plain values, ``device`` one."""

    def run(self, bits: Bits, split: Split) -> Iterator[ExitTrace]:
        """The trace of every batch of a split at ``bits``, whatever else runs meanwhile."""

    def run_full_precision(self, split: Split) -> Iterator[ExitTrace]:
        """The trace of every batch of a split without quantization."""


Model = TypeVar("Model", bound=TracedModel)


@dataclass
class Evaluator(Generic[Model]):
    """Evaluates policies of one model on one split.

    Attributes:
        quantized: the model.
        split: what is evaluated on.
        cache: where traces are looked up first, or None to compute every one.
    """

    quantized: Model
    split: Split
    cache: TraceCache | None = None

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.quantized.card

    @property
    def task(self) -> Task:
        """What the model's heads answer."""
        return self.quantized.task

    @property
    def ledger(self) -> Ledger:
        """The model's operations for one image."""
        return self.quantized.ledger

    @property
    def data_digest(self) -> str:
        """Names the images evaluated on and those that set the quantizer's ranges."""
        return data_digest(self.split, self.quantized.calibration)

    def trace_key(self, bits: Bits) -> str:
        """Digest of everything that the trace of ``bits`` depends on."""
        return digest_of(
            {
                **self.quantized.identity,
                "bits": bits.as_dict(),
                "split": self.split.digest,
                "order": ORDER,
            }
        )

    def trace(self, bits: Bits) -> ExitTrace:
        """The trace of ``bits``, from the cache or from one pass over the split.

        Raises:
            BadInput: when they do not fit the model.
        """
        *_, whole = self.growing_trace(bits, ())
        return whole

    def growing_trace(self, bits: Bits, looks: Sequence[int]) -> Iterator[ExitTrace]:
        """The trace of ever more images in their :func:`race_order`, and at last :meth:`trace`.

        Args:
            bits: of the model.
            looks: ascending numbers of images after which a trace is given; rounded up to whole
                batches.

        Yields:
            traces of the first images, in the order of the race, then the whole in the split's
            order. Only the whole where it is known already.

        Raises:
            BadInput: when the bits do not fit the model.
        """
        self.ledger.widths(bits)
        key = self.trace_key(bits)
        if self.cache is not None and (known := self.cache.load(key)) is not None:
            yield known
            return
        wanted = list(looks)
        parts: list[ExitTrace] = []
        for part in self._race(bits):
            parts.append(part)
            seen = sum(len(one) for one in parts)
            if wanted and wanted[0] <= seen < len(self.split):
                wanted = [look for look in wanted if look > seen]
                yield ExitTrace.joined(parts)
        trace = ExitTrace.joined(parts).take(np.argsort(self._order(bits)))
        if self.cache is not None:
            self.cache.store(key, trace)
        yield trace

    def first_trace(self, bits: Bits, count: int) -> ExitTrace:
        """The trace of the first ``count`` images of the race, where a pass was given up."""
        parts: list[ExitTrace] = []
        for part in self._race(bits):
            parts.append(part)
            if sum(len(one) for one in parts) >= count:
                break
        return ExitTrace.joined(parts)

    def _order(self, bits: Bits) -> np.ndarray:
        return race_order(len(self.split), bits.digest)

    def _race(self, bits: Bits) -> Iterator[ExitTrace]:
        """The trace of every batch in the order of the race."""
        return self.quantized.run(bits, self.split.take(self._order(bits)))

    def full_precision_trace(self) -> ExitTrace:
        """The trace of the model as it was trained, from the cache or computed once.

        Its sums are in floating point, so its last digits depend on machine and threads.
        """
        return self._full_precision

    @cached_property
    def _full_precision(self) -> ExitTrace:
        key = digest_of(
            {
                "full precision": self.card.digest,
                "split": self.split.digest,
                "device": self.quantized.identity["device"],
            }
        )
        if self.cache is not None and (known := self.cache.load(key)) is not None:
            return known
        trace = ExitTrace.joined(list(self.quantized.run_full_precision(self.split)))
        if self.cache is not None:
            self.cache.store(key, trace)
        return trace

    def check_sane(self, bits: Bits) -> None:
        """Run the first batch in full precision and at ``bits`` that any model can stand.

        Where this fails, no policy is to blame for a pass that failed.

        Raises:
            Exception: whatever the model raises.
        """
        next(iter(self.quantized.run_full_precision(self.split)))
        next(iter(self.quantized.run(bits, self.split)))

    def evaluate(self, policy: Policy) -> Evaluation:
        """Measure ``policy`` on the split.

        Raises:
            BadInput: when it does not fit the model.
        """
        self.ledger.check(policy)
        return self.evaluate_trace(policy, self.trace(policy.bits))

    def evaluate_trace(self, policy: Policy, trace: ExitTrace) -> Evaluation:
        """Measure ``policy`` on a trace of its bits.

        Without risk terms where the trace is not of the whole split, and for a recovered model,
        whose risk is against the model that it came from.
        """
        held = len(trace) == len(self.split) and RECOVERED_FROM not in self.card.training
        reference = self.full_precision_trace() if held else None
        return evaluate_trace(policy, trace, self.ledger, self.task, reference)


def data_digest(split: Split, calibration: Split) -> str:
    """Names the images that figures are measured on, with those that set the ranges."""
    return digest_of([split.digest, calibration.digest])


def measure_reference(evaluator: Evaluator[Model]) -> float:
    """The metric in full precision at full depth: what every policy is held against."""
    trace = evaluator.full_precision_trace()
    return evaluator.task.score(trace.statistic[:, -1]).value
