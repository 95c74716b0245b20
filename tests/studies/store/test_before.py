"""A store that was written before packages were laid out anew, once it is upgraded: it opens, it
goes on, nothing moves.

``before/`` holds what commit 8a7c4dd wrote for ``launch before.toml --workers 1``, and what its
``front --json`` printed.
"""

from __future__ import annotations

import json
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from search.policy import Policy
from studies.records import HARVEST
from studies.store.writer import StudyStore

BEFORE = Path(__file__).parent / "before"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def store(tmp_path: Path, exitbits: Run) -> StudyStore:
    """A copy of that store, where the command finds it, upgraded."""
    packed = (BEFORE / "exitbits.db.xz").read_bytes()
    (tmp_path / "exitbits.db").write_bytes(lzma.decompress(packed))
    refused = exitbits("front", "before")
    assert refused.returncode == 2
    assert "older schema 0002" in refused.stderr
    assert exitbits("store", "upgrade").returncode == 0
    return StudyStore(f"sqlite:///{tmp_path}/exitbits.db")


def test_the_front_is_the_same_and_policies_keep_their_digests(
    store: StudyStore, exitbits: Run
) -> None:
    printed = exitbits("front", "before", "--json")
    assert printed.returncode == 0, printed.stderr
    now, then = json.loads(printed.stdout), json.loads((BEFORE / "front.json").read_text())
    # Rows have had more columns since.
    now["front"] = [
        {key: row[key] for key in old} for row, old in zip(now["front"], then["front"], strict=True)
    ]
    assert now == then
    rows = store.evaluations(store.get("before").id)
    assert len(rows) == 36
    for row in rows:
        assert Policy.from_json(row.policy_json).to_json() == row.policy_json
        assert row.policy.digest == row.digest


def test_it_goes_on_where_it_was(
    store: StudyStore, exitbits: Run, tmp_path: Path, shared_cache: Path
) -> None:
    study = store.get("before")
    before = {row.digest for row in store.evaluations(study.id)}
    (tmp_path / "before.toml").write_text((BEFORE / "before.toml").read_text())
    more = exitbits(
        "launch", "before.toml", "--trials", "5", "--workers", "1", "--cache", shared_cache
    )
    assert more.returncode == 0, more.stderr
    after = store.evaluations(study.id)
    assert before <= {row.digest for row in after}
    assert len(after) > 36
    assert sorted(row.trial or 0 for row in after if row.source != HARVEST) == [0, 1, 2, 3, 4]
    # What was recorded then is measured again to the last bit now, pass and thresholds.
    picked = exitbits("pick", "before", "--max-gbops", "0.12", "-o", "policy.json")
    assert picked.returncode == 0, picked.stderr
    again = exitbits("evaluate", "policy.json")
    assert "reproduces the recorded figures exactly" in again.stdout, again.stderr
