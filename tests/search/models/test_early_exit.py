"""A true early stop against the replay of a trace of all exits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from search.engines.reference import ReferenceEngine
from search.models.card import ModelCard
from search.models.checkpoint import build_model
from search.models.early_exit import EarlyExitModel
from search.space import PolicySpace
from search.tasks import resolve_task
from search.trace import ExitTrace

TASK = resolve_task("classification")


def trace_of(model: torch.nn.Module, images: Tensor, exit_blocks: tuple[int, ...]) -> ExitTrace:
    with torch.inference_mode():
        outputs = torch.cat([model(part) for part in images.split(100)]).numpy()
    targets = np.zeros(len(outputs), np.int64)
    exits = range(len(exit_blocks))
    return ExitTrace(
        np.stack([TASK.confidence(outputs[:, e]) for e in exits], axis=1),
        np.stack([TASK.statistic(outputs[:, e], targets) for e in exits], axis=1),
        exit_blocks,
    )


def between(confidences: np.ndarray, quantile: float) -> float:
    """A threshold inside the widest gap near a quantile: rounding cannot move a sample over it."""
    middle = int(quantile * len(confidences))
    nearby = np.sort(confidences.astype(np.float64))[middle - 20 : middle + 20]
    widest = np.diff(nearby).argmax()
    return float(nearby[widest : widest + 2].mean())


@pytest.mark.parametrize("bits", [6, 32], ids=["quantized", "full-precision"])
def test_stopping_early_gives_the_exits_and_answers_of_the_replay(
    bits: int,
    fashion_model: EarlyExitModel,
    new_engine: Callable[[], ReferenceEngine],
    search_images: Tensor,
):
    model = fashion_model
    if bits != 32:
        ledger = fashion_model.ledger((1, 28, 28))
        engine = new_engine()
        engine.set_bits(
            ledger.widths(PolicySpace.from_ledger(ledger, "layer").uniform(bits, 0.5).bits)
        )
        model = engine.model
    trace = trace_of(model, search_images, model.exit_blocks)
    for quantiles in ([0.7, 0.7, 0.5], [0.3, 0.9, 0.6], [0.95, 0.5, 0.1]):
        thresholds = [between(trace.confidence[:, e], q) for e, q in enumerate(quantiles)] + [0.0]
        routing = trace.replay(thresholds)
        assert routing.exit_rates.min() > 0, "every exit must be used"
        with torch.inference_mode():
            exits, answers = model.stop_early(search_images, thresholds, TASK.confidence)
        assert exits.tolist() == routing.exits.tolist()
        assert answers.argmax(1).tolist() == routing.statistic[:, 0].tolist()


def test_blocks_behind_the_exit_never_see_the_samples_that_left(
    fashion_model: EarlyExitModel, search_images: Tensor
):
    seen: dict[int, int] = {}
    handles = [
        block.register_forward_hook(lambda *args, n=n: seen.update({n: len(args[2])}))
        for n, block in enumerate(fashion_model.backbone.blocks, start=1)
    ]
    trace = trace_of(fashion_model, search_images, fashion_model.exit_blocks)
    thresholds = [between(trace.confidence[:, e], 0.6) for e in range(3)] + [0.0]
    seen.clear()
    try:
        with torch.inference_mode():
            fashion_model.stop_early(search_images, thresholds, TASK.confidence)
            reached = trace.replay(thresholds).utilization * len(search_images)
            assert [seen[n] for n in range(1, 7)] == pytest.approx(reached)
            seen.clear()
            fashion_model.stop_early(search_images, [0, 0, 0, 0], TASK.confidence)
            assert seen == {1: len(search_images)}
    finally:
        for handle in handles:
            handle.remove()


def test_a_threshold_just_above_a_confidence_in_float64_does_not_stop_the_sample(
    fashion_model: EarlyExitModel, search_images: Tensor
):
    images = search_images[:20]
    trace = trace_of(fashion_model, images, fashion_model.exit_blocks)
    first = trace.confidence[0, 0]
    thresholds = [float(np.nextafter(np.float64(first), 1)), 0.0, 0.0, 0.0]
    with torch.inference_mode():
        exits, _ = fashion_model.stop_early(
            images, thresholds, lambda logits: TASK.confidence(logits)
        )
    assert exits.tolist() == trace.replay(thresholds).exits.tolist()


def test_stopping_early_needs_no_context(fashion_card: ModelCard, search_images: Tensor):
    model = build_model(fashion_card).eval()
    exits, _ = model.stop_early(search_images[:2], [0.0] * 4, TASK.confidence)
    assert exits.tolist() == [0, 0]
