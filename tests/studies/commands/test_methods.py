"""The comparison methods by their commands, on the bundled model.

The costly runs are made once for the whole module, in the order of the fixtures, and share their
traces.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundled_model import open_bundled
from running import run_here

from search.data import fashion
from search.models.bundled import checkpoint_path
from search.models.checkpoint import load_checkpoint, save_checkpoint
from search.policy import Policy
from search.results import evaluate_trace
from studies.config import parse_config
from studies.fronts import FrontSummary
from studies.records import EvaluationRow
from studies.store.contributions import Contribution, contribute
from studies.store.writer import StudyStore

STUDY = """
name = "short"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "fashion"
calibration_images = 64
[anchors]
bits = [4]
thresholds = [0.8, 1.0]
[budget]
trials = 6
"""
# Baselines cost 15 passes in the first study, and two in the second: full precision and 4 bits.
SPACES = {"short": [2, 3, 4, 5, 6, 7, 8], "narrow": [4]}
BUDGET = 0.3  # GBOPs: some way above the cheapest policy, far below 8 bits at full depth
IMAGES = 48

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def run(folder: Path, shared_cache: Path) -> Run:
    """Run the command in the module's folder."""

    def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run_here(arguments, folder, {"EXITBITS_CACHE": str(shared_cache)})

    return start


@pytest.fixture(scope="module")
def store(folder: Path, run: Run) -> StudyStore:
    """The store with both studies in it, the first as ``submit`` leaves it."""
    (folder / "short.toml").write_text(STUDY)
    done = run("submit", "short.toml")
    assert done.returncode == 0, done.stderr
    found = StudyStore(f"sqlite:///{folder}/exitbits.db")
    copy_study(found, name="narrow", space={"weight_bits": [4], "activation_bits": [4]})
    return found


def copy_study(store: StudyStore, **changes: object) -> None:
    """Add a study like ``short`` but for some sections: it costs no process to measure it."""
    record = store.get("short").record
    fields = {**record.config.model_dump(mode="json"), **changes}
    assert store.create(dataclasses.replace(record, config=parse_config(fields, "test")))


@pytest.fixture(scope="module")
def training(folder: Path) -> Path:
    """A folder of training images in the published format: the bundled ones for calibration."""
    place = folder / "images"
    place.mkdir()
    split = fashion.FashionDataset().split("calibration").head(IMAGES)
    for name, array in (
        ("train-images-idx3-ubyte", split.read(np.arange(IMAGES))[..., 0]),
        ("train-labels-idx1-ubyte", split.targets.astype("uint8")),
    ):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        (place / name).write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return place


def from_source(store: StudyStore, source: str) -> list[EvaluationRow]:
    return [row for row in store.evaluations(store.get("short").id) if row.source == source]


def check_row(printed: dict[str, Any], row: EvaluationRow) -> None:
    """What was printed is what was recorded, to the last bit."""
    for key, value in (
        ("source", row.source), ("digest", row.digest), ("accuracy", row.value),
        ("accuracy_se", row.standard_error), ("gbops", row.gbops), ("mean_exit", row.mean_exit),
    ):  # fmt: skip
        assert printed[key] == value, key


# Baselines


