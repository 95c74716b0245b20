"""A worker takes up sensitivity tables that are measured while it serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundled_model import open_bundled

from search.bits.lookup import TableLookup
from search.bits.tables import Sensitivity
from search.disk_cache import DiskCaches
from search.evaluate import measure_reference
from studies.config_file import load_config
from studies.records import StudyRecord
from studies.store.workers import Registration
from studies.store.writer import StudyStore
from studies.work.worker import Worker


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """Of the bundled study, before its first trial."""
    evaluator = open_bundled(512)
    store = StudyStore(f"sqlite:///{tmp_path}/store.db", create=True)
    record = StudyRecord(
        load_config("fashion"), evaluator.ledger, measure_reference(evaluator), "accuracy",
        evaluator.card.digest, evaluator.data_digest,
    )  # fmt: skip
    assert store.create(record)
    return Worker(store, Registration(store.claims, "tester"), DiskCaches(tmp_path / "cache"))


def test_tables_that_appear_later_are_used(worker: Worker, tmp_path: Path) -> None:
    (served,) = worker._served()
    assert worker._next_claim(served) is not None
    proposer = worker._proposers[served]
    assert proposer.tables is None

    bits = (2, 3, 4, 5, 6, 7, 8)
    row = Sensitivity(1, bits, 4.0 ** -np.array(bits), np.zeros((7, 6)))
    # What another command on this machine does, less the measuring.
    rows = TableLookup(open_bundled(512).quantized, "block", DiskCaches(tmp_path / "cache").tables)
    wanted = rows.wanted()
    for side, name in wanted:
        assert worker._next_claim(served) is not None
        assert proposer.tables is None  # not while some are missing
        rows.store(side, name, row)
    assert worker._next_claim(served) is not None
    assert proposer.tables is not None
    taken = [*proposer.tables.weights.values(), *proposer.tables.activations.values()]
    assert len(taken) == len(wanted)
    for each in taken:
        np.testing.assert_array_equal(each.noise, row.noise)
    worker.registration.close()
