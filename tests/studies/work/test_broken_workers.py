"""A worker or a machine that is broken eats no budget: trials go back, and everybody hears why."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import FaultyFleet
from fleet import wait_for
from running import command_line

from studies.records import Progress
from studies.store.writer import StudyStore

Make = Callable[..., FaultyFleet]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FaultyFleet]:
    made = FaultyFleet(tmp_path, f"sqlite:///{tmp_path}/store.db", tmp_path / "cache")
    yield made
    made.close()


def launch(fleet: FaultyFleet, study: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_line(["launch", study, "--workers", "1", "--cache", fleet.cache, *more]),
        cwd=fleet.folder, env=fleet.environment(), text=True, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip


def progress_of(fleet: FaultyFleet, name: str) -> Progress:
    store = StudyStore(fleet.address)
    return store.progress(store.get(name).id)


def trials_of(fleet: FaultyFleet, name: str) -> Counter[int | None]:
    store = StudyStore(fleet.address)
    return Counter(row.trial for row in store.evaluations(store.get(name).id))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("open ImportError no module named sharp", "ImportError: no module named sharp"),
        ("read ValueError not a PNG", "samples of split 'search' cannot be read (ValueError: not"),
        ("run RuntimeError the accelerator is lost", "RuntimeError: the accelerator is lost"),
        ("run OSError it is on fire", "OSError: it is on fire"),
    ],
    ids=["a missing library", "an image", "an accelerator", "a disk"],
)
def test_a_study_that_no_worker_can_serve_is_blocked_and_goes_on_once_mended(
    fleet: FaultyFleet, fault: str, words: str
) -> None:
    study = fleet.study("small", 6)
    fleet.submit("small", 6)
    fleet.break_at(fault)
    ended = launch(fleet, study)
    assert ended.returncode == 1, ended.stderr
    line = ended.stderr.strip().splitlines()[-1]
    assert "study 'small' is blocked after 0 of 6 trials" in line
    assert words in line
    assert "Traceback" not in ended.stderr

    progress = progress_of(fleet, "small")
    assert (progress.failed, progress.running, progress.lost) == (0, 0, 0)
    (shown,) = json.loads(fleet.run("status", "--json"))["studies"]
    assert words in shown["blocked"]
    assert "small is blocked" in fleet.run("status")
    assert "0/6 blocked" in fleet.run("status")
    (log,) = fleet.cache.glob("worker.log")
    assert words in log.read_text()

    fleet.break_at()
    assert launch(fleet, study).returncode == 0
    assert trials_of(fleet, "small") == Counter(range(6))
    progress = progress_of(fleet, "small")
    assert (progress.finished, progress.failed, progress.lost) == (6, 0, 0)
    (shown,) = json.loads(fleet.run("status", "--json"))["studies"]
    assert shown["blocked"] is None


def test_a_launch_that_cannot_open_a_study_says_why_in_one_line(fleet: FaultyFleet) -> None:
    fleet.break_at("data ImportError no module named sharp")
    for _ in range(2):  # a new study, and one that is there
        ended = launch(fleet, fleet.study("small", 6))
        assert ended.returncode == 1
        line = ended.stderr.strip().splitlines()[-1]
        words = "study 'small' cannot be opened here: ImportError: no module named sharp"
        assert line == f"exitbits: {words}"
        assert "Traceback" not in ended.stderr
        fleet.break_at()
        fleet.submit("small", 6)
        fleet.break_at("data ImportError no module named sharp")
    assert progress_of(fleet, "small").failed == 0


def test_a_broken_worker_leaves_its_studies_to_others(fleet: FaultyFleet) -> None:
    fleet.submit("small", 6)
    fleet.break_at("run RuntimeError the accelerator is lost")
    fleet.worker("broken")
    wait_for(lambda: "is left to others" in fleet.log("broken"), "the broken one to give up")
    assert fleet.log("broken").count("whatever the policy: RuntimeError: the acc") == 2
    wait_for(lambda: progress_of(fleet, "small").blocked, "the store to know")
    assert progress_of(fleet, "small").blocked == "RuntimeError: the accelerator is lost"

    fleet.faults = fleet.folder / "none"
    fleet.worker("sane")
    wait_for(lambda: progress_of(fleet, "small").done, "the sane one to do it all")
    assert trials_of(fleet, "small") == Counter(range(6))
    progress = progress_of(fleet, "small")
    assert (progress.failed, progress.lost, progress.blocked) == (0, 0, None)
    shown = json.loads(fleet.run("status", "--json"))
    refuses = {worker["name"]: worker["refuses"] for worker in shown["workers"]}
    assert refuses == {"broken": {"small": "RuntimeError: the accelerator is lost"}, "sane": {}}
    assert "broken has given small up: RuntimeError: the acc" in fleet.run("status")


def test_a_policys_failure_is_its_trials_result_and_can_be_tried_again(fleet: FaultyFleet) -> None:
    fleet.submit("small", 4, bits="[2, 8]")
    fleet.break_at("bits RuntimeError 2 bits break it")
    assert fleet.worker("ann", "--until-done").wait(60) == 0
    progress = progress_of(fleet, "small")
    assert (progress.finished, progress.failed, progress.blocked) == (2, 2, None)
    store = StudyStore(fleet.address)
    study = store.get("small").id
    why = "RuntimeError: 2 bits break it"
    assert store.failures(study) == [(0, why), (1, why)]
    assert "trial 0 of small failed: RuntimeError: 2 bits" in fleet.log("ann")

    fleet.break_at()
    assert "2 failed trials will be tried again" in fleet.run("study", "retry", "small")
    waiting = progress_of(fleet, "small")
    assert (waiting.finished, waiting.failed, waiting.lost, waiting.done) == (2, 0, 0, False)
    assert fleet.worker("bob", "--until-done").wait(60) == 0
    assert trials_of(fleet, "small") == Counter(range(4))
    progress = progress_of(fleet, "small")
    assert (progress.finished, progress.failed, progress.lost, progress.budget) == (4, 0, 0, 4)


def test_retry_has_a_living_worker_serve_again(fleet: FaultyFleet) -> None:
    fleet.submit("small", 4)
    fleet.break_at("open FileNotFoundError the share is not mounted")
    worker = fleet.worker("ann", "--study", "small")
    wait_for(lambda: progress_of(fleet, "small").blocked, "the study to be blocked")
    fleet.break_at()
    assert "0 failed trials" in fleet.run("study", "retry", "small")
    wait_for(lambda: progress_of(fleet, "small").done, "the worker to go on")
    assert worker.poll() is None
    assert trials_of(fleet, "small") == Counter(range(4))


def test_a_worker_for_all_studies_ends_when_nothing_is_left(fleet: FaultyFleet) -> None:
    fleet.run("store", "upgrade")
    assert fleet.worker("early", "--until-done").wait(60) == 0
    fleet.submit("one", 3)
    fleet.submit("two", 3)
    assert fleet.worker("ann", "--until-done").wait(60) == 0
    for name in ("one", "two"):
        assert trials_of(fleet, name) == Counter(range(3))
    fleet.submit("three", 3)
    fleet.break_at("run OSError it is on fire")
    assert fleet.worker("bob", "--until-done").wait(60) == 1
    words = "nothing is left but what this worker has given up (three: OSError: it is on fire)"
    assert words in fleet.log("bob")
    assert progress_of(fleet, "three").failed == 0
