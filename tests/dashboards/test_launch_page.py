"""The launch page and what stands behind it: the file's own checks, and real child processes."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from dash import Dash, dcc
from dash_client import call
from flask.testing import FlaskClient
from playwright.sync_api import Page, expect
from running import command_env
from small_study import open_names, take

from dashboards import actions
from dashboards.actions import (
    KEPT_SUBMISSIONS,
    MAX_AT_ONCE,
    MAX_TEXT,
    StudyActions,
    Submission,
    preset_text,
)
from dashboards.app import create_app
from dashboards.pages.launch.parts import open_list, progress_words, submissions_list, whole
from search.errors import BadInput
from studies.config import MAX_TRIALS
from studies.config_file import load_config, preset_names
from studies.records import Progress, Study, StudyGone, StudyRecord, StudyVersion
from studies.store.writer import StudyStore

GOOD = """
name = "mine"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "fashion"
"""
PYTHON = sys.executable  # tests put another in its place
MARKUP = "<img src=x onerror=alert(1)> & 'a.b' \"c\""


@pytest.fixture
def store(tmp_path: Path, make_record: Callable[..., StudyRecord]) -> StudyStore:
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    store.create(make_record())
    return store


@pytest.fixture
def study_actions(
    store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StudyActions]:
    """With a folder for temporary files of its own, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    study_actions = StudyActions(store)
    yield study_actions
    study_actions.close()
    assert list(folder.iterdir()) == []


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a script in the place of the interpreter; it first notes how it was called."""
    notes = tmp_path / "notes"
    notes.mkdir()

    def use(script: str) -> Path:
        file = tmp_path / "python"
        file.write_text(
            f'#!/bin/sh\nfor last; do case "$last" in *.toml) text=$last;; esac; done\n'
            f'printf "%s\\n" "$@" > {notes}/arguments.$$\nenv > {notes}/environment.$$\n'
            f'stat -c %a "$(dirname "$text")" > {notes}/mode.$$\ncp "$text" {notes}/text.$$\n'
            f"{script}\n"
        )
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(actions.sys, "executable", str(file))
        return notes

    return use


def noted(notes: Path, what: str) -> str:
    (file,) = notes.glob(f"{what}.*")
    return file.read_text()


def ended(study_actions: StudyActions, patience_s: float = 30) -> list[Submission]:
    deadline = time.monotonic() + patience_s
    while any(one.state == "measuring" for one in study_actions.submissions()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return study_actions.submissions()


def in_text(name: str) -> str:
    return GOOD.replace('"mine"', json.dumps(name))


# Checking


def test_every_preset_can_be_submitted_as_it_is_shown(study_actions: StudyActions) -> None:
    for name in preset_names():
        assert study_actions.check(preset_text(name), None, None) == load_config(name)


@pytest.mark.parametrize("name", ["", "nothing", "../config", "../presets/fashion", "fashion.toml"])
def test_only_presets_are_shown(name: str) -> None:
    with pytest.raises(BadInput, match=re.escape(repr(name))):
        preset_text(name)


@pytest.mark.parametrize(
    ("addition", "name", "trials"),
    [
        ("[sampler]\nnmae = 'tpe'", None, None),
        ("[sampler]\nname = 'cma'", None, None),
        ("[space]\nweight_bits = [4, 9]", None, None),
        ("[space]\nthresholds = [nan, 1.0]", None, None),
        ("[anchors]\nbits = [32]", None, None),
        ("[budget]\ntrials = 0", None, None),
        ("[[sampler]]", None, None),
        ("[broken", None, None),
        ("", "", None),
        ("", "x" * 101, None),
        ("", "a\x00b", None),
        ("", None, MAX_TRIALS + 1),
        ("budget = 3", None, 5),
    ],
)
def test_the_form_refuses_in_the_files_own_words(
    study_actions: StudyActions, tmp_path: Path, addition: str, name: str | None, trials: int | None
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(GOOD + addition)
    with pytest.raises(BadInput) as by_file:
        load_config(str(file), name=name, trials=trials)
    with pytest.raises(BadInput) as by_form:
        study_actions.check(GOOD + addition, name, trials)
    assert str(by_form.value) == str(by_file.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = " + "[" * 8_000, "cannot be read"),
        ("x = " + "9" * 5000, "cannot be read"),
        (GOOD.replace("bundled:fashion", "~nobody-of-that-name/x"), "cannot be read"),
        (GOOD + "# \ud800", "holds"),
        ("#" * (MAX_TEXT + 1), f"at most {MAX_TEXT}"),
        ("", "'name' is missing"),
    ],
)
def test_texts_that_break_readers_are_refused_in_one_line(
    study_actions: StudyActions, text: str, why: str
) -> None:
    with pytest.raises(BadInput, match=why) as caught:
        study_actions.check(text, None, None)
    assert "\n" not in str(caught.value)
    assert tempfile.gettempdir() not in str(caught.value)


@pytest.mark.parametrize("path", ["mine.safetensors", "./a/b", "../../etc/x", "", "bundle:fashion"])
def test_relative_paths_are_refused_and_named(study_actions: StudyActions, path: str) -> None:
    for key, text in (
        ("model.checkpoint", GOOD.replace("bundled:fashion", path)),
        ("data.path", GOOD + f"path = {json.dumps(path)}"),
    ):
        with pytest.raises(BadInput, match=rf"{key} .*relative: give the whole path") as caught:
            study_actions.check(text, None, None)
        assert tempfile.gettempdir() not in str(caught.value)
        assert f"{key} {path.removeprefix('./')!r} is" in str(caught.value)


def test_whole_paths_stay_as_they_are(study_actions: StudyActions) -> None:
    text = GOOD.replace("bundled:fashion", "/models/mine.safetensors") + 'path = "~/images"'
    config = study_actions.check(text, "other", 7)
    assert config.model.checkpoint == "/models/mine.safetensors"
    assert config.data.path == str(Path("~/images").expanduser())
    assert (config.name, config.budget.trials) == ("other", 7)


def test_a_name_that_is_taken_is_told_before_anything_is_measured(
    study_actions: StudyActions, command: Callable[[str], Path]
) -> None:
    notes = command("exit 0")
    with pytest.raises(BadInput, match=r"'small' exists with another configuration \(sampler"):
        study_actions.submit(in_text("small"), None, None)
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "number"), [(None, None), ("", None), ("  ", None), ("1", 1), (" 24 ", 24), (7, 7)]
)
def test_numbers_are_read_as_they_are_typed(typed: object, number: int | None) -> None:
    assert whole(typed) == number


@pytest.mark.parametrize(
    "typed", ["0", "-1", "1.5", "1e3", "abc", "٣", "1_000", "9" * 400, MAX_TRIALS + 1, {"a": 1}]
)
def test_what_is_no_number_of_trials_is_refused(typed: object) -> None:
    with pytest.raises(BadInput, match=f"trials = .*from 1 to {MAX_TRIALS}") as caught:
        whole(typed)
    assert len(str(caught.value)) < 200


# Submitting


def test_the_command_gets_the_text_and_no_secret_in_its_arguments(
    tmp_path: Path,
    store: StudyStore,
    study_actions: StudyActions,
    command: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = command("echo 'study --store=x: budget 9 trials'")
    monkeypatch.setenv("EXITBITS_STORE", "another")
    monkeypatch.setenv("EXITBITS_DB_PASSWORD", "hidden")
    store.address = "postgresql://user:hidden@host/base"
    given = study_actions.submit(GOOD, "--store=x", 9)
    assert (given.number, given.study, given.state) == (1, "--store=x", "measuring")
    assert ended(study_actions) == [
        Submission(1, "--store=x", "done", "study --store=x: budget 9 trials")
    ]
    arguments = noted(notes, "arguments").splitlines()
    assert arguments[:4] == ["-P", "-m", "studies.cli", "submit"]
    assert arguments[5:] == ["--name=--store=x", "--trials=9"]
    assert "hidden" not in noted(notes, "arguments")
    environment = noted(notes, "environment").splitlines()
    assert "EXITBITS_STORE=postgresql://user:hidden@host/base" in environment
    assert "EXITBITS_DB_PASSWORD=hidden" in environment
    assert noted(notes, "text") == GOOD
    assert noted(notes, "mode") == "700\n"


def test_name_and_trials_may_stay_as_the_text_says(
    study_actions: StudyActions, command: Callable[[str], Path]
) -> None:
    notes = command("exit 0")
    study_actions.submit(GOOD, None, None)
    ended(study_actions)
    assert len(noted(notes, "arguments").splitlines()) == 5


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo progress >&2; echo exitbits: no such model >&2; exit 2", "no such model"),
        ('echo "exitbits: cannot read $text" >&2; exit 2', "cannot read study.toml"),
        ('echo "exitbits: in $(dirname $text)" >&2; exit 1', "in "),
        ("exit 7", "it ended with code 7 and printed nothing"),
        ("kill -9 $$", "it was killed by signal 9 (out of memory?)"),
        ("kill -15 $$", "it was killed by signal 15"),
        ("yes long line | head -c 300000 >&2; printf '\\377 end\\n' >&2; exit 1", "\ufffd end"),
    ],
)
def test_what_a_child_says_is_told_in_one_line(
    study_actions: StudyActions, command: Callable[[str], Path], script: str, words: str
) -> None:
    command(script)
    study_actions.submit(GOOD, None, None)
    (found,) = ended(study_actions)
    assert (found.state, found.words) == ("failed", words)


def test_few_run_at_once_and_none_twice(
    study_actions: StudyActions, tmp_path: Path, command: Callable[[str], Path]
) -> None:
    gate = tmp_path / "gate"
    command(f"while [ ! -e {gate} ]; do sleep 0.02; done; echo done")
    for number in range(MAX_AT_ONCE):
        study_actions.submit(in_text(f"study {number}"), None, None)
    with pytest.raises(BadInput, match="'study 0' is being submitted already"):
        study_actions.submit(in_text("study 0"), None, None)
    with pytest.raises(BadInput, match=f"at most {MAX_AT_ONCE} at once"):
        study_actions.submit(in_text("another"), None, None)
    assert [one.state for one in study_actions.submissions()] == ["measuring"] * MAX_AT_ONCE
    gate.touch()
    assert {one.state for one in ended(study_actions)} == {"done"}
    study_actions.submit(in_text("another"), None, None)
    assert [one.study for one in ended(study_actions)] == ["another", "study 1", "study 0"]


def test_the_last_submissions_are_kept(
    study_actions: StudyActions, command: Callable[[str], Path]
) -> None:
    command("echo done")
    for number in range(KEPT_SUBMISSIONS + 2):
        study_actions.submit(in_text(f"study {number}"), None, None)
        ended(study_actions)
    assert [one.number for one in study_actions.submissions()] == list(
        range(KEPT_SUBMISSIONS + 2, 2, -1)
    )


def alive(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def gone(pids: list[int]) -> bool:
    """Whether all have ended, after a while: the system takes its time for it."""
    deadline = time.monotonic() + 30
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pids)


def wait_for(file: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text().endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(word) for word in file.read_text().split()]


STUBBORN = "trap '' TERM; sleep 300 & echo $$ $! > {}; wait; wait"


@pytest.mark.parametrize("script", ["sleep 300 & echo $$ $! > {}; wait", STUBBORN])
def test_children_and_theirs_end_with_the_dashboard(
    study_actions: StudyActions, tmp_path: Path, command: Callable[[str], Path], script: str
) -> None:
    command(script.format(tmp_path / "pids"))
    study_actions.submit(GOOD, None, None)
    pids = wait_for(tmp_path / "pids")
    assert len(alive(pids)) == 2
    study_actions.close()
    assert gone(pids)
    (found,) = study_actions.submissions()
    assert (found.state, found.words) == ("failed", "the dashboard ended before it was measured")
    with pytest.raises(BadInput, match="is ending"):
        study_actions.submit(GOOD, None, None)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_server_ends_its_children_and_no_others(
    tmp_path: Path, store: StudyStore, command: Callable[[str], Path], number: int
) -> None:
    script = f"""
