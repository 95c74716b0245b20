"""Measuring a policy file from scratch and comparing it with what was recorded."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from search.data.splits import few_images
from search.results import Evaluation
from studies.policy_file import PolicyFile, same_figures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reevaluation:
    """A policy's figures, measured again.

    Attributes:
        split: what they were measured on.
        measured: the figures.
        images: how many the split has; fewer are measured where the recorded pass was given up.
        recorded: the figures in the file.
        reproduced: whether they are the same to the last bit; None on another split.
    """

    split: str
    measured: Evaluation
    images: int
    recorded: Evaluation
    reproduced: bool | None

    @property
    def given_up(self) -> bool:
        """Whether the recorded pass was given up early, and so repeated no further."""
        return self.measured.samples < self.images


def evaluate_policy_file(given: PolicyFile, split: str = "search") -> Reevaluation:
    """Measure a policy from scratch, without any cache.

    Args:
        given: the policy.
        split: what to measure on.

    Raises:
        BadInput: when the file was edited, or the model or the images are not those that the
            policy was measured with.
    """
    policy, recorded = given.read_policy(), given.read_evaluation()

    from studies.work.opening import open_policy_evaluator

    evaluator = open_policy_evaluator(given, split=split, engine=recorded.engine)
    if warning := few_images(evaluator.split):
        log.warning("%s", warning)
    images = len(evaluator.split)
    if split != given.split:
        return Reevaluation(split, evaluator.evaluate(policy), images, recorded, None)
    if recorded.samples < images:
        trace = evaluator.first_trace(policy.bits, recorded.samples)
        measured = evaluator.evaluate_trace(policy, trace)
    else:
        measured = evaluator.evaluate(policy)
    return Reevaluation(split, measured, images, recorded, same_figures(measured, recorded))
