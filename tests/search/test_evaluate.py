"""From a policy to its verdict: trace keys, the cache, and the figures of a judgement."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from search.data.batches import normalized_batches
from search.data.fashion import FashionDataset
from search.evaluate import Evaluator, measure_reference
from search.models.card import ModelCard
from search.models.early_exit import EarlyExitModel, all_exits
from search.policy import Policy
from search.quantize.histograms import Histogram, seen_from_bytes, seen_to_bytes
from search.quantized import QuantizedModel
from search.results import Evaluation, evaluate_trace
from search.space import PolicySpace
from search.tasks.torch_half import TorchTask
from search.trace import ExitTrace


@dataclass
class DictCache:
    """Traces in memory, with a record of what was asked."""

    traces: dict[str, ExitTrace] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def load(self, key: str) -> ExitTrace | None:
        self.asked.append(key)
        return self.traces.get(key)

    def store(self, key: str, trace: ExitTrace) -> None:
        self.traces[key] = trace


@pytest.fixture(scope="module")
def new_evaluator(
    fashion_model: EarlyExitModel, fashion_card: ModelCard
) -> Callable[..., Evaluator]:
    data = FashionDataset()

    def build(**options: object) -> Evaluator:
        own = {
            "split": options.pop("split", data.split("search").head(150)),
            "cache": options.pop("cache", None),
        }
        defaults = {
            "model": fashion_model,
            "card": fashion_card,
            "calibration": data.split("calibration").head(100),
        }
        return Evaluator(QuantizedModel(**{**defaults, **options}), **own)

    return build


@pytest.fixture(scope="module")
def evaluator(new_evaluator: Callable[..., Evaluator]) -> Evaluator:
    return new_evaluator()


@pytest.fixture(scope="module")
def policy(evaluator: Evaluator) -> Policy:
    return PolicySpace.from_ledger(evaluator.ledger, "block").uniform(5, 0.6)


def same(one: ExitTrace, other: ExitTrace) -> bool:
    return np.array_equal(one.confidence, other.confidence) and np.array_equal(
        one.statistic, other.statistic
    )


def test_the_engine_runs_once_for_all_thresholds_of_the_same_bits(new_evaluator, policy: Policy):
    cache = DictCache()
    evaluator = new_evaluator(cache=cache)
    batches: list[int] = []
    evaluator.quantized.engine.model.backbone.blocks[0].register_forward_hook(
        lambda *args: batches.append(len(args[2]))
    )
    first = evaluator.trace(policy.bits)
    assert batches == [100, 50]
    again = evaluator.trace(policy.with_thresholds([0.1, 0.9, 0.4, 0.0]).bits)
    assert batches == [100, 50]
    assert again is first
    assert [*cache.traces] == [evaluator.trace_key(policy.bits)] == [*set(cache.asked)]

    other = evaluator.trace(replace(policy.bits, head=4))
    assert batches == [100, 50] * 2
    assert not same(other, first)
    assert len(cache.traces) == 2


def test_a_cached_trace_spares_calibration_and_engine(new_evaluator, evaluator, policy: Policy):
    known = evaluator.trace(policy.bits)
    fresh = new_evaluator(cache=DictCache({evaluator.trace_key(policy.bits): known}))
    assert fresh.trace(policy.bits) is known
    assert "engine" not in vars(fresh)


class KeptCalibrations(dict[str, dict[str, Histogram]]):
    """Calibrations in memory."""

    def load(self, key: str) -> dict[str, Histogram] | None:
        return self.get(key)

    def store(self, key: str, seen: dict[str, Histogram]) -> None:
        self[key] = seen_from_bytes(seen_to_bytes(seen))


def test_calibration_is_paid_for_once(
    new_evaluator, evaluator, policy: Policy, monkeypatch: pytest.MonkeyPatch
):
    kept = KeptCalibrations()
    first = new_evaluator(calibrations=kept).trace(policy.bits)
    assert len(kept) == 1
    again = new_evaluator(calibrations=kept, engine_name="fast")  # it belongs to no engine
    passes: list[int] = []
    handle = again.quantized.model.register_forward_hook(lambda *args: passes.append(len(args[2])))
    again.quantized.engine  # noqa: B018
    handle.remove()
    assert passes == []
    for trace in (first, new_evaluator(calibrations=kept).trace(policy.bits)):
        assert same(trace, evaluator.trace(policy.bits))

    new_evaluator(calibrations=kept, calibration=again.quantized.calibration.head(50)).trace(
        policy.bits
    )
    card = again.card.model_copy(update={"weights_sha256": "1" * 64})
    new_evaluator(calibrations=kept, card=card).trace(policy.bits)
    assert len(kept) == 3
    monkeypatch.setattr("timm.__version__", "another")  # other libraries may round otherwise
    new_evaluator(calibrations=kept).trace(policy.bits)
    assert len(kept) == 4


def test_the_key_changes_with_everything_the_trace_depends_on(new_evaluator, policy: Policy):
    base = new_evaluator()
    keys = {
        base.trace_key(policy.bits),
        base.trace_key(replace(policy.bits, weights=(5, 5, 5, 5, 5, 4))),
        base.trace_key(replace(policy.bits, activations=(4, 5, 5, 5, 5, 5))),
        base.trace_key(replace(policy.bits, embed=7)),
        base.trace_key(replace(policy.bits, head=7)),
        new_evaluator(card=base.card.model_copy(update={"weights_sha256": "1" * 64})).trace_key(
            policy.bits
        ),
        new_evaluator(
            card=base.card.model_copy(
                update={"input": base.card.input.model_copy(update={"mean": (0.5,)})}
            )
        ).trace_key(policy.bits),
        new_evaluator(split=base.split.head(149)).trace_key(policy.bits),
        new_evaluator(split=FashionDataset().split("order").head(150)).trace_key(policy.bits),
        new_evaluator(calibration=base.quantized.calibration.head(99)).trace_key(policy.bits),
        new_evaluator(quantizer="minmax").trace_key(policy.bits),
    }
    assert len(keys) == 11
    assert base.trace_key(policy.with_thresholds([0, 1, 0.25, 0]).bits) in keys
    renamed = base.card.model_copy(update={"name": "other", "training": {"seconds": 1}})
    assert new_evaluator(card=renamed).trace_key(policy.bits) in keys


def test_the_trace_is_what_the_engine_says_of_each_image(evaluator: Evaluator, policy: Policy):
    trace = evaluator.trace(policy.bits)
    images = torch.cat([*normalized_batches(evaluator.split, evaluator.card.input, 64)])
    evaluator.quantized.engine.set_bits(evaluator.ledger.widths(policy.bits))
    logits = all_exits(evaluator.quantized.engine.run, images)
    np.testing.assert_allclose(trace.confidence, logits.softmax(-1).amax(-1), atol=1e-5)
    assert np.array_equal(trace.statistic[..., 0], logits.argmax(-1))
    assert (trace.statistic[..., 1] == evaluator.split.targets[:, None]).all()


class Watching:
    """A task's torch half that knows which raw outputs are still held."""

    def __init__(self, task: TorchTask) -> None:
        self.task, self.seen = task, []

    def reduce(self, outputs: Tensor, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        assert [one() for one in self.seen] == [None] * len(self.seen)
        self.seen.append(weakref.ref(outputs))
        return self.task.reduce(outputs, targets)


@pytest.mark.parametrize("full_precision", [False, True])
def test_no_more_than_one_exits_raw_outputs_are_held(
    new_evaluator: Callable[..., Evaluator], policy: Policy, full_precision: bool
):
    quantized = new_evaluator().quantized
    watching = Watching(quantized.torch_task)
    quantized.torch_task = watching  # a cached property
    split = FashionDataset().split("search").head(150)
    run = (
        quantized.run_full_precision(split) if full_precision else quantized.run(policy.bits, split)
    )
    assert [len(part) for part in run] == [100, 50]
    assert len(watching.seen) == 2 * 4


def test_images_are_normalized_as_the_card_says(evaluator: Evaluator):
    (images,) = normalized_batches(evaluator.split.head(20), evaluator.card.input)
    pixels = evaluator.split.read(np.arange(20))[..., 0].astype(np.float64)
    np.testing.assert_allclose(images[:, 0], (pixels / 255 - 0.2860) / 0.3530, rtol=1e-5, atol=1e-6)


def test_evaluate_is_judge_of_the_trace_with_figures_by_hand(evaluator: Evaluator, policy: Policy):
    evaluation = evaluator.evaluate(policy)
    trace = evaluator.trace(policy.bits)
    reference = evaluator.full_precision_trace()
    assert evaluation == evaluate_trace(policy, trace, evaluator.ledger, evaluator.task, reference)

    exits = trace.replay(policy.thresholds).exits
    depths = np.array([1, 2, 4, 6])[exits]
    right = [trace.statistic[i, e, 0] == evaluator.split.targets[i] for i, e in enumerate(exits)]
    assert len({*exits}) == 4
    assert evaluation.metric == "accuracy"
    assert evaluation.value == pytest.approx(np.mean(right))
    assert evaluation.standard_error == pytest.approx(np.std(right) / 150**0.5)
    assert evaluation.exit_rates == pytest.approx([np.mean(exits == e) for e in range(4)])
    assert evaluation.utilization == pytest.approx([np.mean(depths >= b) for b in range(1, 7)])
    assert evaluation.mean_exit == pytest.approx(depths.mean())
    assert evaluation.samples == 150
    assert evaluation.cost == evaluator.ledger.cost(policy.bits, exits)
    assert evaluation.gbops == pytest.approx(evaluation.cost.expected / 1e9)
    macs = sum(op.macs for op in evaluator.ledger.ops if op.part != "head" or op.block == 6)
    assert evaluation.reduction == pytest.approx(1 - evaluation.cost.expected / (macs * 1024))
    assert evaluation.exit_values is not None
    for e, value in enumerate(evaluation.exit_values):
        assert value == pytest.approx(np.array(right)[exits == e].mean())
    at_best = reference.statistic[:, -1, 0] == evaluator.split.targets
    assert evaluation.risk is not None
    assert evaluation.risk.rescue == np.mean(~at_best & right)
    assert evaluation.risk.harm == np.mean(at_best & ~np.array(right))


def test_an_exit_that_takes_nobody_has_no_metric(evaluator: Evaluator, policy: Policy):
    at_once = evaluator.evaluate(policy.with_thresholds([0.0] * 4))
    assert at_once.exit_values == (at_once.value, None, None, None)


def test_a_part_of_the_split_has_no_risk_terms(evaluator: Evaluator, policy: Policy):
    found = evaluator.evaluate_trace(policy, evaluator.first_trace(policy.bits, 50))
    assert found.samples < 150
    assert found.risk is None
    assert found.exit_values is not None


def test_what_was_recorded_before_there_were_risk_terms_is_read(
    evaluator: Evaluator, policy: Policy
):
    found = evaluator.evaluate(policy)
    old = {k: v for k, v in found.as_dict().items() if k not in ("exit_values", "risk")}
    assert Evaluation.from_dict(old) == replace(found, exit_values=None, risk=None)


def test_the_full_precision_trace_is_computed_once_for_all_processes(new_evaluator):
    cache = DictCache()
    first = new_evaluator(cache=cache).full_precision_trace()
    assert list(cache.traces.values()) == [first]
    again = new_evaluator(cache=cache)
    assert again.full_precision_trace() is first
    other = replace(again, split=again.split.head(100))
    assert len(other.full_precision_trace()) == 100


def test_an_evaluation_survives_json(evaluator: Evaluator, policy: Policy):
    evaluation = evaluator.evaluate(policy)
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.as_dict()))) == evaluation


def test_the_reference_is_full_precision_at_full_depth(evaluator: Evaluator):
    images = torch.cat([*normalized_batches(evaluator.split, evaluator.card.input)])
    with torch.inference_mode():
        answers = evaluator.quantized.model(images)[:, -1].argmax(-1).numpy()
    assert measure_reference(evaluator) == pytest.approx(
        (answers == evaluator.split.targets).mean()
    )


def test_a_policy_of_another_model_is_refused(evaluator: Evaluator, policy: Policy, refused):
    with refused("thresholds", "needs 4"):
        evaluator.evaluate(policy.with_thresholds([0.5, 0.0]))
