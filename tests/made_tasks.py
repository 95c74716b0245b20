"""Tasks for tests: losses given directly, and a metric that is no mean over samples."""

from __future__ import annotations

import numpy as np

from search.tasks import Routed, Score, shortfall_by_score
from search.tasks.classification import Classification


class GivenLosses:
    """The statistic of a sample is its loss; the metric is one minus their mean."""

    name, metric, zero_one = "given", "closeness", False

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, 0].astype(np.float32)

    def statistic(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return outputs[:, 1:]

    def score(self, statistic: np.ndarray) -> Score:
        loss = self.loss(statistic)
        return Score(float(1 - loss.mean()), float(loss.std() / len(loss) ** 0.5))

    def loss(self, statistic: np.ndarray) -> np.ndarray:
        return statistic[:, 0].astype(np.float64)

    def shortfall(self, routed: Routed) -> np.ndarray:
        return routed.loss


class GivenHits(GivenLosses):
    """The same where every loss is 0 or 1."""

    zero_one = True


class WorstClass(Classification):
    """Classification by the share of right answers in the class that has the fewest."""

    name, metric, zero_one = "worst class", "worst recall", False

    def score(self, statistic: np.ndarray) -> Score:
        predicted, true = statistic.T
        counts = np.bincount(true)
        recalls = np.bincount(true, predicted == true)[counts > 0] / counts[counts > 0]
        worst = int(recalls.argmin())
        value = float(recalls[worst])
        return Score(value, float(np.sqrt(value * (1 - value) / counts[counts > 0][worst])))

    def shortfall(self, routed: Routed) -> np.ndarray:
        return shortfall_by_score(self, routed)


class Labels:
    """Several labels a sample, scored by the macro F1 score: a mean over classes of ratios of sums.

    Heads give a logit a class. The statistic of a sample is, of every class, whether it is a true
    positive, a false positive and a false negative: uint8 ``[N, classes, 3]``.
    """

    name, metric, zero_one = "labels", "macro F1", False

    def confidence(self, outputs: np.ndarray) -> np.ndarray:
        sure = 1 / (1 + np.exp(-np.abs(outputs.astype(np.float64))))
        return sure.min(axis=-1).astype(np.float32)

    def statistic(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        said, true = outputs > 0, targets.astype(bool)
        return np.stack([said & true, said & ~true, ~said & true], axis=-1).astype(np.uint8)

    def score(self, statistic: np.ndarray) -> Score:
        if len(statistic) == 1:
            return Score(self._f1(statistic), 0.0)
        parts = np.array_split(statistic, min(10, len(statistic)))
        each = [self._f1(np.concatenate(parts[:k] + parts[k + 1 :])) for k in range(len(parts))]
        spread = float(np.var(each) * (len(parts) - 1)) ** 0.5  # the jackknife's
        return Score(self._f1(statistic), spread)

    @staticmethod
    def _f1(statistic: np.ndarray) -> float:
        hits, extra, missed = statistic.sum(axis=0, dtype=np.int64).T
        return float((2 * hits / np.maximum(1, 2 * hits + extra + missed)).mean())

    def loss(self, statistic: np.ndarray) -> np.ndarray:
        """One minus the sample's own F1 score over classes; none where it has no labels."""
        hits, extra, missed = statistic.sum(axis=1, dtype=np.int64).T
        wrong = extra + missed
        return wrong / np.maximum(1, 2 * hits + wrong)

    def shortfall(self, routed: Routed) -> np.ndarray:
        return shortfall_by_score(self, routed)