import signal, sys, time
from dashboards.actions import StudyActions
from studies.store.writer import StudyStore
signal.signal(signal.SIGTERM, signal.default_int_handler)
study_actions = StudyActions(StudyStore({store.address!r}))
sys.executable = {str(tmp_path / "python")!r}
study_actions.submit({GOOD!r}, None, None)
time.sleep(300)
"""
    command(f"sleep 300 & echo $$ $! > {tmp_path}/pids; wait")
    other = subprocess.Popen(["sleep", "300"])
    server = subprocess.Popen(
        [PYTHON, "-c", script],
        env={**command_env(), "TMPDIR": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    pids = wait_for(tmp_path / "pids")
    assert len(alive(pids)) == 2
    server.send_signal(number)
    server.wait(30)
    assert gone(pids)
    assert alive([other.pid])
    assert list(tmp_path.glob("exitbits-*")) == []
    other.kill()
    other.wait()


def test_the_real_command_measures_and_adds_the_study(
    study_actions: StudyActions,
    store: StudyStore,
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("EXITBITS_CACHE", str(shared_cache))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "studies").mkdir(parents=True)
    (elsewhere / "studies" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(elsewhere)  # nothing of the working folder is imported
    study_actions.submit(preset_text("fashion"), "from the form", 9)
    (found,) = ended(study_actions, patience_s=240)
    assert (found.state, found.words) == ("done", "study from the form: budget 9 trials")
    record = store.get("from the form").record
    assert record.config == load_config("fashion", name="from the form", trials=9)
    assert 0.9 < record.reference_value < 0.95
    assert open_names(store) == ["small", "from the form"]


# Changing what is there


def test_what_was_changed_is_said_in_one_line(
    study_actions: StudyActions, store: StudyStore
) -> None:
    for _ in range(2):
        take(store, "small", "tester")
    small = store.get("small").id
    assert study_actions.stop(small) == (
        "study 'small' ends at 2 trials; 2 trials in hand will be finished"
    )
    assert take(store, "small", "tester") is None
    assert study_actions.raise_budget(small, 5) == "study 'small' goes on to 5 trials"
    assert take(store, "small", "tester") is not None
    assert study_actions.set_archived(small, True).startswith("study 'small' is archived")
    assert store.names() == []
    assert study_actions.set_archived(small, False) == "study 'small' is back"
    assert store.names() == ["small"]


def test_what_cannot_be_changed_is_refused(study_actions: StudyActions, store: StudyStore) -> None:
    small = store.get("small").id
    with pytest.raises(BadInput, match="has not begun"):
        study_actions.stop(small)
    for trials in (3, 12):
        with pytest.raises(BadInput, match=f"budget of 12 trials: {trials} is no more"):
            study_actions.raise_budget(small, trials)
    steps: list[Callable[[], str]] = [
        lambda: study_actions.stop(99),
        lambda: study_actions.raise_budget(99, 5),
        lambda: study_actions.set_archived(99, True),
    ]
    for step in steps:
        with pytest.raises(StudyGone, match="number 99 of this store"):
            step()
    assert store.get("small").record.config.budget.trials == 12


# The page


@pytest.fixture
def app(store: StudyStore) -> Dash:
    return create_app(store)


@pytest.fixture
def client(app: Dash) -> FlaskClient:
    return app.server.test_client()


def key(kind: str, study: Study) -> dict[str, Any]:
    return {"study": study.id, "type": kind}


def said(answer: Any, of: str) -> str:
    """The text of a callback's answer."""
    assert answer.status_code == 200
    return texts(answer.json["response"][of]["children"])


