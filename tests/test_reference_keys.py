"""The keys of a study's file in docs/reference.md against the models that check them, both ways."""

from __future__ import annotations

import re
import tomllib
import types
import typing
from collections.abc import Callable
from typing import Any

import pytest
from documents import REFERENCE, sections, table
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from studies.config import StudyConfig

SECTIONS = sections(REFERENCE)
TOP = "Top level"


def is_section(annotation: Any) -> bool:
    """Whether a field of the configuration is a table of the file, not a key."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


# What the tables of a study's file are called in the reference, and the models that check them.
MODELS: dict[str, type[BaseModel]] = {TOP: StudyConfig} | {
    f"[{name}]": typing.cast("type[BaseModel]", field.annotation)
    for name, field in StudyConfig.model_fields.items()
    if is_section(field.annotation)
}


def keys_of(section: str) -> list[str]:
    """The keys of a section, without the sections below it."""
    fields = MODELS[section].model_fields.items()
    return [name for name, field in fields if not is_section(field.annotation)]


KINDS = {str: "string", int: "integer", float: "number", bool: "true or false"}


def kind(annotation: Any) -> str:
    """The type of a key in words."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind(inside[0])
    if origin is typing.Literal:
        return kind(type(inside[0]))
    if origin in (typing.Union, types.UnionType):
        return kind(next(part for part in inside if part is not type(None)))
    if origin is tuple:
        item = kind(inside[0])
        return f"list of {item}s" if inside[1] is Ellipsis else f"{len(inside)} {item}s"
    return KINDS[annotation]


@pytest.mark.parametrize("section", MODELS)
def test_every_key_is_documented_with_its_type_and_default(section: str) -> None:
    rows = table(SECTIONS[section])
    assert [row[0] for row in rows] == keys_of(section)
    for name, documented_kind, documented_default, *_ in rows:
        field = MODELS[section].model_fields[name]
        assert documented_kind == kind(field.annotation), name
        if field.default is PydanticUndefined:
            assert documented_default == "required", name
        elif field.default is None:
            assert documented_default == "none", name
        else:
            value = tomllib.loads(f"value = {documented_default}")["value"]
            assert (tuple(value) if isinstance(value, list) else value) == field.default, name


def test_every_section_is_documented_and_no_other() -> None:
    assert {name for name in SECTIONS if name.startswith("[")} == MODELS.keys() - {TOP}


NUMBER = r"-?[\d,]*\.?\d+"
RANGES: tuple[tuple[str, Callable[..., Callable[[float], bool]]], ...] = (
    (rf"({NUMBER}) to below ({NUMBER})", lambda low, high: lambda x: low <= x < high),
    (rf"({NUMBER}) to ({NUMBER})", lambda low, high: lambda x: low <= x <= high),
    (rf"({NUMBER}) or more", lambda low: lambda x: x >= low),
    (rf"({NUMBER})", lambda value: lambda x: x == value),
    (r"any", lambda: lambda x: True),
)


def read_ranges(text: str) -> tuple[list[Callable[[float], bool]], list[float]]:
    """What a cell such as ``0; 0.5 to below 1`` allows, and the numbers that it names."""
    tests, bounds = [], []
    for part in re.split(r"; ", text):
        for pattern, make in RANGES:
            if found := re.fullmatch(pattern, part):
                numbers = [float(group.replace(",", "")) for group in found.groups()]
                tests.append(make(*numbers))
                bounds += numbers
                break
        else:
            raise AssertionError(f"{part!r}: write 'A to B', 'A to below B', 'A or more' or 'A'")
    return tests, bounds


def refusal_of(section: str, key: str, value: Any) -> str | None:
    """None where the section takes ``value`` for ``key``, else its complaint."""
    required: dict[str, Any] = {"model": {"checkpoint": "x"}, "data": {"dataset": "fashion"}}
    whole = required if section == TOP else required.get(section.strip("[]"), {})
    try:
        MODELS[section].model_validate({**whole, key: value})
    except ValidationError as error:
        return str(error.errors()[0]["msg"])
    return None


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section in MODELS for key in keys_of(section)]
)
def test_exactly_the_documented_values_are_allowed(section: str, key: str) -> None:
    row = next(row for row in table(SECTIONS[section]) if row[0] == key)
    of_type, allowed = row[1], row[3]
    if of_type == "string":
        check_text(section, key, allowed)
    else:
        check_numbers(section, key, of_type, allowed)


def check_text(section: str, key: str, allowed: str) -> None:
    """Fail unless a key takes any text, text of a length, or one of several words, as is said."""
    refusal = refusal_of(section, key, "\0")
    if allowed == "any":
        assert refusal is None
        return
    assert refusal is not None
    if length := re.match(r"(\d+) to (\d+) ", allowed):
        low, high = map(int, length.groups())
        for count in (low - 1, low, high, high + 1):
            assert (refusal_of(section, key, "x" * count) is None) == (low <= count <= high), count
        return
    named = re.search(r"(?:choose one of|should be) (.+)$", refusal)
    assert named is not None, refusal
    choices = allowed.split(", ")
    assert sorted(choices) == sorted(re.split(r", | or ", named[1].replace("'", "")))
    assert all(refusal_of(section, key, choice) is None for choice in choices)


def check_numbers(section: str, key: str, of_type: str, allowed: str) -> None:
    """Fail unless exactly the numbers in the ranges are taken, tried at and beside every bound."""
    tests, bounds = read_ranges(allowed)
    step = 1e-6 if "number" in of_type else 1
    probes = {x + d for x in bounds for d in (-step, 0, step)} | {-1e9, -1, 0, 1, 16, 1e9}
    for probe in sorted(probes):
        number = probe if step < 1 else int(probe)
        value: Any = number
        if of_type.startswith("list"):
            value = [number]
        elif of_type[0].isdigit():
            value = [number] * int(of_type[0])
        refused = refusal_of(section, key, value) is not None
        assert refused != any(test(number) for test in tests), (number, refused)
