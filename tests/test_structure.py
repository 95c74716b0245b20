"""The structure of the packages: which way imports point, and what starts without torch.

Imports are read from the source, those for type checkers and those inside functions too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search", "studies", "dashboards")

# From the bottom up: a module imports from its own room and from rooms above it in this list.
ROOMS = {
    "search": (
        ("errors", "digest", "archive", "caching", "cores", "files"),
        ("display",),
        ("registry",),
        ("policy",),
        ("cost", "front", "data.splits"),
        ("space",),
        ("tasks.__init__", "tasks.base", "tasks.classification"),
        ("trace",),
        ("risk",),
        ("results",),
        ("thresholds",),
        ("bits",),
        ("methods",),
        ("tasks",),
        ("models",),
        ("data",),
        ("quantize",),
        ("engines",),
        ("quantized",),
        ("disk_cache",),
        ("evaluate",),
        ("measuring", "opening", "sensitivity", "training"),
        ("loading", "testing"),
        ("notebook",),
    ),
    "studies": (
        ("samplers.__init__",),
        ("config", "interrupts"),
        ("config_file",),
        ("places",),
        ("stored",),
        ("records",),
        ("store",),
        ("live_front", "fronts", "policy_file", "unchanged", "words"),
        ("samplers",),
        ("work",),
        ("changing", "creating", "evaluating", "picking"),
        ("methods",),
        ("launchers",),
        ("running",),
        ("notebook",),
        ("commands",),
        ("cli",),
    ),
    "dashboards": (
        ("theme", "axes", "plain", "staircase", "address", "words"),
        ("logins", "public"),
        ("security",),
        ("serving",),
        ("snapshot",),
        ("report",),
        ("actions",),
        ("pages.parts",),
        ("pages",),
        ("bodies",),
        ("app",),
        ("commands",),
    ),
}

# Modules that compute with torch, by the beginning of their names; every other is plain.
NEED_TORCH = (
    "search.data.batches",
    "search.engines.base",
    "search.engines.cpu.engine",
    "search.engines.reference",
    "search.models.backbones",
    "search.models.checkpoint",
    "search.models.counted",
    "search.models.early_exit",
    "search.models.heads",
    "search.models.pretrained",
    "search.models.stems",
    "search.loading",
    "search.notebook",
    "search.quantize.calibration",
    "search.quantize.drifting",
    "search.quantize.fitting",
    "search.quantize.gptq",
    "search.quantize.inputs",
    "search.quantize.kept",
    "search.quantize.qparams",
    "search.quantize.ranges",
    "search.quantize.straight_through",
    "search.quantized",
    "search.sensitivity",
    "search.tasks.classification_torch",
    "search.tasks.torch_half",
    "search.training",
    "studies.methods",
)
PLAIN_AFTER_ALL = ("search.models.backbones", "search.training", "studies.methods")  # the packages


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> Mapping[str, Path]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {module_name(path): path for path in found if "migrations" not in path.parts}


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                yield below if below in modules() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def arrows() -> Mapping[str, frozenset[str]]:
    return {
        name: frozenset(other for other in imported(path) if other in modules() and other != name)
        for name, path in modules().items()
    }


def circles(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """Modules on circles, or on the way from one to another.

    What imports nothing left and what nothing left imports is taken away, again and again.
    """
    left = {name: set(others) for name, others in graph.items()}
    while True:
        wanted = set().union(*left.values()) if left else set()
        free = [n for n, others in left.items() if not others & left.keys() or n not in wanted]
        if not free:
            return sorted(left)
        for name in free:
            del left[name]


def room_of(name: str) -> int:
    """Place of a module's room in its package's list."""
    package, _, rest = name.partition(".")
    is_init = modules()[name].name == "__init__.py"
    best, length = -1, -1
    for place, rooms in enumerate(ROOMS[package]):
        for room in rooms:
            own = room.removesuffix(".__init__")
            fits = rest == own and is_init if own != room else f"{rest}.".startswith(f"{own}.")
            if fits and len(room) > length:
                best, length = place, len(room)
    return best


def test_there_is_something_to_check() -> None:
    assert len(modules()) > 100
    assert "search.results" in arrows()["search.evaluate"]


def test_no_module_imports_itself_through_others() -> None:
    assert circles(arrows()) == []


def test_every_module_has_a_room() -> None:
    assert [name for name in modules() if "." in name and room_of(name) < 0] == []


def test_packages_point_one_way() -> None:
    wrong = [
        (name, other)
        for name, others in arrows().items()
        for other in others
        if PACKAGES.index(name.partition(".")[0]) < PACKAGES.index(other.partition(".")[0])
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_arrow_points_against_the_order_of_rooms(package: str) -> None:
    wrong = [
        (name, other)
        for name, others in arrows().items()
        for other in others
        if name.startswith(f"{package}.") and other.startswith(f"{package}.")
        if room_of(other) > room_of(name)
    ]
    assert wrong == []


def is_plain(name: str) -> bool:
    return name in PLAIN_AFTER_ALL or not f"{name}.".startswith(
        tuple(f"{one}." for one in NEED_TORCH)
    )


def test_plain_modules_load_no_torch() -> None:
    """Every one of them is imported, in one process, by the name that it would be asked for."""
    plain = sorted(name for name in modules() if is_plain(name) and not name.endswith("__main__"))
    assert {"search.results", "search.methods.maqee", "studies.store.writer"} <= set(plain)
    program = (
        "import importlib, sys\n"
        f"for name in {plain!r}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'timm', 'torchvision'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_modules_that_need_torch_load_it() -> None:
    """The list above does not call anything heavy that is not."""
    for name in NEED_TORCH:
        own = [other for other in modules() if f"{other}.".startswith(f"{name}.")]
        assert own, name
        assert any(reaches_torch(other) for other in own), name


@cache
def reaches_torch(name: str) -> bool:
    text = modules()[name].read_text(encoding="utf-8")
    tree = ast.parse(text)
    direct = {
        alias.name.partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        (node.module or "").partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
    }
    if direct & {"torch", "timm"}:
        return True
    return any(
        reaches_torch(other) for node in tree.body if isinstance(node, ast.ImportFrom)
        for other in [node.module or ""] if other in modules()
    )  # fmt: skip
