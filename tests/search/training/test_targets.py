"""What a recovery trains for, and one model for every policy of a space."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundled_model import open_bundled, training_data, with_model
from safetensors.torch import load_file
from torch import Tensor

from search.data.batches import normalized_batches
from search.evaluate import Evaluator
from search.models.checkpoint import load_checkpoint
from search.policy import Bits
from search.quantize.ranges import resolve_quantizer
from search.quantize.straight_through import StraightThrough
from search.space import PolicySpace
from search.training.recovery import RecoverRecipe, StepReport, recover
from search.training.targets import ForBits, ForSpace
from studies.methods.recovery import Recovery

SHORT = RecoverRecipe(steps=4, batch_size=8, refresh_every=2)


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
def space(evaluator: Evaluator) -> PolicySpace:
    return PolicySpace.from_ledger(
        evaluator.ledger, "block", weight_choices=(2, 3, 4, 6, 8), activation_choices=(3, 4, 8)
    )


def test_every_step_takes_the_ends_and_two_sets_between(space: PolicySpace) -> None:
    target = ForSpace(space)
    drawn = [target.draw(step) for step in range(1, 400)]
    for widest, *between, narrowest in drawn:
        assert (widest, narrowest) == (space.widest().bits, space.narrowest().bits)
        assert len(between) == 2
        for bits in between:
            for widths, choices in (
                (bits.weights, space.weight_choices),
                (bits.activations, space.activation_choices),
            ):
                places = [choices.index(width) for width in widths]
                assert max(places) - min(places) <= 2
    # Every width of every group comes up, and not always all groups at once.
    for group in range(6):
        assert {bits.weights[group] for step in drawn for bits in step[1:3]} == {2, 3, 4, 6, 8}
        assert {bits.activations[group] for step in drawn for bits in step[1:3]} == {3, 4, 8}
    assert len({bits for step in drawn for bits in step}) > 500
    assert [target.draw(step) for step in range(1, 400)] == drawn
    assert [ForSpace(space, seed=1).draw(step) for step in range(1, 400)] != drawn


def test_exits_count_alike_for_a_space_and_by_use_for_a_policy(space: PolicySpace) -> None:
    assert ForSpace(space).exit_weights() == [1 / 6] * 6
    weights = ForBits(space.widest().bits, (0.5, 0.0, 0.0, 0.0, 0.0, 0.5)).exit_weights()
    assert weights == pytest.approx([0.6 / 1.6, *[0.1 / 1.6] * 4, 0.6 / 1.6])


def test_a_target_of_another_model_is_refused(evaluator: Evaluator, refused) -> None:
    space = PolicySpace.from_ledger(evaluator.ledger, "layer")
    other = replace(space, weight_groups=space.weight_groups[:-1])
    with refused("weight bit-widths"):
        recover(evaluator.quantized, ForSpace(other), training_data(16), SHORT)
    with refused("has 2 exits", "needs 6"):
        recover(
            evaluator.quantized, ForBits(space.widest().bits, (0.5, 0.5)), training_data(16), SHORT
        )


def test_a_twin_under_other_bits_is_the_twin_made_for_them(evaluator: Evaluator) -> None:
    model, quantizer = evaluator.quantized.model, resolve_quantizer("mse")
    images = next(normalized_batches(evaluator.split.head(16), evaluator.card.input))

    def answers(twin: StraightThrough) -> Tensor:
        with torch.no_grad():
            found: Tensor = twin.model.eval()(images)
        return found

    def widths(weights: int, activations: int) -> dict[str, tuple[int, int]]:
        return evaluator.ledger.widths(Bits("block", (weights,) * 6, (activations,) * 6))

    changing = StraightThrough(model, widths(8, 8), quantizer)
    changing.refresh(lambda: iter([images]))
    for pair in ((2, 3), (32, 4), (8, 8), (3, 32), (2, 3)):
        fresh = StraightThrough(model, widths(*pair), quantizer)
        fresh.refresh(lambda: iter([images]))
        changing.set_bits(widths(*pair))
        assert torch.equal(answers(changing), answers(fresh)), pair


def divergence(evaluator: Evaluator, bits: Bits) -> float:
    """How far confidences are from full precision, in the mean."""
    full = evaluator.full_precision_trace().confidence
    return float(np.abs(evaluator.trace(bits).confidence - full).mean())


def test_one_model_for_all_comes_nearer_to_full_precision_at_few_bits(
    evaluator: Evaluator, space: PolicySpace, tmp_path: Path
) -> None:
    reports: list[StepReport] = []
    recipe = RecoverRecipe(steps=12, batch_size=32, refresh_every=6)
    path = tmp_path / "all.safetensors"
    made = Recovery(evaluator, training_data(512), recipe).make(
        ForSpace(space), path, reports.append
    )
    assert [report.step for report in reports] == [0, 6, 12]
    for width in (2, 3):
        bits = Bits("block", (width,) * 6, (width,) * 6)
        assert divergence(made.evaluator, bits) < 0.9 * divergence(evaluator, bits), width

    # One file, without anything of a policy's own.
    kept, original = load_file(path), evaluator.quantized.model.state_dict()
    assert kept.keys() == original.keys()
    assert all(value.shape == original[name].shape for name, value in kept.items())
    model, card = load_checkpoint(path)
    assert card.training["space"]["weight_bits"] == [2, 3, 4, 6, 8]
    assert card.training["recovered_from"] == evaluator.card.digest
    alone = with_model(evaluator, model=model, card=card)
    first, second = (Bits("block", (w,) * 6, (a,) * 6) for w, a in ((2, 4), (8, 3)))
    before = alone.trace(first).to_bytes()
    alone.trace(second)
    assert alone.trace(first).to_bytes() == before == made.evaluator.trace(first).to_bytes()


class Interrupted(Exception):
    """Stands for whatever ends a process in the midst of its work."""


def test_an_interrupted_recovery_for_all_goes_on_to_the_same_weights(
    quick: Evaluator, space: PolicySpace, tmp_path: Path
) -> None:
    data, target, state = training_data(15), ForSpace(space), tmp_path / "state"
    whole = recover(quick.quantized, target, data, SHORT).state_dict()

    def stop(report: StepReport) -> None:
        if report.step == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        recover(quick.quantized, target, data, SHORT, state=state, on_step=stop)
    steps: list[int] = []
    parts = recover(
        quick.quantized, target, data, SHORT, state=state,
        on_step=lambda report: steps.append(report.step),
    ).state_dict()  # fmt: skip
    assert steps == [2, 4]
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    other = recover(quick.quantized, ForSpace(space, seed=1), data, SHORT).state_dict()
    assert not all(torch.equal(value, other[name]) for name, value in whole.items())
