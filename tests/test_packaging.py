"""What is built: the sdist, the wheel made of it, and a launch from that wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from readme import README_STUDY, readme_lines
from running import ROOT, command_env

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("search", "studies", "dashboards")


def files_below(folder: Path) -> set[str]:
    """Files of the checkout below ``folder``, relative to the root, without what Python leaves."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The one wheel."""
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist_names(built: Path) -> set[str]:
    """Names in the sdist, without its top folder."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def included() -> Iterator[Path]:
    """What pyproject.toml says that the sdist holds."""
    for pattern in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        found = list(ROOT.glob(pattern.removeprefix("/")))
        assert found, f"the sdist's include names {pattern}, which is not there"
        yield from found


def test_the_sdist_holds_what_it_says(sdist_names: set[str]) -> None:
    wanted: set[str] = set()
    for path in included():
        wanted |= files_below(path) if path.is_dir() else {path.relative_to(ROOT).as_posix()}
    # Hatchling adds these itself.
    assert sdist_names == wanted | {"pyproject.toml", "PKG-INFO", ".gitignore"}


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set().union(*(files_below(ROOT / package) for package in PACKAGES))


@pytest.mark.parametrize(
    "pattern",
    [
        "search/engines/cpu/kernels/*.cpp",
        "search/engines/cpu/kernels/*.h",
        "search/data/assets/*.safetensors",
        "search/data/assets/*.json",
        "search/data/assets/*.npy.xz",
        "studies/presets/*.toml",
        "studies/store/migrations/versions/*.py",
        "dashboards/assets/*.js",
        "dashboards/assets/*.css",
        "exitbits-*.dist-info/licenses/LICENSE",
        "exitbits-*.dist-info/licenses/NOTICE",
    ],
)
def test_the_wheel_holds_what_is_not_python(wheel: Path, pattern: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if Path(name).match(pattern)]


def test_a_launch_from_the_wheel_in_an_empty_folder_ends_with_a_front(
    wheel: Path, tmp_path: Path
) -> None:
    environment, folder = tmp_path / "environment", tmp_path / "empty"
    folder.mkdir()
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / "bin" / "python"
    # The dependencies are those of the tests: downloading them anew says nothing about the wheel.
    # Lines of a .pth come after the environment's own packages, and name no editable checkout.
    (packages,) = (environment / "lib").glob("python*/site-packages")
    shared = [entry for entry in sys.path if Path(entry).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(shared))
    variables = command_env() | {"EXITBITS_CACHE": str(tmp_path / "cache")}
    del variables["PYTHONPATH"]

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
        "--no-deps", "--no-index", wheel,
    )  # fmt: skip
    code = "import search, studies, dashboards; print(search, studies, dashboards)"
    assert run(python, "-c", code).count(str(packages)) == len(PACKAGES)

    exitbits = environment / "bin" / "exitbits"
    # On one core, so with one thread: several spin against whatever else the machine does.
    core = str(max(os.sched_getaffinity(0)))
    table = run("taskset", "--cpu-list", core, exitbits, "launch", "--trials", "1")
    assert "accuracy" in table
    assert "GBOPs" in table
    assert {path.name for path in folder.iterdir()} >= {"exitbits.db", "fashion.html"}
    front = json.loads(run(exitbits, "front", "fashion", "--json"))
    assert front["study"] == "fashion"
    assert len(front["front"]) > 5
    assert max(row["accuracy"] for row in front["front"]) > 0.9

    # And the README's lines for a notebook, as a script.
    (folder / "mine.toml").write_text(README_STUDY)
    (folder / "lines.py").write_text(readme_lines())
    assert "mean exit" in run("taskset", "--cpu-list", core, python, "-I", "lines.py")
