"""What the store holds, as values: studies, their progress, leases, and recorded evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, NamedTuple

from search.cost import Ledger
from search.errors import BadInput
from search.policy import Policy
from search.space import PolicySpace
from studies.config import StudyConfig, parse_config
from studies.samplers import SAMPLERS
from studies.stored import checked_record

ANCHOR = "anchor"
HARVEST = "harvest"


class NoSuchStudy(BadInput):
    """No study has the name."""


class StudyGone(BadInput):
    """The study was deleted; its name may be another study's by now."""

    def __init__(self, study_id: int) -> None:
        self.study_id = study_id
        super().__init__(
            f"the study (number {study_id} of this store) has been deleted: 'exitbits study list' "
            "shows which there are"
        )


class UnreadableStudy(BadInput):
    """What the store holds of a study cannot be used; other studies are none the worse for it."""

    def __init__(self, name: str, reason: object) -> None:
        self.name, self.reason = name, str(reason)
        super().__init__(
            f"study {name!r} cannot be read ({reason}): 'exitbits study delete' removes it"
        )


class EvaluationGone(BadInput):
    """An evaluation was deleted with its study since its row was read."""

    def __init__(self, evaluation_id: int) -> None:
        super().__init__(
            f"evaluation {evaluation_id} is no longer in the store: it was deleted with its study"
        )


@dataclass(frozen=True)
class StudyRecord:
    """What a study is.

    Attributes:
        config: its configuration, with the budget as it stands.
        ledger: operations of its model.
        reference_value: the full-precision, full-depth metric on the search split.
        metric: name of the metric.
        model_digest: of the checkpoint's card.
        data_digest: of the search and the calibration images.
    """

    config: StudyConfig
    ledger: Ledger
    reference_value: float
    metric: str
    model_digest: str
    data_digest: str

    @cached_property
    def space(self) -> PolicySpace:
        """The study's legal policies."""
        section = self.config.space
        return PolicySpace.from_ledger(
            self.ledger,
            section.granularity,
            weight_choices=section.weight_bits,
            activation_choices=section.activation_bits,
            threshold_low=section.thresholds[0],
            threshold_high=section.thresholds[1],
            embed_bits=section.embed_bits,
            head_bits=section.head_bits,
        )

    def anchors(self) -> list[Policy]:
        """What is evaluated first, in the configuration's order."""
        section = self.config.with_anchors().anchors
        return [
            self.space.uniform(bits, threshold)
            for bits in section.bits or ()
            for threshold in section.thresholds or ()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the store. The budget is a column of its own."""
        return {
            "config": self.config.identity(),
            "ledger": self.ledger.as_dict(),
            "reference_value": self.reference_value,
            "metric": self.metric,
            "model_digest": self.model_digest,
            "data_digest": self.data_digest,
        }

    @classmethod
    def from_dict(cls, fields: Any, name: str, budget: Any) -> StudyRecord:
        """Build what :meth:`as_dict` gave, checking everything: a store may be others' as well.

        Args:
            fields: what was stored.
            name: by which the store knows the study.
            budget: its column.

        Raises:
            BadInput: saying what is wrong.
        """
        checked = checked_record(fields)
        # A study from before there was a choice goes on as it began.
        plain = {"trial": {"harvest": 0, "racing": 0}, "engine": {"name": "reference"}}
        given = {**plain, **checked["config"], "name": name, "budget": {"trials": budget}}
        record = cls(**{**checked, "config": parse_config(given, "config", stored=True)})
        record.space.narrowest()  # refuses one that does not fit the ledger
        return record


@dataclass(frozen=True)
class Study:
    """A study of a store.

    Attributes:
        id: by which the store knows it, never given twice, not even after a deletion.
        record: what it is, with its name and its budget as they stood when it was read.
    """

    id: int
    record: StudyRecord


class StudyVersion(NamedTuple):
    """Which study a name means now, and how far it is.

    Attributes:
        name: of the study, as it stood when it was read.
        id: tells it from another study that had its name.
        revision: stands still while nothing changes.
        blocked: why nobody serves it, as in :class:`Progress`, whether it is done or not; workers
            come and go without a revision.
    """

    name: str
    id: int
    revision: int
    blocked: str | None = None


@dataclass(frozen=True)
class EvaluationRow:
    """One evaluation, as narrow as fronts need it.

    Attributes:
        id: of the row, by which :meth:`StudyStore.details` finds the rest.
        trial: number of the trial that recorded it, None for a contribution that is no trial.
        revision: of the study when it was recorded.
        source: who proposed the policy.
        digest: of the policy.
        value, standard_error: the metric.
        gbops, gbops_p95: cost, expected and at the 95th percentile.
        mean_exit: mean number of blocks executed.
        policy_json: the policy.
        model, checkpoint: digest and file of a recovered model, None for the study's own.
        finished: when its trial ended, None for a contribution that is no trial.
    """

    id: int
    trial: int | None
    revision: int
    source: str
    digest: str
    value: float
    standard_error: float
    gbops: float
    gbops_p95: float
    mean_exit: float
    policy_json: str
    model: str | None = None
    checkpoint: str | None = None
    finished: datetime | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return self.source if self.trial is None else f"trial {self.trial}, {self.source}"

    @property
    def kind(self) -> Literal["anchor", "harvest", "proposed", "method"]:
        """Whether it was queued at the start, harvested from a trial's trace, proposed by a
        sampler, or given by a method."""
        if self.source == ANCHOR:
            return "anchor"
        if self.source == HARVEST:
            return "harvest"
        return "proposed" if self.source in SAMPLERS else "method"

    @cached_property
    def policy(self) -> Policy:
        """The policy, parsed when it is asked for."""
        return Policy.from_json(self.policy_json)


@dataclass(frozen=True)
class Progress:
    """How far a study's search is, in trials.

    Attributes:
        budget: trials asked for.
        finished: trials with a result.
        running: trials in a worker's hands, or left behind by one that is gone.
        failed: trials whose evaluation raised an error, or that cost too many workers.
        lost: attempts whose worker was lost; their trials go to the next worker.
        contributed: trials of methods, which took nothing from the search and are counted in none
            of the others.
        blocked: why the study cannot go on before somebody mends something, where every worker that
            could serve it has given it up; else None.
    """

    budget: int
    finished: int
    running: int
    failed: int
    lost: int
    contributed: int = 0
    blocked: str | None = None

    @property
    def ended(self) -> int:
        """Trials with an end, whatever came of them."""
        return self.finished + self.failed

    @property
    def done(self) -> bool:
        """Whether every budgeted trial has an end."""
        return self.ended >= self.budget


def is_contributed(source: str | None, sampler: str | None) -> bool:
    """Whether a complete trial is a method's, and so took nothing from the search's budget.

    Args:
        source: of the trial, None where another program told its result.
        sampler: of its study.
    """
    return source not in (None, ANCHOR, sampler)


@dataclass(frozen=True)
class Lease:
    """A trial in a worker's hands.

    Attributes:
        study_id, trial_id: of the rows.
        number: of the trial in its study.
        attempt: how many workers have had it, this one included.
        worker: who has it.
        source: who proposed its policy, None while no one has.
    """

    study_id: int
    trial_id: int
    number: int
    attempt: int
    worker: str
    source: str | None


@dataclass(frozen=True)
class Claim:
    """A trial handed to this worker, with what it is to evaluate."""

    lease: Lease
    policy: Policy
    source: str