def texts(component: Any) -> str:
    """All text of a component or of its JSON."""
    if component is None or isinstance(component, (str, int, float)):
        return str(component or "")
    if isinstance(component, (list, tuple)):
        return "".join(map(texts, component))
    if isinstance(component, dict):
        return texts(component["props"].get("children"))
    return texts(getattr(component, "children", None))


def answered(app: Dash, client: FlaskClient, button: str, **fields: str) -> str:
    values = {f"launch-{name}.value": value for name, value in fields.items()}
    values[f"{button}.n_clicks"] = 1
    return said(call(app, client, "launch-answer.children", values, button), "launch-answer")


def test_the_form_checks_and_says_what_it_read(app: Dash, client: FlaskClient) -> None:
    words = answered(app, client, "launch-check", text=GOOD, name=" mine too ", trials="30")
    assert "Valid: study 'mine too' of bundled:fashion on fashion" in words
    assert "30 trials with 5 anchors" in words
    words = answered(app, client, "launch-check", text=GOOD + "[sampler]\nnmae = 1", name="")
    assert words == "study.toml: unknown key 'sampler.nmae': allowed are name, seed"
    words = answered(app, client, "launch-check", text=GOOD, trials="many")
    assert words.startswith("trials = 'many': give a whole number")


def test_the_form_submits(app: Dash, client: FlaskClient, command: Callable[[str], Path]) -> None:
    notes = command("echo 'study mine: budget 5 trials'")
    words = answered(app, client, "launch-submit", text=GOOD, trials="5")
    assert words == "Submitting study 'mine'."
    deadline = time.monotonic() + 30
    while "measuring" in (words := listed(app, client)):
        assert time.monotonic() < deadline
    assert words == (
        "study mine: budget 5 trials. Open its page. No worker is alive: run exitbits worker on "
        "this store."
    )
    assert noted(notes, "text") == GOOD
    words = answered(app, client, "launch-submit", text="name = 1")
    assert words == "study.toml: name = 1: Input should be a valid string"
    assert listed(app, client).count("Open its page") == 1


