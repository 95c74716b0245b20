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
from typing import TYPE_CHECKING

from search.disk_cache import DiskCaches
from search.errors import BadInput, ExitbitsError
from studies.records import HARVEST, Claim
from studies.store.claims import LeaseLost
from studies.store.database import StoreUnavailable
from studies.store.workers import Registration
from studies.store.writer import StudyStore

if TYPE_CHECKING:
    from search.sensitivity import SensitivityMeter
    from studies.work.measuring import Measurer

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
        study: the only one to serve, or None for all.
        until_done: whether to end when the study's budget is spent.
        parent: pid of the launcher, whose end is this worker's; None for a service.
        stream: names the samplers' random stream.
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
    _opened: OrderedDict[str, tuple[Measurer, SensitivityMeter]] = field(
        default_factory=OrderedDict
    )
    _refused: set[str] = field(default_factory=set)

    def stop(self) -> None:
        """Finish the trial in hand, then end."""
        self.stopping = True

    def run(self) -> None:
        """Work until told to stop, or, with ``until_done``, until the study is done."""
        while not self._should_end():
            claim = None
            try:
                claim = self._next_claim()
                if claim is not None:
                    self._serve(claim)
                elif self.study and self.until_done and self.store.progress(self.study).done:
                    return
                else:
                    time.sleep(IDLE_S if self.until_done else 1.0)
            except LeaseLost as error:
                log.warning("%s", error)  # frozen between claim and proposal
            except StoreUnavailable as error:
                log.warning("%s", error)
                time.sleep(AWAY_S)
            except BadInput as error:
                if self.study:
                    raise
                log.error("%s", error)
                if claim is not None:
                    self._refused.add(claim.study)

    def _should_end(self) -> bool:
        return self.stopping or (self.parent is not None and os.getppid() != self.parent)

    def _next_claim(self) -> Claim | None:
        for name in [self.study] if self.study else self.store.open_studies():
            if name in self._refused:
                continue
            try:
                self._open(name)  # before the claim: a model that cannot be used costs none
                self._take_up_tables(name)
            except BadInput as error:
                if self.study:
                    raise
                self._refused.add(name)
                log.error("study %s is left to others: %s", name, error)
                continue
            claim = self.store.claim(name, self.registration.name, self.stream)
            if claim is not None:
                return claim
        return None

    def _serve(self, claim: Claim) -> None:
        self.registration.hold(claim.lease)
        try:
            send = self._compute(claim)
            send()
            log.info("trial %s of %s recorded", claim.lease.number, claim.study)
        except LeaseLost as error:
            log.warning("study %s, %s", claim.study, error)
        finally:
            self.registration.hold(None)

    def _compute(self, claim: Claim) -> Callable[[], None]:
        """Evaluate, and return how to record what came of it, however long the store is away."""
        try:
            found = self._open(claim.study).measure(claim.policy)
        except (OSError, ExitbitsError) as error:
            # The data or the disk, not the policy: others may fare better with the trial.
            self.store.claims.give_back(claim.lease)
            raise BadInput(f"study {claim.study!r} cannot be evaluated here: {error}") from error
        except Exception as error:
            # One policy's failure is that trial's result, not the end of the search.
            reason = f"{type(error).__name__}: {error}"
            return lambda: self.store.fail(claim, reason, patience_s=DAY_S)
        more = [(HARVEST, one) for one in found.harvested]
        return lambda: self.store.record(
            claim, found.evaluation, *more, attributes=found.attributes, patience_s=DAY_S
        )

    def _open(self, name: str) -> Measurer:
        if name not in self._opened:
            self._opened[name] = self._load(name)
        self._opened.move_to_end(name)
        while len(self._opened) > KEPT_MODELS:
            self._opened.popitem(last=False)
        return self._opened[name][0]

    def _take_up_tables(self, name: str) -> None:
        """Have the sampler use sensitivities that a command has measured, even just now."""
        if name not in self.store.tables and (tables := self._opened[name][1].known()) is not None:
            self.store.tables[name] = tables
            log.info("study %s: sensitivity tables found", name)

    def _load(self, name: str) -> tuple[Measurer, SensitivityMeter]:
        from search.sensitivity import SensitivityMeter
        from studies.work.measuring import Measurer
        from studies.work.opening import open_study_evaluator

        record = self.store.get(name)
        evaluator = open_study_evaluator(
            record, self.caches.traces, self.caches.calibrations, self.device
        )
        known, granularity = self.store.known_front(name), record.config.space.granularity
        return (
            Measurer(evaluator, record.space, record.config.trial, known),
            SensitivityMeter(evaluator.quantized, granularity, self.caches.tables),
        )


def refuse_unknown_device(device: str) -> None:
    """Raise ``ExitbitsError`` unless torch can compute on ``device``."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ExitbitsError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}): try --device cpu"
        ) from error
