"""Reading the project's Markdown: headings, tables, code blocks, links and inline code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from running import ROOT

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
CELL = re.compile(r"(?<!\\)\|")

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference.md"


@dataclass(frozen=True)
class Fence:
    """A code block: the language that it names, and its lines as one text."""

    language: str
    text: str


def name_of(path: Path) -> str:
    """A document's path from the root, for the names of tests."""
    return path.relative_to(ROOT).as_posix()


def fences(path: Path) -> list[Fence]:
    """The code blocks of a document."""
    return [Fence(language, text) for language, text in FENCE.findall(path.read_text())]


@cache
def prose(path: Path) -> str:
    """A document without its code blocks."""
    return FENCE.sub("", path.read_text())


def inline_code(path: Path) -> list[str]:
    """What stands between backticks outside code blocks."""
    return INLINE.findall(prose(path))


def links(path: Path) -> list[str]:
    """Targets of a document's links and pictures."""
    return LINK.findall(INLINE.sub("", prose(path)))


@cache
def anchors(path: Path) -> set[str]:
    """What a link may name after ``#``: a heading in GitHub's spelling."""
    found: dict[str, int] = {}
    names = set()
    for _, heading in HEADING.findall(prose(path)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = found.setdefault(slug, 0)
        names.add(f"{slug}-{count}" if count else slug)
        found[slug] += 1
    return names


def sections(path: Path) -> dict[str, str]:
    """The text below each heading, up to the next heading of any level; backticks are left out."""
    parts = re.split(HEADING.pattern, prose(path), flags=re.MULTILINE)
    return {
        heading.replace("`", ""): text
        for heading, text in zip(parts[2::3], parts[3::3], strict=True)
    }


def table(text: str) -> list[list[str]]:
    """The rows of the only table in a text, without its head; backticks are left out.

    Raises:
        ValueError: when there is no table, or more than one.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    if sum(set(line) <= set("|-: ") for line in lines) != 1:
        raise ValueError(f"one table is wanted here: {text[:200]!r}")
    return [
        [cell.strip().replace("`", "").replace("\\|", "|") for cell in CELL.split(line)[1:-1]]
        for line in lines[2:]
    ]
