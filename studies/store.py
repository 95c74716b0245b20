"""Studies in the store: creating them, handing out trials, recording results, reading them back.

A trial is handed to one worker only, the number of results is exactly the budget, and a trial whose
worker died is queued again with the same values.
"""

from __future__ import annotations

import socket
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
import psutil
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, Trial, TrialState

from search.cost import Ledger
from search.digest import digest_of
from search.errors import BadInput
from search.evaluation import Evaluation
from search.policy import Policy
from search.space import PolicySpace
from studies.config import StudyConfig, parse_config
from studies.samplers import make_sampler
from studies.storage import exclusive, open_storage

MAX_ATTEMPTS = 3

_STUDY = "exitbits:study"
_EVALUATION = "exitbits:evaluation"
_SOURCE = "exitbits:source"
_WORKER = "exitbits:worker"
_ATTEMPT = "exitbits:attempt"
_REASON = "exitbits:reason"
_UNCOUNTED = "exitbits:uncounted"


@dataclass(frozen=True)
class StudyRecord:
    """A study as the store knows it.

    Attributes:
        config: its configuration, with the budget as it stands.
        ledger: operations of its model.
        reference_value: the full-precision, full-depth metric on the search split.
        metric: name of the metric.
        model_digest: of the checkpoint's card.
    """

    config: StudyConfig
    ledger: Ledger
    reference_value: float
    metric: str
    model_digest: str

    @property
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
        """What is evaluated first, widest bits and highest threshold first."""
        section = self.config.anchors
        return [
            self.space.uniform(bits, threshold)
            for bits in sorted(section.bits, reverse=True)
            for threshold in sorted(section.thresholds, reverse=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the store."""
        return {
            "config": self.config.model_dump(mode="json"),
            "ledger": self.ledger.as_dict(),
            "reference_value": self.reference_value,
            "metric": self.metric,
            "model_digest": self.model_digest,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> StudyRecord:
        """Build what :meth:`as_dict` gave."""
        return cls(
            **{
                **fields,
                "config": parse_config(fields["config"], "stored study"),
                "ledger": Ledger.from_dict(fields["ledger"]),
            }
        )


@dataclass(frozen=True)
class Recorded:
    """One evaluation in the store."""

    trial: int
    source: str
    finished: datetime
    evaluation: Evaluation


@dataclass(frozen=True)
class Progress:
    """How far a study is, in trials.

    ``lost`` counts attempts whose worker died or was stopped; they are queued again and do not
    count against the budget. ``failed`` ones raised an error and do count.
    """

    budget: int
    finished: int
    running: int
    failed: int
    lost: int

    @property
    def done(self) -> bool:
        """Whether every budgeted trial has an end."""
        return self.finished + self.failed >= self.budget


@dataclass(frozen=True)
class Claim:
    """A trial handed to this worker."""

    trial: Trial
    policy: Policy
    source: str


class StudyStore:
    """All studies behind one URL.

    Args:
        url: of an SQLite file.
        create: whether to make it when it is missing.
    """

    def __init__(self, url: str, *, create: bool = False) -> None:
        self.url = url
        self._storage = open_storage(url, create=create)
        self._studies: dict[str, optuna.Study] = {}
        self._samplers: dict[int, optuna.samplers.BaseSampler] = {}

    def names(self) -> list[str]:
        """Names of all studies, sorted."""
        return sorted(
            study.study_name
            for study in self._storage.get_all_studies()
            if _STUDY in study.user_attrs
        )

    def find(self, name: str) -> StudyRecord | None:
        """The study called ``name``, or None."""
        try:
            fields = self._study(name).user_attrs.get(_STUDY)
        except KeyError:
            return None
        return StudyRecord.from_dict(fields) if fields else None

    def get(self, name: str) -> StudyRecord:
        """The study called ``name``.

        Raises:
            BadInput: when there is none.
        """
        record = self.find(name)
        if record is None:
            names = ", ".join(self.names()) or "none yet"
            raise BadInput(f"no study {name!r} in this store: there are {names}")
        return record

    def create(self, record: StudyRecord) -> None:
        """Add a study and queue its anchors. Nothing changes where it exists already."""
        name = record.config.name
        with exclusive(self.url):
            if self.find(name) is None:
                study = optuna.create_study(
                    storage=self._storage,
                    study_name=name,
                    directions=["maximize", "minimize"],
                    load_if_exists=True,
                )
                if study.user_attrs or study.get_trials(deepcopy=False):
                    raise BadInput(
                        f"study name {name!r} is taken by another program: choose another --name"
                    )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    study.set_metric_names([record.metric, "gbops"])
                study.set_user_attr(_STUDY, record.as_dict())
            # Also after a crash between the two: queuing skips what is there already.
            self._queue_anchors(name, record)

    def _queue_anchors(self, name: str, record: StudyRecord) -> None:
        study = self._study(name)
        space = record.space
        known = {
            trial.user_attrs[_ATTEMPT]["digest"]
            for trial in study.get_trials(deepcopy=False)
            if _ATTEMPT in trial.user_attrs
        }
        for policy in record.anchors():
            if policy.digest not in known:
                study.enqueue_trial(
                    space.encode(policy),
                    user_attrs={
                        _SOURCE: "anchor",
                        _ATTEMPT: {"number": 1, "digest": policy.digest},
                    },
                )

    def raise_budget(self, name: str, trials: int) -> StudyRecord:
        """Let the study go on to ``trials`` if that is more than it has; return it as it stands."""
        with exclusive(self.url):
            record = self.get(name)
            if trials > record.config.budget.trials:
                budget = record.config.budget.model_copy(update={"trials": trials})
                config = record.config.model_copy(update={"budget": budget})
                self._study(name).set_user_attr(
                    _STUDY, {**record.as_dict(), "config": config.model_dump(mode="json")}
                )
                record = self.get(name)
        return record

    def claim(self, name: str, worker_seed: int) -> Claim | None:
        """Take the next trial, a queued one before a new proposal.

        Args:
            name: of the study.
            worker_seed: sets this worker's stream of proposals apart from the others'.

        Returns:
            None when the budget is spent or all that is left is in other workers' hands.
        """
        with exclusive(self.url):
            record = self.get(name)
            study = self._study(name)
            progress = self.progress(name)
            if progress.finished + progress.failed + progress.running >= progress.budget:
                return None
            if worker_seed not in self._samplers:
                section = record.config.sampler
                seed = int(digest_of([section.seed, worker_seed])[:8], 16)
                self._samplers[worker_seed] = make_sampler(section.name, seed)
            study.sampler = self._samplers[worker_seed]
            trial = study.ask()
            trial.set_user_attr(_WORKER, _this_process())
        policy = record.space.propose(trial)
        source = trial.user_attrs.get(_SOURCE, record.config.sampler.name)
        return Claim(trial, policy, source)

    def record(self, name: str, claim: Claim, evaluation: Evaluation) -> None:
        """Record a result and end its trial."""
        claim.trial.set_user_attr(_SOURCE, claim.source)
        claim.trial.set_user_attr(_EVALUATION, evaluation.as_dict())
        self._study(name).tell(claim.trial, [evaluation.value, evaluation.gbops])

    def fail(self, name: str, claim: Claim, reason: str) -> None:
        """End a trial whose evaluation raised an error; it counts against the budget."""
        claim.trial.set_user_attr(_REASON, reason)
        self._study(name).tell(claim.trial, state=TrialState.FAIL)

    def release_lost(self, name: str) -> int:
        """Queue again every running trial whose worker is gone, and return how many there were.

        A trial that lost its worker ``MAX_ATTEMPTS`` times is not queued
        again and counts as failed.
        """
        lost = 0
        with exclusive(self.url):
            study = self._study(name)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if _is_alive(trial.user_attrs.get(_WORKER)):
                    continue
                lost += 1
                self._release(study, trial)
        return lost

    def _release(self, study: optuna.Study, trial: FrozenTrial) -> None:
        attempt = trial.user_attrs.get(_ATTEMPT, {}).get("number", 1)
        again = attempt < MAX_ATTEMPTS
        set_attr = self._storage.set_trial_user_attr
        if again:
            params = trial.system_attrs.get("fixed_params") or trial.params
            if params:
                attrs = {
                    key: value
                    for key, value in trial.user_attrs.items()
                    if key in (_SOURCE, _ATTEMPT)
                }
                digest = attrs.get(_ATTEMPT, {}).get("digest")
                attrs[_ATTEMPT] = {"number": attempt + 1, "digest": digest}
                study.enqueue_trial(params, user_attrs=attrs)
            set_attr(trial._trial_id, _UNCOUNTED, True)
        reason = "its worker is gone" + ("" if again else f" for the {attempt}th time")
        set_attr(trial._trial_id, _REASON, reason)
        study.tell(trial.number, state=TrialState.FAIL)

    def progress(self, name: str) -> Progress:
        """Count the trials of a study by state."""
        trials = self._study(name).get_trials(deepcopy=False)
        states = Counter(trial.state for trial in trials)
        lost = sum(1 for trial in trials if trial.user_attrs.get(_UNCOUNTED))
        return Progress(
            budget=self.get(name).config.budget.trials,
            finished=states[TrialState.COMPLETE],
            running=states[TrialState.RUNNING],
            failed=states[TrialState.FAIL] - lost,
            lost=lost,
        )

    def failures(self, name: str) -> Sequence[tuple[int, str]]:
        """Number and reason of every failed trial that counts."""
        return [
            (trial.number, trial.user_attrs.get(_REASON, "unknown"))
            for trial in self._study(name).get_trials(deepcopy=False, states=(TrialState.FAIL,))
            if not trial.user_attrs.get(_UNCOUNTED)
        ]

    def evaluations(self, name: str) -> list[Recorded]:
        """All recorded evaluations, in the order of their trials."""
        trials = self._study(name).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        rows = []
        for trial in trials:
            finished = trial.datetime_complete
            if finished is None or _EVALUATION not in trial.user_attrs:
                continue
            rows.append(
                Recorded(
                    trial.number,
                    trial.user_attrs[_SOURCE],
                    finished,
                    Evaluation.from_dict(trial.user_attrs[_EVALUATION]),
                )
            )
        return rows

    def _study(self, name: str) -> optuna.Study:
        if name not in self._studies:
            self._studies[name] = optuna.load_study(study_name=name, storage=self._storage)
        return self._studies[name]


def _this_process() -> dict[str, Any]:
    me = psutil.Process()
    return {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time()}


def _is_alive(worker: dict[str, Any] | None) -> bool:
    """Whether the process that took a trial still runs. Of another host nothing can be known."""
    if worker is None:
        # Marked inside the claim's lock, so an unmarked trial's worker died while it held it.
        return False
    if worker["host"] != socket.gethostname():
        return True
    try:
        process = psutil.Process(worker["pid"])
        same = abs(process.create_time() - float(worker["started"])) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
