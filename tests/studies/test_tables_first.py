"""Sensitivity tables before the first trial: what they cost, when they pay, who finds them."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pytest
from fleet import recorded_study
from rich.console import Console
from running import run_here

from search.disk_cache import DiskCaches, DiskTraceCache
from studies.commands.launch import measure_first
from studies.config import StudyConfig
from studies.config_file import load_config
from studies.creating import open_study
from studies.methods.tables import measure_tables, tables_first
from studies.records import Study

STUDY = """
name = "short"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "fashion"
calibration_images = 16
[budget]
trials = 2
"""
# Six blocks, weights and activations, seven widths, sixteen images; the split has 3,000.
PASSES = 6 * 2 * 7 * 16 / 3000


def study_of(config: StudyConfig, folder: Path, cache: Path) -> Study:
    return open_study(f"sqlite:///{folder}/s.db", config, DiskTraceCache(cache))[1]


def test_they_cost_what_their_images_cost_and_are_kept(tmp_path: Path, shared_cache: Path) -> None:
    (tmp_path / "short.toml").write_text(STUDY)
    study = study_of(load_config(str(tmp_path / "short.toml")), tmp_path, shared_cache)
    caches = DiskCaches(tmp_path / "cache")
    first = tables_first(study.record, caches)
    assert first is not None
    assert first.passes == pytest.approx(PASSES)
    assert first.worth(2)
    assert not first.worth(1)
    seen: list[tuple[int, int | None]] = []
    tables = measure_tables(first.meter, lambda what, done, of: seen.append((done, of)))
    assert seen[-1] == (12, 12)
    again = tables_first(study.record, caches)
    assert again is not None
    assert again.passes == 0
    known = again.meter.rows.known()
    assert known is not None
    assert known.weights.keys() == tables.weights.keys()


def test_a_recorded_model_has_none(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(recorded_study("one", 2, 0))
    study = study_of(load_config(str(tmp_path / "one.toml")), tmp_path, tmp_path / "cache")
    assert tables_first(study.record, DiskCaches(tmp_path / "cache")) is None


def test_launch_measures_them_first_where_they_pay_and_says_so(
    tmp_path: Path, shared_cache: Path
) -> None:
    # Images that no other test calibrates with: the tables are not there yet.
    (tmp_path / "short.toml").write_text(STUDY.replace("= 16", "= 15"))
    store = ["--store", f"sqlite:///{tmp_path}/s.db", "--cache", shared_cache, "--workers", "1"]
    done = run_here(["launch", "short.toml", *store], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "measuring sensitivity tables first (about as long as 0 of 2 trials" in done.stderr
    assert "measuring sensitivity tables: done" in done.stderr
    assert "study short: sensitivity tables found" in (shared_cache / "worker.log").read_text()


def test_launch_says_where_they_would_cost_too_much(tmp_path: Path, shared_cache: Path) -> None:
    # Six times as many images: half a pass is too much of one trial.
    (tmp_path / "short.toml").write_text(STUDY.replace("= 16", "= 96"))
    config = load_config(str(tmp_path / "short.toml"), trials=1)
    study = study_of(config, tmp_path, shared_cache)
    said = io.StringIO()
    args = argparse.Namespace(tables="auto", cache=tmp_path / "cache")
    measure_first(args, study, Console(file=said))
    assert said.getvalue() == (
        "sensitivity tables are not measured first (about as long as 3 of 1 trials): --tables "
        "always does\n"
    )


@pytest.mark.parametrize("sampler", ["random", "apq"])
def test_launch_says_nothing_of_them_where_they_would_not_be_used(
    tmp_path: Path, sampler: str
) -> None:
    text = recorded_study("one", 2, 0).replace('name = "random"', f'name = "{sampler}"')
    (tmp_path / "one.toml").write_text(text)
    store = ["--store", f"sqlite:///{tmp_path}/s.db", "--cache", "cache", "--workers", "1"]
    done = run_here(["launch", "one.toml", *store], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sensitivity" not in done.stderr
