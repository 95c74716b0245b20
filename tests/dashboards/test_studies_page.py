"""The page of all studies, asked as its page asks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dash_client import call
from small_study import grow

from dashboards.app import create_app
from dashboards.pages.studies import layout as page
from dashboards.pages.study.words import progress_words
from dashboards.snapshot import Snapshot, Snapshots
from search.front import best_under
from studies.records import StudyRecord
from studies.store.database import StoreUnavailable
from studies.store.refusals import refuse
from studies.store.workers import Registration
from studies.store.writer import StudyStore

MakeRecord = Callable[..., StudyRecord]


@pytest.fixture
def store(tmp_path: Path, make_record: MakeRecord) -> StudyStore:
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    for name, trials in (("apple", 3), ("pear", 9), ("plum", 0)):
        store.create(make_record(name=name, budget={"trials": 20}))
        grow(store, name, trials, harvest=True)
    return store


class Visitor:
    """A page that stays open: it sends back what it was told to keep."""

    def __init__(self, store: StudyStore) -> None:
        self.app = create_app(store)
        self.client = self.app.server.test_client()
        self.values: dict[str, Any] = {
            "studies-search.value": "", "studies-sort.value": "name", "studies-share.value": "0.25",
            "studies-archived.value": [],
        }  # fmt: skip

    def ask(self, pressed: str = "studies-poll", **changed: Any) -> dict[str, Any] | None:
        self.values |= {f"studies-{key}.value": value for key, value in changed.items()}
        answer = call(self.app, self.client, "studies-table.children", self.values, pressed)
        if answer.status_code == 204:
            return None
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json["response"]
        self.values["studies-seen.data"] = found["studies-seen"]["data"]
        return found


def names_in(found: dict[str, Any] | None) -> list[str]:
    assert found is not None
    return re.findall(r'"href": "/study/(\w+)"', json.dumps(found["studies-table"]))


def test_studies_are_searched_and_sorted_and_the_address_follows(store: StudyStore) -> None:
    visitor = Visitor(store)
    first = visitor.ask()
    assert names_in(first) == ["apple", "pear", "plum"]
    assert first is not None
    assert "url" not in first  # the address was right as it was
    assert "3 studies, 0 workers" in first["studies-status"]["children"]
    found = visitor.ask("studies-sort", sort="evaluations")
    assert names_in(found) == ["pear", "apple", "plum"]
    assert found is not None
    assert found["url"] == {"search": "?sort=evaluations"}
    found = visitor.ask("studies-search", search="P", sort="name")
    assert names_in(found) == ["apple", "pear", "plum"]
    assert names_in(visitor.ask("studies-search", search=" plu ")) == ["plum"]
    found = visitor.ask("studies-search", search="quince")
    assert found is not None
    assert "No name contains" in json.dumps(found["studies-table"])


def test_a_page_with_nothing_new_is_told_nothing(store: StudyStore) -> None:
    visitor = Visitor(store)
    assert visitor.ask() is not None
    assert visitor.ask() is None
    grow(store, "plum", 1, harvest=True)
    assert visitor.ask() is not None
    assert visitor.ask() is None
    registration = Registration(store.claims, "new-worker")
    try:
        found = visitor.ask()
        assert found is not None
        assert "new-worker" in json.dumps(found["studies-workers"])
        assert visitor.ask() is None
    finally:
        registration.close()


def test_a_study_that_nobody_can_serve_says_why_until_somebody_can(store: StudyStore) -> None:
    """Who lives changes no study's revision: what is blocked is seen all the same."""
    visitor, why = Visitor(store), "OSError: the share is not mounted"
    study, snapshots = store.get("plum").id, Snapshots(store)
    broken = Registration(store.claims, "broken")
    assert visitor.ask() is not None
    refuse(store.database, study, "broken", why)
    found = visitor.ask()
    assert f"blocked: {why}" in json.dumps(found)
    assert f"plum: {why}" in json.dumps((found or {})["studies-workers"])
    assert progress_words(snapshots.get("plum")).startswith("Blocked (0 of 20 trials, ")
    assert f"{why}; mend that" in progress_words(snapshots.get("plum"))
    assert visitor.ask() is None

    sane = Registration(store.claims, "sane")
    found = visitor.ask()
    assert found is not None
    assert "blocked" not in json.dumps(found)
    assert snapshots.get("plum").progress.blocked is None
    sane.close()
    assert snapshots.get("plum").progress.blocked == why
    other = Registration(store.claims, "other", serves="apple")
    assert snapshots.get("plum").progress.blocked == why
    other.close()
    store.retry(study)
    assert snapshots.get("plum").progress.blocked is None
    broken.close()


