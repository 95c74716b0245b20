"""Compiled kernels run as the user who loads them: what others could have planted is not loaded."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.engines.cpu import native

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that leaves a file behind when it is loaded."""
    folder = tmp_path_factory.mktemp("planted")
    source = folder / "planted.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        "__attribute__((constructor)) static void run(void) "
        '{ fclose(fopen(getenv("PLANTED"), "w")); }'
    )
    library = folder / "planted.so"
    compiler = native._compiler()
    assert compiler
    subprocess.run([*compiler, "-shared", "-fPIC", "-xc", source, "-o", library], check=True)
    return library


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What the kernels' file is called here but for its digest, as anybody can compute it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("EXITBITS_CACHE", str(folder))
        patch.setattr(native, "FLAGS", (*native.FLAGS, "-O0"))
        native.load_kernels.cache_clear()
        native.load_kernels()
        (library,) = (folder / "kernels").glob("*.so")
        assert library.stat().st_mode & 0o777 == 0o700
        assert library.parent.stat().st_mode & 0o777 == 0o700
        yield library.name.partition("-")[0]
        native.load_kernels.cache_clear()


def _writable_file(folder: Path, library: Path) -> None:
    library.chmod(0o666)


def _others_file(folder: Path, library: Path) -> None:
    os.chown(library, NOBODY, NOBODY)


def _others_folder(folder: Path, library: Path) -> None:
    os.chown(folder, NOBODY, NOBODY)


def _linked_file(folder: Path, library: Path) -> None:
    shutil.move(library, folder.parent / "elsewhere.so")
    library.symlink_to(folder.parent / "elsewhere.so")


def _linked_folder(folder: Path, library: Path) -> None:
    shutil.move(folder, folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "plant",
    [
        _writable_file,
        pytest.param(_others_file, marks=needs_root),
        pytest.param(_others_folder, marks=needs_root),
        _linked_file,
        _linked_folder,
    ],
)
def test_a_planted_library_is_not_loaded(
    plant: Callable[[Path, Path], None], planted: Path, name: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "kernels"
    folder.mkdir(mode=0o755)
    library = folder / f"{name}-{hashlib.sha256(planted.read_bytes()).hexdigest()[:32]}.so"
    shutil.copy(planted, library)
    library.chmod(0o700)
    plant(folder, library)
    monkeypatch.setenv("EXITBITS_CACHE", str(tmp_path))
    monkeypatch.setenv("PLANTED", str(tmp_path / "it ran"))
    native.load_kernels.cache_clear()
    assert isinstance(native.load_kernels(), ctypes.CDLL)
    assert not (tmp_path / "it ran").exists()


def test_one_that_was_not_planted_is_loaded(
    planted: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing above says anything: the file's name and what it does are right."""
    test_a_planted_library_is_not_loaded(_writable_file, planted, name, tmp_path, monkeypatch)
    (tmp_path / "kernels").rename(tmp_path / "before")
    (tmp_path / "kernels").mkdir(mode=0o700)
    digest = hashlib.sha256(planted.read_bytes()).hexdigest()[:32]
    library = Path(shutil.copy(planted, tmp_path / "kernels" / f"{name}-{digest}.so"))
    library.chmod(0o700)
    native.load_kernels.cache_clear()
    with pytest.raises(AttributeError):  # it has none of the kernels' functions
        native.load_kernels()
    assert (tmp_path / "it ran").exists()
    native.load_kernels.cache_clear()
