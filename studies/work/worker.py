"""A worker: claim a trial, evaluate its policy, record the result, and so on.

As a service it takes any study that has budget left, the least attended first, and waits when
there is none. A database that is away costs nothing but time: what was computed is kept until it
can be recorded.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from search.bits.lookup import TableLookup
from search.disk_cache import DiskCaches
from search.errors import BadInput, ExitbitsError
from search.measuring import Measurer
from studies.records import HARVEST, Claim, NoSuchStudy, StudyGone
from studies.store.claims import LeaseLost
from studies.store.database import StoreUnavailable
from studies.store.workers import Registration
from studies.store.writer import StudyStore
from studies.work.opening import open_study_evaluator
from studies.work.proposing import Proposer

log = logging.getLogger(__name__)

IDLE_S = 0.3
AWAY_S = 2.0
KEPT_MODELS = 3
DAY_S = 24 * 3600.0


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
        until_done: whether to end when the study's budget is spent.
        parent: pid of the launcher, whose end is this worker's; None for a service.
        stream: names the samplers' random stream, by default after the worker.
        device: where models run.
    """

    store: StudyStore
    registration: Registration
    caches: DiskCaches
    study: str | None = None
    until_done: bool = False
    parent: int | None = None
    stream: str | None = None
    device: str = "cpu"
    stopping: bool = False
    # By the study's id: a name may be another study's by the next trial.
    _proposers: dict[int, Proposer] = field(default_factory=dict)
    _models: OrderedDict[int, tuple[Measurer, TableLookup]] = field(default_factory=OrderedDict)
    _refused: set[int] = field(default_factory=set)
    _waits: bool = False

    def stop(self) -> None:
        """Finish the trial in hand, then end."""
        self.stopping = True

    def run(self) -> None:
        """Work until told to stop, or, with ``until_done``, until the study is done."""
        while not self._should_end():
            claim = None
            try:
                served = self._served()
                claim = self._next_claim(served)
                if claim is not None:
                    self._serve(claim)
                elif self.study and self.until_done and self.store.progress(served[0]).done:
                    return
                else:
                    time.sleep(IDLE_S if self.until_done else 1.0)
            except LeaseLost as error:
                log.warning("%s", error)  # frozen between claim and proposal
            except StudyGone as error:
                log.warning("study %s: %s", self._name(error.study_id), error)
                self._proposers.pop(error.study_id, None)
                self._models.pop(error.study_id, None)
            except StoreUnavailable as error:
                log.warning("%s", error)
                time.sleep(AWAY_S)
            except BadInput as error:
                if self.study:
                    raise
                log.error("%s", error)
                if claim is not None:
                    self._refused.add(claim.lease.study_id)

    def _should_end(self) -> bool:
        return self.stopping or (self.parent is not None and os.getppid() != self.parent)

    def _served(self) -> list[int]:
        """Ids of the studies that may have a trial for this worker, as their names stand now."""
        if self.study is None:
            return [version.id for version in self.store.open_studies()]
        try:
            served = [self.store.version(self.study).id]
        except NoSuchStudy:
            if self.until_done:
                raise
            if not self._waits:
                log.warning("no study is called %s any more: waiting for another", self.study)
            self._waits = True
            return []
        self._waits = False
        return served

    def _next_claim(self, served: list[int]) -> Claim | None:
        for study_id in served:
            if study_id in self._refused:
                continue
            try:
                proposer = self._proposer(study_id)
                self._open(proposer)  # before the claim: a model that cannot be used costs none
                self._take_up_tables(proposer)
            except BadInput as error:
                if self.study or isinstance(error, StudyGone):
                    raise
                self._refused.add(study_id)
                log.error("study %s is left to others: %s", self._name(study_id), error)
                continue
            claim = proposer.claim(self.registration.name)
            if claim is not None:
                return claim
        return None

    def _serve(self, claim: Claim) -> None:
        name = self._name(claim.lease.study_id)
        self.registration.hold(claim.lease)
        try:
            send = self._compute(claim, name)
            send()
            log.info("trial %s of %s recorded", claim.lease.number, name)
        except LeaseLost as error:
            log.warning("study %s, %s", name, error)
        finally:
            self.registration.hold(None)

    def _compute(self, claim: Claim, name: str) -> Callable[[], None]:
        """Evaluate, and return how to record what came of it, however long the store is away."""
        try:
            measured = self._open(self._proposers[claim.lease.study_id]).measure(claim.policy)
        except StudyGone:
            raise
        except (OSError, ExitbitsError) as error:
            # The data or the disk, not the policy: others may fare better with the trial.
            self.store.claims.give_back(claim.lease)
            raise BadInput(f"study {name!r} cannot be evaluated here: {error}") from error
        except Exception as error:
            # One policy's failure is that trial's result, not the end of the search.
            reason = f"{type(error).__name__}: {error}"
            return lambda: self.store.fail(claim, reason, patience_s=DAY_S)
        more = [(HARVEST, harvested) for harvested in measured.harvested]
        return lambda: self.store.record(
            claim, measured.evaluation, *more, attributes=measured.attributes, patience_s=DAY_S
        )

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
        """The study's name when it was opened, for the log."""
        proposer = self._proposers.get(study_id)
        return str(study_id) if proposer is None else proposer.study.record.config.name

    def _load(self, proposer: Proposer) -> tuple[Measurer, TableLookup]:
        record = proposer.study.record
        evaluator = open_study_evaluator(
            record, self.caches.traces, self.caches.calibrations, self.device
        )
        trial, granularity = record.config.trial, record.config.space.granularity
        return (
            Measurer(evaluator, record.space, proposer.front, trial.harvest, trial.racing),
            TableLookup(evaluator.quantized, granularity, self.caches.tables),
        )


def refuse_unknown_device(device: str) -> None:
    """Raise ``ExitbitsError`` unless torch can compute on ``device``."""
    if device == "cpu":
        return  # wherever torch runs, and it need not be loaded to know
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ExitbitsError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}): try --device cpu"
        ) from error