def listed(app: Dash, client: FlaskClient) -> str:
    answer = call(app, client, "launch-submissions.children", {}, "launch-poll")
    return said(answer, "launch-submissions")


def test_the_preset_can_be_filled_in_again(app: Dash, client: FlaskClient) -> None:
    button = {"name": "fashion", "type": "launch-preset"}
    pressed = {"launch-preset.n_clicks": [(button, 2)]}
    answer = call(app, client, "launch-text.value", pressed, button)
    assert answer.json is not None
    assert answer.json["response"]["launch-text"]["value"] == preset_text("fashion")


def change(app: Dash, client: FlaskClient, pressed: Any, values: dict[str, Any]) -> Any:
    return call(app, client, "launch-done.children", values, pressed)


@pytest.mark.parametrize("name", ["small", MARKUP, "..", "{}", "a.n_clicks", "ü 漢"])
def test_each_open_study_has_a_stop_and_a_raise_of_its_own(
    app: Dash,
    client: FlaskClient,
    store: StudyStore,
    make_record: Callable[..., StudyRecord],
    name: str,
) -> None:
    for each in {name, "other"}:
        store.create(make_record(name=each))
        assert take(store, each, "tester")
    study, other = store.get(name), store.get("other")
    stop, more, field = (key(f"launch-{one}", study) for one in ("stop", "raise", "trials"))
    words = said(change(app, client, stop, {"launch-stop.n_clicks": [(stop, 1)]}), "launch-done")
    assert words == f"study {name!r} ends at 1 trial; 1 trial in hand will be finished"
    typed = [(key("launch-trials", other), "99"), (field, " 15 ")]
    values = {
        "launch-raise.n_clicks": [(more, 1)],
        "launch-trials.id": [(one, one) for one, _ in typed],
        "launch-trials.value": typed,
    }
    assert said(change(app, client, more, values), "launch-done") == (
        f"study {name!r} goes on to 15 trials"
    )
    assert store.get(name).record.config.budget.trials == 15
    assert store.get("other").record.config.budget.trials == 12
    values["launch-trials.value"] = [(field, "1.5")]
    values["launch-trials.id"] = [(field, field)]
    assert "trials = '1.5'" in said(change(app, client, more, values), "launch-done")


