"""A worker: claim a trial, evaluate its policy, record the result, until the budget is spent.

Started by a launcher as a process of its own: ``python -m studies.worker ...``. SIGTERM lets it
finish the trial in hand; whatever kills it harder costs that trial only, which is queued again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from search.errors import ExitbitsError
from studies.cache import DiskTraceCache
from studies.store import StudyStore

IDLE_S = 0.3


class Worker:
    """Serves one study.

    Args:
        store: where trials come from.
        study: its name.
        index: sets this worker's proposals apart from the others'.
        cache: shared traces.
        parent: pid of the launcher; the worker ends when it is gone.
    """

    def __init__(
        self, store: StudyStore, study: str, index: int, cache: DiskTraceCache, parent: int
    ) -> None:
        self.store, self.study, self.index = store, study, index
        self.cache, self.parent = cache, parent
        self.stopping = False

    def stop(self, *_: object) -> None:
        """Finish the trial in hand, then end."""
        self.stopping = True

    def run(self) -> None:
        """Work until the budget is spent or :meth:`stop` is called."""
        from studies.workload import open_evaluator

        record = self.store.get(self.study)
        evaluator = open_evaluator(record.config, cache=self.cache)
        if evaluator.card.digest != record.model_digest:
            raise ExitbitsError(
                f"the checkpoint of study {self.study!r} has changed since the study began: "
                "restore it, or launch under another --name"
            )
        while not self.stopping and os.getppid() == self.parent:
            claim = self.store.claim(self.study, self.index)
            if claim is None:
                if self.store.progress(self.study).done:
                    return
                # Others still hold trials; one of them may be lost and come back.
                time.sleep(IDLE_S)
                continue
            try:
                evaluation = evaluator.evaluate(claim.policy)
            except Exception as error:
                # One policy's failure is that trial's result, not the end of the search.
                self.store.fail(self.study, claim, f"{type(error).__name__}: {error}")
                continue
            self.store.record(self.study, claim, evaluation)


def main() -> int:
    """Run one worker process."""
    parser = argparse.ArgumentParser(prog="python -m studies.worker", description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--study", required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    args = parser.parse_args()
    try:
        worker = Worker(
            StudyStore(args.store), args.study, args.index, DiskTraceCache(args.cache), args.parent
        )
        signal.signal(signal.SIGTERM, worker.stop)
        import torch

        torch.set_num_threads(args.threads)
        worker.run()
    except ExitbitsError as error:
        print(f"worker {args.index}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
