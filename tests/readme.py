"""The README's lines for a notebook, and the study that they name."""

from __future__ import annotations

import re

from running import ROOT

README_STUDY = """
name = "mine"
model.checkpoint = "bundled:fashion"
data = { dataset = "fashion", calibration_images = 64 }
anchors = { bits = [4, 8], thresholds = [0.9] }
budget.trials = 2
"""


def readme_lines() -> str:
    """The code below "In a notebook"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"## In a notebook\n.*?```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found.group(1)
