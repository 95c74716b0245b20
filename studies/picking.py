"""Picking one policy of a study under a budget. Neither torch nor timm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search.cost import NO_BOUNDS, Budget, in_words
from search.errors import BadInput, NoPolicyFound
from search.front import as_points, best_under, cheapest_above, front_indices, knee
from search.results import Evaluation
from studies.fronts import FrontSummary
from studies.policy_file import PolicyFile
from studies.records import EvaluationRow, Study
from studies.store.reader import StudyReader

OWN = "own"


@dataclass(frozen=True)
class PickRequest:
    """Which policy is wanted, by one rule at most, among those within all bounds.

    Attributes:
        max_gbops: the most accurate at an expected cost of at most so much.
        min_accuracy: the cheapest with at least this accuracy, in [0, 1].
        max_drop: the cheapest at most so much below full precision, in [0, 1].
        knee: the knee of the front.
        digest: the policy whose digest begins so.
        model: with ``digest``, the beginning of the recovered model's digest, or ``own``.
        within: bounds on other costs; without a rule the most accurate policy is wanted.

    Raises:
        BadInput: when there is neither rule nor bound, two rules, or a value out of range.
    """

    max_gbops: float | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None
    knee: bool = False
    digest: str | None = None
    model: str | None = None
    within: Budget = NO_BOUNDS

    def __post_init__(self) -> None:
        by_value = (self.max_gbops, self.min_accuracy, self.max_drop, self.digest)
        rules = sum(value is not None for value in by_value) + self.knee
        if rules > 1 or not (rules or self.within.bounds()):
            raise BadInput(
                "give one of --max-gbops, --min-accuracy, --max-drop, --knee and --digest, or a "
                "bound such as --max-worst-gbops"
            )
        if self.digest is not None and self.within.bounds():
            raise BadInput("--digest names a policy: leave out the bounds on its cost")
        for option, value in (
            ("--min-accuracy", self.min_accuracy),
            ("--max-drop", self.max_drop),
        ):
            if value is not None and not 0 <= value <= 1:
                raise BadInput(f"{option} {value}: give a fraction in [0, 1]")
        if self.model is not None and self.digest is None:
            raise BadInput(
                f"--model {self.model}: it tells policies of one --digest apart; give both"
            )


@dataclass(frozen=True)
class Pick:
    """What was picked.

    Attributes:
        summary: the study's front.
        row, evaluation: the policy's figures, narrow and whole.
        file: what is written of it.
    """

    summary: FrontSummary
    row: EvaluationRow
    evaluation: Evaluation
    file: PolicyFile


def pick(store: StudyReader, study: Study, request: PickRequest) -> Pick:
    """Pick a policy of a study; nothing is written.

    Raises:
        NoPolicyFound: when no evaluated policy satisfies the request.
    """
    summary = FrontSummary.load(store, study)
    row = choose(summary, request)
    (evaluation,) = store.details([row])
    return Pick(summary, row, evaluation, PolicyFile.of(summary.record, row, evaluation))


def choose(summary: FrontSummary, request: PickRequest) -> EvaluationRow:
    """The evaluation that satisfies the request best.

    Raises:
        NoPolicyFound: when none does, naming what there is.
    """
    name, metric = summary.record.config.name, summary.record.metric
    if not summary.rows:
        raise NoPolicyFound(f"study {name!r} has no evaluations yet: launch it first")
    if request.digest is not None:
        return _by_digest(request.digest, request.model, summary)
    rows = _within(summary, request.within)
    points = as_points([row.value for row in rows], [row.gbops for row in rows])
    if request.max_gbops is not None:
        index = best_under(points, request.max_gbops)
        want = (
            f"costs at most {request.max_gbops} GBOPs: the cheapest costs {points[:, 1].min():.4f}"
        )
    elif request.knee:
        index, front = knee(points), len(front_indices(points))
        want = f"is a knee: the front has {front} points, a knee needs three"
    elif request.min_accuracy is not None or request.max_drop is not None:
        floor = request.min_accuracy
        if floor is None:
            floor = summary.record.reference_value - (request.max_drop or 0.0)
        index = cheapest_above(points, floor)
        want = f"reaches {metric} {floor:.4f}: the best has {points[:, 0].max():.4f}"
    else:
        index, want = best_under(points, math.inf), "is there"
    if index is None:
        raise NoPolicyFound(f"no evaluated policy of {name!r} {want}")
    return rows[index]


def _within(summary: FrontSummary, bounds: Budget) -> Sequence[EvaluationRow]:
    """The evaluations whose cost is within the bounds.

    Raises:
        NoPolicyFound: when there is none; the error names the least by every measure.
    """
    if not bounds.bounds():
        return summary.rows
    costs = [summary.cost(row) for row in summary.rows]
    rows = [row for row, cost in zip(summary.rows, costs, strict=True) if bounds.allows(cost)]
    if rows:
        return rows
    least = " and ".join(
        f"{in_words(measure, bound)} (the least there is: "
        f"{in_words(measure, min(getattr(cost, measure) for cost in costs))})"
        for measure, bound in bounds.bounds().items()
    )
    name = summary.record.config.name
    raise NoPolicyFound(f"no evaluated policy of {name!r} costs at most {least}: raise the bound")


def _by_digest(prefix: str, model: str | None, summary: FrontSummary) -> EvaluationRow:
    matching = {
        (row.digest, row.model or OWN): row
        for row in summary.rows
        if row.digest.startswith(prefix) and (row.model or OWN).startswith(model or "")
    }
    if len(matching) == 1:
        return next(iter(matching.values()))
    if len({digest for digest, _ in matching}) == 1:
        models = ", ".join(sorted(name[:12] for _, name in matching))
        raise NoPolicyFound(
            f"policy {prefix!r} was measured with {len(matching)} models: choose by --model, one "
            f"of {models}"
        )
    count = f"{len(matching)} policies" if matching else "no policy"
    on = "" if model is None else f" on a model that starts with {model!r}"
    raise NoPolicyFound(
        f"{count} with a digest that starts with {prefix!r}{on}: see 'exitbits front'"
    )
