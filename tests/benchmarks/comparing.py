"""What ``methods.py`` compares: where every method's bits come from, and how they are judged.

Every method gives sets of bits, for all budgets together or for each; each set costs a pass. Under
a budget the policy is the one of least risk over a method's sets, by the same harvest of the same
thresholds for all. Policies are chosen on *search*; *order* chooses nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from search.bits.allocation import AllocationProblem, Usage
from search.cost import GIGA
from search.data import fashion
from search.data.idx import read_idx_pair
from search.disk_cache import DiskCaches
from search.errors import NoPolicyFound
from search.evaluate import Evaluator, measure_reference
from search.loading import open_checkpoint
from search.measuring import Measurer
from search.methods.maqee import Maqee
from search.methods.outer import OuterProblem, TraceSource
from search.methods.settings import MaqeeSettings
from search.policy import Bits, Policy
from search.quantized import QuantizedModel
from search.results import Evaluation
from search.sensitivity import SensitivityMeter
from search.space import PolicySpace
from search.trace import ExitTrace
from search.training.data import ArrayData
from search.training.recovery import RecoveredTraces, RecoverRecipe
from search.training.targets import ForBits, ForSpace, Target
from studies.config import parse_config
from studies.config_file import load_config
from studies.methods.recovery import Recovery
from studies.records import HARVEST, StudyRecord
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

GRID = (2, 3, 4, 5)
Pair = tuple[Evaluator[QuantizedModel], Evaluator[QuantizedModel]]


@dataclass
class Counting:
    """A source of traces that remembers what it was asked for."""

    inner: TraceSource
    seen: list[Bits] = field(default_factory=list)

    @property
    def ledger(self) -> Any:
        return self.inner.ledger

    @property
    def task(self) -> Any:
        return self.inner.task

    def trace(self, bits: Bits) -> ExitTrace:
        if bits not in self.seen:
            self.seen.append(bits)
        return self.inner.trace(bits)

    def full_precision_trace(self) -> ExitTrace:
        return self.inner.full_precision_trace()


class Bench:
    """A model under one draw of calibration images.

    Args:
        checkpoint: of the model.
        quantizer: its name.
        seed: of the draw, of samplers and of training.
        cache: folder of everything that is kept.
        data: Fashion-MNIST's files, for training.
        images: how many of each split, None for all.
    """

    def __init__(
        self, checkpoint: str, quantizer: str, seed: int, cache: Path, data: Path | None,
        images: int | None,
    ) -> None:  # fmt: skip
        self.checkpoint, self.seed, self.cache = checkpoint, seed, cache
        caches = DiskCaches(cache)
        opened = open_checkpoint(checkpoint, quantizer=quantizer, calibrations=caches.calibrations)
        pool = opened.split("calibration")
        quantized = opened.quantized
        quantized.calibration = pool.take(np.random.default_rng(seed).permutation(len(pool))[:512])
        search, order = (opened.split(name) for name in ("search", "order"))
        if images:
            search, order = search.head(images), order.head(images)
        self.search = Evaluator(quantized, search, caches.traces)
        self.order = Evaluator(quantized, order, caches.traces)
        self.ledger = self.search.ledger
        self.space = PolicySpace.from_ledger(self.ledger, "block", threshold_low=0.3)
        started = time.monotonic()
        self.tables = SensitivityMeter(quantized, "block", caches.tables).tables()
        self.table_seconds = time.monotonic() - started
        self.full = tuple(right_at_full_depth(one) for one in (self.search, self.order))
        self.training = None
        if data is not None:
            pixels, labels = read_idx_pair(data, "train")
            self.training = ArrayData(pixels[..., None], labels, fashion.MEAN, fashion.STD)

    @property
    def pair(self) -> Pair:
        return self.search, self.order

    def outer(self, traces: TraceSource) -> OuterProblem:
        return OuterProblem(traces, self.space, MaqeeSettings())

    def trained(self, target: Target, steps: int) -> tuple[Pair, float]:
        """Evaluators of a recovered model, and the seconds of its training."""
        assert self.training is not None
        recipe = RecoverRecipe(steps=steps, seed=self.seed, compile=True)
        recovery = Recovery(self.search, self.training, recipe)
        path = self.cache / "recovered" / f"{recovery.key(target)}.safetensors"
        timing = path.with_suffix(".seconds")
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new, started = not path.exists(), time.monotonic()
        made = recovery.make(target, path)
        if is_new:
            timing.write_text(str(time.monotonic() - started))
        order = dataclasses.replace(made.evaluator, split=self.order.split)
        return (made.evaluator, order), float(timing.read_text())


@dataclass(frozen=True)
class Method:
    """Where policies come from.

    Attributes:
        name: of the method.
        sets: bits by budget; under None those that serve all budgets.
        outer: thresholds for them, on the model that they run on.
        pair: evaluates that model on *search* and on *order*.
        seconds: of choosing and tracing, where nothing is known before.
        training_seconds: of training that model, or those of all budgets.
    """

    name: str
    sets: dict[float | None, list[Bits]]
    outer: OuterProblem
    pair: Pair
    seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def passes(self) -> int:
        """How many sets of bits were traced, for all budgets together."""
        return len({bits for sets in self.sets.values() for bits in sets})

    def under(self, budget: float) -> Policy | None:
        """The policy of least risk within a budget in GBOPs."""
        sets = self.sets.get(budget, self.sets.get(None, []))
        found = [one for bits in sets if (one := self.outer.under(bits, budget * GIGA)) is not None]
        return min(found, key=lambda one: one[1])[0] if found else None

    def cheapest(self, floor: float) -> Policy | None:
        """The cheapest policy whose metric on *search* is at least ``floor``."""
        best: tuple[float, Policy] | None = None
        for bits in {bits for sets in self.sets.values() for bits in sets}:
            found = self.outer.harvest(bits)
            good = np.flatnonzero(found.value >= floor)
            if len(good):
                index = int(good[np.argmin(found.cost[good])])
                if best is None or found.cost[index] < best[0]:
                    best = float(found.cost[index]), found.policy(bits, index)
        return None if best is None else best[1]


def right_of(evaluator: Evaluator[QuantizedModel], policy: Policy) -> np.ndarray:
    """Whether the policy is right about every image, 0 or 1."""
    routing = evaluator.trace(policy.bits).replay(policy.thresholds)
    found: np.ndarray = 1 - evaluator.task.loss(routing.statistic)
    return found


def right_at_full_depth(evaluator: Evaluator[QuantizedModel]) -> np.ndarray:
    """The same of full precision at full depth."""
    found: np.ndarray = 1 - evaluator.task.loss(evaluator.full_precision_trace().statistic[:, -1])
    return found


def on_model(
    bench: Bench, name: str, sets: Sequence[Bits], pair: Pair | None = None,
    seconds: float = 0.0, training_seconds: float = 0.0,
) -> Method:  # fmt: skip
    """A method whose sets serve all budgets; their passes are made here and timed."""
    chosen = pair or bench.pair
    traces: TraceSource = bench.search if pair is None else RecoveredTraces(pair[0], bench.search)
    outer, started = bench.outer(traces), time.monotonic()
    for bits in sets:
        outer.harvest(bits)
    took = seconds + time.monotonic() - started
    return Method(name, {None: list(sets)}, outer, chosen, took, training_seconds)


def uniform_bits(bench: Bench, weights: int, activations: int) -> Bits:
    space = bench.space
    return space.bits(
        [weights] * len(space.weight_groups), [activations] * len(space.activation_groups)
    )


def grid_bits(bench: Bench) -> list[Bits]:
    """Uniform weights by uniform activations."""
    return [uniform_bits(bench, *widths) for widths in itertools.product(GRID, repeat=2)]


def static_bits(bench: Bench, count: int) -> list[Bits]:
    """Static mixed precision: the best bits if every sample ran every block."""
    problem = AllocationProblem(
        bench.space, bench.ledger, bench.tables, Usage.full_depth(bench.ledger)
    )
    return [found.bits for found in problem.sweep(count)]


def mean_bits(bench: Bench, count: int) -> list[Bits]:
    """The best bits at equal mean width of the weights, the constraint of the authors' public code.

    It says nothing of activations, which are 3, 4, 5 and 6 bits wide in turn.
    """
    found = []
    for activations in (3, 4, 5, 6):
        space = dataclasses.replace(bench.space, activation_choices=(activations,))
        problem = AllocationProblem(
            space, bench.ledger, bench.tables, Usage.full_depth(bench.ledger), measure="mean_bits"
        )
        found += [one.bits for one in problem.sweep(max(2, count // 4))]
    return found


def random_bits(bench: Bench, count: int) -> list[Bits]:
    """Every group's widths at random."""
    rng = np.random.default_rng(bench.seed)
    space = bench.space
    return [
        space.bits(
            rng.choice(space.weight_choices, len(space.weight_groups)).tolist(),
            rng.choice(space.activation_choices, len(space.activation_groups)).tolist(),
        )
        for _ in range(count)
    ]


