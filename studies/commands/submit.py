"""``exitbits submit``: create a study that waiting workers take up."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from rich.console import Console
from rich.text import Text

from search.caching import default_cache_folder
from search.disk_cache import DiskTraceCache
from search.errors import BadInput
from search.models.bundled import checkpoint_digest
from studies.commands.common import add_store, positive, read_store
from studies.config import StudyConfig, load_config
from studies.records import Study, StudyRecord
from studies.store.database import EmptyStore
from studies.store.writer import StudyStore


def add_study_source(parser: argparse.ArgumentParser) -> None:
    """Declare what ``launch`` and ``submit`` share."""
    parser.add_argument(
        "study", nargs="?", default="fashion", metavar="PRESET or STUDY.toml",
        help="what to search (default: the preset fashion)",
    )  # fmt: skip
    add_store(parser)
    parser.add_argument("--trials", type=positive, metavar="N", help="budget of the study")
    parser.add_argument("--name", help="name of the study (default: what the file says)")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=default_cache_folder(),
        help="folder of shared traces and calibrations (default %(default)s)",
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits submit``."""
    add_study_source(parser)


def run(args: argparse.Namespace) -> int:
    """Create the study, or raise the budget of one that exists with the same configuration."""
    config = load_config(args.study, name=args.name, trials=args.trials)
    cache = DiskTraceCache(args.cache)
    _, study = open_study(read_store(args), config, cache, Console(stderr=True))
    record = study.record
    print(f"study {record.config.name}: budget {record.config.budget.trials} trials")
    return 0


def open_study(
    address: str, config: StudyConfig, cache: DiskTraceCache, console: Console
) -> tuple[StudyStore, Study]:
    """Take a study up where it exists, else check everything and create it.

    Raises:
        BadInput: when the name is taken by another configuration, or the model or data cannot be
            used; the store is then as it was.
    """
    try:
        store = StudyStore(address)
        study = store.find(config.name)
    except EmptyStore:
        store, study = None, None
    if study is None:
        record = _measure(config, cache, console)
        store = store or StudyStore(address, create=True)
        if created := store.create(record):
            return store, created
        study = store.get(config.name)  # another process was faster
    assert store is not None
    known = study.record
    if difference := known.config.difference(config):
        raise BadInput(
            f"study {config.name!r} exists with another configuration ({difference}): "
            "give this one another --name"
        )
    digest = checkpoint_digest(config.model.checkpoint)
    if digest != known.model_digest:
        raise BadInput(
            f"the checkpoint of study {config.name!r} has changed since the study began "
            f"({known.model_digest[:12]} in the store, {digest[:12]} now): restore it, or give "
            "this study another --name"
        )
    return store, store.raise_budget(study.id, config.budget.trials)


def _measure(config: StudyConfig, cache: DiskTraceCache, console: Console) -> StudyRecord:
    from search.engines.cpu.native import load_kernels

    # The compiler takes about as long as loading torch and measuring the reference. Not a daemon:
    # killed in the middle it would leave its folder in the cache.
    compiling = threading.Thread(target=load_kernels, name="compiler")
    if config.engine.name == "fast":
        compiling.start()
    with console.status(Text(f"measuring the full-precision reference of {config.name}")):
        from search.evaluate import measure_reference
        from studies.work.opening import open_evaluator

        evaluator = open_evaluator(config, cache=cache)
        record = StudyRecord(
            config=config,
            ledger=evaluator.ledger,
            reference_value=measure_reference(evaluator),
            metric=evaluator.task.metric,
            model_digest=evaluator.card.digest,
            data_digest=evaluator.data_digest,
        )
        record.anchors()  # refuses a space that does not fit before anything is written
    if config.engine.name == "fast":
        with console.status(Text("compiling the fast engine's kernels, once on this machine")):
            compiling.join()
    return record
