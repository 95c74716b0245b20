"""Files are written whole, through nobody's link, and nothing is left of what failed."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from running import ROOT

from search.files import check_folder_writable, is_ours, replacing, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old ü")
    path.chmod(0o640)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["file"]


def test_a_new_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", "")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_of_what_failed(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_not_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "folder" / "in it").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "text")
    assert names(tmp_path) == ["folder"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    write_atomically(tmp_path / "ours", "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "ours").is_symlink()


def test_names_cannot_be_guessed(tmp_path: Path) -> None:
    seen = set()
    for _ in range(20):
        with replacing(tmp_path / "file") as partial:
            seen.add(partial.name)
    assert len(seen) == 20
    assert all(len(re.sub("[^0-9a-f]", "", name)) >= 32 for name in seen)


def test_nothing_else_writes_in_atomic_steps() -> None:
    """One function for all of them: whatever else puts a file into another's place is a second."""
    for package in ("search", "studies", "dashboards"):
        for path in (ROOT / package).rglob("*.py"):
            if path != ROOT / "search" / "files.py":
                assert ".partial" not in path.read_text(), path


def test_what_others_can_write_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o644)
    assert is_ours(path)
    assert is_ours(tmp_path)
    for mode in (0o664, 0o646):
        path.chmod(mode)
        assert not is_ours(path)
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    assert not is_ours(tmp_path / "link")
    assert not is_ours(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    assert not is_ours(tmp_path / "pipe")


def test_a_folder_is_probed_without_a_trace(tmp_path: Path) -> None:
    check_folder_writable(tmp_path)
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        check_folder_writable(tmp_path / "missing")
