"""Classification: top-1 accuracy, confidence by the largest softmax probability."""

from __future__ import annotations

import numpy as np

from search.tasks.base import Routed, Score


class Classification:
    """Heads return logits ``[n, classes]``; the statistic is (predicted class, true class)."""

    name = "classification"
    metric = "accuracy"
    zero_one = True

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        # Shifted before it is rounded, so that large logits keep their differences.
        shifted = (outputs - outputs.max(axis=-1, keepdims=True)).astype(np.float32)
        # The largest logit is shifted to 0, so its softmax is one over the sum.
        largest: np.ndarray = 1 / np.exp(shifted).sum(axis=-1)
        return largest

    def statistic(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.stack([outputs.argmax(axis=-1), targets], axis=-1).astype(np.int32)

    def score(self, statistic: np.ndarray) -> Score:
        right = statistic[:, 0] == statistic[:, 1]
        value = float(right.mean())
        return Score(value, float(np.sqrt(value * (1 - value) / len(right))))

    def loss(self, statistic: np.ndarray) -> np.ndarray:
        wrong: np.ndarray = (statistic[:, 0] != statistic[:, 1]).astype(np.float64)
        return wrong

    def shortfall(self, routed: Routed) -> np.ndarray:
        return routed.loss  # accuracy is the share of right answers
