"""A new user's walk with own images: from photos of three classes to a policy, with every slip on
the way, a folder that is moved, and a second machine that has the store alone.

Nothing here reads the source: only what the commands print is used to go on.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from reverse_proxy import TOKEN, Client, SmallProxy
from running import ROOT, run_here
from safetensors.torch import save_file
from serving import serving

from search.data.fashion import FashionDataset
from studies.cli import COMMANDS, added_commands

FLOWERS = ROOT.parent / "shared" / "real" / "flowers"
CLASSES = {
    1: "trousers",
    5: "sandals",
    8: "bags",
}  # of the bundled images, where there are no photos
STUDY = """
name = "mine"
[model]
checkpoint = "mine.safetensors"
[data]
dataset = "imagefolder"
path = "images"
calibration_images = 16
[budget]
trials = 3
"""
Done = subprocess.CompletedProcess[str]
Type = Callable[..., Done]


def lay_out(images: Path) -> None:
    """Photos of three classes as an image folder, with what a desktop leaves beside them."""
    for part, count in (("train", 12), ("val", 45)):
        for number, (name, files) in enumerate(photos(part, count).items()):
            folder = images / part / name
            folder.mkdir(parents=True)
            for index, photo in enumerate(files):
                photo.save(folder / f"{number}-{index}.{'JPG' if index % 2 else 'png'}")
            (folder / "._0-0.png").write_bytes(b"\0\5\26\7")
            (folder / ".DS_Store").write_bytes(b"\0")
    (images / "__MACOSX/train").mkdir(parents=True)
    (images / "train/.ipynb_checkpoints").mkdir()


def photos(part: str, count: int) -> dict[str, list[Image.Image]]:
    """Real pictures by class: flowers where they are at hand, else bundled ones."""
    if FLOWERS.is_dir():
        return {
            folder.name: [
                Image.open(file).convert("RGB").resize((96, 96))
                for file in sorted(folder.iterdir())[:count]
            ]
            for folder in sorted((FLOWERS / part).iterdir())[:3]
        }
    split = FashionDataset().split("search" if part == "val" else "order")
    found = {}
    for target, name in CLASSES.items():
        indices = (split.targets == target).nonzero()[0][:count]
        found[name] = [Image.fromarray(one[..., 0]) for one in split.read(indices)]
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with photos, weights from elsewhere, and a study's file."""
    folder = tmp_path / "my project"
    lay_out(folder / "images")
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), folder / "weights.safetensors")
    (folder / "mine.toml").write_text(STUDY, encoding="utf-8")
    return folder


@pytest.fixture
def typed(home: Path) -> Type:
    """Types a command in the folder, or elsewhere; whatever comes of it is no traceback."""

    def run(*words: object, at: Path = home, code: int = 0) -> Done:
        done = run_here(
            [str(word) for word in words], at, {"EXITBITS_CACHE": str(home.parent / "c")}
        )
        assert "Traceback" not in done.stdout + done.stderr, (words, done.stderr)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        if code == 2:
            said = re.findall(r"^exitbits.*$", done.stderr, re.MULTILINE)
            assert len(said) == 1, done.stderr  # one line, whatever list comes below it
        return done

    return run


