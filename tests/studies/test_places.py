"""Paths relative to the file that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from studies.places import absolute, relative


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/home/me/lab/work/mine.safetensors", "mine.safetensors"),
        ("/home/me/lab/work/models/mine.safetensors", "models/mine.safetensors"),
        ("/home/me/lab/images", "../images"),
        ("/home/me/images", "../../images"),
        ("/home/images", "/home/images"),
        ("/data/images", "/data/images"),
        ("bundled:fashion", "bundled:fashion"),
        ("recorded:x", "recorded:x"),
        ("/home/me/lab/work/bundled:x.safetensors", "/home/me/lab/work/bundled:x.safetensors"),
        ("/home/me/lab/work/100% sure?/-x", "100% sure?/-x"),
    ],
)
def test_a_path_is_relative_where_it_is_near(path: str, named: str):
    folder = Path("/home/me/lab/work")
    assert relative(path, folder) == named
    assert absolute(named, folder) == path


def test_what_was_near_moves_along():
    named = relative("/a/b/images", Path("/a/b/studies"))
    assert absolute(named, Path("/mnt/x/studies")) == "/mnt/x/images"


def test_a_file_at_the_root_makes_nothing_near():
    assert relative("/data/images", Path("/")) == "/data/images"
    assert relative("/data/images", Path("/work")) == "/data/images"
