"""A study as a person in a notebook meets it: created, run, looked at, picked from.

Plain: what needs torch or plotly is loaded when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.caching import default_cache_folder
from search.cores import asked_threads
from search.cost import NO_BOUNDS, Budget
from search.disk_cache import DiskTraceCache
from search.display import html_table, to_pandas
from search.errors import ExitbitsError
from search.policy import Policy
from studies.config_file import load_config
from studies.creating import open_study
from studies.fronts import FrontSummary, widths_as_text
from studies.launchers import WorkerOrder, open_launcher, shared_folder
from studies.picking import Pick, PickRequest, pick
from studies.policy_file import PolicyFile, write_policy_file
from studies.records import Progress, Study
from studies.running import OnProgress, run_workers
from studies.store.address import default_address
from studies.store.writer import StudyStore

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FIGURES = "exitbits.figures"


def create(
    source: str = "fashion",
    *,
    store: str | None = None,
    name: str | None = None,
    trials: int | None = None,
    cache: Path | None = None,
) -> StudyHandle:
    """Create a study, or take up the one that is there with the same configuration.

    Args:
        source: a preset's name, or a path ending in ``.toml``.
        store: address of the store, which is made where there is none; None for $EXITBITS_STORE or
            the SQLite file exitbits.db.
        name, trials: replace what the file says.
        cache: folder of traces and calibrations, None for the user's.

    Raises:
        BadInput: for a file that cannot be used, or a name that another configuration has.
    """
    folder = cache or default_cache_folder()
    config = load_config(source, name=name, trials=trials)
    opened, study = open_study(store or default_address(), config, DiskTraceCache(folder))
    return StudyHandle(opened, study, folder)


def load(name: str, *, store: str | None = None, cache: Path | None = None) -> StudyHandle:
    """A study that is in a store.

    Raises:
        BadInput: when there is no such store or study.
    """
    opened = StudyStore(store or default_address())
    return StudyHandle(opened, opened.get(name), cache or default_cache_folder())


class StudyHandle:
    """One study of a store; :func:`create` and :func:`load` make one.

    Args:
        store: where it is.
        study: as the store gives it.
        cache: folder of traces and calibrations.
    """

    def __init__(self, store: StudyStore, study: Study, cache: Path) -> None:
        self.store, self.cache = store, cache
        self._id = study.id

    @property
    def study(self) -> Study:
        """The study as it is now, also under another name.

        Raises:
            StudyGone: when it was deleted.
        """
        return self.store.study(self._id)

    @property
    def name(self) -> str:
        """What it is called now."""
        return self.study.record.config.name

    @property
    def progress(self) -> Progress:
        """How far it is, in trials.

        Raises:
            StudyGone: when the study was deleted.
        """
        return self.store.progress(self._id)

    def run(
        self,
        workers: int | None = None,
        *,
        on: str = "local",
        on_progress: OnProgress = lambda progress, summary: None,
    ) -> Progress:
        """Run workers until the budget is spent; Ctrl-C lets them finish the trials in hand.

        Args:
            workers: how many processes, None for one a core.
            on: where they run: ``local``, ``ray`` or ``ray://HOST:PORT``.
            on_progress: receives how far it is, every half second.

        Raises:
            ExitbitsError: when the workers ended before the budget was spent.
        """
        log = self.cache / "worker.log"
        order = WorkerOrder(
            self.store.address, self.name, shared_folder(self.cache), log, workers, asked_threads()
        )
        launcher = open_launcher(on, order)
        interrupted = run_workers(self.store, self.study, launcher, on_progress)
        progress = self.progress
        if not interrupted and not progress.done:
            raise ExitbitsError(
                f"the workers ended after {progress.finished} of {progress.budget} trials: "
                f"{launcher.last_words()} (log: {log})"
            )
        return progress

    def front(self) -> StudyFront:
        """The front as it is now."""
        return StudyFront(FrontSummary.load(self.store, self.study))

    def plot(self) -> go.Figure:
        """The front as the dashboard draws it.

        Raises:
            ExitbitsError: where no figures are installed.
        """
        rows, study = self.store.evaluations(self._id), self.study
        for point in entry_points(group=FIGURES, name="front"):
            return point.load()(study, self.progress, rows)
        raise ExitbitsError("no figures are installed: reinstall exitbits")

    def pick(
        self,
        *,
        max_gbops: float | None = None,
        min_accuracy: float | None = None,
        max_drop: float | None = None,
        knee: bool = False,
        digest: str | None = None,
        within: Budget = NO_BOUNDS,
    ) -> PickedPolicy:
        """One policy under a rule and bounds; see :class:`studies.picking.PickRequest`.

        Raises:
            NoPolicyFound: when no evaluated policy satisfies it.
        """
        request = PickRequest(max_gbops, min_accuracy, max_drop, knee, digest, within=within)
        return PickedPolicy(pick(self.store, self.study, request))

    def __repr__(self) -> str:
        progress = self.progress
        ended = progress.ended
        return f"StudyHandle({self.name!r}, {ended} of {progress.budget} trials)"

    def _repr_html_(self) -> str:
        progress = self.progress
        rows = [
            ("trials", f"{progress.ended} of {progress.budget}"),
            ("running", progress.running),
            ("failed", progress.failed),
        ]
        return html_table(f"study {self.name}", ("", ""), rows) + self.front()._repr_html_()


@dataclass(frozen=True)
class StudyFront(Sequence[Any]):
    """The non-dominated evaluations of a study, cheapest first.

    Attributes:
        summary: the study's evaluations, and which of them these are.
    """

    summary: FrontSummary

    def __len__(self) -> int:
        return len(self.summary.details)

    def __getitem__(self, index: Any) -> Any:
        return self.summary.details[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.summary.details)

    @property
    def hypervolume(self) -> float:
        """Dominated fraction of the box from metric 0 and the W8A8 full-depth cost."""
        return self.summary.hypervolume

    def rows(self) -> list[dict[str, Any]]:
        """One plain dictionary a policy: the contract's fields, its bits and thresholds."""
        return [
            {
                **self.summary.row_as_dict(row, detail),
                **widths_as_text(row.policy),
            }
            for row, detail in zip(self.summary.front_rows, self.summary.details, strict=True)
        ]

    def to_pandas(self) -> pd.DataFrame:
        """The rows as a data frame.

        Raises:
            ExitbitsError: where pandas is not installed.
        """
        return to_pandas(self.rows())

    def _repr_html_(self) -> str:
        rows = self.rows()
        title = (
            f"front of {self.summary.record.config.name}: {len(rows)} of "
            f"{len(self.summary.rows)} evaluated policies, hypervolume {self.hypervolume:.4f}, "
            "measured on the split that chose them"
        )
        return html_table(title, [*rows[0]] if rows else [], ([*row.values()] for row in rows))


@dataclass(frozen=True)
class PickedPolicy:
    """A policy that was picked from a study.

    Attributes:
        picked: the policy's figures, and what is written of it.
    """

    picked: Pick

    @property
    def policy(self) -> Policy:
        """Its bits and thresholds."""
        return self.picked.evaluation.policy

    @property
    def file(self) -> PolicyFile:
        """What :meth:`save` writes."""
        return self.picked.file

    def save(self, path: Path | str, *, force: bool = False) -> Path:
        """Write the policy's file, as ``exitbits pick -o`` does.

        Raises:
            BadInput: when it exists and ``force`` is not set, or cannot be written.
        """
        write_policy_file(self.picked.file, Path(path), force=force)
        return Path(path)

    def __str__(self) -> str:
        return f"{self.picked.row.origin}, not certified\n{self.picked.evaluation}"

    def _repr_html_(self) -> str:
        return self.policy._repr_html_() + self.picked.evaluation._repr_html_()
