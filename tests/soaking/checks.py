"""What must hold after a soak: budgets, records, and every figure computed once more."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sqlalchemy import select

from search.evaluate import Evaluator
from search.testing import RecordedModel
from studies.policy_file import PolicyFile, same_figures
from studies.records import HARVEST, EvaluationRow, Study
from studies.store.reader import StudyReader
from studies.store.schema import studies, trials
from studies.work.opening import open_policy_evaluator

COMPLETE = 1
RECORDED = re.compile(r"trial (\d+) of (\S+) recorded")
UNEXPECTED = "unexpected error"  # what the thread that renews leases says of what it did not know


@dataclass
class Found:
    """What the checks counted, and what they found broken."""

    studies: int = 0
    trials: int = 0
    lost: int = 0
    evaluations: int = 0
    passes: int = 0
    reproduced: int = 0
    broken: list[str] = field(default_factory=list)


def check_records(reader: StudyReader, logs: Sequence[Path], found: Found) -> None:
    """Every budget is exact, every trial is recorded once, and what a worker recorded is there."""
    said: dict[tuple[str, int], list[str]] = defaultdict(list)
    for log in logs:
        text = log.read_text()
        for number, name in RECORDED.findall(text):
            said[name, int(number)].append(log.stem)
        if UNEXPECTED in text:
            found.broken.append(f"{log.stem} met an {UNEXPECTED}, see its log")
    for name in reader.names():
        study = reader.get(name)
        found.studies += 1
        for words in _wrong_with(reader, study, said):
            found.broken.append(f"study {name}: {words}")
        found.trials += reader.progress(study.id).finished
        found.lost += reader.progress(study.id).lost
    for name, number in said:
        if name not in reader.names():
            found.broken.append(f"study {name}: gone, though its trial {number} was recorded")


def _wrong_with(
    reader: StudyReader, study: Study, said: Mapping[tuple[str, int], Sequence[str]]
) -> Iterator[str]:
    name, budget = study.record.config.name, study.record.config.budget.trials
    progress = reader.progress(study.id)
    if (progress.finished, progress.failed, progress.running) != (budget, 0, 0):
        yield f"{progress} is not its budget of {budget}"
    own_study, own_trials = studies.c.id == study.id, trials.c.study_id == study.id
    with reader.database.read() as connection:
        claimed = connection.execute(select(studies.c.claimed).where(own_study)).scalar_one()
        rows = connection.execute(
            select(trials.c.number, trials.c.worker, trials.c.state).where(own_trials)
        ).all()
    if claimed != budget:
        yield f"{claimed} trials were claimed of a budget of {budget}"
    workers = {row.number: row.worker for row in rows if row.state == COMPLETE}
    evaluations = reader.evaluations(study.id)
    own = Counter(row.trial for row in evaluations if row.source != HARVEST)
    if set(own) != set(workers) or set(own.values()) - {1}:
        odd = {number for number in own | workers if own[number] != 1}
        yield f"trials {sorted(odd, key=str)} have not one evaluation of their own"
    bits = {row.trial: row.policy.bits for row in evaluations if row.source != HARVEST}
    for row in evaluations:
        if row.policy.bits != bits.get(row.trial):
            yield f"evaluation {row.id} is not of its trial's bits"
    twice = Counter((row.trial, row.digest) for row in evaluations)
    for (trial, digest), count in twice.items():
        if count > 1:
            yield f"trial {trial} has policy {digest[:12]} {count} times"
    for (study_name, number), by in said.items():
        if study_name == name and by != [workers.get(number)]:
            yield f"trial {number} was recorded by {by}, and is of {workers.get(number)}"


@dataclass(frozen=True)
class Pass:
    """Evaluations that one pass gives, over so many images, by the database's number of each."""

    samples: int
    files: Mapping[int, PolicyFile]


def check_figures(reader: StudyReader, processes: int, found: Found) -> None:
    """Every evaluation is the same to the last digit when it is computed from scratch.

    The environment of the processes is this one's: the cache that it names must be empty.
    """
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for name in reader.names():
            passes = passes_of(reader, reader.get(name))
            for different in pool.map(differences, passes):
                found.broken += [f"study {name}: {words}" for words in different]
                found.reproduced -= len(different)
            found.passes += len(passes)
            count = sum(len(one.files) for one in passes)
            found.evaluations += count
            found.reproduced += count


def passes_of(reader: StudyReader, study: Study) -> list[Pass]:
    """Everything that was recorded of a study."""
    groups: dict[tuple[str, int, str], dict[int, PolicyFile]] = defaultdict(dict)
    rows: list[EvaluationRow] = reader.evaluations(study.id)
    for row, evaluation in zip(rows, reader.details(rows), strict=True):
        file = PolicyFile.of(study.record, row, evaluation)
        groups[row.policy.bits.digest, evaluation.samples, evaluation.engine][row.id] = file
    return [Pass(samples, files) for (_, samples, _), files in groups.items()]


def differences(given: Pass) -> list[str]:
    """What of a pass is not reproduced, in words."""
    first = next(iter(given.files.values()))
    evaluator = _evaluator(_model_of(first))
    bits = first.read_policy().bits
    if given.samples < len(evaluator.split):
        trace = evaluator.first_trace(bits, given.samples)
    else:
        trace = evaluator.trace(bits)
    different = []
    for number, file in given.files.items():
        recorded = file.read_evaluation()
        measured = evaluator.evaluate_trace(file.read_policy(), trace)
        if not same_figures(measured, recorded):
            different.append(
                f"evaluation {number} (trial {file.trial}, {file.source}) was {recorded.value!r} "
                f"and {recorded.gbops!r} GBOPs by {recorded.engine}, and is {measured.value!r} and "
                f"{measured.gbops!r}: {json.dumps(file.policy)}"
            )
    return different


def _model_of(file: PolicyFile) -> str:
    """A policy file with nothing but what decides which model it is of."""
    engine = file.read_evaluation().engine
    study = file.study.model_dump(mode="json", include={"model", "data", "quantizer"})
    fields: dict[str, Any] = {**file.model_dump(mode="json"), "study": {**study, "name": "again"}}
    fields |= {"trial": None, "source": "", "digest": "", "policy": {}}
    return json.dumps({**fields, "evaluation": {"engine": engine}}, sort_keys=True)


@cache
def _evaluator(model: str) -> Evaluator[Any]:
    """Opened once by every process; without any cache."""
    file = PolicyFile.model_validate_json(model)
    evaluator = open_policy_evaluator(file, engine=file.evaluation["engine"])
    if isinstance(evaluator.quantized, RecordedModel):
        evaluator.quantized.pause_s = 0.0
    return evaluator
