"""The classification task: confidence against torch's softmax, the rest by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search.tasks import resolve_task

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
    with refused("'sorting'", "classification"):
        resolve_task("sorting")
