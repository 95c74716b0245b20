"""A task from outside whose metric is no mean over samples, from training to recovery."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from bundled_model import open_bundled
from made_tasks import Labels
from plugins import write_distribution

from search import registry
from search.bits.tables import SensitivityTables
from search.data import fashion
from search.data.batches import normalized_batches
from search.data.splits import Split
from search.evaluate import Evaluator, measure_reference
from search.methods.baselines import BaselineSet
from search.methods.maqee import Maqee
from search.methods.outer import OuterProblem
from search.methods.settings import MaqeeSettings
from search.policy import Policy
from search.quantized import QuantizedModel
from search.sensitivity import SensitivityMeter
from search.space import PolicySpace
from search.tasks import TASKS, TORCH_TASKS
from search.training.data import ArrayData
from search.training.loop import EpochReport, train
from search.training.plan import TrainRecipe
from search.training.recipes import exit_values
from search.training.recovery import RecoveredTraces, RecoverRecipe, recover
from search.training.targets import ForBits

NAMES = ("footwear", "sleeves", "top", "bottom", "bag", "warm")
LABELED = {  # what each class of the bundled images is
    "t-shirt": "top sleeves", "trouser": "bottom", "pullover": "top sleeves warm",
    "dress": "top bottom", "coat": "top sleeves warm", "sandal": "footwear",
    "shirt": "top sleeves", "sneaker": "footwear", "bag": "bag", "ankle boot": "footwear warm",
}  # fmt: skip
TABLE = np.array(
    [[name in LABELED[one].split() for name in NAMES] for one in fashion.CLASSES], np.int64
)
ALPHA = 0.05


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The task's two halves as members from another distribution."""
    folder = tmp_path_factory.mktemp("site")
    write_distribution(
        folder, "labels", {},
        {"exitbits.tasks": {"labels": "made_tasks:Labels"},
         "exitbits.torch_tasks": {"labels": "made_tasks_torch:TorchLabels"}},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        registry._installed.cache_clear()
        yield
    registry._installed.cache_clear()


def labeled(name: str, count: int) -> Split:
    split = fashion.FashionDataset().split(name).head(count)
    return replace(split, digest=f"{split.digest} labeled", targets=TABLE[split.targets])


class KeptTraces(dict):
    """Traces in memory."""

    load = dict.get
    store = dict.__setitem__


@pytest.fixture(scope="module")
def evaluator(installed: None) -> Evaluator:
    """The bundled model with the heads of classes turned into heads of labels: 300 images."""
    bundled = open_bundled(32).quantized
    card = bundled.card.model_copy(update={"task": "labels", "classes": NAMES})
    model = copy.deepcopy(bundled.model)
    shares = TABLE.T / TABLE.sum(axis=0)[:, None] - (1 - TABLE.T) / (1 - TABLE).sum(axis=0)[:, None]
    mixed = torch.tensor(shares, dtype=torch.float32)  # from class logits to label logits
    for head in (*(head.fc for head in model.heads.values()), model.backbone.head):
        head.weight = torch.nn.Parameter(mixed @ head.weight.detach())
        head.bias = torch.nn.Parameter(mixed @ head.bias.detach())
        head.out_features = len(NAMES)
    quantized = QuantizedModel(model, card, labeled("calibration", 32))
    return Evaluator(quantized, labeled("search", 300), KeptTraces())


@pytest.fixture(scope="module")
def space(evaluator: Evaluator) -> PolicySpace:
    return PolicySpace.from_ledger(evaluator.ledger, "block", weight_choices=(2, 4, 8),
                                   activation_choices=(4, 8))  # fmt: skip


@pytest.fixture(scope="module")
def tables(evaluator: Evaluator) -> SensitivityTables:
    return SensitivityMeter(evaluator.quantized, "block", images=16).tables()


@pytest.fixture(scope="module")
def outer(evaluator: Evaluator, space: PolicySpace) -> OuterProblem:
    return OuterProblem(evaluator, space, MaqeeSettings(alpha=ALPHA, starts=2, max_iterations=2))


def macro_f1(said: np.ndarray, true: np.ndarray) -> float:
    """By class, from answers and targets ``[N, classes]``."""
    scores = []
    for c in range(len(NAMES)):
        hits = np.sum(said[:, c] & true[:, c])
        scores.append(2 * hits / max(1, np.sum(said[:, c]) + np.sum(true[:, c])))
    return float(np.mean(scores))


def test_it_is_named_like_any_other(evaluator: Evaluator) -> None:
    assert "labels" in TASKS
    assert "labels" in TORCH_TASKS
    assert isinstance(evaluator.task, Labels)


def test_training_reports_its_metric(evaluator: Evaluator) -> None:
    model, known = copy.deepcopy(evaluator.quantized.model), labeled("calibration", 128)
    data = ArrayData(known.read(np.arange(128)), known.targets, fashion.MEAN, fashion.STD)
    reports: list[EpochReport] = []
    recipe = TrainRecipe(epochs=2, batch_size=64, warmup_epochs=0, learning_rate=1e-4,
                         compile=False)  # fmt: skip
    train(model, "labels", data, recipe, reports.append)
    assert reports[1].loss < reports[0].loss
    assert reports[0].values[-1] > 0.7
    values = exit_values(evaluator.quantized.model, evaluator.card, evaluator.split)
    assert values[-1] == pytest.approx(measure_reference(evaluator))


def test_an_evaluation_is_of_its_metric(evaluator: Evaluator, space: PolicySpace) -> None:
    policy = space.uniform(8, 0.8)
    found = evaluator.evaluate(policy)
    (images,) = normalized_batches(evaluator.split, evaluator.card.input, 300)
    exits = evaluator.trace(policy.bits).replay(policy.thresholds).exits
    evaluator.quantized.engine.set_bits(evaluator.ledger.widths(policy.bits))
    outputs: list[torch.Tensor] = []
    evaluator.quantized.engine.run(images, lambda _, one: outputs.append(one))
    said = torch.stack(outputs, dim=1).numpy()[np.arange(300), exits] > 0
    assert found.metric == "macro F1"
    assert found.value == pytest.approx(macro_f1(said, evaluator.split.targets == 1), abs=5e-3)
    assert 0 < found.standard_error < 0.1


def test_baselines_are_fronts_of_its_metric(
    outer: OuterProblem, tables: SensitivityTables, evaluator: Evaluator
) -> None:
    found = list(BaselineSet(outer, tables, allocations=2, points=5))
    assert len(found) > 6
    for baseline in found:
        values = [one.value for one in baseline.evaluations]
        assert values == sorted(values)
        assert all(one == evaluator.evaluate(one.policy) for one in baseline.evaluations)


def risk_by_hand(evaluator: Evaluator, policy: Policy) -> float:
    found = evaluator.evaluate(policy)
    assert found.risk is not None
    return measure_reference(evaluator) - found.value + ALPHA * found.risk.boundary


def test_maqee_bounds_what_its_metric_loses(
    outer: OuterProblem, tables: SensitivityTables, evaluator: Evaluator
) -> None:
    bits = outer.space.widest().bits
    harvested = outer.harvest(bits)
    risks = [risk_by_hand(evaluator, harvested.policy(bits, k)) for k in range(len(harvested))]
    assert outer.risk(harvested) == pytest.approx(risks)
    epsilon = float(np.median(risks))
    policy, attained = outer.within(bits, epsilon)
    assert attained
    assert risk_by_hand(evaluator, policy) <= epsilon + 1e-12
    cost = harvested.cost[np.array(risks) <= epsilon].min()
    assert evaluator.evaluate(policy).cost.expected == pytest.approx(cost)

    budget = 0.3 * float(evaluator.ledger.path_bops(bits)[-1])
    result = Maqee(outer, tables).search(budget)
    assert evaluator.evaluate(result.policy).cost.expected <= budget * (1 + 1e-9)
    assert result.risk == pytest.approx(risk_by_hand(evaluator, result.policy))
    tried = [iterate.risk for iterate in result.iterates]
    assert result.risk == min(tried)


def test_recovery_brings_its_metric_back(evaluator: Evaluator, space: PolicySpace) -> None:
    policy = space.policy(
        replace(space.uniform(4, 1.0).bits, weights=(2,) * len(space.weight_groups)), 1.0
    )
    images = fashion.FashionDataset().split("calibration")
    data = ArrayData(
        images.read(np.arange(1024)), images.targets[:, None], fashion.MEAN, fashion.STD
    )
    recipe = RecoverRecipe(steps=8, batch_size=16, refresh_every=8)
    model = recover(evaluator.quantized, ForBits(policy.bits, (1 / 6,) * 6), data, recipe)
    mine = replace(evaluator, quantized=replace(evaluator.quantized, model=model), cache=None)
    before, after = evaluator.evaluate(policy), RecoveredTraces(mine, evaluator).evaluate(policy)
    assert after.value > before.value
