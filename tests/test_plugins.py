"""A study with a quantizer and a data format from another distribution, through the command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from plugins import documented, write_distribution
from running import command_env, command_line

from search import registry
from search.data.fashion import FashionDataset
from search.data.splits import SPLITS
from search.policy import Policy
from studies.config import QuantizerSection
from studies.config_file import load_config
from studies.work.opening import open_evaluator

STUDY = """
name = "outside"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "npz"
path = "images.npz"
calibration_images = 40
[quantizer]
name = "power-of-two"
[engine]
name = "reference"
[sampler]
name = "random"
[anchors]
bits = [4]
thresholds = [0.8]
[budget]
trials = 2
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a distribution with both members is installed."""
    folder = tmp_path_factory.mktemp("site")
    write_distribution(
        folder, "outsiders",
        {name: documented(name) for name in ("power_of_two.py", "npz.py")},
        {"exitbits.quantizers": {"power-of-two": "power_of_two:PowerOfTwo"},
         "exitbits.datasets": {"npz": "npz:open_npz"}},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's file and its images: 40 of every split of the bundled benchmark."""
    folder, dataset = tmp_path_factory.mktemp("study"), FashionDataset()
    arrays = {"classes": np.array(dataset.classes)}
    for name in SPLITS:
        part = dataset.split(name).head(40)
        arrays |= {f"{name}_images": part.read(np.arange(40)), f"{name}_targets": part.targets}
    np.savez(folder / "images.npz", **arrays)
    (folder / "study.toml").write_text(STUDY)
    return folder


def run(
    folder: Path, *arguments: str, site: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The real command, with the folder of a distribution on its path or without."""
    env = command_env()
    if site is not None:
        env["PYTHONPATH"] += f"{os.pathsep}{site}"
    return subprocess.run(
        command_line(arguments), cwd=folder, env=env, text=True, capture_output=True,
        timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def launched(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """The study's launch where the distribution is installed."""
    return run(folder, "launch", "study.toml", "--workers", "1", "--cache", "cache", site=site)


@pytest.fixture
def installed_here(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The distribution in this process too, for the time of a test."""
    monkeypatch.syspath_prepend(site)
    registry._installed.cache_clear()
    yield
    registry._installed.cache_clear()


def test_a_study_runs_with_members_from_another_distribution(
    launched: subprocess.CompletedProcess[str], folder: Path, site: Path, installed_here: None
) -> None:
    assert launched.returncode == 0, launched.stderr
    assert "2/2 trials" in launched.stderr

    # The figures are those of that quantizer on those images, measured here once more.
    picked = run(folder, "pick", "outside", "--max-gbops", "99", "-o", "policy.json", site=site)
    assert picked.returncode == 0, picked.stderr
    written = json.loads((folder / "policy.json").read_text())
    policy = Policy.from_json(json.dumps(written["policy"]))
    config = load_config(str(folder / "study.toml"))
    evaluator = open_evaluator(config)
    assert len(evaluator.split) == 40
    again = evaluator.evaluate(policy)
    assert again.value == written["evaluation"]["value"]
    assert again.exit_rates == tuple(written["evaluation"]["exit_rates"])
    plain = config.model_copy(update={"quantizer": QuantizerSection(name="minmax")})
    other = open_evaluator(plain).trace(policy.bits)
    assert not np.array_equal(evaluator.trace(policy.bits).confidence, other.confidence)


def test_where_the_distribution_is_missing_its_study_is_refused_and_still_read(
    launched: subprocess.CompletedProcess[str], folder: Path
) -> None:
    refused = run(folder, "submit", "study.toml")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "data.dataset: 'npz' is unknown: choose one of fashion, imagefolder" in refused.stderr
    for command in (("status", "--json"), ("front", "outside", "--json")):
        read = run(folder, *command)
        assert read.returncode == 0, read.stderr
        assert "outside" in read.stdout
