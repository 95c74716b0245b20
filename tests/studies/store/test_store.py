"""Studies in the store: what is written comes back, and bad input harms nothing."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.distributions import IntDistribution
from small_study import measure, open_names, take
from sqlalchemy import event

from search.errors import BadInput
from search.space import PolicySpace
from studies.records import EvaluationGone, StudyGone, StudyRecord
from studies.store.contributions import contribute
from studies.store.database import VERSION_TABLE, Database, EmptyStore
from studies.store.schema import SCHEMA, metadata, studies, trials
from studies.store.writer import StudyStore
from studies.work.proposing import Proposer

Make = Callable[..., StudyRecord]


@pytest.fixture
def store(address: str, make_record: Make) -> StudyStore:
    store = StudyStore(address, create=True)
    store.create(make_record())
    return store


def work(store: StudyStore, name: str = "small", most: int = 1000) -> int:
    """Evaluate what there is, up to ``most`` trials; returns how many."""
    proposer = Proposer(store, store.get(name), "tester")
    for done in range(most):
        claim = proposer.claim("tester")
        if claim is None:
            return done
        store.record(claim, measure(claim.policy))
    return most


def test_a_study_comes_back_as_it_was_written(store: StudyStore, make_record: Make) -> None:
    assert store.get("small").record == make_record()
    assert store.names() == ["small"]


def test_creating_it_again_changes_nothing(store: StudyStore, make_record: Make) -> None:
    assert store.create(make_record()) is None
    assert store.progress(store.get("small").id).budget == 12
    assert work(store) == 12


def test_anchors_come_first_and_in_order(store: StudyStore, make_record: Make) -> None:
    proposer = Proposer(store, store.get("small"), "tester")
    claims = [proposer.claim("tester") for _ in range(6)]
    assert [claim.source for claim in claims if claim] == ["anchor"] * 4 + ["random"] * 2
    assert [claim.policy for claim in claims[:4] if claim] == make_record().anchors()
    assert [claim.lease.number for claim in claims if claim] == list(range(6))


def test_anchors_are_evaluated_in_the_order_given(make_record: Make) -> None:
    space = make_record().space
    record = make_record(anchors={"bits": [4, 8, 2], "thresholds": [0.9, 0.5]})
    expected = [space.uniform(bits, one) for bits in (4, 8, 2) for one in (0.9, 0.5)]
    assert record.anchors() == expected


def test_an_evaluation_is_read_back_exactly(store: StudyStore) -> None:
    claim = take(store, "small", "tester")
    assert claim
    evaluation = measure(claim.policy)
    store.record(claim, evaluation)
    (row,) = store.evaluations(store.get("small").id)
    assert store.details([row]) == [evaluation]
    assert (row.trial, row.source, row.digest) == (0, "anchor", evaluation.policy.digest)
    assert (row.value, row.gbops) == (evaluation.value, evaluation.gbops)
    assert row.policy == evaluation.policy


def test_the_budget_is_exact_and_may_grow(store: StudyStore) -> None:
    assert work(store) == 12
    progress = store.progress(store.get("small").id)
    assert (progress.finished, progress.running, progress.done) == (12, 0, True)
    assert store.open_studies() == []
    assert store.raise_budget(store.get("small").id, 5).record.config.budget.trials == 12
    assert store.raise_budget(store.get("small").id, 15).record.config.budget.trials == 15
    assert open_names(store) == ["small"]
    assert work(store) == 3
    assert {row.trial for row in store.evaluations(store.get("small").id)} == set(range(15))


def test_more_anchors_than_budget_leave_some_waiting(address: str, make_record: Make) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record(budget={"trials": 3}))
    assert work(store) == 3
    assert store.progress(store.get("small").id).done


def test_reading_since_a_revision_gives_only_what_is_new(store: StudyStore) -> None:
    work(store, most=5)
    seen = store.evaluations(store.get("small").id)
    last = max(row.revision for row in seen)
    assert store.evaluations(store.get("small").id, since=last) == []
    work(store, most=2)
    new = store.evaluations(store.get("small").id, since=last)
    assert [row.trial for row in new] == [5, 6]
    assert all(row.revision > last for row in new)
    assert store.evaluations(store.get("small").id) == [*seen, *new]


def test_harvested_evaluations_are_recorded_with_their_trial(store: StudyStore) -> None:
    claim = take(store, "small", "tester")
    assert claim
    more = [claim.policy.with_thresholds([share, 0.0]) for share in (0.4, 0.6)]
    store.record(claim, measure(claim.policy), *[("harvest", measure(one)) for one in more])
    rows = store.evaluations(store.get("small").id)
    assert Counter(row.source for row in rows) == {"anchor": 1, "harvest": 2}
    assert {row.trial for row in rows} == {0}
    assert store.progress(store.get("small").id).finished == 1


def test_a_failed_evaluation_counts_and_keeps_its_reason(store: StudyStore) -> None:
    claim = take(store, "small", "tester")
    assert claim
    store.fail(claim, "ValueError: no")
    assert store.failures(store.get("small").id) == [(0, "ValueError: no")]
    assert work(store) == 11


@pytest.mark.parametrize("change", [{"value": float("nan")}, {"mean_exit": float("inf")}])
def test_figures_that_are_not_finite_are_refused(
    store: StudyStore, change: dict[str, float]
) -> None:
    claim = take(store, "small", "tester")
    assert claim
    evaluation = measure(claim.policy)
    with pytest.raises(BadInput, match="only finite figures are recorded"):
        store.record(claim, dataclasses.replace(evaluation, **change))
    assert store.evaluations(store.get("small").id) == []
    store.record(claim, evaluation)  # the trial is still this worker's


def test_others_see_the_parameters_of_a_running_trial(store: StudyStore, address: str) -> None:
    work(store, most=4)
    claim = take(store, "small", "tester")
    assert claim
    other = StudyStore(address)
    study = optuna.load_study(study_name="small", storage=other.storage)
    running = study.trials[4]
    assert running.state == optuna.trial.TrialState.RUNNING
    assert other.get("small").record.space.decode(running.params) == claim.policy


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_a_trial_costs_few_statements_whatever_the_sampler(
    address: str, make_record: Make, sampler: str
) -> None:
    store = StudyStore(address, create=True)
    store.create(make_record(sampler={"name": sampler}, budget={"trials": 100}))
    work(store, most=20)
    proposer = Proposer(store, store.get("small"), "tester")
    engine, seen = store.database.engine, Counter[str]()

    def count(_: object, __: object, statement: str, *rest: object) -> None:
        seen["statements"] += not statement.lower().startswith("begin")

    event.listen(engine, "before_cursor_execute", count)
    event.listen(engine, "commit", lambda _: seen.update(["commits"]))
    claim = proposer.claim("tester")
    assert claim
    evaluation = measure(claim.policy)
    store.record(claim, evaluation, *[("harvest", evaluation)] * 49)
    assert len(store.evaluations(proposer.study.id)) == 70
    # One of the statements is the reading just above.
    assert seen["statements"] - 1 <= 8
    assert seen["commits"] <= 3


def test_workers_learn_from_each_others_results(store: StudyStore, address: str) -> None:
    study = optuna.load_study(study_name="small", storage=store.storage)
    assert len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE])) == 0
    work(StudyStore(address), most=6)
    finished = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    assert [trial.number for trial in finished] == list(range(6))
    assert all(len(trial.params) == 5 for trial in finished)


def test_times_are_kept_in_utc_with_their_zone(store: StudyStore) -> None:
    work(store, most=1)
    with store.database.read() as connection:
        row = connection.execute(
            sqlalchemy.select(trials.c.started, trials.c.finished, studies.c.created)
            .join(studies)
            .where(trials.c.number == 0)
        ).one()
    for time in row:
        assert time.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_studies_are_served_fairly(store: StudyStore, make_record: Make) -> None:
    store.create(make_record(name="second"))
    first = open_names(store)
    served = Counter[str]()
    for _ in range(6):
        (name, *_rest) = open_names(store)
        served[name] += take(store, name, "tester") is not None
    assert first == ["small", "second"]
    assert served == {"small": 3, "second": 3}


def test_an_archived_study_is_hidden_and_comes_back(store: StudyStore) -> None:
    store.set_archived(store.get("small").id, True)
    assert (store.names(), store.names(archived=True)) == ([], ["small"])
    assert store.open_studies() == []
    store.set_archived(store.get("small").id, False)
    assert open_names(store) == ["small"]


def test_a_renamed_study_keeps_its_results(store: StudyStore, make_record: Make) -> None:
    work(store, most=3)
    store.create(make_record(name="taken"))
    with pytest.raises(BadInput, match="'taken' exists"):
        store.rename(store.get("small").id, "taken")
    with pytest.raises(BadInput, match="printable"):
        store.rename(store.get("small").id, "a\nb")
    store.rename(store.get("small").id, "<i>new</i> 'name'")
    assert store.get("<i>new</i> 'name'").record.config.name == "<i>new</i> 'name'"
    assert work(store, "<i>new</i> 'name'") == 9
    assert len(store.evaluations(store.get("<i>new</i> 'name'").id)) == 12


def test_a_deleted_study_leaves_nothing(store: StudyStore, make_record: Make) -> None:
    work(store, most=3)
    store.create(make_record(name="other"))
    store.delete(store.get("small").id)
    assert store.names() == ["other"]
    with store.database.read() as connection:
        for table in metadata.tables.values():
            if "study_id" in table.c:
                left = connection.execute(sqlalchemy.select(table.c.study_id)).scalars().all()
                assert len(set(left)) <= 1
    with pytest.raises(BadInput, match="no study 'small'"):
        store.get("small")


def test_a_deleted_study_is_gone_for_whoever_holds_it(store: StudyStore, make_record: Make) -> None:
    """Protection: its id is never another's, so no name made again is taken for it."""
    proposer = Proposer(store, store.get("small"), "tester")
    work(store, most=5)
    claim = proposer.claim("tester")
    assert claim
    study_id, space = proposer.study.id, proposer.study.record.space
    rows = store.evaluations(study_id)
    proposal = store.claims.claim(study_id, "other")
    assert proposal
    store.delete(study_id)
    again = store.create(make_record())
    assert again
    assert again.id != study_id
    steps: list[Callable[[], object]] = [
        lambda: store.study(study_id),
        lambda: store.progress(study_id),
        lambda: store.failures(study_id),
        lambda: store.evaluations(study_id),
        lambda: store.raise_budget(study_id, 20),
        lambda: store.stop(study_id),
        lambda: store.rename(study_id, "other"),
        lambda: store.set_archived(study_id, True),
        lambda: store.delete(study_id),
        lambda: contribute(store, study_id, []),
        lambda: proposer.claim("tester"),
        lambda: Proposer(store, proposer.study, "tester"),
        lambda: store.record(claim, measure(claim.policy)),
        lambda: store.fail(claim, "a test"),
        lambda: store.claims.send_proposal(proposal[0], {}, {}, "random"),
    ]
    for step in steps:
        with pytest.raises(StudyGone, match=f"number {study_id} of this store.*has been deleted"):
            step()
    with pytest.raises(EvaluationGone, match=f"evaluation {rows[0].id} is no longer"):
        store.details(rows)
    assert store.pending(study_id, space) == []
    assert store.get("small") == again
    assert store.evaluations(again.id) == []


