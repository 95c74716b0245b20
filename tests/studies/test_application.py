"""The application without a terminal: what the commands do, called as functions."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from running import ROOT
from small_study import grow

from search.cost import Budget
from search.disk_cache import DiskTraceCache
from search.errors import BadInput, NoPolicyFound
from studies.config import parse_config
from studies.creating import open_study
from studies.evaluating import evaluate_policy_file
from studies.fronts import FrontSummary
from studies.launchers import WorkerOrder, open_launcher
from studies.picking import PickRequest, choose, pick
from studies.policy_file import read_policy_file, write_policy_file
from studies.records import Progress, StudyRecord
from studies.running import run_workers
from studies.store.writer import StudyStore
from studies.unchanged import check_images, check_model

FIELDS = {
    "name": "short",
    "model": {"checkpoint": "recorded:short"},
    "data": {"dataset": "fashion"},
    "anchors": {"bits": [4], "thresholds": [0.8, 1.0]},
    "budget": {"trials": 3},
}
TERMINAL = {"argparse", "rich"}


def test_a_study_is_made_run_picked_from_and_evaluated_in_silence(
    tmp_path: Path, shared_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address, stages = f"sqlite:///{tmp_path}/store.db", []
    config = parse_config(FIELDS, "test")
    store, study = open_study(address, config, DiskTraceCache(shared_cache), stages.append)
    assert stages[0] == "measuring the full-precision reference of short"
    assert open_study(address, config, DiskTraceCache(shared_cache))[1] == study

    seen: list[tuple[Progress, FrontSummary]] = []
    log = tmp_path / "worker.log"
    launcher = open_launcher("local", WorkerOrder(address, "short", shared_cache, log, 2))
    interrupted = run_workers(
        store, study, launcher, lambda progress, summary: seen.append((progress, summary))
    )
    assert not interrupted
    assert store.progress(study.id).finished == 3
    assert seen[0][0].finished == 0
    assert [progress.budget for progress, _ in seen] == [3] * len(seen)
    assert "trial 0 of short recorded" in log.read_text()

    picked = pick(store, study, PickRequest(max_drop=0.1))
    assert picked.row in picked.summary.rows
    assert picked.row.value >= study.record.reference_value - 0.1
    write_policy_file(picked.file, tmp_path / "policy.json")
    again = evaluate_policy_file(read_policy_file(tmp_path / "policy.json"))
    assert again.reproduced is True
    assert again.measured.value == picked.row.value
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "give one of --max-gbops"),
        ({"max_gbops": 1.0, "knee": True}, "give one of --max-gbops"),
        ({"min_accuracy": 1.5}, r"--min-accuracy 1.5: give a fraction in \[0, 1\]"),
        ({"max_drop": -0.5}, r"--max-drop -0.5: give a fraction in \[0, 1\]"),
        ({"within": Budget()}, "or a bound such as --max-worst-gbops"),
        ({"digest": "ab", "within": Budget(memory=1.0)}, "--digest names a policy: leave out"),
        ({"knee": True, "model": "own"}, "--model own: it tells policies of one --digest apart"),
    ],
)
def test_a_request_has_one_rule_within_range(values: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        PickRequest(**values)  # type: ignore[arg-type]


def test_what_nothing_satisfies_is_said_with_what_there_is(
    tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/store.db", create=True)
    study = store.create(make_record())
    assert study is not None
    with pytest.raises(NoPolicyFound, match="study 'small' has no evaluations yet: launch it"):
        pick(store, study, PickRequest(knee=True))
    grow(store, "small", 4)
    summary = FrontSummary.load(store, study)
    cheapest = min(row.gbops for row in summary.rows)
    assert choose(summary, PickRequest(max_gbops=cheapest)).gbops == cheapest
    with pytest.raises(NoPolicyFound, match=f"'small' costs at most 0.0 GBOPs: .*{cheapest:.4f}"):
        pick(store, study, PickRequest(max_gbops=0.0))


def test_bounds_hold_beside_every_rule_and_alone(
    tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> None:
    store = StudyStore(f"sqlite:///{tmp_path}/store.db", create=True)
    study = store.create(make_record())
    assert study is not None
    grow(store, "small", 12, harvest=True)
    summary = FrontSummary.load(store, study)
    details = store.details(summary.rows)
    costs = [summary.cost(row) for row in summary.rows]
    for cost, detail in zip(costs, details, strict=True):  # what was recorded is what follows
        for measure in ("expected", "p95", "worst", "memory", "mean_bits"):
            assert getattr(cost, measure) == pytest.approx(getattr(detail.cost, measure), rel=1e-12)
    for measure in ("p95", "worst", "memory", "mean_bits"):
        values = [getattr(cost, measure) for cost in costs]
        bound = float(np.median(values))
        allowed = [i for i, value in enumerate(values) if value <= bound]
        assert 0 < len(allowed) < len(values)
        within = Budget(**{measure: bound})
        best = max(summary.rows[i].value for i in allowed)
        assert choose(summary, PickRequest(within=within)).value == best
        dear = np.median([summary.rows[i].gbops for i in allowed])
        affordable = [i for i in allowed if summary.rows[i].gbops <= dear]
        chosen = choose(summary, PickRequest(max_gbops=float(dear), within=within))
        assert chosen.value == max(summary.rows[i].value for i in affordable)
        floor = float(np.median([summary.rows[i].value for i in allowed]))
        good = [i for i in allowed if summary.rows[i].value >= floor]
        chosen = choose(summary, PickRequest(min_accuracy=floor, within=within))
        assert chosen.gbops == min(summary.rows[i].gbops for i in good)
        with pytest.raises(NoPolicyFound, match="the least there is: "):
            choose(summary, PickRequest(within=Budget(**{measure: min(values) * 0.99})))


def test_another_model_or_other_images_are_refused_in_one_wording() -> None:
    check_model("study 'mine'", "a" * 64, "a" * 64)
    check_images("study 'mine'", "a" * 64, "a" * 64)
    with pytest.raises(BadInput) as model:
        check_model("study 'mine'", "a" * 64, "b" * 64, "launch under another --name")
    assert str(model.value) == (
        "the checkpoint of study 'mine' has changed (aaaaaaaaaaaa when it was measured, "
        "bbbbbbbbbbbb now): restore it, or launch under another --name"
    )
    with pytest.raises(BadInput) as images:
        check_images("the policy", "a" * 64, "b" * 64)
    assert str(images.value) == (
        "the images are not those that the policy was measured on (aaaaaaaaaaaa then, "
        "bbbbbbbbbbbb now): restore them"
    )


def terminal_use(path: Path) -> list[str]:
    """What a module's source does with a terminal."""
    uses = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            uses += [name for name in named if name.partition(".")[0] in TERMINAL]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            uses += [node.func.id] if node.func.id in {"print", "input"} else []
    return uses


def test_only_commands_know_the_terminal_and_only_the_program_knows_commands() -> None:
    programs = {ROOT / "studies" / "cli.py", ROOT / "search" / "data" / "bundle_fashion.py"}
    for package in ("search", "studies", "dashboards"):
        for path in (ROOT / package).rglob("*.py"):
            if "commands" in path.parts or path in programs:
                continue
            assert terminal_use(path) == [], path
            assert "studies.commands" not in path.read_text(), path
