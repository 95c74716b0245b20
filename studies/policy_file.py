"""A policy file: one policy with everything needed to evaluate it again, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from search.digest import canonical_json
from search.errors import BadInput
from search.files import write_atomically
from search.policy import Policy
from search.results import Evaluation
from studies.config import StudyConfig
from studies.places import absolute, placed, relative
from studies.records import EvaluationRow, StudyRecord


class PolicyFile(BaseModel):
    """What ``exitbits pick`` writes and ``exitbits evaluate`` reads.

    ``certificate`` is None while nothing bounds the accuracy lost: the recorded accuracy was
    measured on the split that chose the policy, so it flatters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle_schema: Literal[1] = 1
    study: StudyConfig
    trial: int | None
    source: str
    digest: str
    policy: dict[str, Any]
    model_digest: str
    data_digest: str
    split: Literal["search"] = "search"
    evaluation: dict[str, Any]
    certificate: None = None

    @classmethod
    def of(cls, record: StudyRecord, row: EvaluationRow, evaluation: Evaluation) -> PolicyFile:
        """The file of one evaluation of a study."""
        config = record.config
        if row.checkpoint is not None:
            model = config.model.model_copy(update={"checkpoint": row.checkpoint})
            config = config.model_copy(update={"model": model})
        return cls(
            study=config,
            trial=row.trial,
            source=row.source,
            digest=row.digest,
            policy=row.policy.as_dict(),
            model_digest=row.model or record.model_digest,
            data_digest=record.data_digest,
            evaluation=evaluation.as_dict(),
        )

    def read_policy(self) -> Policy:
        """The policy.

        Raises:
            BadInput: when it is not legal or not the one that the digest names.
        """
        policy = Policy.from_dict(self.policy)
        if policy.digest != self.digest:
            raise BadInput(
                f"the bundle's policy has digest {policy.digest[:12]}, the bundle says "
                f"{self.digest[:12]}: it was edited; export it again"
            )
        return policy

    def read_evaluation(self) -> Evaluation:
        """The recorded evaluation.

        Raises:
            BadInput: when its fields are not those of an evaluation.
        """
        try:
            canonical_json(self.evaluation)  # refuses what is not finite
            return Evaluation.from_dict(self.evaluation)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"the bundle's evaluation is damaged ({error}): export it again"
            ) from error


def write_policy_file(file: PolicyFile, path: Path, *, force: bool = False) -> None:
    """Write a policy file in one atomic step, its paths relative to it where they can be.

    Raises:
        BadInput: when the file exists and ``force`` is not set, or cannot be written.
    """
    if path.exists() and not force:
        raise BadInput(f"{str(path)!r} exists: name another with -o, or replace it by --force")
    study = placed(file.study, relative, path.parent)
    fields = file.model_copy(update={"study": study}).model_dump(mode="json")
    try:
        write_atomically(path, json.dumps(fields, indent=2) + "\n")
    except OSError as error:
        raise BadInput(
            f"cannot write {str(path)!r} ({error.strerror}): choose a writable folder"
        ) from error


def read_policy_file(path: Path) -> PolicyFile:
    """Read a policy file.

    Raises:
        BadInput: when the file is missing or is no policy file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {str(path)!r} ({error}): name a policy file") from error
    try:
        file = PolicyFile.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BadInput(
            f"{str(path)!r} is not a policy bundle ({where}: {first['msg']}): "
            "write one with 'exitbits pick STUDY ... -o FILE'"
        ) from error
    return file.model_copy(update={"study": placed(file.study, absolute, path.parent)})


def same_figures(measured: Evaluation, recorded: Evaluation) -> bool:
    """Whether every recorded figure was measured again, to the last bit.

    Risk terms are left out: the sums of the full-precision model, to which they compare, depend on
    machine and threads in their last digits.
    """
    wanted = _told(recorded.as_dict())
    wanted.pop("risk", None)
    return canonical_json(_of(measured.as_dict(), wanted)) == canonical_json(wanted)


def _told(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what was not recorded then, such as the memory in a cost."""
    return {
        key: _told(value) if isinstance(value, dict) else value
        for key, value in fields.items()
        if value is not None
    }


def _of(fields: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Of the fields those that are wanted."""
    return {
        key: _of(fields[key], value) if isinstance(value, dict) else fields[key]
        for key, value in wanted.items()
    }
