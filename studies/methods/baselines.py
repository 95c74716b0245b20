"""The comparison methods, evaluated and recorded in a study. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.methods.baselines import BaselineSet, trained_baselines
from search.results import Evaluation
from search.sensitivity import Additivity
from search.training.targets import ForBits
from studies.fronts import FrontSummary
from studies.methods.opened import OpenedStudy
from studies.methods.recovery import OnProgress, Recovered, Recovery, steps_of
from studies.store.contributions import Contribution, contribute


@dataclass(frozen=True)
class RecordedBaselines:
    """Every baseline of a study.

    Attributes:
        sources: names of the methods, in the order in which they are shown.
        summary: the study with their evaluations.
        additivity: how well additive tables rank its policies.
    """

    sources: tuple[str, ...]
    summary: FrontSummary
    additivity: Additivity


def record_baselines(
    opened: OpenedStudy, on_progress: OnProgress = lambda what, done, of: None
) -> RecordedBaselines:
    """Evaluate what is not recorded yet, and record it; trained ones where recovery is set up.

    Args:
        opened: the study.
        on_progress: receives how far it is.
    """
    additivity = opened.additivity()
    methods = BaselineSet(opened.outer, opened.tables)
    names = methods.sources()
    what = "evaluating baselines"
    on_progress(what, 0, len(names))
    for done, method in enumerate(methods, start=1):
        _record(opened, method.source, method.evaluations)
        on_progress(what, done, len(names))
    sources = list(dict.fromkeys(names))
    if opened.recovery is not None:
        sources += _record_trained(opened, opened.recovery, on_progress)
    summary = FrontSummary.load(opened.store, opened.study)
    return RecordedBaselines(tuple(sources), summary, additivity)


def _record_trained(opened: OpenedStudy, recovery: Recovery, on_progress: OnProgress) -> list[str]:
    names = []
    for name, bits, rates in trained_baselines(opened.outer.space):
        on_step = steps_of(f"recovering {name}", on_progress)
        made = recovery.make(ForBits(bits, rates), on_step=on_step)
        trained = BaselineSet(opened.outer.on(made.traces), opened.tables)
        _record(opened, name, trained.with_exits(bits), made)
        names.append(name)
    return names


def _record(
    opened: OpenedStudy,
    source: str,
    evaluations: Sequence[Evaluation],
    made: Recovered | None = None,
) -> None:
    model, weights = (None, None) if made is None else (made.digest, made.weights)
    given = [Contribution(source, evaluation, model, weights) for evaluation in evaluations]
    contribute(opened.store, opened.study.id, given)