def study_bits(bench: Bench, count: int, pair: Pair | None = None) -> list[Bits]:
    """What a study of exitbits tries: its anchors, then what its sampler proposes by its tables."""
    evaluator = (pair or bench.pair)[0]
    fields = load_config("fashion").model_dump(mode="json")
    config = parse_config(
        {
            **fields,
            "model": {"checkpoint": bench.checkpoint},
            "quantizer": {"name": evaluator.quantized.quantizer},
            "sampler": {"name": "apq", "seed": bench.seed},
            "budget": {"trials": 100_000},
        },
        "benchmark",
    )
    record = StudyRecord(
        config, evaluator.ledger, measure_reference(evaluator), "accuracy",
        evaluator.card.digest, evaluator.data_digest,
    )  # fmt: skip
    tried: list[Bits] = []
    with tempfile.TemporaryDirectory() as folder:
        store = StudyStore(f"sqlite:///{folder}/study.db", create=True)
        study = store.create(record)
        assert study is not None
        proposer = Proposer(store, study, "bench")
        # As launch does: tables first where the budget pays for them.
        meter = SensitivityMeter(evaluator.quantized, "block", DiskCaches(bench.cache).tables)
        proposer.take_up(meter.tables())
        measure = Measurer(evaluator, record.space, proposer.front, config.trial.harvest, 0.0)
        while len(tried) < count:
            claim = proposer.claim("bench")
            assert claim is not None
            found = measure.measure(claim.policy)
            store.record(claim, found.evaluation, *[(HARVEST, one) for one in found.harvested])
            if claim.policy.bits not in tried:
                tried.append(claim.policy.bits)
    return tried


