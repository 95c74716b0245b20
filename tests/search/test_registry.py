"""Registries: members of the package and of other distributions, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plugins import write_distribution

from search import registry as module
from search.registry import Registry

COLOURS = Registry(
    "colour", "exitbits.colours", {"black": "string:digits", "white": "string:hexdigits"}
)


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Entry points are read once a process: here anew, with a folder of the test's own."""
    monkeypatch.syspath_prepend(tmp_path)
    module._installed.cache_clear()
    yield
    module._installed.cache_clear()


def test_without_plugins_the_members_are_the_built_in_ones(refused):
    assert list(COLOURS) == ["black", "white"]
    assert COLOURS.resolve("black") == "0123456789"
    assert "red" not in COLOURS
    with refused("unknown colour 'red'", "black, white"):
        COLOURS.resolve("red")


def test_a_distribution_adds_a_member(tmp_path: Path, refused):
    write_distribution(
        tmp_path, "paint", {"paint_red.py": "shade = 'crimson'\n"},
        {"exitbits.colours": {"red": "paint_red:shade"}, "exitbits.tones": {"blue": "x:y"}},
    )  # fmt: skip
    assert list(COLOURS) == ["black", "red", "white"]
    assert "red" in COLOURS
    assert COLOURS.resolve("red") == "crimson"
    with refused("unknown colour 'blue'", "black, red, white"):
        COLOURS.resolve("blue")


def test_a_name_that_is_built_in_and_plugged_in_is_refused(tmp_path: Path, refused):
    write_distribution(
        tmp_path, "paint", {"paint_black.py": "shade = 1\n"},
        {"exitbits.colours": {"black": "paint_black:shade"}},
    )  # fmt: skip
    assert list(COLOURS) == ["black", "white"]
    with refused("colour 'black'", "exitbits itself and paint 1.0"):
        COLOURS.resolve("black")
    assert COLOURS.resolve("white") == "0123456789abcdefABCDEF"


def test_a_name_that_two_distributions_give_is_refused(tmp_path: Path, refused):
    for name in ("paint", "ink"):
        write_distribution(
            tmp_path, name, {f"{name}_red.py": "shade = 1\n"},
            {"exitbits.colours": {"red": f"{name}_red:shade"}},
        )  # fmt: skip
    with refused("colour 'red'", "paint 1.0", " and ", "ink 1.0"):
        COLOURS.resolve("red")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nowhere_at_all\n", ["ModuleNotFoundError", "nowhere_at_all"]),
        ("other = 1\n", ["AttributeError", "shade"]),
        ("shade = = 1\n", ["SyntaxError"]),
        ("raise RuntimeError('no licence\\nfor this')\n", ["RuntimeError: no licence)"]),
    ],
    ids=["missing-import", "missing-attribute", "syntax", "raises"],
)
def test_a_member_that_cannot_be_imported_names_its_distribution(
    tmp_path: Path, source: str, words: list[str], refused, request: pytest.FixtureRequest
):
    name = f"broken_{request.node.callspec.id.replace('-', '_')}"
    write_distribution(
        tmp_path, "paint", {f"{name}.py": source}, {"exitbits.colours": {"red": f"{name}:shade"}}
    )
    assert "red" in COLOURS, "a name needs no import"
    with refused("colour 'red'", f"{name}:shade of paint 1.0", *words):
        COLOURS.resolve("red")
