"""Proposing: a trial is claimed from the store, and a sampler gives it a policy.

The one place where storage, sampler and what is known of a study meet.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, Trial

from search.digest import digest_of
from search.errors import BadInput
from search.policy import Policy
from studies.records import Claim, Lease, Study, StudyGone
from studies.samplers.stock import make_sampler
from studies.store.claims import LeaseLost
from studies.store.database import PATIENCE_S, StoreUnavailable
from studies.store.rows import params_value
from studies.store.writer import StudyStore
from studies.work.knowledge import StudyKnowledge

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from search.bits.tables import SensitivityTables
    from studies.live_front import LiveFront


log = logging.getLogger(__name__)


class DoesNotFit(BadInput):
    """A queued trial has values that its study's space does not have."""


class Proposer:
    """Claims trials of one study and proposes their policies.

    Args:
        store: where the trials come from.
        study: as the store gives it.
        stream: names the sampler's random stream; every worker draws from one of its own.

    Raises:
        StudyGone: when the study was deleted.
    """

    def __init__(self, store: StudyStore, study: Study, stream: str) -> None:
        self.store, self.study = store, study
        self._knowledge = StudyKnowledge(store, study)
        section = study.record.config.sampler
        seed = int(digest_of([section.seed, stream])[:8], 16)
        self._optuna_study = self._open(make_sampler(section.name, seed, self._knowledge))

    @property
    def front(self) -> LiveFront:
        """The study's front as this process knows it."""
        return self._knowledge.live_front

    @property
    def tables(self) -> SensitivityTables | None:
        """The sensitivities that the sampler uses, or None."""
        return self._knowledge.surrogate.tables

    def take_up(self, tables: SensitivityTables) -> None:
        """Have the sampler use these sensitivities from now on."""
        self._knowledge.take_up(tables)

    def claim(self, worker: str) -> Claim | None:
        """Take the next trial, a queued or abandoned one before a new proposal.

        Args:
            worker: who takes it.

        A queued trial whose values do not fit the space fails with that as its reason, and the
        one after it is taken.

        Returns:
            None when the budget is spent or all that is left is in other workers' hands.

        Raises:
            LeaseLost: when the proposal took longer than the lease.
            StudyGone: when the study was deleted.
            StoreUnavailable: when the database stays away.
        """
        while (taken := self.store.claims.claim(self.study.id, worker)) is not None:
            lease, trial = taken
            try:
                return self._proposed(lease, trial)
            except DoesNotFit as error:
                log.warning("trial %s: %s", lease.number, error)
                self.store.claims.fail(lease, str(error), PATIENCE_S)
            except (StudyGone, LeaseLost):
                raise
            except Exception:
                with suppress(StoreUnavailable):
                    self.store.claims.give_back(lease)  # others need not wait until it runs out
                raise
        return None

    def _proposed(self, lease: Lease, trial: FrozenTrial) -> Claim:
        space = self.study.record.space
        source = lease.source or self.study.record.config.sampler.name
        given = trial.params or trial.system_attrs.get("fixed_params") or {}
        try:
            space.check_values(given)
            if trial.params:
                # An earlier attempt proposed already; this one only evaluates again.
                return Claim(lease, space.decode(trial.params), source)
        except BadInput as error:
            raise DoesNotFit(f"queued with what does not fit: {error}") from error
        except KeyError as error:
            raise DoesNotFit(f"queued without a value for {error}") from error
        policy = self._propose(lease, trial)
        self.store.claims.send_proposal(lease, params_value(trial), trial.system_attrs, source)
        return Claim(lease, policy, source)

    def _open(self, sampler: BaseSampler) -> optuna.Study:
        """The study as Optuna's samplers want it: found by its name, so its id is checked."""
        storage = self.store.storage
        try:
            name = storage.get_study_name_from_id(self.study.id)
            opened = optuna.Study(name, storage, sampler)
        except KeyError:
            raise StudyGone(self.study.id) from None
        if opened._study_id != self.study.id:
            raise StudyGone(self.study.id)
        return opened

    def _propose(self, lease: Lease, trial: FrozenTrial) -> Policy:
        study = self._optuna_study
        study._thread_local.cached_all_trials = None
        with self.store.storage.gathering(self.study.id, trial):
            return self.study.record.space.propose(Trial(study, lease.trial_id))