def test_a_page_from_before_changes_no_other_study_of_that_name(
    app: Dash,
    client: FlaskClient,
    store: StudyStore,
    make_record: Callable[..., StudyRecord],
) -> None:
    old = store.get("small")
    store.delete(old.id)
    store.create(make_record(name="small"))
    assert take(store, "small", "tester")
    stop, more, field = (key(f"launch-{one}", old) for one in ("stop", "raise", "trials"))
    values = {
        "launch-stop.n_clicks": [(stop, 1)],
        "launch-raise.n_clicks": [(more, 1)],
        "launch-trials.id": [(field, field)],
        "launch-trials.value": [(field, "15")],
    }
    for pressed in (stop, more):
        assert f"number {old.id} of this store) has been deleted" in said(
            change(app, client, pressed, values), "launch-done"
        )
    assert store.get("small").record.config.budget.trials == 12
    # The page takes the new study for a new row, although its name is the same.
    answer = call(app, client, "launch-open.children",
                  {"launch-open-studies.data": [[old.id, "small"]]}, "launch-poll")  # fmt: skip
    assert "launch-open" in answer.json["response"]


def test_rows_that_come_or_go_press_no_button(
    app: Dash, client: FlaskClient, store: StudyStore
) -> None:
    assert take(store, "small", "tester")
    stop = key("launch-stop", store.get("small"))
    for clicks in (None, 0):
        values = {"launch-stop.n_clicks": [(stop, clicks)]}
        assert change(app, client, stop, values).status_code == 204
    assert store.get("small").record.config.budget.trials == 12


