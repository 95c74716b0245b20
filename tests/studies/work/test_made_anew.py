"""A study is deleted and made again under its name while a worker, another process, serves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleet import Fleet, wait_for
from postgres import new_database

from search.bits.lookup import TableLookup
from search.bits.tables import Sensitivity
from search.disk_cache import DiskCaches
from search.evaluate import Evaluator, measure_reference
from search.opening import open_model
from studies.config import parse_config
from studies.records import StudyRecord
from studies.store.workers import Registration
from studies.store.writer import StudyStore
from studies.work.worker import Worker

NAME, WORKER = "same", "ann"
FIRST = {
    "name": NAME,
    "data": {"dataset": "fashion"},
    "anchors": {"bits": [4, 8], "thresholds": [0.8, 1.0]},
    "budget": {"trials": 6},
}
# Another space, so that neither the bits nor the tables of the first study fit the second.
SECOND = {
    **FIRST,
    "space": {
        "granularity": "layer",
        "weight_bits": [3, 4, 8],
        "activation_bits": [4, 6, 8],
        "thresholds": [0.5, 1.0],
    },
    "budget": {"trials": 7},
}
BITS = (2, 3, 4, 5, 6, 7, 8)


def new_records(pause_s: float = 0) -> tuple[StudyRecord, StudyRecord]:
    """Of the first study and of the second, whose model takes so long for a batch."""
    checkpoint = f"recorded:anew@{pause_s}"
    opened = open_model(checkpoint)
    evaluator = Evaluator(opened.quantized, opened.split("search"))
    model = {"checkpoint": checkpoint}
    first = StudyRecord(
        parse_config({**FIRST, "model": model}, "test"), evaluator.ledger,
        measure_reference(evaluator), "accuracy", evaluator.card.digest, evaluator.data_digest,
    )  # fmt: skip
    config = parse_config({**SECOND, "model": model}, "test")
    return first, dataclasses.replace(first, config=config)


def store_tables(cache: Path, checkpoint: str) -> None:
    """What another command on this machine does, less the measuring: the first study's tables."""
    rows = TableLookup(open_model(checkpoint).quantized, "block", DiskCaches(cache).tables)
    row = Sensitivity(1, BITS, 4.0 ** -np.array(BITS), np.zeros((7, 6)))
    for side, name in rows.wanted():
        rows.store(side, name, row)


def figures(store: StudyStore, study_id: int) -> list[tuple[Any, ...]]:
    return [
        (row.trial, row.source, row.digest, row.value, row.gbops, row.mean_exit)
        for row in store.evaluations(study_id)
    ]


def as_a_fresh_worker(folder: Path, record: StudyRecord, cache: Path) -> list[tuple[Any, ...]]:
    """What a worker of the same name records that has never seen another study."""
    store = StudyStore(f"sqlite:///{folder}/fresh.db", create=True)
    study = store.create(record)
    assert study
    registration = Registration(store.claims, WORKER)
    Worker(store, registration, DiskCaches(cache), study=NAME, until_done=True).run()
    registration.close()
    return figures(store, study.id)


@pytest.mark.parametrize(
    ("backend", "options"),
    [("sqlite", ()), ("postgresql", ("--study", NAME))],
    ids=["serving all, sqlite", "serving a name, postgresql"],
)
def test_nothing_of_the_first_study_is_left(
    request: pytest.FixtureRequest,
    launch_fleet: Callable[[str], Fleet],
    tmp_path: Path,
    backend: str,
    options: tuple[str, ...],
) -> None:
    """Protection: studies are known by their ids, and a name is resolved anew for every claim."""
    address = f"sqlite:///{tmp_path}/store.db"
    if backend == "postgresql":
        address = new_database(request.getfixturevalue("postgres_url"))
    fleet, store = launch_fleet(address), StudyStore(address, create=True)
    fleet.cache = tmp_path / "cache"
    records = new_records()
    store_tables(fleet.cache, records[0].config.model.checkpoint)
    first = store.create(records[0])
    assert first
    worker = fleet.worker(WORKER, *options)
    wait_for(lambda: store.progress(first.id).done, "the end of the first study")
    assert f"study {NAME}: sensitivity tables found" in fleet.log(WORKER)
    store.delete(first.id)
    second = store.create(records[1])
    assert second
    wait_for(lambda: store.progress(second.id).done, "the end of the second study")
    assert worker.poll() is None
    assert store.failures(second.id) == []
    rows = store.evaluations(second.id)
    assert [row.source for row in rows if row.source != "harvest"] == ["anchor"] * 4 + ["apq"] * 3
    for row in rows:
        second.record.space.check(row.policy)
    assert fleet.log(WORKER).count("sensitivity tables found") == 1
    assert figures(store, second.id) == as_a_fresh_worker(tmp_path, records[1], fleet.cache)


def test_a_trial_in_hand_is_dropped_with_its_study(
    launch_fleet: Callable[[str], Fleet],
    tmp_path: Path,
) -> None:
    address = f"sqlite:///{tmp_path}/store.db"
    fleet, store = launch_fleet(address), StudyStore(address, create=True)
    fleet.cache = tmp_path / "cache"
    records = new_records(pause_s=0.1)  # a trial takes long enough to be seen in hand
    first = store.create(records[0])
    assert first
    worker = fleet.worker(WORKER, "--study", NAME)
    wait_for(lambda: store.progress(first.id).running, "a trial in hand")
    store.delete(first.id)
    wait_for(lambda: "waiting for another" in fleet.log(WORKER), "the worker to notice")
    assert f"number {first.id} of this store) has been deleted" in fleet.log(WORKER)
    second = store.create(records[1])
    assert second
    wait_for(lambda: store.progress(second.id).done, "the end of the second study")
    assert worker.poll() is None
    progress = store.progress(second.id)
    assert (progress.finished, progress.failed, progress.lost) == (7, 0, 0)
    assert figures(store, second.id) == as_a_fresh_worker(tmp_path, records[1], fleet.cache)
