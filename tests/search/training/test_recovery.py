"""Recovery: it works, it changes nothing but its copy, and it goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundled_model import open_bundled, training_data, with_model
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax, softmax
from torch import Tensor

import search.training.recovery
from search.data import fashion
from search.data.batches import normalized_batches
from search.evaluate import Evaluator
from search.models.early_exit import EarlyExitModel, all_exits
from search.policy import Policy
from search.space import PolicySpace
from search.tasks.torch_half import TorchTask, resolve_torch_task
from search.training.data import ArrayData
from search.training.recovery import (
    RecoveredTraces,
    RecoverRecipe,
    StepReport,
    distillation_loss,
    recover,
)
from search.training.targets import ForBits

EVEN = (1 / 6,) * 6
TASK = resolve_torch_task("classification")
# Three refreshes in three epochs of the few images, and short enough to be run many times.
SHORT = RecoverRecipe(steps=7, batch_size=4, refresh_every=3)


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    found = open_bundled(32)
    return replace(found, split=found.split.head(200))


@pytest.fixture(scope="module")
def quick(evaluator: Evaluator) -> Evaluator:
    """One whose refreshes take little time."""
    return with_model(
        evaluator, quantizer="minmax", calibration=evaluator.quantized.calibration.head(4)
    )


@pytest.fixture(scope="module")
def data() -> ArrayData:
    """So few images that a short recovery sees them more than twice."""
    return training_data(15)


@pytest.fixture(scope="module")
def policy(evaluator: Evaluator) -> Policy:
    return PolicySpace.from_ledger(evaluator.ledger, "block").uniform(2, 0.9)


@pytest.fixture(scope="module")
def uninterrupted(quick: Evaluator, policy: Policy, data: ArrayData) -> dict[str, Tensor]:
    """What the short recovery gives when nothing happens."""
    return recover(quick.quantized, ForBits(policy.bits, EVEN), data, SHORT).state_dict()


class Interrupted(Exception):
    """Stands for whatever ends a process in the midst of its work."""


def interrupt_at(step: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise Interrupted

    return on_step


def answers(model: Callable[[Tensor], Tensor], evaluator: Evaluator) -> np.ndarray:
    with torch.inference_mode():
        found = [model(part) for part in normalized_batches(evaluator.split, evaluator.card.input)]
    return torch.cat(found).double().numpy()


def divergence(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """KL of every exit's answers, ``[E]``."""
    gap = log_softmax(expected, axis=-1) - log_softmax(found, axis=-1)
    kl: np.ndarray = (softmax(expected, axis=-1) * gap).sum(-1).mean(0)
    return kl