@pytest.fixture(scope="module", params=["narrow", pytest.param("short", marks=pytest.mark.slow)])
def printed(store: StudyStore, run: Run, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What one whole run of ``baselines`` prints."""
    done = run("baselines", request.param, "--json")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_baselines_print_what_they_record(store: StudyStore, printed: dict[str, Any]) -> None:
    assert set(printed) == {"study", "additivity", "baselines"}
    name = printed["study"]
    # In a space of one policy there is nothing to rank.
    for key in ("noise", "drift"):
        rank = printed["additivity"][key]
        assert rank is None if name == "narrow" else 0.5 < rank <= 1
    shown = printed["baselines"]
    counts = Counter(row["source"] for row in shown)
    uniform = [f"W{bits}A{bits}" for bits in (8, 6, 4, 3) if bits in SPACES[name]]
    fixed = ["full precision", *uniform]
    assert list(counts) == [
        f"{one}{exits}" for one in (*fixed, "static") for exits in ("", "+exits")
    ]
    for one in fixed:
        assert counts[one] == 1
        assert 2 <= counts[f"{one}+exits"] <= 16
    assert counts["static"] == 1 if name == "narrow" else 2 <= counts["static"] <= 10
    rows = {(row.source, row.digest): row for row in store.evaluations(store.get(name).id)}
    for row in shown:
        recorded = rows[row["source"], row["digest"]]
        check_row(row, recorded)
        assert (row["trial"], row["model"]) == (recorded.trial, None)
        policy = recorded.policy
        assert row["weight_bits"] == list(policy.bits.weights)
        assert row["thresholds"] == list(policy.thresholds)
        # Outside the space, and so no trial, is full precision alone.
        assert (row["trial"] is None) is row["source"].startswith("full precision")
    # Within a source they go from cheap to dear.
    for source in counts:
        costs = [row["gbops"] for row in shown if row["source"] == source]
        assert costs == sorted(costs)


def test_reductions_are_against_the_three_references(
    store: StudyStore, printed: dict[str, Any]
) -> None:
    record = store.get(printed["study"]).record
    macs = record.ledger.full_depth_macs
    for row in printed["baselines"]:
        assert row["reduction"] == pytest.approx(1 - row["gbops"] * 1e9 / (macs * 1024))
        assert row["reduction_w8a8"] == pytest.approx(1 - row["gbops"] * 1e9 / (macs * 64))
        # No head but the last counts in a reference, and all do in a policy without exits.
        low = -1e-2 if row["mean_exit"] == 6 else 0
        assert low <= row["reduction_same_bits"] < 1
    (plain,) = [row for row in printed["baselines"] if row["source"] == "full precision"]
    assert plain["mean_exit"] == 6
    assert plain["reduction_same_bits"] == pytest.approx(0, abs=1e-2)
    assert plain["accuracy"] == pytest.approx(record.reference_value, abs=1e-3)


def test_the_front_holds_or_beats_every_baseline(
    store: StudyStore, printed: dict[str, Any], run: Run
) -> None:
    done = run("front", printed["study"], "--json")
    assert done.returncode == 0, done.stderr
    front = json.loads(done.stdout)
    assert front["evaluations"] >= len(printed["baselines"])
    for row in printed["baselines"]:
        assert any(
            one["accuracy"] >= row["accuracy"] and one["gbops"] <= row["gbops"]
            for one in front["front"]
        ), row["source"]
    # Contributions take nothing from the search, which has not begun.
    progress = store.progress(store.get(printed["study"]).id)
    assert progress.budget - progress.finished == 6


def test_a_second_run_adds_nothing_and_prints_a_table(
    store: StudyStore, printed: dict[str, Any], run: Run
) -> None:
    name = printed["study"]
    rows, progress = store.evaluations(store.get(name).id), store.progress(store.get(name).id)
    done = run("baselines", name)
    assert done.returncode == 0, done.stderr
    assert store.evaluations(store.get(name).id) == rows
    assert store.progress(store.get(name).id) == progress
    for source in {row["source"] for row in printed["baselines"]}:
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f" {source} ")]
        mine = [row for row in printed["baselines"] if row["source"] == source]
        cells = line.removeprefix(f" {source} ").split()
        assert cells[0] == str(len(mine))
        assert cells[1] == f"{max(row['accuracy'] for row in mine):.4f}"
    assert "it flatters them" in done.stdout
    assert "quantization-aware training left out" in done.stdout


# MAQEE


@pytest.fixture(scope="module")
def searched(store: StudyStore, run: Run) -> dict[str, Any]:
    """What ``maqee`` prints under one budget."""
    done = run(
        "maqee", "short", "--budgets", str(BUDGET), "--starts", "1", "--max-iterations", "1",
        "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_maqee_gives_a_policy_within_its_budget(
    store: StudyStore, searched: dict[str, Any]
) -> None:
    assert searched["study"] == "short"
    (policy,) = searched["policies"]
    assert policy["budget_gbops"] == BUDGET
    assert 0 < policy["gbops"] <= BUDGET
    assert policy["accuracy"] > 0.85
    assert policy["gap"] == pytest.approx(policy["harm"] - policy["rescue"])
    assert policy["risk"] == pytest.approx(
        policy["gap"] + 0.05 * (policy["premature"] + policy["delayed"])
    )
    assert policy["gap"] == pytest.approx(
        store.get("short").record.reference_value - policy["accuracy"], abs=1e-9
    )
    (row,) = from_source(store, "MAQEE")
    check_row(policy, row)
    assert row.policy == Policy.from_dict(policy["policy"])


def test_maqees_trial_keeps_how_it_came_about(store: StudyStore, searched: dict[str, Any]) -> None:
    (row,) = from_source(store, "MAQEE")
    assert row.trial is not None
    study_id = store.storage.get_study_id_from_name("short")
    trial = next(
        one for one in store.storage.get_all_trials(study_id) if one.number == row.trial
    )  # fmt: skip
    assert trial.values == [row.value, row.gbops]
    assert store.get("short").record.space.decode(trial.params) == row.policy
    kept = trial.user_attrs["maqee"]
    (shown,) = searched["policies"]
    for key in ("iterates", "stops", "risk", "passes", "budget_gbops"):
        assert kept[key] == shown[key], key
    assert 1 <= len(kept["iterates"]) <= 2  # one start, and perhaps the last resort
    assert kept["iterates"][0]["accepted"] is True
    assert all(isinstance(reason, str) and reason for reason in kept["stops"].values())
    settings = trial.user_attrs["maqee_settings"]
    assert (settings["starts"], settings["max_iterations"], settings["alpha"]) == (1, 1, 0.05)


def test_again_with_training_images_only_the_recovered_one_is_new(
    store: StudyStore, searched: dict[str, Any], run: Run, folder: Path, training: Path
) -> None:
    before = store.evaluations(store.get("short").id)
    done = run(
        "maqee", "short", "--budgets", str(BUDGET), "--starts", "1", "--max-iterations", "1",
        "--data", training, "--steps", "2", "--batch-size", "16", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    own, better = json.loads(done.stdout)["policies"]
    (first,) = searched["policies"]
    assert {**own, "seconds": 0} == {**first, "seconds": 0}
    *rest, row = store.evaluations(store.get("short").id)
    assert rest == before
    check_row(better, row)
    assert (row.trial, row.source) == (None, "MAQEE+recovery")
    assert row.gbops <= BUDGET
    assert row.policy.bits.as_dict() == Policy.from_dict(own["policy"]).bits.as_dict()
    # Its checkpoint is there, is the one that the row names, and nothing else was left.
    assert row.checkpoint == str(folder / better["checkpoint"])
    _, card = load_checkpoint(Path(row.checkpoint))
    assert card.digest == row.model != store.get("short").record.model_digest
    assert card.training["recipe"]["steps"] == 2
    assert {file.suffix for file in (folder / "recovered").iterdir()} == {".safetensors", ".json"}
    # What is picked of it names that checkpoint.
    done = run("pick", "short", "--digest", row.digest, "-o", "again.json")
    assert done.returncode == 0, done.stderr
    bundle = json.loads((folder / "again.json").read_text())
    assert bundle["model_digest"] == row.model
    assert str(folder / bundle["study"]["model"]["checkpoint"]) == row.checkpoint


# Refusals, all before any model is loaded but the last


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("maqee", "short", "--budgets", "0.01", "0.3"), 3, ("0.01 GBOPs", "costs 0.0696")),
        (("maqee", "short", "--budgets", "0"), 2, ("'0'", "positive number")),
        (("maqee", "short"), 2, ("no budget", "--budgets", "--max-worst-gbops")),
        (("maqee", "short", "--max-memory", "-1"), 2, ("'-1'", "positive number")),
        (("maqee", "short", "--budgets", "0.3", "--alpha", "11"), 2, ("alpha = 11.0", "0 to 10")),
        (("maqee", "short", "--budgets", "0.3", "--epsilon", "nan"), 2, ("epsilon", "-1 to 12")),
        (("maqee", "none", "--budgets", "0.3"), 2, ("no study 'none'", "short")),
        (("maqee", "short", "--budgets", "0.3", "--data", "no"), 2, ("no folder 'no'", "--data")),
        (
            ("maqee", "short", "--budgets", "0.3", "--data", "empty"),
            2,
            ("no train-images-idx3-ubyte[.gz] in 'empty'", "four published"),
        ),
        (("baselines", "short", "--data", "empty"), 2, ("empty", "train-images-idx3-ubyte")),
        (("baselines", "short", "--data", "empty", "--steps", "0"), 2, ("steps = 0", "1 to")),
        (("baselines", "short", "--alpha", "-1"), 2, ("alpha = -1.0", "0 to 10")),
        (("baselines", "none"), 2, ("no study 'none'", "short")),
        (("baselines", "short", "--data", "short.toml"), 2, ("no folder 'short.toml'", "--data")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_what_cannot_be_done_is_refused_in_one_line(
    store: StudyStore, run: Run, folder: Path, arguments: tuple[str, ...], code: int,
    words: tuple[str, ...],
) -> None:  # fmt: skip
    (folder / "empty").mkdir(exist_ok=True)
    before = store.evaluations(store.get("short").id)
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
    assert store.evaluations(store.get("short").id) == before


def test_a_checkpoint_that_has_changed_is_refused(
    store: StudyStore, run: Run, folder: Path
) -> None:
    """A whole pair of weights and card, but not the one that the study began with."""
    model, card = load_checkpoint(checkpoint_path("bundled:fashion"))
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    save_checkpoint(model, card, folder / "mine.safetensors")
    copy_study(store, name="mine", model={"checkpoint": str(folder / "mine.safetensors")})
    done = run("maqee", "mine", "--budgets", str(BUDGET), "--json")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "checkpoint of study 'mine' has changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert store.evaluations(store.get("mine").id) == []


# Recovery of one policy


@pytest.fixture(scope="module")
def bundle(searched: dict[str, Any], run: Run, folder: Path) -> Path:
    """MAQEE's policy, picked."""
    digest = searched["policies"][0]["digest"]
    done = run("pick", "short", "--digest", digest, "-o", "policy.json")
    assert done.returncode == 0, done.stderr
    return folder / "policy.json"


@pytest.fixture(scope="module")
def recovered(run: Run, folder: Path, bundle: Path, training: Path) -> Path:
    """The bundle that ``recover`` writes."""
    done = run(
        "recover", bundle, "--data", training, "--steps", "3", "--batch-size", "16",
        "-o", "r.safetensors",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "before" in done.stdout
    assert "r.policy.json" in done.stdout
    return folder / "r.policy.json"


def test_recover_writes_a_checkpoint_and_its_bundle(
    folder: Path, bundle: Path, recovered: Path
) -> None:
    before, after = (json.loads(file.read_text()) for file in (bundle, recovered))
    model, card = load_checkpoint(folder / "r.safetensors")
    plain, _ = load_checkpoint(checkpoint_path("bundled:fashion"))
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(
        model.backbone.blocks[0].mlp.fc1.weight, plain.backbone.blocks[0].mlp.fc1.weight
    )
    assert card.training["recovered_from"] == before["model_digest"]
    assert card.training["recipe"]["steps"] == 3
    assert after["model_digest"] == card.digest != before["model_digest"]
    assert after["study"]["model"]["checkpoint"] == "r.safetensors"
    assert (after["source"], after["trial"]) == ("MAQEE+recovery", None)
    assert (after["data_digest"], after["split"]) == (before["data_digest"], "search")
    for key in ("weight_bits", "activation_bits", "embed_bits", "head_bits"):
        assert after["policy"][key] == before["policy"][key]
    cost = after["evaluation"]["cost"]["expected"]
    assert cost <= before["evaluation"]["cost"]["expected"]
    assert after["evaluation"]["policy"] == after["policy"]
    # Neither a state nor half a file is left.
    assert {file.name for file in folder.glob(".*")} == set()
    assert {file.name for file in folder.glob("r.*")} == {
        "r.safetensors", "r.json", "r.policy.json",
    }  # fmt: skip


def test_a_recovered_policy_is_reproduced_exactly(run: Run, recovered: Path) -> None:
    done = run("evaluate", recovered, "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["reproduced"] is True
    recorded = json.loads(recovered.read_text())["evaluation"]
    # The model that it came from, to which risk terms compare, is not in the bundle.
    risk = recorded.pop("risk")
    assert risk["gap"] == pytest.approx(risk["harm"] - risk["rescue"])
    assert measured["risk"] is None
    assert {key: measured[key] for key in recorded} == recorded


def test_a_pass_that_was_given_up_is_repeated_on_its_images(
    run: Run, folder: Path, bundle: Path
) -> None:
    evaluator = open_bundled(64)
    fields = json.loads(bundle.read_text())
    policy = Policy.from_dict(fields["policy"])
    trace = evaluator.first_trace(policy.bits, 300)
    recorded = evaluate_trace(policy, trace, evaluator.ledger, evaluator.task)
    assert recorded.samples == 300
    (folder / "raced.json").write_text(json.dumps({**fields, "evaluation": recorded.as_dict()}))
    done = run("evaluate", "raced.json")
    assert done.returncode == 0, done.stderr
    assert "only 300 of 3000 images" in done.stdout
    assert "reproduces the recorded figures exactly" in done.stdout


def test_a_bundle_of_another_model_is_refused(
    run: Run, folder: Path, bundle: Path, training: Path
) -> None:
    edited = json.loads(bundle.read_text())
    own = edited["model_digest"]
    edited["model_digest"] = "0" * 64
    (folder / "edited.json").write_text(json.dumps(edited))
    done = run("recover", "edited.json", "--data", training, "-o", "other.safetensors")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "0" * 12 in done.stderr
    assert own[:12] in done.stderr
    assert "Traceback" not in done.stderr
    assert list(folder.glob("other*")) == list(folder.glob(".other*")) == []


def test_a_bundle_measured_on_other_images_is_refused(
    run: Run, folder: Path, bundle: Path, training: Path
) -> None:
    edited = json.loads(bundle.read_text())
    edited["data_digest"] = "0" * 64
    (folder / "edited.json").write_text(json.dumps(edited))
    done = run("recover", "edited.json", "--data", training, "-o", "other.safetensors")
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "are not those that the policy was measured on" in done.stderr
    assert list(folder.glob("other*")) == list(folder.glob(".other*")) == []


def test_weights_without_a_card_are_not_replaced(
    run: Run, folder: Path, bundle: Path, training: Path
) -> None:
    lone = folder / "lone.safetensors"
    lone.write_bytes(b"someone's work")
    done = run("recover", bundle, "--data", training, "--steps", "1", "-o", lone)
    assert done.returncode == 2, done.stderr
    assert "has no card" in done.stderr
    assert lone.read_bytes() == b"someone's work"


def test_a_policy_measured_with_two_models_is_told_apart(
    store: StudyStore, run: Run, folder: Path, searched: dict[str, Any]
) -> None:
    (own,) = from_source(store, "MAQEE")
    (evaluation,) = store.details([own])
    twin = Contribution("twin", evaluation, "f" * 64, folder / "t.safetensors")
    contribute(store, store.get("short").id, [twin])
    done = run("pick", "short", "--digest", own.digest, "-o", "twin.json")
    assert done.returncode == 3, done.stderr
    assert "measured with 2 models" in done.stderr
    for model, digest in (("own", store.get("short").record.model_digest), ("ffff", "f" * 64)):
        done = run("pick", "short", "--digest", own.digest, "--model", model, "-o", f"{model}.json")
        assert done.returncode == 0, done.stderr
        assert json.loads((folder / f"{model}.json").read_text())["model_digest"] == digest
    done = run("pick", "short", "--digest", own.digest, "--model", "0", "-o", "twin.json")
    assert (done.returncode, "starts with '0'" in done.stderr) == (3, True)
    done = run("pick", "short", "--knee", "--model", "own", "-o", "twin.json")
    assert (done.returncode, "--digest" in done.stderr) == (2, True)
    assert not (folder / "twin.json").exists()


def test_an_existing_bundle_is_not_replaced(
    run: Run, folder: Path, bundle: Path, recovered: Path, training: Path
) -> None:
    files = [folder / name for name in ("r.safetensors", "r.json", "r.policy.json")]
    before = [file.read_bytes() for file in files]
    done = run("recover", bundle, "--data", training, "--steps", "1", "-o", "r.safetensors")
    assert done.returncode == 2, done.stderr
    assert "r.policy.json' exists" in done.stderr
    assert "--force" in done.stderr
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("policy.json", "--data", "no", "-o", "x.safetensors"), ("no folder 'no'", "--data")),
        (("policy.json", "--data", "images", "-o", "x.pt"), ("'x.pt'", ".safetensors")),
        (
            ("policy.json", "--data", "images", "-o", "no/x.safetensors"),
            ("cannot write 'no/x.safetensors'", "-o"),
        ),
        (("short.toml", "--data", "images", "-o", "x.safetensors"), ("not a policy bundle",)),
        (("none.json", "--data", "images", "-o", "x.safetensors"), ("cannot read 'none.json'",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_recover_refuses_bad_usage_at_once(
    run: Run, folder: Path, bundle: Path, training: Path, arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    done = run("recover", *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr
    assert list(folder.glob("*x.*")) == []


def test_maqee_and_pick_within_bounds_on_what_is_not_amortized(
    store: StudyStore, searched: dict[str, Any], run: Run
) -> None:
    record, memory, worst = store.get("short").record, 300_000, 0.4
    done = run(
        "maqee", "short", "--max-worst-gbops", str(worst), "--max-memory", str(memory),
        "--starts", "1", "--max-iterations", "1", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["policies"]
    assert found["budget_gbops"] is None
    assert found["within"] == {"worst": worst * 1e9, "memory": memory}
    bits = Policy.from_dict(found["policy"]).bits
    assert 0.8 * worst < record.ledger.path_bops(bits)[-1] / 1e9 <= worst
    assert record.ledger.memory(bits) <= memory
    assert found["accuracy"] > 0.85

    done = run("pick", "short", "--max-memory", str(memory), "--max-worst-gbops", str(worst),
               "-o", "bounded.json", "--force")  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = FrontSummary.load(store, store.get("short"))
    costs = [summary.cost(row) for row in summary.rows]
    best = max(
        row.value for row, cost in zip(summary.rows, costs, strict=True)
        if cost.memory <= memory and cost.worst <= worst * 1e9
    )  # fmt: skip
    assert f"{best:.4f}" in done.stdout
    assert "GBOPs at worst" in done.stdout
    assert "bytes of weights" in done.stdout
    done = run("pick", "short", "--max-memory", "10")
    assert done.returncode == 3
    assert "10 bytes of weights (the least there is: " in done.stderr


def test_one_model_for_every_policy_of_a_study(
    store: StudyStore, searched: dict[str, Any], run: Run, folder: Path, training: Path
) -> None:
    words = ("recover", "--all", "short", "--data", training, "--steps", "2", "--batch-size", "16",
             "-o", "all.safetensors")  # fmt: skip
    done = run(*words)
    assert done.returncode == 0, done.stderr
    record = store.get("short").record
    _, card = load_checkpoint(folder / "all.safetensors")
    assert card.training["recovered_from"] == record.model_digest
    widths = sorted({*record.space.weight_choices} & {*record.space.activation_choices})
    for width in widths:
        (line,) = [line for line in done.stdout.splitlines() if f"W{width}A{width}" in line]
        before, after = (float(cell) for cell in line.split()[1:])
        assert 0 <= min(before, after) <= max(before, after) <= 1
    assert f"digest {card.digest[:12]}" in done.stdout
    again = run(*words)  # it is there
    assert again.stdout == done.stdout
    for words, told in (
        (("recover", "--data", training, "-o", "x.safetensors"), "or --all STUDY"),
        (("recover", "p.json", "--all", "short", "--data", training, "-o", "x.safetensors"),
         "or --all STUDY"),
        (("recover", "--all", "none", "--data", training, "-o", "x.safetensors"), "'none'"),
    ):  # fmt: skip
        done = run(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert told in done.stderr
