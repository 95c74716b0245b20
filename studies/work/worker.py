"""A worker: claim a trial, evaluate its policy, record the result, and so on.

As a service it takes any study that has budget left, the least attended first, and waits when
there is none. A database that is away costs nothing but time: what was computed is kept until it
can be recorded. What goes wrong whatever the policy costs no trial: it is given back, and after
three such failures in a row the worker gives the study up and says why.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from search.bits.lookup import TableLookup
from search.disk_cache import DiskCaches
from search.errors import BadInput, ExitbitsError
from search.measuring import Measured, Measurer
from studies.config import StudyConfig
from studies.records import HARVEST, Claim, NoSuchStudy, StudyGone, UnreadableStudy
from studies.store.claims import LeaseLost
from studies.store.database import StoreUnavailable
from studies.store.outage import PAUSE_S, Outage
from studies.store.refusals import has_refused, refuse
from studies.store.workers import Registration
from studies.store.writer import StudyStore
from studies.work.blame import fault_of_model, fault_of_worker, in_words
from studies.work.opening import open_study_evaluator
from studies.work.proposing import Proposer

log = logging.getLogger(__name__)

IDLE_S = 0.3
RECORD_S = 5.0  # that a result is offered to a store that is away, before it is said
KEPT_MODELS = 3
STRIKES = 3
STRIKE_PAUSE_S = 0.5


class _Fault(Exception):
    """A study cannot be served here, and no policy is to blame."""

    def __init__(self, study_id: int, cause: Exception) -> None:
        self.study_id, self.words = study_id, in_words(cause)
        self.lasts = isinstance(cause, UnreadableStudy)  # no second try reads anything else
        super().__init__(self.words)


@dataclass
class Worker:
    """Serves one study or all of them.

    Attributes:
        store: where trials come from.
        registration: this worker's entry, which keeps its lease.
        caches: shared with other processes. Sensitivities are taken up when another command has
            measured them, and never measured here.
        study: name of the only one to serve, or None for all. Whichever study has the name now is
            served; where it is deleted, a service waits for another one of that name.
        until_done: whether to end when the study's budget is spent, or every study's.
        parent: pid of the launcher, whose end is this worker's; None for a service.
        stream: names the samplers' random stream, by default after the worker.
        device: where models run.
        elsewhere: says where model and images of a study lie here.
    """

    store: StudyStore
    registration: Registration
    caches: DiskCaches
    study: str | None = None
    until_done: bool = False
    parent: int | None = None
    stream: str | None = None
    device: str = "cpu"
    elsewhere: Callable[[StudyConfig], StudyConfig] = lambda config: config
    stopping: bool = False
    # By the study's id: a name may be another study's by the next trial.
    _proposers: dict[int, Proposer] = field(default_factory=dict)
    _models: OrderedDict[int, tuple[Measurer, TableLookup]] = field(default_factory=OrderedDict)
    _names: dict[int, str] = field(default_factory=dict)
    _strikes: dict[int, int] = field(default_factory=dict)
    _given_up: dict[int, str] = field(default_factory=dict)
    _outage: Outage = field(default_factory=lambda: Outage(log.warning))
    _waits: bool = False

    def stop(self) -> None:
        """Finish the trial in hand, then end."""
        self.stopping = True

    def run(self) -> None:
        """Work until told to stop, or, with ``until_done``, until nothing is left to do.

        Raises:
            ExitbitsError: with ``until_done``, when this worker has given up what is left.
        """
        while not self._should_end():
            try:
                if self._step():
                    return
                self._outage.over()
            except LeaseLost as error:
                log.warning("%s", error)  # frozen between claim and proposal
            except StudyGone as error:
                log.warning("study %s: %s", self._name(error.study_id), error)
                self._forget(error.study_id)
            except StoreUnavailable as error:
                self._outage.note(f"{error}; waiting for it")
                time.sleep(PAUSE_S)
            except _Fault as fault:
                self._strike(fault)

    def _step(self) -> bool:
        """Serve one trial, or wait a little; returns whether nothing is left to do."""
        served = self._served()
        for study_id in served:
            claim = self._next_claim(study_id)
            if claim is not None:
                self._serve(claim)
                return False
        if self.until_done and self._is_done(served):
            return True
        time.sleep(IDLE_S if self.until_done else 1.0)
        return False

    def _should_end(self) -> bool:
        return self.stopping or (self.parent is not None and os.getppid() != self.parent)

    def _served(self) -> list[int]:
        """Ids of the studies that may have a trial for this worker, as their names stand now."""
        if self.study is None:
            versions = self.store.open_studies(self.registration.name)
        else:
            try:
                versions = [self.store.version(self.study)]
            except NoSuchStudy:
                if self.until_done:
                    raise
                if not self._waits:
                    log.warning("no study is called %s any more: waiting for another", self.study)
                self._waits = True
                return []
            self._waits = False
        self._names.update({version.id: version.name for version in versions})
        return [version.id for version in versions if self._serves(version.id)]

    def _serves(self, study_id: int) -> bool:
        """Whether this worker has not given the study up, or somebody has it tried again."""
        if study_id not in self._given_up:
            return True
        if has_refused(self.store.database, study_id, self.registration.name):
            return False
        log.info("study %s is tried again", self._name(study_id))
        self._forget(study_id)
        return True

    def _is_done(self, served: list[int]) -> bool:
        if self.study:
            return all(self.store.progress(study_id).done for study_id in served)
        if self.store.is_unfinished(self.registration.name):
            return False
        if self._given_up:
            left = "; ".join(f"{self._name(one)}: {why}" for one, why in self._given_up.items())
            raise ExitbitsError(f"nothing is left but what this worker has given up ({left})")
        return True

    def _next_claim(self, study_id: int) -> Claim | None:
        try:
            proposer = self._proposer(study_id)
            self._open(proposer)  # before the claim: a model that cannot be used costs none
            self._take_up_tables(proposer)
            return proposer.claim(self.registration.name)
        except (StudyGone, LeaseLost, StoreUnavailable):
            raise
        except Exception as error:
            raise _Fault(study_id, error) from error

    def _serve(self, claim: Claim) -> None:
        name = self._name(claim.lease.study_id)
        self.registration.hold(claim.lease)
        try:
            send = self._compute(claim)
            self._outage.wait_out(send, lambda: not self._should_end())
            self._strikes.pop(claim.lease.study_id, None)
        except LeaseLost as error:
            log.warning("study %s, %s", name, error)
        except StoreUnavailable as error:
            log.warning("trial %s of %s goes to another: %s", claim.lease.number, name, error)
        finally:
            self.registration.hold(None)

    def _compute(self, claim: Claim) -> Callable[[], None]:
        """Evaluate, and return how to record what came of it."""
        measurer = self._open(self._proposers[claim.lease.study_id])
        try:
            measured = measurer.measure(claim.policy)
        except StudyGone:
            raise
        except Exception as error:
            return self._failed(claim, error, fault_of_worker(measurer, error))
        return lambda: self._record(claim, measurer, measured)

    def _failed(
        self, claim: Claim, error: Exception, fault: Exception | None
    ) -> Callable[[], None]:
        """How to record one policy's failure, which is its trial's result; else give it back."""
        if fault is not None:
            with suppress(StoreUnavailable):  # then it runs out
                self.store.claims.give_back(claim.lease)
            raise _Fault(claim.lease.study_id, fault) from error
        reason = in_words(error)

        def fail() -> None:
            self.store.fail(claim, reason, patience_s=RECORD_S)
            name = self._name(claim.lease.study_id)
            log.warning("trial %s of %s failed: %s", claim.lease.number, name, reason)

        return fail

    def _record(self, claim: Claim, measurer: Measurer, measured: Measured) -> None:
        more = [(HARVEST, harvested) for harvested in measured.harvested]
        attributes = measured.attributes
        try:
            self.store.record(
                claim, measured.evaluation, *more, attributes=attributes, patience_s=RECORD_S
            )
        except StudyGone:
            raise
        except BadInput as error:  # a figure that is not finite
            self._failed(claim, error, fault_of_model(measurer))()
        else:
            name = self._name(claim.lease.study_id)
            log.info("trial %s of %s recorded", claim.lease.number, name)

    def _strike(self, fault: _Fault) -> None:
        """Take note of a failure that is no policy's; the third in a row is the last."""
        study_id, name = fault.study_id, self._name(fault.study_id)
        self._models.pop(study_id, None)  # what is broken in it is made anew
        self._strikes[study_id] = self._strikes.get(study_id, 0) + 1
        if self._strikes[study_id] < STRIKES and not fault.lasts:
            log.warning("study %s, whatever the policy: %s", name, fault.words)
            time.sleep(STRIKE_PAUSE_S)
            return
        # Where it came from is of use where the words were not written for people.
        told = isinstance(fault.__cause__, ExitbitsError | OSError | ImportError)
        source = None if told else fault.__cause__
        log.error("study %s is left to others: %s", name, fault.words, exc_info=source)
        self._given_up[study_id] = fault.words
        database, worker = self.store.database, self.registration.name
        try:
            self._outage.wait_out(
                lambda: refuse(database, study_id, worker, fault.words),
                lambda: not self._should_end(),
            )
        except (StudyGone, StoreUnavailable):
            return
        if self.study and self.until_done:
            raise ExitbitsError(f"study {name!r} is left to others: {fault.words}")

    def _forget(self, study_id: int) -> None:
        for known in (self._proposers, self._models, self._strikes, self._given_up):
            known.pop(study_id, None)

    def _proposer(self, study_id: int) -> Proposer:
        """Kept as long as the study is there: made anew, its sampler would begin again."""
        if study_id not in self._proposers:
            study = self.store.study(study_id)
            stream = self.stream or self.registration.name
            self._proposers[study_id] = Proposer(self.store, study, stream)
        return self._proposers[study_id]

    def _open(self, proposer: Proposer) -> Measurer:
        study_id = proposer.study.id
        if study_id not in self._models:
            self._models[study_id] = self._load(proposer)
        self._models.move_to_end(study_id)
        while len(self._models) > KEPT_MODELS:
            self._models.popitem(last=False)
        return self._models[study_id][0]

    def _take_up_tables(self, proposer: Proposer) -> None:
        """Have the sampler use sensitivities that a command has measured, even just now."""
        if proposer.tables is not None:
            return
        tables = self._models[proposer.study.id][1].known()
        if tables is not None:
            proposer.take_up(tables)
            log.info("study %s: sensitivity tables found", proposer.study.record.config.name)

    def _name(self, study_id: int) -> str:
        """The study's name as it stood last, for people."""
        return self._names.get(study_id, str(study_id))

    def _load(self, proposer: Proposer) -> tuple[Measurer, TableLookup]:
        record = proposer.study.record
        record = replace(record, config=self.elsewhere(record.config))
        evaluator = open_study_evaluator(
            record, self.caches.traces, self.caches.calibrations, self.device
        )
        trial, granularity = record.config.trial, record.config.space.granularity
        return (
            Measurer(evaluator, record.space, proposer.front, trial.harvest, trial.racing),
            TableLookup(evaluator.quantized, granularity, self.caches.tables),
        )