def quantized(evaluator: Evaluator, policy: Policy) -> np.ndarray:
    evaluator.quantized.engine.set_bits(evaluator.ledger.widths(policy.bits))
    return answers(partial(all_exits, evaluator.quantized.engine.run), evaluator)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of tensors that differ in any bit."""
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


# It works


@pytest.fixture(scope="module")
def recovered(
    evaluator: Evaluator, policy: Policy
) -> tuple[EarlyExitModel, list[StepReport], dict[str, Tensor]]:
    """A recovered model, the reports, and the original as it was before."""
    before = {name: value.clone() for name, value in evaluator.quantized.model.state_dict().items()}
    reports: list[StepReport] = []
    recipe = RecoverRecipe(steps=18, batch_size=32, refresh_every=6)
    model = recover(
        evaluator.quantized,
        ForBits(policy.bits, EVEN),
        training_data(1024),
        recipe,
        on_step=reports.append,
    )
    return model, reports, before


def test_the_loss_falls_and_full_precision_comes_nearer(
    evaluator: Evaluator,
    policy: Policy,
    recovered: tuple[EarlyExitModel, list[StepReport], dict[str, Tensor]],
) -> None:
    model, reports, _ = recovered
    assert [(report.step, report.steps) for report in reports] == [
        (0, 18), (6, 18), (12, 18), (18, 18),
    ]  # fmt: skip
    assert np.isnan(reports[0].loss)  # nothing was done before it
    assert reports[3].loss < 0.8 * reports[1].loss
    expected = answers(evaluator.quantized.model, evaluator)
    before = divergence(expected, quantized(evaluator, policy))
    after = divergence(expected, quantized(with_model(evaluator, model=model), policy))
    assert (after < before).all(), (before, after)
    assert after.mean() < 0.7 * before.mean(), (before, after)


def test_the_original_is_as_it_was(
    evaluator: Evaluator,
    recovered: tuple[EarlyExitModel, list[StepReport], dict[str, Tensor]],
) -> None:
    model, _, before = recovered
    assert same(evaluator.quantized.model.state_dict(), before) == []
    assert all(parameter.requires_grad for parameter in evaluator.quantized.model.parameters())
    assert all(parameter.grad is None for parameter in evaluator.quantized.model.parameters())
    assert not evaluator.quantized.model.training
    assert not model.training
    theirs = {id(parameter) for parameter in evaluator.quantized.model.parameters()}
    assert not theirs & {id(parameter) for parameter in model.parameters()}
    changed = same(model.state_dict(), before)
    assert {name for name, _ in model.named_parameters()} <= set(changed)
    assert model.state_dict().keys() == before.keys()  # an ordinary checkpoint of the same model


def test_a_recovered_models_trace_is_held_against_the_original(
    evaluator: Evaluator,
    policy: Policy,
    recovered: tuple[EarlyExitModel, list[StepReport], dict[str, Tensor]],
) -> None:
    mine = with_model(evaluator, model=recovered[0])
    traces = RecoveredTraces(mine, evaluator)
    reference = traces.full_precision_trace()
    assert np.array_equal(reference.confidence, evaluator.full_precision_trace().confidence)
    trace = traces.trace(policy.bits)
    assert np.array_equal(trace.confidence, mine.trace(policy.bits).confidence)
    assert not np.array_equal(trace.confidence, evaluator.trace(policy.bits).confidence)
    assert traces.ledger == evaluator.ledger


def test_without_interruption_it_gives_the_same_every_time(
    quick: Evaluator, policy: Policy, data: ArrayData, uninterrupted: dict[str, Tensor]
) -> None:
    again = recover(quick.quantized, ForBits(policy.bits, EVEN), data, SHORT).state_dict()
    assert same(again, uninterrupted) == []
    other = recover(
        quick.quantized, ForBits(policy.bits, EVEN), data, replace(SHORT, seed=1)
    ).state_dict()
    assert same(other, uninterrupted)


def test_every_epoch_has_an_order_of_its_own_and_every_seed_others(
    quick: Evaluator, policy: Policy
) -> None:
    orders: list[int] = []

    class Watched(ArrayData):
        def batches(
            self, batch_size: int, generator: torch.Generator
        ) -> Iterator[tuple[Tensor, Tensor]]:
            orders.append(generator.initial_seed())
            return super().batches(batch_size, generator)

    split = quick.quantized.calibration
    data = Watched(split.read(np.arange(4)), split.targets[:4], fashion.MEAN, fashion.STD)
    for seed in (0, 1):
        recipe = RecoverRecipe(steps=3, batch_size=4, refresh_every=100, seed=seed)
        recover(quick.quantized, ForBits(policy.bits, EVEN), data, recipe)
    assert len(orders) >= 6
    assert len(set(orders)) == len(orders)


# Interruptions


@pytest.mark.parametrize("step", [3, 6])
def test_an_interrupted_recovery_goes_on_to_the_same_weights(
    quick: Evaluator,
    policy: Policy,
    data: ArrayData,
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
    step: int,
) -> None:
    state = tmp_path / "deep" / "r.state"
    with pytest.raises(Interrupted):
        recover(
            quick.quantized,
            ForBits(policy.bits, EVEN),
            data,
            SHORT,
            state=state,
            on_step=interrupt_at(step),
        )
    assert state.is_file()
    assert all(parameter.requires_grad for parameter in quick.quantized.model.parameters())
    steps: list[int] = []
    model = recover(
        quick.quantized,
        ForBits(policy.bits, EVEN),
        data,
        SHORT,
        state=state,
        on_step=lambda one: steps.append(one.step),
    )
    assert steps == [s for s in (3, 6, 7) if s >= step]
    assert list(state.parent.iterdir()) == []
    differ = same(model.state_dict(), uninterrupted)
    assert differ == [], f"{len(differ)} tensors differ"


def test_an_error_of_the_data_leaves_the_last_state(
    quick: Evaluator,
    policy: Policy,
    data: ArrayData,
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    seen: list[None] = []

    class Failing(ArrayData):
        def batches(
            self, batch_size: int, generator: torch.Generator
        ) -> Iterator[tuple[Tensor, Tensor]]:
            # Two epochs are six steps; the state of the third is the last that was written.
            yield from data.batches(batch_size, generator)
            seen.append(None)
            if len(seen) == 2:
                raise Interrupted

    failing = Failing(
        data.images.permute(0, 2, 3, 1).numpy(), data.targets.numpy(), fashion.MEAN, fashion.STD
    )
    state = tmp_path / "r.state"
    with pytest.raises(Interrupted):
        recover(quick.quantized, ForBits(policy.bits, EVEN), failing, SHORT, state=state)
    steps: list[int] = []
    model = recover(
        quick.quantized,
        ForBits(policy.bits, EVEN),
        data,
        SHORT,
        state=state,
        on_step=lambda one: steps.append(one.step),
    )
    assert steps == [3, 6, 7]
    assert same(model.state_dict(), uninterrupted) == []


@pytest.fixture(scope="module")
def left_behind(
    quick: Evaluator, policy: Policy, data: ArrayData, tmp_path_factory: pytest.TempPathFactory
) -> bytes:
    """The state of a recovery that was interrupted after six steps."""
    state = tmp_path_factory.mktemp("state") / "r.state"
    with pytest.raises(Interrupted):
        recover(
            quick.quantized,
            ForBits(policy.bits, EVEN),
            data,
            SHORT,
            state=state,
            on_step=interrupt_at(6),
        )
    return state.read_bytes()


def first_step(
    evaluator: Evaluator, target: ForBits, data: ArrayData, recipe: RecoverRecipe, state: Path
) -> int:
    """The step at which a recovery begins when it finds ``state``."""
    seen: list[int] = []

    def on_step(report: StepReport) -> None:
        seen.append(report.step)
        raise Interrupted

    with pytest.raises(Interrupted):
        recover(evaluator.quantized, target, data, recipe, state=state, on_step=on_step)
    return seen[0]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 8},
        {"batch_size": 5},
        {"learning_rate": 1e-4},
        {"temperature": 1.0},
        {"refresh_every": 2},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_state_of_another_recipe_is_not_taken_up(
    quick: Evaluator,
    policy: Policy,
    data: ArrayData,
    left_behind: bytes,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    state = tmp_path / "r.state"
    state.write_bytes(left_behind)
    assert first_step(quick, ForBits(policy.bits, EVEN), data, SHORT, state) == 6
    state.write_bytes(left_behind)
    assert first_step(quick, ForBits(policy.bits, EVEN), data, replace(SHORT, **change), state) == 0


def test_nor_that_of_another_policy_other_rates_or_another_calibration(
    quick: Evaluator, policy: Policy, data: ArrayData, left_behind: bytes, tmp_path: Path
) -> None:
    state = tmp_path / "r.state"
    wider = replace(policy.bits, weights=(3, *policy.bits.weights[1:]))
    late = (0.0,) * 5 + (1.0,)
    other = with_model(quick, calibration=quick.quantized.calibration.head(3))
    for evaluator, bits, rates in (
        (quick, wider, EVEN), (quick, policy.bits, late), (other, policy.bits, EVEN),
    ):  # fmt: skip
        state.write_bytes(left_behind)
        assert first_step(evaluator, ForBits(bits, rates), data, SHORT, state) == 0
    state.write_bytes(left_behind)
    assert first_step(quick, ForBits(policy.bits, EVEN), data, SHORT, state) == 6


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(share * len(whole))]


@pytest.mark.parametrize(
    "damage",
    [cut(0), cut(0.001), cut(0.5), cut(0.9999), lambda _: b"not a state, but mine " * 100],
    ids=["empty", "cut in its header", "half", "a little short", "text"],
)
def test_a_damaged_state_begins_anew(
    quick: Evaluator,
    policy: Policy,
    data: ArrayData,
    left_behind: bytes,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    state = tmp_path / "r.state"
    state.write_bytes(damage(left_behind))
    assert first_step(quick, ForBits(policy.bits, EVEN), data, SHORT, state) == 0


@pytest.mark.parametrize("header", [None, b"no json", b"\xff\xfe"])
def test_tensors_without_a_readable_header_begin_anew(
    quick: Evaluator, policy: Policy, data: ArrayData, tmp_path: Path, header: bytes | None
) -> None:
    state = tmp_path / "r.state"
    tensors = {"model.backbone.pos_embed": torch.zeros(1)}
    if header is not None:
        tensors["header"] = torch.tensor(list(header), dtype=torch.uint8)
    save_file(tensors, state)
    assert first_step(quick, ForBits(policy.bits, EVEN), data, SHORT, state) == 0


def test_after_a_damaged_state_the_outcome_is_the_usual_one(
    quick: Evaluator,
    policy: Policy,
    data: ArrayData,
    left_behind: bytes,
    uninterrupted: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    state = tmp_path / "r.state"
    state.write_bytes(left_behind[:-100])
    model = recover(quick.quantized, ForBits(policy.bits, EVEN), data, SHORT, state=state)
    assert same(model.state_dict(), uninterrupted) == []
    assert list(tmp_path.iterdir()) == []


def test_a_state_holds_the_whole_model_and_both_moments(
    quick: Evaluator, left_behind: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "r.state"
    file.write_bytes(left_behind)
    tensors = load_file(file)
    for name, value in quick.quantized.model.named_parameters():
        assert tensors[f"model.{name}"].shape == value.shape
        assert tensors[f"first.{name}"].any(), name
        assert (tensors[f"second.{name}"] >= 0).all()
    # Batch norms move while the student learns; a recovery that goes on needs them as they were.
    buffers = [name for name, _ in quick.quantized.model.named_buffers()]
    assert buffers
    assert [name for name in buffers if f"model.{name}" not in tensors] == []


# Weights of exits


def test_exits_count_as_often_as_they_are_taken(
    quick: Evaluator, policy: Policy, data: ArrayData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def watched(
        task: TorchTask, student: Tensor, teacher: Tensor, weights: Tensor, heat: float
    ) -> Tensor:
        seen.append(weights)
        assert heat == 3.0
        assert student.shape == teacher.shape == (4, 6, 10)
        return distillation_loss(task, student, teacher, weights, heat)

    monkeypatch.setattr(search.training.recovery, "distillation_loss", watched)
    rates = (0.5, 0.3, 0.0, 0.0, 0.0, 0.2)
    recipe = RecoverRecipe(steps=1, batch_size=4, temperature=3.0)
    recover(quick.quantized, ForBits(policy.bits, rates), data, recipe)
    (weights,) = seen
    # Even an exit that is never taken counts a little.
    expected = (np.array(rates) + 0.1) / 1.6
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_distillation_loss_by_hand(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 5, 3, 4)) * 3
    weights = np.array([0.2, 0.3, 0.5])
    expected = 0.0
    for sample in range(5):
        for exit_index in range(3):
            p = np.exp(teacher[sample, exit_index] / temperature)
            q = np.exp(student[sample, exit_index] / temperature)
            p, q = p / p.sum(), q / q.sum()
            expected += weights[exit_index] * (p * np.log(p / q)).sum() / 5
    found = distillation_loss(TASK, *map(torch.tensor, (student, teacher, weights)), temperature)
    assert found.item() == pytest.approx(expected * temperature**2, rel=1e-5)


def test_the_teacher_is_not_taught() -> None:
    student = torch.randn(4, 2, 3, requires_grad=True)
    teacher = torch.randn(4, 2, 3, requires_grad=True)
    weights = torch.tensor([0.5, 0.5])
    distillation_loss(TASK, student, teacher, weights, 2.0).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.any()
    assert distillation_loss(TASK, student, student, weights, 2.0).item() == pytest.approx(
        0, abs=1e-6
    )


# Bad input


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0), ("steps", 1_000_001), ("steps", 2.5), ("batch_size", 1),
        ("batch_size", 1_000_001), ("batch_size", "32"), ("learning_rate", 0.0),
        ("learning_rate", 0.11), ("learning_rate", float("nan")), ("temperature", 0.0),
        ("temperature", 101), ("temperature", float("inf")), ("refresh_every", 0),
        ("refresh_every", 1.0), ("seed", -1), ("seed", 2**63), ("seed", 0.5),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(refused, option: str, value: Any) -> None:
    with refused("recovery option", option, repr(value), "give"):
        RecoverRecipe(**{option: value})


def test_the_ends_of_every_range_are_allowed() -> None:
    RecoverRecipe(steps=1, batch_size=2, learning_rate=1e-9, temperature=1e-3, refresh_every=1)
    RecoverRecipe(learning_rate=0.1, temperature=100, seed=2**63 - 1)


def test_compiling_does_not_change_what_the_recipe_is() -> None:
    recipe = RecoverRecipe()
    assert replace(recipe, compile=True).as_dict() == recipe.as_dict()
    assert replace(recipe, steps=3).as_dict() != recipe.as_dict()


def test_too_few_images_are_refused(
    refused, quick: Evaluator, policy: Policy, tmp_path: Path
) -> None:
    few = ArrayData(
        np.zeros((31, 28, 28, 1), np.uint8), np.zeros(31, np.int64), fashion.MEAN, fashion.STD
    )
    with refused("31 training images", "one batch of 32", "lower the batch size"):
        recover(
            quick.quantized,
            ForBits(policy.bits, EVEN),
            few,
            RecoverRecipe(batch_size=32),
            state=tmp_path / "s.state",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["groups", "exits", "granularity"])
def test_a_policy_of_another_model_is_refused(
    refused, quick: Evaluator, policy: Policy, data: ArrayData, change: str
) -> None:
    bits, rates = {
        "groups": (replace(policy.bits, weights=policy.bits.weights[:-1]), EVEN),
        "exits": (policy.bits, (0.5, 0.5)),
        "granularity": (replace(policy.bits, granularity="layer"), EVEN),
    }[change]
    with refused("the model needs", "use a policy searched for this model"):
        recover(quick.quantized, ForBits(bits, rates), data, SHORT)
    assert all(parameter.requires_grad for parameter in quick.quantized.model.parameters())
