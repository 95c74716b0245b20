"""The classification task: confidence against torch's softmax, the rest by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from search.tasks import resolve_task
from search.tasks.torch_half import resolve_torch_task

TASK = resolve_task("classification")


@pytest.mark.filterwarnings("ignore:overflow encountered in subtract")
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1e4, 5e37])
def test_confidence_is_the_largest_softmax(scale: float):
    logits = (np.random.default_rng(0).normal(size=(500, 10)) * scale).astype(np.float32)
    confidence = TASK.confidence(logits)
    expected = torch.tensor(logits).double().softmax(-1).amax(-1).numpy()
    np.testing.assert_allclose(confidence, expected, atol=1e-6, rtol=0)
    assert confidence.dtype == np.float32
    assert 0 < confidence.min() <= confidence.max() <= 1


def test_confidence_of_float64_logits_is_float32_in_the_unit_interval():
    confidence = TASK.confidence(np.array([[2.0**24 + 1, 2.0**24 - 4]]))
    assert confidence.dtype == np.float32
    assert confidence[0] == pytest.approx(1 / (1 + np.exp(-5)))


def test_statistic_is_the_predicted_and_the_true_class():
    logits = np.array([[1, 3, 2], [5, 5, 0], [-3, -2, -1]], np.float32)
    statistic = TASK.statistic(logits, np.array([1, 1, 0]))
    assert statistic.tolist() == [[1, 1], [0, 1], [2, 0]]  # of equal logits the first
    assert TASK.loss(statistic).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("right", [0, 1, 37, 50])
def test_score_is_the_share_of_right_answers_with_the_binomial_error(right: int):
    statistic = np.array([[4, 4]] * right + [[3, 4]] * (50 - right))
    share = right / 50
    score = TASK.score(statistic)
    assert score.value == pytest.approx(share)
    assert score.standard_error == pytest.approx((share * (1 - share) / 50) ** 0.5)


def test_an_unknown_task_is_refused(refused):
    for resolve in (resolve_task, resolve_torch_task):
        with refused("'sorting'", "classification"):
            resolve("sorting")


# The torch half


TORCH_TASK = resolve_torch_task("classification")


def test_raw_outputs_are_reduced_as_the_plain_half_does_it():
    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 5
    targets = np.arange(200) % 10
    confidence, statistic = TORCH_TASK.reduce(logits, targets)
    assert np.array_equal(confidence, TASK.confidence(logits.numpy()))
    assert np.array_equal(statistic, TASK.statistic(logits.numpy(), targets))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_divergence_is_kl_of_softened_answers(temperature: float):
    expected, found = np.random.default_rng(0).normal(size=(2, 7, 3, 5)) * 3
    p, q = (softmax(one / temperature, axis=-1) for one in (expected, found))
    by_hand = (p * np.log(p / q)).sum(axis=-1)
    pair = torch.tensor(expected), torch.tensor(found)
    np.testing.assert_allclose(TORCH_TASK.divergence(*pair, temperature), by_hand, rtol=1e-9)
    assert (TORCH_TASK.divergence(pair[0], pair[0].clone(), temperature) == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_every_exit_has_its_cross_entropy(smoothing: float):
    logits = np.random.default_rng(1).normal(size=(6, 3, 4))
    targets = np.array([0, 1, 2, 3, 0, 1])
    wanted = np.eye(4)[targets] * (1 - smoothing) + smoothing / 4
    by_hand = -(wanted[:, None] * log_softmax(logits, axis=-1)).sum(axis=-1).mean(axis=0)
    found = TORCH_TASK.exit_losses(torch.tensor(logits), torch.tensor(targets), smoothing)
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)
