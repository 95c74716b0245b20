"""What a notebook imports: few names, nothing heavy before it is used, and the README's lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from readme import README_STUDY, readme_lines
from running import command_env

import search
import studies
from search.errors import BadInput

SEARCH = [
    "BadInput", "Bits", "Budget", "Evaluation", "ExitbitsError", "HarvestedFront", "Model",
    "Policy", "PolicySpace", "load",
]  # fmt: skip
STUDIES = ["PickedPolicy", "StudyFront", "StudyHandle", "create", "load"]

LIGHT = """
import sys
import search, studies
heavy = {"torch", "timm", "numpy", "optuna", "sqlalchemy", "plotly", "pydantic"} & set(sys.modules)
assert not heavy, heavy
assert set(search.__all__) <= set(dir(search)) and set(studies.__all__) <= set(dir(studies))
import studies.notebook
assert not {"torch", "timm", "plotly", "pandas"} & set(sys.modules)
"""

SMALL = """
name = "small"
model.checkpoint = "recorded:small"
data.dataset = "fashion"
engine.name = "reference"
sampler.name = "random"
anchors = { bits = [4], thresholds = [0.9] }
trial = { harvest = 8, racing = 0 }
budget.trials = 3
"""


def test_the_public_names_are_these() -> None:
    assert search.__all__ == SEARCH
    assert studies.__all__ == STUDIES
    for module in (search, studies):
        for name in module.__all__:
            assert getattr(module, name).__doc__
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_importing_loads_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, env=command_env())


def test_the_readmes_lines_run_in_a_notebook(tmp_path: Path, shared_cache: Path) -> None:
    (tmp_path / "mine.toml").write_text(README_STUDY)
    setup = f"import os; os.environ['EXITBITS_CACHE'] = {str(shared_cache)!r}"
    lines = readme_lines().strip().splitlines()
    shown = ["policy", "front", "study", "study.front()", "best", "best.policy.bits"]
    cells = [setup, *lines, *shown]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env=command_env())
    outputs = {cell.source: cell.outputs for cell in notebook.cells}

    (printed,) = outputs[next(line for line in lines if "print(" in line)]
    assert "accuracy 0." in printed.text
    assert "GBOPs" in printed.text
    assert "risk" in printed.text
    frame = outputs[next(line for line in lines if "to_pandas" in line)][-1]
    assert "<table" in frame.data["text/html"]
    assert "weight_bits" in frame.data["text/html"]
    figure = outputs[next(line for line in lines if "plot()" in line)][-1]
    assert any("plotly" in kind or kind == "text/html" for kind in figure.data)
    for name in ("policy", "front", "study", "study.front()", "best"):
        assert "<table" in outputs[name][-1].data["text/html"], name


@pytest.fixture
def small(tmp_path: Path) -> studies.StudyHandle:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return studies.create(str(file), store=f"sqlite:///{tmp_path}/s.db", cache=tmp_path / "cache")


def test_a_study_is_run_looked_at_and_picked_from(small: Any, tmp_path: Path) -> None:
    seen = []
    progress = small.run(1, on_progress=lambda progress, summary: seen.append(progress.finished))
    assert (progress.finished, progress.budget, progress.done) == (3, 3, True)
    assert seen == sorted(seen)
    front = small.front()
    frame = front.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["gbops"]) == sorted(frame["gbops"])
    assert len(frame) == len(front) == len(list(front))
    assert front[0].gbops == frame["gbops"][0]
    figure = small.plot()
    assert "GBOPs" in figure.layout.xaxis.title.text
    best = small.pick(max_gbops=float(frame["gbops"].max()))
    assert best.policy.digest == front[-1].policy.digest
    file = best.save(tmp_path / "policy.json")
    assert json.loads(file.read_text())["digest"] == best.policy.digest
    with pytest.raises(BadInput, match="exists"):
        best.save(file)
    # Found again by name, and by what it is called later.
    again = studies.load("small", store=small.store.address, cache=tmp_path / "cache")
    again.store.rename(again.study.id, "other")
    assert again.name == small.name == "other"
    assert "3 of 3" in repr(small)
    with pytest.raises(BadInput, match="no study 'small'"):
        studies.load("small", store=small.store.address)
