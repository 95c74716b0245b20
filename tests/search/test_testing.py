"""The recorded model stands for a real one wherever only traces are seen, and loads no torch."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from search.evaluate import Evaluator, measure_reference
from search.opening import is_path, model_digest, open_model
from search.policy import QUANTIZED_BITS
from search.space import PolicySpace
from search.testing import SAMPLES, RecordedDataset, RecordedModel

PROGRAM = """
import sys
import time
from search.evaluate import Evaluator
from search.opening import open_model
from search.space import PolicySpace
opened = open_model("recorded:a")
evaluator = Evaluator(opened.quantized, opened.split("search"))
bits = PolicySpace.from_ledger(evaluator.ledger, "layer").uniform(3, 0.5).bits
print(evaluator.trace(bits).confidence.tobytes().hex()[:4000], evaluator.trace_key(bits))
assert "torch" not in sys.modules, "torch was loaded"
"""


@pytest.fixture
def evaluator() -> Evaluator[RecordedModel]:
    return Evaluator(RecordedModel("a"), RecordedDataset("a").split("search"))


@pytest.fixture
def space(evaluator: Evaluator[RecordedModel]) -> PolicySpace:
    return PolicySpace.from_ledger(evaluator.ledger, "layer")


def test_every_process_gets_the_same_without_torch(
    evaluator: Evaluator[RecordedModel], space: PolicySpace
) -> None:
    bits = space.uniform(3, 0.5).bits
    expected = evaluator.trace(bits).confidence.tobytes().hex()[:4000]
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == [expected, evaluator.trace_key(bits)]


def test_more_bits_and_more_depth_are_worth_something(
    evaluator: Evaluator[RecordedModel], space: PolicySpace
) -> None:
    values = [
        evaluator.evaluate(space.uniform(bits, 1.0)).value for bits in reversed(QUANTIZED_BITS)
    ]
    assert values[0] == pytest.approx(measure_reference(evaluator), abs=0.02)
    assert values[-1] < values[2] < values[0]
    full = evaluator.full_precision_trace()
    by_exit = [1 - evaluator.task.loss(full.statistic[:, e]).mean() for e in range(6)]
    assert by_exit == sorted(by_exit)
    assert by_exit[-1] - by_exit[0] > 0.1


def test_the_first_samples_of_a_race_are_those_of_the_whole(
    evaluator: Evaluator[RecordedModel], space: PolicySpace
) -> None:
    bits = space.uniform(4, 0.5).bits
    first, whole = evaluator.growing_trace(bits, [250])
    assert len(first) == 300  # whole batches
    order = np.array([np.flatnonzero((whole.confidence == row).all(axis=1))[0]
                      for row in first.confidence])  # fmt: skip
    assert len({*order}) == 300
    again = evaluator.first_trace(bits, 300)
    np.testing.assert_array_equal(again.confidence, first.confidence)


def test_splits_share_no_sample_and_names_differ() -> None:
    dataset = RecordedDataset("a")
    numbers = [
        set(dataset.split(name).read(np.arange(SAMPLES[name])))
        for name in ("search", "order", "certify")
    ]
    assert len(set().union(*numbers)) == sum(map(len, numbers)) == 1200
    assert dataset.split("search").digest != RecordedDataset("b").split("search").digest
    assert model_digest("recorded:a") != model_digest("recorded:b")


def test_names_with_a_scheme_are_no_paths(refused) -> None:
    assert is_path("mine.safetensors")
    assert is_path("/a:b/mine.safetensors")
    assert not is_path("recorded:a")
    assert not is_path("bundled:fashion")
    assert open_model("recorded:a").quantized.name == "a"
    with refused("'nothing'", "fashion"):
        open_model("bundled:nothing")


def test_it_may_take_its_time(refused) -> None:
    slow = RecordedModel("a@0.05")
    split = RecordedDataset("a@0.05").split("search")
    bits = PolicySpace.from_ledger(slow.ledger, "block").uniform(4, 0.5).bits
    started = time.monotonic()
    assert sum(len(part) for part in slow.run(bits, split)) == 600
    assert time.monotonic() - started >= 6 * 0.05
    with refused("'a@soon'", "SECONDS"):
        RecordedModel("a@soon")