def test_another_programs_study_is_left_alone(store: StudyStore, make_record: Make) -> None:
    theirs = optuna.create_study(storage=store.storage, study_name="theirs")
    theirs.set_user_attr("note", 1)
    with pytest.raises(BadInput, match="made by another program"):
        store.find("theirs")
    assert store.names() == ["small"]
    assert theirs.user_attrs == {"note": 1}


# Addresses and versions


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("sqlite:///{folder}/none.db", "no store at"),
        ("sqlite://", "must be a file"),
        ("mysql://user:hidden@host/db", "sqlite:///FILE or postgresql://"),
        ("no address", "sqlite:///FILE or postgresql://"),
        ("postgresql://nobody:hidden@127.0.0.1:1/none", "cannot reach store"),
    ],
)
def test_stores_that_cannot_be_opened_are_refused_without_secrets(
    tmp_path: Path, address: str, why: str
) -> None:
    with pytest.raises(Exception, match=why) as caught:
        StudyStore(address.format(folder=tmp_path))
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "notes.db"
    file.write_text("not a database, but mine " * 100)
    before = file.read_bytes()
    with pytest.raises(BadInput, match="name a file that exitbits made"):
        StudyStore(f"sqlite:///{file}", create=True)
    assert file.read_bytes() == before


def test_tables_of_another_program_are_refused_and_kept(address: str) -> None:
    engine = sqlalchemy.create_engine(address.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table studies (mine integer)"))
    for create in (True, False):
        with pytest.raises(BadInput, match="another program"):
            StudyStore(address, create=create)
    assert sqlalchemy.inspect(engine).get_table_names() == ["studies"]
    engine.dispose()


@pytest.mark.parametrize(
    ("version", "why"), [("9999", "install a newer exitbits"), ("0000", "newer than this")]
)
def test_a_newer_schema_is_refused(store: StudyStore, address: str, version: str, why: str) -> None:
    store.database.write(
        lambda connection: connection.execute(
            sqlalchemy.text(f"update {VERSION_TABLE} set version_num = '{version}'")
        )
    )
    with pytest.raises(BadInput, match=why):
        StudyStore(address)
    with pytest.raises(BadInput, match=why):
        Database(address, create=True, check=False).upgrade()


def test_an_empty_store_says_what_to_do(address: str) -> None:
    Database(address, create=True, check=False).engine.connect().close()
    with pytest.raises(EmptyStore, match="launch"):
        StudyStore(address)


def test_migrations_give_exactly_the_tables_of_the_code(address: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    database = Database(address, create=True)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert context.get_current_revision() == SCHEMA
        assert compare_metadata(context, metadata) == []
    database.upgrade()  # does nothing


def test_sqlite_writes_ahead_and_keeps_references(tmp_path: Path, make_record: Make) -> None:
    StudyStore(f"sqlite:///{tmp_path}/s.db", create=True).create(make_record())
    with sqlite3.connect(tmp_path / "s.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        assert connection.execute("pragma foreign_key_check").fetchall() == []


@pytest.mark.parametrize("password", ["plain", "p@ss:w/rd?#%&= '\"\\ü", " spaces "])
def test_passwords_may_hold_any_character_and_are_never_shown(
    postgres_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    password: str,
) -> None:
    from studies.store.address import parse_url

    address = postgres_url.replace("postgresql+psycopg:", "postgresql:")
    monkeypatch.setenv("EXITBITS_DB_PASSWORD", password)
    assert parse_url(address).password == password
    monkeypatch.delenv("EXITBITS_DB_PASSWORD")
    (tmp_path / "secret").write_text(password + "\n")
    monkeypatch.setenv("EXITBITS_DB_PASSWORD_FILE", str(tmp_path / "secret"))
    url = parse_url(address)
    assert url.password == password
    database = Database(address, create=True, check=False)
    assert password.strip() not in database.shown.replace("postgresql", "")


def test_a_study_from_before_harvests_goes_on_as_it_began(make_record: Make) -> None:
    record = make_record()
    fields = record.as_dict()
    assert StudyRecord.from_dict(fields, "small", 12).config.trial == record.config.trial
    del fields["config"]["trial"]
    old = StudyRecord.from_dict(fields, "small", 12).config
    assert (old.trial.harvest, old.trial.racing) == (0, 0)
    assert "trial.harvest is 0 in the store and 32 here" in (old.difference(record.config) or "")


def test_what_a_trial_is_given_is_added_to_its_attributes(store: StudyStore) -> None:
    study_id = store.storage.get_study_id_from_name("small")
    claim = take(store, "small", "tester")
    assert claim
    store.storage.set_trial_user_attr(claim.lease.trial_id, "note", "mine")
    store.record(claim, measure(claim.policy), attributes={"raced": {"samples": 1, "of": 2}})
    trial = store.storage.get_trial(claim.lease.trial_id)
    assert trial.user_attrs == {"note": "mine", "raced": {"samples": 1, "of": 2}}
    assert study_id == claim.lease.study_id


def test_a_foreign_trial_half_way_through_its_parameters_is_no_policy(
    store: StudyStore,
) -> None:
    study_id = store.storage.get_study_id_from_name("small")
    space = store.get("small").record.space
    mine = take(store, "small", "tester")
    assert mine
    assert store.pending(mine.lease.study_id, space) == [mine.policy]
    foreign = store.storage.create_new_trial(study_id)
    name = next(iter(space.encode(space.narrowest())))
    store.storage.set_trial_param(foreign, name, 4.0, IntDistribution(2, 8))
    assert store.pending(mine.lease.study_id, space) == [mine.policy]


def test_a_proposal_that_fails_gives_its_trial_back(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(store, most=4)

    def fail(self: PolicySpace, proposer: object) -> None:
        raise RuntimeError("no proposal")

    with monkeypatch.context() as patched:
        patched.setattr(PolicySpace, "propose", fail)
        with pytest.raises(RuntimeError, match="no proposal"):
            take(store, "small", "one")
    again = take(store, "small", "two")  # at once: it need not wait for a lease
    assert again
    assert (again.lease.number, again.lease.attempt) == (4, 2)
