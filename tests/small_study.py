"""A small study that needs no model: two blocks with an exit each, built by hand."""

from __future__ import annotations

import numpy as np

from search.cost import Ledger, Op
from search.policy import Policy
from search.results import Evaluation, evaluate_trace
from search.tasks import resolve_task
from search.trace import ExitTrace
from studies.records import HARVEST, Claim
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

FIELDS = {
    "name": "small",
    "model": {"checkpoint": "bundled:fashion"},
    "data": {"dataset": "fashion"},
    "sampler": {"name": "random"},
    "anchors": {"bits": [4, 8], "thresholds": [0.5, 1.0]},
    "budget": {"trials": 12},
}


def small_ledger() -> Ledger:
    """Two blocks of two layers and one product each, an exit after both."""
    ops = [Op("patch_embed", "conv", "embed", 0, 100, "patch_embed", 20)]
    for block in (1, 2):
        ops += [
            Op(f"blocks.{block}.qkv", "linear", "block", block, 300, f"blocks.{block}.qkv", 60),
            Op(f"blocks.{block}.attn.scores", "matmul", "block", block, 50, f"blocks.{block}.attn"),
            Op(f"heads.{block}.fc", "linear", "head", block, 10, f"heads.{block}.fc", 2),
        ]
    return Ledger(tuple(ops), (1, 2))


def measure(policy: Policy) -> Evaluation:
    """Evaluate a policy on a made-up trace that depends on its bits, as a real one does."""
    seed = int(policy.with_thresholds([0.0] * len(policy.thresholds)).digest[:8], 16)
    rng = np.random.default_rng(seed)
    quality = np.mean(policy.bits.weights + policy.bits.activations) / 10
    right = rng.random((200, 2)) < [0.8 * quality, quality]
    statistic = np.stack([right.astype(np.int32), np.ones_like(right, dtype=np.int32)], axis=-1)
    trace = ExitTrace(rng.random((200, 2), dtype=np.float32), statistic, (1, 2))
    return evaluate_trace(policy, trace, small_ledger(), resolve_task("classification"))


def take(store: StudyStore, name: str, worker: str) -> Claim | None:
    """Claim one trial as a worker that has just begun; one that goes on holds its proposer."""
    return Proposer(store, store.get(name), worker).claim(worker)


def open_names(store: StudyStore) -> list[str]:
    """Names of the studies that have something to claim."""
    return [version.name for version in store.open_studies()]


def grow(store: StudyStore, name: str, trials: int, *, harvest: bool = False) -> None:
    """Finish so many trials, each with a harvested evaluation beside its own if asked for."""
    proposer = Proposer(store, store.get(name), "tester")
    for _ in range(trials):
        claim = proposer.claim("tester")
        assert claim
        other = claim.policy.with_thresholds([0.9, 0.0])
        more = [(HARVEST, measure(other))] if harvest else []
        store.record(claim, measure(claim.policy), *more)
