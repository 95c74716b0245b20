"""The members that ``docs/architecture.md`` adds work as they stand there."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from dash import Dash
from plugins import documented, write_distribution
from small_study import grow
from timm.models.mlp_mixer import MlpMixer
from torch.utils.flop_counter import FlopCounterMode

from dashboards.snapshot import Snapshots
from search import registry
from search.engines.base import resolve_engine
from search.models.early_exit import EarlyExitModel, all_exits
from search.quantize.calibration import calibrate
from search.quantize.qparams import ModelQParams
from search.quantize.ranges import resolve_quantizer
from search.tasks import Routed, resolve_task
from studies.launchers import WorkerOrder, open_launcher
from studies.records import StudyRecord
from studies.samplers.stock import make_sampler
from studies.store.writer import StudyStore

MEMBERS = {
    "backbones": ("mixer", "MlpMixer", "MixerBackbone"),
    "engines": ("small_batches", "small-batches", "SmallBatches"),
    "heads": ("peak_head", "peak", "PeakHead"),
    "launchers": ("niced", "niced", "NicedLauncher"),
    "quantizers": ("power_of_two", "power-of-two", "PowerOfTwo"),
    "tasks": ("balanced", "balanced", "Balanced"),
    "samplers": ("sobol", "sobol", "sobol"),
}


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with all of them, for the time of a test."""
    write_distribution(
        tmp_path, "example",
        {f"{module}.py": documented(f"{module}.py") for module, _, _ in MEMBERS.values()},
        {f"exitbits.{group}": {name: f"{module}:{attribute}"}
         for group, (module, name, attribute) in MEMBERS.items()},
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    registry._installed.cache_clear()
    resolve_engine.cache_clear()
    yield
    registry._installed.cache_clear()
    resolve_engine.cache_clear()


def test_a_mixer_with_peak_heads_answers_counts_and_is_quantized() -> None:
    torch.manual_seed(0)
    backbone = MlpMixer(num_classes=5, img_size=32, patch_size=8, embed_dim=32, num_blocks=3).eval()
    original = copy.deepcopy(backbone)
    model = EarlyExitModel(backbone, (1, 3), "peak", 5).eval().requires_grad_(False)
    images = torch.randn(20, 3, 32, 32)
    with torch.inference_mode():
        states = []
        answers = all_exits(
            partial(model.read_exits, see=lambda _, state: states.append(state)), images
        )
        torch.testing.assert_close(answers[:, 1], original(images))
        block = original.blocks[0](original.stem(images))
        torch.testing.assert_close(states[0], block)
        head = model.heads["1"]
        torch.testing.assert_close(answers[:, 0], head.fc(head.norm(block.amax(dim=1))))
        with FlopCounterMode(display=False) as counter:
            model(images[:1])
    ledger = model.ledger((3, 32, 32))
    assert counter.get_total_flops() == 2 * sum(op.macs for op in ledger.ops)
    assert {(op.part, op.block) for op in ledger.ops} == {
        ("embed", 0), ("block", 1), ("block", 2), ("block", 3), ("head", 1), ("head", 3),
    }  # fmt: skip

    seen = calibrate(model, lambda: iter([images]))
    qparams = ModelQParams(model, seen, resolve_quantizer("power-of-two"))
    reference, small = (resolve_engine(name)(model, qparams)
                        for name in ("reference", "small-batches"))  # fmt: skip
    for engine in (reference, small):
        engine.set_bits({op.name: (8, 8) for op in ledger.ops})
    assert small.name == "small-batches"
    found = all_exits(reference.run, images)
    assert torch.equal(all_exits(small.run, images), found)
    off = (found - answers).abs().mean() / answers.std()
    assert 1e-4 < off < 0.1, "quantized, and near the full precision"


def test_power_of_two_scales_are_the_least_that_clip_nothing() -> None:
    quantizer = resolve_quantizer("power-of-two")
    rows = torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    for bits in range(2, 9):
        chosen = quantizer.weight(rows, bits)
        assert torch.equal(chosen.scale.log2(), chosen.scale.log2().round())
        top = 2 ** (bits - 1) - 1
        peak = rows.abs().amax(dim=1)
        assert bool(((peak <= chosen.scale * top) & (peak > chosen.scale / 2 * top)).all())
        assert bool((chosen.codes - rows / chosen.scale[:, None]).abs().max() <= 0.5)


def test_balanced_accuracy_is_the_mean_recall_with_the_error_of_a_stratified_mean() -> None:
    task, rng = resolve_task("balanced"), np.random.default_rng(0)
    true = rng.choice([0, 1, 4], size=900, p=[0.7, 0.2, 0.1])
    predicted = np.where(rng.random(900) < np.array([0.9, 0.6, 0, 0, 0.3])[true], true, 2)
    recalls = {label: np.mean(predicted[true == label] == label) for label in (0, 1, 4)}
    score = task.score(np.stack([predicted, true], axis=1))
    assert score.value == pytest.approx(np.mean([*recalls.values()]))
    draws = [  # samples drawn anew within each class
        np.mean([rng.binomial(np.sum(true == label), recall) / np.sum(true == label)
                 for label, recall in recalls.items()])
        for _ in range(4000)
    ]  # fmt: skip
    assert score.standard_error == pytest.approx(np.std(draws), rel=0.05)
    routed = Routed.one(task, np.stack([predicted, true], axis=1))
    assert task.shortfall(routed) == pytest.approx([1 - score.value])


def test_a_sobol_sampler_covers_the_space_evenly() -> None:
    study = optuna.create_study(sampler=make_sampler("sobol", 3))
    for _ in range(17):  # the first is drawn alone, before the space is known
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        study.tell(trial, 0.0)
    drawn = np.array([trial.params["x"] for trial in study.trials[1:]])
    assert sorted(np.floor(drawn * 16).astype(int)) == list(range(16))


def test_a_page_shows_the_studies_of_a_store(
    tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> None:
    page: dict[str, Any] = {}
    exec(documented("sizes.py"), page)
    store = StudyStore(f"sqlite:///{tmp_path}/s.db", create=True)
    for name in ("apple", "pear"):
        store.create(make_record(name=name))
    grow(store, "pear", 2)
    app, snapshots = Dash(__name__), Snapshots(store)
    page["register"](app, snapshots)
    shown = str(page["layout"](snapshots, ""))
    assert "apple: 0" in shown
    assert "pear: 2" in shown


def test_a_launcher_starts_workers_sees_them_end_and_ends_them(
    tmp_path: Path, make_record: Callable[..., StudyRecord]
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    StudyStore(url, create=True).create(make_record())
    launcher = open_launcher("niced", WorkerOrder(url, "small", None, tmp_path / "log", 2))
    launcher.start()
    lost: set[str] = set()
    while (watched := launcher.poll()).alive:  # ended by the tests' own time limit at the latest
        lost.update(watched.lost)
        time.sleep(0.1)
    assert len(lost.union(watched.lost)) == 2
    assert "the checkpoint of study 'small' has changed" in launcher.last_words()
    launcher.start()
    assert len(launcher.close()) == 2
    assert launcher.poll().alive == 0
