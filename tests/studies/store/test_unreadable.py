"""A study of a shared store that cannot be read is named and left out; everything else goes on."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from fleet import Fleet, wait_for
from small_study import grow, measure, take
from sqlalchemy import text

from dashboards.pages.studies import layout
from dashboards.snapshot import Snapshot, Snapshots
from search.errors import BadInput
from studies.records import StudyRecord, UnreadableStudy
from studies.store.exchange import EVALUATIONS, RECORD, export_study, import_study
from studies.store.writer import StudyStore

Make = Callable[..., StudyRecord]


def without(*path: Any) -> Callable[[Any], Any]:
    """The record without what lies at a path."""

    def change(record: Any) -> Any:
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return record

    return change


def having(value: Any, *path: str | int) -> Callable[[Any], Any]:
    """The record with another value at a path."""

    def change(record: Any) -> Any:
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return record

    return change


SHAPES: dict[str, Callable[[Any], Any]] = {
    "no ledger": without("ledger"),
    "no metric": without("metric"),
    "no config": without("config"),
    "no model": without("config", "model"),
    "no bits": having([], "config", "space", "weight_bits"),
    "op without block": without("ledger", "ops", 1, "block"),
    "no operations": having([], "ledger", "ops"),
    "exits backwards": having([2, 1], "ledger", "exit_blocks"),
    "nothing counted": without("ledger", "ops", slice(1, None)),
    "value is a word": having("high", "reference_value"),
    "value is nan": having(float("nan"), "reference_value"),
    "a key too many": having(1, "later"),
    "a list": lambda record: [record],
    "a word": lambda record: "record",
    "anchors outside": having([0.1], "config", "anchors", "thresholds"),
}
TEXTS = {"no JSON": "{", "deep": "[" * 100_000}


def plant(store: StudyStore, record: StudyRecord) -> list[str]:
    """Studies of every bad shape, as an SQL client would leave them there; their names."""
    names = []
    for name, change in SHAPES.items():
        fields = change(copy.deepcopy(record.as_dict()))
        names.append(name)
        _insert(store, name, json.dumps(fields), 12)
    for name, stored in TEXTS.items():
        names.append(name)
        _insert(store, name, stored, 12)
    good = json.dumps(record.as_dict())
    for name, changes in {
        "no budget": {"budget": 0},
        "no directions": {"directions": "[1]"},
        "attributes": {"user_attrs": "[]"},
    }.items():
        names.append(name)
        _insert(store, name, good, 12)
        for column, value in changes.items():
            with store.database.engine.begin() as connection:
                connection.execute(
                    text(f"update studies set {column} = :value where name = :name"),
                    {"value": value, "name": name},
                )
    return names


def _insert(store: StudyStore, name: str, record: str, budget: int) -> None:
    with store.database.engine.begin() as connection:
        connection.execute(
            text(
                "insert into studies (name, directions, user_attrs, system_attrs, record, budget, "
                "claimed, trials, revision, created) values (:name, '[2,1]', '{}', '{}', :record, "
                ":budget, 0, 0, 1, '2026-01-01 00:00:00.000000')"
            ),
            {"name": name, "record": record, "budget": budget},
        )


def test_bad_records_are_named_and_left_out(address: str, make_record: Make) -> None:
    store = StudyStore(address, create=True)
    names = plant(store, make_record())
    store.create(make_record(name="healthy"))
    for name in names:
        with pytest.raises(UnreadableStudy, match="cannot be read") as caught:
            store.get(name)
        assert len(str(caught.value)) < 500
        assert "\n" not in str(caught.value)
    found = Snapshots(store).all(patience_s=30)
    assert {name for name, one in found.items() if isinstance(one, UnreadableStudy)} == set(names)
    assert isinstance(found["healthy"], Snapshot)
    for sort in ("name", "progress"):
        assert {name for name, _ in layout.order(found, "", sort)} == {*names, "healthy"}


def test_a_worker_serves_the_healthy_study_behind_them(
    tmp_path: Path, make_record: Make, exitbits: Callable[..., Any]
) -> None:
    fleet = Fleet(tmp_path, f"sqlite:///{tmp_path}/exitbits.db", tmp_path / "cache")
    store = StudyStore(fleet.address, create=True)
    names = plant(store, make_record())  # of lower ids than the healthy one
    fleet.submit("healthy", 6)
    healthy = store.get("healthy").id
    try:
        worker = fleet.worker("w")
        wait_for(lambda: store.progress(healthy).done, "the healthy study")
        assert worker.poll() is None
        log = fleet.log("w")
    finally:
        fleet.close()
    assert "Traceback" not in log
    for name in names:
        # Once, not every second; one without a budget has nothing to claim.
        assert log.count(f"study {name!r} cannot be read") == (name != "no budget")
    done = exitbits("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "healthy" in done.stdout
    for name in names:
        assert f"study {name!r} cannot be read" in done.stdout
    listed = json.loads(exitbits("status", "--json").stdout)["studies"]
    assert {one["study"] for one in listed if "unreadable" in one} == set(names)
    done = exitbits("front", names[0])
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = exitbits("study", "delete", "--yes", names[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert names[0] not in store.names()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("policy", "{}"),
        ("policy", "{"),
        ("policy", '{"schema":1,"granularity":"block","weight_bits":["4"]}'),
        ("source", ""),
        ("mean_exit", float("inf")),
    ],
)
def test_a_bad_evaluation_is_left_out_with_a_warning(
    address: str, make_record: Make, column: str, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record())
    grow(store, "small", 3)
    study = store.get("small").id
    first = store.evaluations(study)[0]
    with store.database.engine.begin() as connection:
        connection.execute(
            text(f"update evaluations set {column} = :value where id = :id"),
            {"value": value, "id": first.id},
        )
    for _ in range(2):
        assert len(store.evaluations(study)) == 2
    assert caplog.text.count(f"evaluation {first.id} cannot be read") == 1
    assert take(store, "small", "another") is not None


def test_details_that_cannot_be_read_are_one_line(address: str, make_record: Make) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record())
    grow(store, "small", 1)
    rows = store.evaluations(store.get("small").id)
    with store.database.engine.begin() as connection:
        connection.execute(text("""update evaluations set detail = '{"metric": 1}'"""))
    with pytest.raises(BadInput, match=f"evaluation {rows[0].id} cannot be read"):
        store.details(rows)


@pytest.mark.parametrize("column", ["params", "system_attrs", "state"])
def test_a_bad_trial_costs_its_study_not_the_worker(
    tmp_path: Path, make_record: Make, column: str
) -> None:
    fleet = Fleet(tmp_path, f"sqlite:///{tmp_path}/exitbits.db", tmp_path / "cache")
    fleet.submit("broken", 6)
    fleet.submit("healthy", 4)
    store = StudyStore(fleet.address)
    values = {"params": '{"w.block1": 3}', "system_attrs": "{", "state": 17}
    with store.database.engine.begin() as connection:
        connection.execute(
            text(f"update trials set {column} = :value where number = 0 and study_id = :id"),
            {"value": values[column], "id": store.get("broken").id},
        )
    healthy = store.get("healthy").id
    try:
        worker = fleet.worker("w")
        wait_for(lambda: store.progress(healthy).done, "the healthy study")
        assert worker.poll() is None
        log = fleet.log("w")
    finally:
        fleet.close()
    assert "Traceback" not in log


def test_what_is_imported_is_checked_first(address: str, make_record: Make, tmp_path: Path) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record())
    grow(store, "small", 3)
    theirs = f"sqlite:///{tmp_path}/optuna.db"
    export_study(store, store.get("small").id, theirs)
    study = optuna.load_study(study_name="small", storage=theirs)
    whole, back = study.user_attrs[RECORD], StudyStore(f"sqlite:///{tmp_path}/b.db", create=True)
    for change in SHAPES.values():
        study.set_user_attr(RECORD, change(copy.deepcopy(whole)))
        with pytest.raises(BadInput, match="nothing was copied"):
            import_study(back, "small", theirs)
    study.set_user_attr(RECORD, {**whole, "budget": "many"})
    with pytest.raises(BadInput, match="nothing was copied"):
        import_study(back, "small", theirs)
    study.set_user_attr(RECORD, whole)
    row = study.trials[0].user_attrs[EVALUATIONS][0]
    other = measure(make_record().space.uniform(3, 0.5))
    for bad in (
        {**row, "id": 1},
        {**row, "digest": "0" * 64},
        {**row, "policy": other.policy.to_json()},
        {**row, "value": "good"},
        {**row, "detail": "{}"},
        "row",
    ):
        study.set_user_attr(EVALUATIONS, [bad])
        with pytest.raises(BadInput, match="nothing was copied"):
            import_study(back, "small", theirs)
    assert back.names() == []
    study.set_user_attr(EVALUATIONS, [])
    assert import_study(back, "small", theirs) == len(study.trials)
