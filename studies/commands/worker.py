"""``exitbits worker``: serve the studies of a store until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from search.caching import default_cache_folder
from search.cores import computing_threads
from search.disk_cache import DiskCaches
from search.display import visible
from search.errors import BadInput
from studies.commands.common import (
    add_places,
    add_store,
    add_threads,
    at_places,
    printable_name,
    read_store,
)

INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``exitbits worker``."""
    add_store(parser)
    parser.add_argument("--study", metavar="NAME", help="serve this study only (default: all)")
    add_places(parser)
    parser.add_argument(
        "--name",
        type=printable_name,
        help="name of this worker, unique (default: host and process)",
    )
    add_threads(parser)
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", default=default_cache_folder(),
        help="folder of shared traces and calibrations (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where models run (default %(default)s)")
    parser.add_argument(
        "--until-done",
        action="store_true",
        help="end when nothing is left to do: the study's budget is spent, or every study's",
    )
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stream", help=argparse.SUPPRESS)


class _OneLine(logging.Formatter):
    """Names and reasons come from a store that others write to: a record stays one record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = visible(record.message)
        return super().formatMessage(record)


def run(args: argparse.Namespace) -> int:
    """Serve; SIGTERM or Ctrl-C finishes the trial in hand, a second one quits at once."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    logging.getLogger().handlers[0].setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    # Migrations and the like say much that no one needs to read here.
    for noisy in ("alembic", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    caches = DiskCaches(args.cache)

    from studies.store.outage import Outage
    from studies.store.workers import Registration, default_worker_name
    from studies.store.writer import StudyStore
    from studies.work.opening import refuse_unknown_device
    from studies.work.worker import Worker

    if (args.model or args.data) and not args.study:
        raise BadInput("--model and --data are one study's: give --study too")
    outage = Outage(logging.warning)
    address = read_store(args)
    store = outage.wait_out(lambda: StudyStore(address))
    if args.study:
        outage.wait_out(lambda: store.get(args.study))
    refuse_unknown_device(args.device)
    registration = Registration(store.claims, args.name or default_worker_name(), args.study)
    worker = Worker(
        store, registration, caches, study=args.study, until_done=args.until_done,
        parent=args.parent, stream=args.stream, device=args.device,
        elsewhere=lambda config: at_places(config, args),
    )  # fmt: skip

    def on_signal(number: int, _: object) -> None:
        if worker.stopping:
            os._exit(INTERRUPTED)  # the lease runs out, or whoever started us frees it
        logging.info("finishing the trial in hand; once more to quit at once")
        worker.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    logging.info(
        "worker %s serves %s with %d threads",
        registration.name, args.study or "all studies", computing_threads(),
    )  # fmt: skip
    try:
        worker.run()
    finally:
        registration.close()
    return 0