def test_a_choice_made_while_the_database_is_away_reaches_the_address(
    store: StudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = Visitor(store)
    visitor.ask()

    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the database is away: start it")

    with monkeypatch.context() as patched:
        patched.setattr(Snapshots, "all", away)
        found = visitor.ask("studies-sort", sort="progress")
        assert found is not None
        assert found["studies-status"]["className"] == "stale"
        assert "start it" in found["studies-status"]["children"]
    found = visitor.ask()
    assert found is not None
    assert found["url"] == {"search": "?sort=progress"}
    assert found["studies-status"]["className"] == ""


def test_archived_studies_are_shown_when_asked_for(store: StudyStore) -> None:
    visitor = Visitor(store)
    visitor.ask()
    store.set_archived(store.get("pear").id, True)
    assert names_in(visitor.ask()) == ["apple", "plum"]
    assert names_in(visitor.ask("studies-archived", archived=["archived"])) == [
        "apple", "pear", "plum",
    ]  # fmt: skip


def test_archiving_from_a_page_from_before_touches_no_other_study_of_that_name(
    store: StudyStore, make_record: MakeRecord
) -> None:
    visitor = Visitor(store)
    first = visitor.ask()
    assert first is not None
    old = store.get("plum").id
    button = {"archived": True, "study": old, "type": "studies-archive"}
    assert json.dumps(button) in json.dumps(first["studies-table"], sort_keys=True)

    def press() -> str:
        answer = call(visitor.app, visitor.client, "studies-done.children",
                      {"studies-archive.n_clicks": [(button, 1)]}, button)  # fmt: skip
        assert answer.json is not None
        return str(answer.json["response"]["studies-done"]["children"])

    store.delete(old)
    store.create(make_record(name="plum", budget={"trials": 20}))
    assert f"number {old} of this store) has been deleted" in press()
    assert store.names() == ["apple", "pear", "plum"]
    assert visitor.ask() is not None  # the row is another study's now, with a button of its own
    button["study"] = store.get("plum").id
    assert press() == "study 'plum' is archived: workers leave it alone"
    assert store.names() == ["apple", "pear"]


def test_many_studies_are_shown_while_they_are_read(store: StudyStore) -> None:
    snapshots = Snapshots(store)
    assert list(snapshots.all(patience_s=0).values()) == [None] * 3
    known = snapshots.get("pear")
    found = snapshots.all(patience_s=0)
    assert found == {"apple": None, "pear": known, "plum": None}
    ordered = page.order(found, "", "hypervolume")
    assert [name for name, _ in ordered] == ["pear", "apple", "plum"]
    whole = snapshots.all()
    assert whole["pear"] is known
    assert all(whole.values())
    # What is known may be older, and is read on with the next look.
    grow(store, "pear", 1, harvest=True)
    assert snapshots.all(patience_s=0)["pear"] is known
    grown = snapshots.all()["pear"]
    assert grown is not None
    assert len(grown.rows) == len(known.rows) + 2


def test_the_best_under_a_share_is_the_best_of_all(store: StudyStore) -> None:
    snapshot = Snapshots(store).get("pear")
    for share in np.linspace(0.01, 1, 40):
        limit = snapshot.summary.w8a8_gbops * share
        index = best_under(snapshot.points, limit)
        words = page.best_words(snapshot, float(share))
        if index is None:
            assert words.startswith("none")
        else:
            row = snapshot.rows[index]
            assert words == f"{row.value:.4f} at {row.gbops:.3f}"


def at_times(snapshot: Snapshot, times: list[float]) -> Snapshot:
    """The snapshot as if its trials had ended then, each with two evaluations."""
    return replace(snapshot, times=np.repeat(times, 2))


def test_the_pace_is_that_of_the_last_trials(store: StudyStore) -> None:
    snapshot = Snapshots(store).get("pear")
    steady = at_times(snapshot, [100 + 4 * i for i in range(9)])
    assert steady.pace == pytest.approx(1 / 4)
    assert page.pace_words(steady, 1) == "15 a minute, about 0:44 left"
    assert page.pace_words(steady, 0) == ""
    done = replace(steady, progress=replace(steady.progress, budget=9))
    assert page.pace_words(done, 1) == ""
    assert Snapshots(store).get("plum").pace is None
    at_once = at_times(snapshot, [100.0] * 9)
    assert at_once.pace is None


def test_the_sparkline_ends_where_the_course_ends(store: StudyStore) -> None:
    for name in ("pear", "plum"):
        snapshot = Snapshots(store).get(name)
        image = page.sparkline(snapshot)
        corners = re.findall(r"([\d.]+),([\d.]+)", image.src.split("points='")[1].split("'")[0])
        assert float(corners[-1][0]) == 88
        assert float(corners[-1][1]) == 2
        assert f"{snapshot.hypervolume:.4f}" in image.alt