def maqee(bench: Bench, budgets: Sequence[float], name: str = "MAQEE", **changes: Any) -> Method:
    """Bits and thresholds in turn, under every budget."""
    settings = dataclasses.replace(MaqeeSettings(), **changes)
    sets: dict[float | None, list[Bits]] = {}
    started = time.monotonic()
    for budget in budgets:
        counting = Counting(bench.search)
        outer = OuterProblem(counting, bench.space, settings)
        try:
            Maqee(outer, bench.tables).search(budget * GIGA)
        except NoPolicyFound:
            continue
        sets[budget] = counting.seen
    seconds = time.monotonic() - started
    return Method(name, sets, bench.outer(bench.search), bench.pair, seconds)


def trained_for_each(
    bench: Bench, name: str, chosen: dict[float, tuple[Bits, tuple[float, ...]]], steps: int
) -> dict[float, Method]:
    """A model trained for every budget's bits; one method a budget, each with its own model."""
    found = {}
    for budget, (bits, rates) in chosen.items():
        pair, seconds = bench.trained(ForBits(bits, rates), steps)
        found[budget] = on_model(bench, name, [bits], pair, training_seconds=seconds)
    return found


def trained_for_all(bench: Bench, steps: int) -> tuple[Pair, float]:
    """One model for every policy."""
    return bench.trained(ForSpace(bench.space, bench.seed), steps)


def evaluations(method: Method, policy: Policy) -> tuple[Evaluation, Evaluation]:
    """The policy's figures on *search* and on *order*."""
    search, order = method.pair
    return search.evaluate(policy), order.evaluate(policy)
