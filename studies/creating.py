"""Creating a study, or taking up one that is there with the same configuration."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from search.data.splits import HELD_OUT_SPLITS, few_images
from search.disk_cache import DiskTraceCache
from search.errors import BadInput, ExitbitsError
from search.evaluate import data_digest
from search.opening import model_digest, open_data
from studies.config import StudyConfig, parse_config
from studies.config_file import load_config, preset_names
from studies.places import moved
from studies.records import Study, StudyRecord
from studies.store.database import EmptyStore
from studies.store.refusals import forget_refusals
from studies.store.writer import StudyStore
from studies.unchanged import check_images, check_model
from studies.words import counted
from studies.work.blame import in_words
from studies.work.opening import ANOTHER_NAME

log = logging.getLogger(__name__)

OnStage = Callable[[str], None]
"""Receives what is being done, in a few words."""


def open_study(
    address: str,
    config: StudyConfig,
    cache: DiskTraceCache,
    on_stage: OnStage = lambda stage: None,
) -> tuple[StudyStore, Study]:
    """Take a study up where it exists, and raise its budget; else check everything and create it.

    One that workers have given up is tried again by them.

    Args:
        address: of the store, which is made where there is none.
        config: of the study.
        cache: where traces are kept.
        on_stage: receives what takes long.

    Raises:
        BadInput: when the name is taken by another configuration, or the model or data cannot be
            used; the store is then as it was.
        ExitbitsError: when a file, a library or memory is missing here.
    """
    try:
        return _open_study(address, config, cache, on_stage)
    except (OSError, ImportError, MemoryError) as error:
        raise ExitbitsError(
            f"study {config.name!r} cannot be opened here: {in_words(error)}"
        ) from error


def _open_study(
    address: str, config: StudyConfig, cache: DiskTraceCache, on_stage: OnStage
) -> tuple[StudyStore, Study]:
    try:
        store = StudyStore(address)
        store.database.refuse_read_only()
        study = store.find(config.name)
    except EmptyStore:
        store, study = None, None
    if study is None:
        record = _measure(config, cache, on_stage)
        store = store or StudyStore(address, create=True)
        if created := store.create(record):
            return store, created
        study = store.get(config.name)  # another process was faster
    assert store is not None
    check_same(study, config, "--name")
    check_model(
        f"study {config.name!r}",
        study.record.model_digest,
        model_digest(config.model.checkpoint),
        "give this study another --name",
    )
    _take_up(store, study, config, cache, on_stage)
    forget_refusals(store.database, study.id)
    return store, store.raise_budget(study.id, config.budget.trials)


def read_config(
    source: str,
    address: str,
    *,
    name: str | None = None,
    trials: int | None = None,
    model: str | None = None,
    data: str | None = None,
) -> StudyConfig:
    """The configuration that a person names: a file's, a preset's, or that of a stored study.

    Args:
        source: a path ending in ``.toml``, a preset's name, or a study's name, in this order.
        address: of the store, where studies are looked for.
        name, trials: replace what it says; a stored study under another name is a new one.
        model, data: likewise, where checkpoint and images lie.

    Raises:
        BadInput: for a file that cannot be used, or a name that nothing has.
    """
    presets = preset_names()
    if source.endswith(".toml") or source in presets:
        return load_config(source, name=name, trials=trials, model=model, data=data)
    stored: list[str] = []
    with suppress(EmptyStore):
        store = StudyStore(address)
        stored = store.names(archived=True)
        if source in stored:
            config = moved(store.get(source).record.config, model, data)
            changes = {"name": name, "budget": trials and {"trials": trials}}
            return parse_config(
                {**config.model_dump(mode="json"), **{k: v for k, v in changes.items() if v}},
                f"study {source!r}",
            )
    there = f"this store has {', '.join(stored)}" if stored else "this store has no study yet"
    raise BadInput(
        f"nothing is called {source!r}: presets are {', '.join(presets)}, {there}; a file's name "
        "ends in .toml"
    )


def budget_words(study: Study, asked: int) -> str:
    """What a study's budget is after ``asked`` trials were asked for, in one line."""
    name, has = study.record.config.name, study.record.config.budget.trials
    if has == asked:
        return f"study {name}: budget {counted(has, 'trial')}"
    return (
        f"study {name}: budget {counted(has, 'trial')}, as before; {asked} is less and changes "
        f"nothing, 'exitbits stop' ends it at the trials that have begun"
    )


def _take_up(
    store: StudyStore,
    study: Study,
    config: StudyConfig,
    cache: DiskTraceCache,
    on_stage: OnStage,
) -> None:
    """Let a study go on where its model and images lie now, with mended images where it can.

    Raises:
        BadInput: when the images are others and something was recorded with those.
    """
    section, before = config.data, study.record
    data = open_data(config.model.checkpoint, section.dataset, section.path, section.options())
    calibration = data.split("calibration").head(section.calibration_images)
    now = data_digest(data.split("search"), calibration)
    record = before if now == before.data_digest else _measure(config, cache, on_stage)
    # All else stays as it began: what is queued does not follow another budget.
    here = moved(before.config, config.model.checkpoint, section.path)
    record = replace(record, config=here)
    if not store.replace_record(study.id, record):
        check_images(f"study {config.name!r}", before.data_digest, now, ANOTHER_NAME)


def check_same(study: Study, config: StudyConfig, name: str) -> None:
    """Make sure that a configuration is that of the study which has its name.

    Args:
        study: which has the name.
        config: what is asked for.
        name: how the name is called where it is given.

    Raises:
        BadInput: naming the first difference.
    """
    if difference := study.record.config.difference(config):
        raise BadInput(
            f"study {config.name!r} exists with another configuration ({difference}): "
            f"give this one another {name}"
        )


def _measure(config: StudyConfig, cache: DiskTraceCache, on_stage: OnStage) -> StudyRecord:
    from search.engines.cpu.native import load_kernels

    # The compiler takes about as long as loading torch and measuring the reference. Not a daemon:
    # killed in the middle it would leave its folder in the cache.
    compiling = threading.Thread(target=load_kernels, name="compiler")
    if config.engine.name == "fast":
        compiling.start()
    on_stage(f"measuring the full-precision reference of {config.name}")
    from search.evaluate import measure_reference
    from studies.work.opening import open_evaluator

    evaluator = open_evaluator(config, cache=cache)
    section = config.data
    data = open_data(config.model.checkpoint, section.dataset, section.path, section.options())
    for name in HELD_OUT_SPLITS:
        try:
            warning = few_images(data.split(name))
        except BadInput as error:  # none at all: the search needs no other split than its own
            warning = str(error)
        if warning:
            log.warning("%s", warning)
    record = StudyRecord(
        config=config.with_anchors(),  # what is queued does not follow a budget that grows
        ledger=evaluator.ledger,
        reference_value=measure_reference(evaluator),
        metric=evaluator.task.metric,
        model_digest=evaluator.card.digest,
        data_digest=evaluator.data_digest,
    )
    record.anchors()  # refuses a space that does not fit before anything is written
    if config.engine.name == "fast":
        on_stage("compiling the fast engine's kernels, once on this machine")
        compiling.join()
    return record
