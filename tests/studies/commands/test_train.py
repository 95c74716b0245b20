"""``exitbits train`` as a person types it, on a few small images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import load_file, save_file

from studies.cli import main

Train = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of noise, of two classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 20)):
        for name in ("ant", "bee"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / f"images/{part}/{name}/{number}.png")
    return tmp_path


@pytest.fixture
def train(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Train:
    """Train ``test_vit`` for one epoch; gives the exit code and what was said."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EXITBITS_CACHE", str(folder / "cache"))

    def run(*options: str) -> tuple[int, str]:
        code = main(
            ["train", "imagefolder", "--data", "images", "--model", "test_vit", "--epochs", "1",
             "--batch-size", "8", "--no-compile", *options]
        )  # fmt: skip
        return code, capsys.readouterr().err

    return run


def test_weights_that_fit_nothing_end_the_training_before_it_begins(folder: Path, train: Train):
    source = timm.create_model("test_vit", num_classes=2).state_dict()
    save_file({f"module.{name}": value for name, value in source.items()}, folder / "w.safetensors")
    code, said = train("--pretrained", "w.safetensors")
    assert code == 2
    assert "--weights-prefix module." in said
    assert said.count("\n") == 1
    assert not (folder / "imagefolder.safetensors").exists()
    code, said = train("--weights-prefix", "module.")
    assert code == 2
    assert "give --pretrained FILE too" in said
    code, said = train("--pretrained", "w.safetensors", "--weights-prefix", "module.")
    assert code == 0, said
    assert "weights of w.safetensors: all" in said
    assert "the head, whose shape fits" in said


def test_training_goes_on_from_our_own_checkpoint(folder: Path, train: Train):
    assert train("-o", "first.safetensors")[0] == 0
    code, said = train("--pretrained", "first.safetensors", "--learning-rate", "1e-9")
    assert code == 0
    assert "exit heads after blocks 2, 4" in said
    first, second = load_file("first.safetensors"), load_file("imagefolder.safetensors")
    assert first.keys() == second.keys()
    assert all(np.allclose(first[name], second[name], atol=1e-6) for name in first)
    card = json.loads((folder / "imagefolder.json").read_text())
    assert card["training"]["pretrained"] == "first.safetensors"
