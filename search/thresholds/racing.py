"""Racing: give a set of bits up once none of its thresholds can reach the front any more.

After the first images, drawn at random from the split and anew for every set of bits, every
threshold vector worth having is known for them. The front's own figures were recorded on the whole
split, so they are no estimates; what is estimated is what the candidate would be recorded with on
the whole split, from a sample without replacement. The race is lost when every candidate, at a
cost that much cheaper than seen and an accuracy that much better, would still be dominated.
Choosing thresholds on the images seen flatters the candidates, which makes giving up rarer, never
more frequent.

The bounds are for a metric that is a share of samples (``Task.zero_one``). A mean of ratios, such
as an overlap, is biased on a part of the split wherever a class is rare, so its normal bound would
promise what it does not hold: passes of such a task are made to their end.

Racing as such is from Maron and Moore, "Hoeffding Races" (NIPS 1993); the test for a whole harvest
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from search.thresholds.candidates import ExitChoices
from search.thresholds.harvest import harvest

LOOKS = (1 / 6, 1 / 3, 2 / 3)  # of the split, when the race is looked at
TRADE_OFFS = 20  # fewer than a whole harvest: it only has to find what is best


def race_order(samples: int, bits: str) -> np.ndarray:
    """The order in which a split's images are evaluated: a draw of its own for every set of bits.

    One order for all would handicap all alike where it begins with hard images.

    Args:
        samples: images of the split.
        bits: digest of the set of bits.
    """
    return np.random.default_rng(int(bits[:16], 16)).permutation(samples)


@dataclass(frozen=True)
class Race:
    """What a candidate runs against.

    Attributes:
        front: metric in [0, 1] and BOPs of recorded policies on the whole split, ``[K, 2]``.
        samples: images of the whole split.
        confidence: that a race given up would have been lost, over all looks, 0.5 to below 1.
    """

    front: np.ndarray
    samples: int
    confidence: float

    def is_lost(self, seen: ExitChoices, own: Sequence[float]) -> bool:
        """Whether all that the candidate could still record is dominated; never where no bound is.

        Args:
            seen: the candidate's trace of the first images in its :func:`race_order`.
            own: the thresholds that it was proposed with.
        """
        if not len(self.front) or not seen.task.zero_one:
            return False
        thresholds = np.vstack([harvest(seen, trade_offs=TRADE_OFFS).thresholds, own])
        found = seen.tally(thresholds)
        value = 1 - seen.shortfall(thresholds, found)
        count = len(seen.trace)
        left = 1 - count / self.samples  # of the variance: the images seen are no guess
        z = NormalDist().inv_cdf(1 - (1 - self.confidence) / (2 * len(LOOKS)))  # of two figures
        right = count * value
        # Agresti and Coull's centre: of n right ones in n, the error is not zero.
        rate = (right + z**2 / 2) / (count + z**2)
        best_value = rate + z * np.sqrt(rate * (1 - rate) / (count + z**2) * left)
        # Never below what was seen, nor above what is left to happen.
        best_value = np.maximum(best_value, value)
        best_value = np.minimum(best_value, (right + self.samples - count) / self.samples)
        cost = found.rates @ seen.path_bops
        variance = np.maximum(found.rates @ seen.path_bops**2 - cost**2, 0)
        best_cost = cost - z * np.sqrt(variance * left / count)
        best_cost = np.maximum(best_cost, seen.path_bops[0])  # nobody leaves earlier
        by_cost = self.front[np.argsort(self.front[:, 1])]
        reached = np.maximum.accumulate(by_cost[:, 0])
        place = np.searchsorted(by_cost[:, 1], best_cost, side="right") - 1
        return bool(((place >= 0) & (reached[place] > best_value)).all())