def test_a_stopped_study_goes_on_by_its_name(
    app: Dash, client: FlaskClient, store: StudyStore
) -> None:
    assert take(store, "small", "tester")
    store.stop(store.get("small").id)
    values: dict[str, Any] = {"launch-ended-raise.n_clicks": 1}
    assert "no study is chosen" in said(
        change(app, client, "launch-ended-raise", values), "launch-done"
    )
    values["launch-ended.value"] = "small"
    assert "no number of trials" in said(
        change(app, client, "launch-ended-raise", values), "launch-done"
    )
    values["launch-ended-trials.value"] = "8"
    assert said(change(app, client, "launch-ended-raise", values), "launch-done") == (
        "study 'small' goes on to 8 trials"
    )
    assert open_names(store) == ["small"]


def test_what_is_typed_stays_while_the_studies_stay(
    app: Dash, client: FlaskClient, store: StudyStore
) -> None:
    answer = call(app, client, "launch-open.children", {}, "launch-poll")
    assert answer.json is not None
    shown = answer.json["response"]["launch-open-studies"]["data"]
    assert shown == [[store.get("small").id, "small"]]
    again = call(
        app, client, "launch-open.children", {"launch-open-studies.data": shown}, "launch-poll"
    )
    assert again.json is not None
    assert "launch-open" not in again.json["response"]
    assert take(store, "small", "tester")
    cell = key("launch-state", store.get("small"))
    states = call(app, client, "launch-state.children", {"launch-state.id": [(cell, cell)]},
                  "launch-poll")  # fmt: skip
    assert "0 of 12 trials, 1 running" in states.get_data(as_text=True)


