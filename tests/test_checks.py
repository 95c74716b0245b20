"""The same checks run everywhere: before a commit, in .ci/run and in the GitHub workflow."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
HOOKS: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKE = re.compile(r"^make ([a-z-]+)", re.MULTILINE)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_it_follows_its_schema(schema: str, path: str) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema,
            "--default-filetype", "yaml", ROOT / path,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hooks_are_the_parts_of_lint() -> None:
    (repository,) = HOOKS["repos"]
    assert repository["repo"] == "local"  # nothing is fetched, and no version stands here
    lint = re.search(r"^lint: (.+)$", MAKEFILE, re.MULTILINE)
    assert lint is not None
    assert [hook["entry"] for hook in repository["hooks"]] == [
        f"make {target}" for target in lint.group(1).split()
    ]


def test_the_workflow_makes_what_ci_makes() -> None:
    steps = WORKFLOW["jobs"]["checks"]["steps"]
    made = MAKE.findall("\n".join(step.get("run", "") for step in steps))
    assert made == MAKE.findall((ROOT / ".ci" / "run").read_text())
    assert made == ["install", "lint", "build", "test"]


def test_every_target_that_is_called_exists() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    for target in phony.group(1).split():
        done = subprocess.run(
            ["make", "--dry-run", "--old-file=.venv/.installed", target],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout or target == "install"


def test_the_workflow_runs_the_oldest_python_and_a_newer_one() -> None:
    pythons = WORKFLOW["jobs"]["checks"]["strategy"]["matrix"]["python"]
    assert pythons[0] == PROJECT["requires-python"].removeprefix(">=")
    assert len(pythons) > 1


def test_the_version_is_the_same_wherever_it_stands() -> None:
    version = PROJECT["version"]
    assert CITATION["version"] == version
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert compose["services"]["worker"]["image"] == f"exitbits:{version}"


def test_the_licence_is_the_same_wherever_it_stands() -> None:
    assert CITATION["license"] == PROJECT["license"] == "MIT"
    assert Path(ROOT / "LICENSE").read_text().startswith("MIT License")


def test_no_two_files_of_tests_have_one_name() -> None:
    """Pytest imports them by it: the second would not be collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
