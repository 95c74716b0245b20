"""A person's own model and images: moved, named elsewhere, mended, and searched all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.cli import main
from studies.store.writer import StudyStore

STUDY = """
name = "mine"
[model]
checkpoint = "models/mine.safetensors"
[data]
dataset = "imagefolder"
path = "images"
[engine]
name = "reference"
[sampler]
name = "random"
[trial]
harvest = 0
racing = 0
[anchors]
bits = [8]
thresholds = [0.5]
[budget]
trials = 1
"""
Say = Callable[..., tuple[int, str, str]]


def put(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Say:
    """Types a command; gives its exit code and what it printed."""
    monkeypatch.setenv("EXITBITS_CACHE", str(tmp_path / "cache"))

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with images, a model of theirs, and a study's file."""
    project = tmp_path_factory.mktemp("made") / "project"
    for index, name in enumerate(("ant", "bee")):
        for number in range(30):
            put(project / f"images/val/{name}/{number}.png", 1000 * index + number)
        for number in range(4):
            put(project / f"images/train/{name}/{number}.png", 5000 * (index + 1) + number)
    (project / "mine.toml").write_text(STUDY)
    (project / "models").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXITBITS_CACHE", str(project.parent / "cache"))
        assert main(
            ["train", "imagefolder", "--data", str(project / "images"), "--model", "test_vit",
             "--img-size", "32", "--epochs", "1", "--batch-size", "8", "--no-compile",
             "--exits", "3,6", "-o", str(project / "models/mine.safetensors")]
        ) == 0  # fmt: skip
    return project


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which is the working folder."""
    copied = Path(shutil.copytree(trained, tmp_path / "project"))
    monkeypatch.chdir(copied)
    return copied


def worked(say: Say) -> None:
    code, _, said = say("worker", "--study", "mine", "--until-done", "--threads", "1")
    assert code == 0, said


def figures(say: Say, *words: object) -> dict[str, object]:
    code, out, said = say("evaluate", *words, "--json")
    assert code == 0, said
    return json.loads(out)


def test_a_project_that_was_moved_goes_on(project: Path, say: Say, monkeypatch, caplog):
    code, _, said = say("submit", "mine.toml")
    assert code == 0, said
    assert "split search has only" in caplog.text  # 60 held-out images say little
    assert "is uncertain by up to 0." in caplog.text
    worked(say)
    (project / "out").mkdir()
    assert say("pick", "mine", "--max-drop", "1", "-o", "out/policy.json")[0] == 0
    named = json.loads((project / "out/policy.json").read_text())["study"]
    assert named["model"]["checkpoint"] == "../models/mine.safetensors"
    assert named["data"]["path"] == "../images"
    before = figures(say, "out/policy.json")
    caplog.clear()
    figures(say, "out/policy.json", "--split", "order")
    assert "split order has only" in caplog.text

    moved = project.rename(project.with_name("elsewhere"))
    monkeypatch.chdir(moved)
    assert figures(say, "out/policy.json") == before
    store = StudyStore("sqlite:///exitbits.db")
    config = store.get("mine").record.config
    assert config.model.checkpoint == str(moved / "models/mine.safetensors")
    assert config.data.path == str(moved / "images")
    assert say("submit", "mine.toml", "--trials", "2")[0] == 0
    worked(say)
    assert store.progress(1).finished == 2


def test_model_and_images_may_be_named_elsewhere(project: Path, say: Say, tmp_path: Path):
    assert say("submit", "mine.toml")[0] == 0
    (project / "models").rename(tmp_path / "models")
    (project / "images").rename(tmp_path / "100% sure?")
    model, data = tmp_path / "models/mine.safetensors", tmp_path / "100% sure?"
    places = ("--model", model, "--data", data)
    code, _, said = say("worker", *places)
    assert code == 2
    assert "give --study too" in said
    code, _, said = say("worker", "--study", "mine", "--until-done", "--threads", "1", *places)
    assert code == 0, said
    assert say("pick", "mine", "--max-drop", "1")[0] == 0
    code, _, said = say("evaluate", "policy.json")
    assert code == 2
    assert "mine.safetensors" in said or "mine.json" in said
    assert figures(say, "policy.json", *places)["reproduced"] is True
    assert say("submit", "mine.toml", "--trials", "2", *places)[0] == 0
    worked(say)  # the store knows where they are now


def test_a_mended_folder_goes_on_only_while_nothing_is_recorded(project: Path, say: Say):
    assert say("submit", "mine.toml")[0] == 0
    before = StudyStore("sqlite:///exitbits.db").get("mine").record.data_digest
    damaged = [project / f"images/val/bee/{number}.png" for number in range(30)]
    for path in damaged:
        path.write_bytes(b"")
    code, _, said = say("submit", "mine.toml")
    assert code == 2
    assert "30 faults" in said
    assert "'val/bee/0.png': an empty file" in said
    assert "and 10 more" in said
    assert "Traceback" not in said
    for seed, path in enumerate(damaged):
        put(path, 9000 + seed)
    assert say("submit", "mine.toml")[0] == 0
    record = StudyStore("sqlite:///exitbits.db").get("mine").record
    assert record.data_digest != before
    worked(say)

    for seed, path in enumerate(damaged):
        put(path, 19_000 + seed)
    code, _, said = say("submit", "mine.toml")
    assert code == 2
    assert "the images are not those that study 'mine' was measured on" in said


def test_another_model_under_the_name_is_refused(project: Path, say: Say):
    assert say("submit", "mine.toml")[0] == 0
    card = json.loads((project / "models/mine.json").read_text())
    shutil.copy("models/mine.safetensors", "other.safetensors")
    Path("other.json").write_text(json.dumps({**card, "classes": ["x", "y"]}))
    code, _, said = say("submit", "mine.toml", "--model", "other.safetensors")
    assert code == 2
    assert "the checkpoint of study 'mine' has changed" in said


def test_recovery_reads_a_persons_own_images(project: Path, say: Say):
    assert say("submit", "mine.toml")[0] == 0
    worked(say)
    assert say("pick", "mine", "--max-drop", "1")[0] == 0
    steps = ("--steps", "2", "--batch-size", "4", "-o", "r.safetensors")
    code, out, said = say("recover", "policy.json", "--data", "images", *steps)
    assert code == 0, said
    assert "r.policy.json" in out
    named = json.loads(Path("r.policy.json").read_text())["study"]
    assert named["model"]["checkpoint"] == "r.safetensors"
    (project / "images/train/ant/0.png").write_bytes(b"")
    code, _, said = say("recover", "policy.json", "--data", "images", "--force", *steps)
    assert code == 2
    assert "'train/ant/0.png': an empty file" in said