@pytest.mark.slow
def test_from_photos_to_a_policy_and_on_to_another_machine(
    home: Path, typed: Type, tmp_path: Path
) -> None:
    # A typo in every command, and every command before there is anything.
    typed("trian", code=2)
    for command in sorted({*COMMANDS, *added_commands()}):
        typed(command, "--stroe", "x", code=2)
    for words in (
        "front mine", "pick mine --knee", "report mine -o x.html", "stop mine", "study list",
        "baselines mine", "status",
    ):  # fmt: skip
        assert "exitbits.db" in typed(*words.split(), code=2).stderr
    assert not (home / "exitbits.db").exists()

    # Training, with the slips that one makes.
    train = [
        "train", "imagefolder", "--model", "test_vit", "--exits", "3,6", "--img-size", "32",
        "--epochs", "1", "--batch-size", "12", "--no-compile", "-o", "mine.safetensors",
    ]  # fmt: skip
    assert "'imgs'" in typed(*train, "--data", "imgs", code=2).stderr
    given = ["--data", "images", "--pretrained"]
    assert "wieghts" in typed(*train, *given, "wieghts.safetensors", code=2).stderr
    said = typed(*[w.replace("test_vit", "test_vti") for w in train], *given,
                 "weights.safetensors", code=2).stderr  # fmt: skip
    assert "test_vit" in said  # what is near it
    empty = home / "images/train" / sorted(p.name for p in (home / "images/train").glob("[!.]*"))[0]
    (empty / "empty.png").write_bytes(b"")
    assert "empty.png" in typed(*train, *given, "weights.safetensors", code=2).stderr
    (empty / "empty.png").unlink()
    trained = typed(*train, *given, "weights.safetensors")
    assert (home / "mine.safetensors").is_file()
    tensors = len(timm.create_model("test_vit", num_classes=0).state_dict())
    assert f"all {tensors} tensors of the backbone" in trained.stderr
    typed(*train, *given, "weights.safetensors", code=2)  # it is there already

    # The study, once with a wrong key, and a second time when it is done.
    (home / "wrong.toml").write_text(STUDY + "trails = 3\n", encoding="utf-8")
    assert "trails" in typed("launch", "wrong.toml", code=2).stderr
    launched = typed("launch", "mine.toml", "--workers", "1")
    assert "full precision, full depth" in launched.stdout
    typed("launch", "mine")
    typed("launch", "mine.toml", "--trials", "2")
    assert "3/3 done" in typed("status").stdout
    typed("front", "mien", code=2)
    front = json.loads(typed("front", "mine", "--json").stdout)["front"]
    typed("pick", "mine", "--max-gbops", "0", code=3)
    typed("pick", "mine", "--max-drop", "1")
    typed("pick", "mine", "--max-drop", "1", code=2)  # policy.json is there already
    typed("evaluate", "policy.jsno", code=2)
    assert "reproduces the recorded figures exactly" in typed("evaluate", "policy.json").stdout
    typed("report", "mine", "-o", "front.html")

    # Others look at it through a proxy.
    with serving(home) as serve:
        public = ["--public-url", "https://lab.example.org/exitbits"]
        address = serve("sqlite:///exitbits.db", *public, EXITBITS_TOKEN=TOKEN)
        target = {"target": int(address.rpartition(":")[2].rstrip("/"))}
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (SmallProxy,), target))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        person = Client(proxy.server_port)
        assert person.ask("GET", "/exitbits/study/mine")[0] == 302  # to the login
        assert person.log_in()[0] == 303
        assert person.ask("GET", "/exitbits/study/mine")[0] == 200
        proxy.shutdown()
        proxy.server_close()

    # The folder is moved, and everything in it goes on.
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(home, moved)
    shutil.rmtree(home)
    assert (
        "reproduces the recorded figures exactly"
        in typed("evaluate", "policy.json", at=moved).stdout
    )
    typed("launch", "mine.toml", "--trials", "4", "--workers", "1", at=moved)

    # A second machine has the store alone: it reads, and says what it lacks.
    second = tmp_path / "second"
    second.mkdir()
    for file in moved.glob("exitbits.db*"):  # what this process still holds open lies beside it
        shutil.copy(file, second)
    again = json.loads(typed("front", "mine", "--json", at=second).stdout)["front"]
    assert again[0]["gbops"] <= front[0]["gbops"]
    typed("report", "mine", "-o", "front.html", at=second)
    typed("pick", "mine", "--knee" if len(again) > 2 else "--max-drop=1", at=second)
    said = typed("launch", "mine", "--trials", "5", "--workers", "1", at=second, code=2).stderr
    assert "mine.json" in said
    assert "--model" in said
    places = ["--model", moved / "mine.safetensors", "--data", moved / "images"]
    typed("launch", "mine", "--trials", "5", "--workers", "1", *places, at=second)