def test_a_database_that_is_away_is_said(
    app: Dash, client: FlaskClient, store: StudyStore, tmp_path: Path
) -> None:
    store.database.engine.dispose()
    for file in tmp_path.glob("s.db*"):
        file.unlink()
    (tmp_path / "s.db").mkdir()
    answer = call(app, client, "launch-open.children", {}, "launch-poll")
    assert "cannot open store" in said(answer, "launch-open")
    assert listed(app, client) == "None since the dashboard was started."
    assert "cannot open store" in answered(app, client, "launch-check", text=GOOD)


def test_names_are_text_in_every_list() -> None:
    found = [
        Submission(3, MARKUP, "done", f"study {MARKUP}: budget 5 trials"),
        Submission(2, MARKUP),
        Submission(1, MARKUP, "failed", "no such model"),
    ]
    rows = [(StudyVersion(MARKUP, 1, 0), Progress(12, 3, 1, 1, 0))]
    for component in (submissions_list(found, 0), open_list(rows, 2)):
        names = {type(one).__name__ for one in component._traverse()}
        assert not names & {"Markdown", "DangerouslySetInnerHTML", "Iframe"}
        links = [one for one in component._traverse() if isinstance(one, dcc.Link)]
        assert [link.href for link in links] == [
            "/study/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%20%26%20%27a.b%27%20%22c%22"
        ]
        assert MARKUP in texts(component)
    assert "2 more open studies are not shown" in texts(open_list(rows, 2))
    assert progress_words(rows[0][1]) == "4 of 12 trials, 1 failed, 1 running"


def test_one_is_told_to_start_a_worker_only_where_there_is_none() -> None:
    found = [Submission(1, "mine", "done", "study mine: budget 5 trials")]
    assert "No worker is alive: run exitbits worker" in texts(submissions_list(found, 0))
    assert "worker" not in texts(submissions_list(found, 1))
    assert "worker" not in texts(submissions_list([Submission(1, "mine")], 0))


def test_a_study_is_checked_stopped_and_raised_in_a_browser(
    serve: Callable[..., str],
    quiet_page: Page,
    store: StudyStore,
    make_record: Callable[..., StudyRecord],
) -> None:
    store.create(make_record(name=MARKUP))
    assert take(store, MARKUP, "tester")
    page = quiet_page
    page.goto(f"{serve(store.address)}/launch")
    expect(page.get_by_label("Study, in TOML")).to_have_value(preset_text("fashion"))
    page.get_by_label("Trials (empty").fill("x")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#launch-answer")).to_contain_text("trials = 'x'")
    page.get_by_label("Trials (empty").fill("30")
    page.get_by_role("button", name="Check").click()
    expect(page.locator("#launch-answer")).to_contain_text("Valid: study 'fashion'")
    group = page.get_by_role("group", name=MARKUP, exact=True)
    field = group.get_by_label("to trials")
    field.fill("20")
    take(store, MARKUP, "tester")
    expect(group).to_contain_text("2 running", timeout=10_000)
    expect(field).to_have_value("20")  # the row was brought up to date around it
    page.get_by_role("button", name=f"Raise the budget of {MARKUP}").click()
    expect(page.locator("#launch-done")).to_contain_text("goes on to 20 trials")
    page.get_by_role("button", name=f"Stop {MARKUP}").click()
    expect(page.locator("#launch-done")).to_contain_text("ends at 2 trials")
    expect(group).to_have_count(0)
    assert store.get(MARKUP).record.config.budget.trials == 2
    page.get_by_label("Study", exact=True).fill(MARKUP)
    page.get_by_label("Trials", exact=True).fill("4")
    page.get_by_role("button", name="Raise its budget").click()
    expect(group).to_contain_text("0 of 4 trials")
    assert store.get(MARKUP).record.config.budget.trials == 4
