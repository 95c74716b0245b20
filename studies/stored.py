"""What a store holds, checked before it is used: others may have written it, or have imported it.

Whoever can write to a shared store can write anything into it. What is read here is either whole
or refused with a reason; nothing that computes with it needs to look again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from search.cost import Kind, Ledger, Part
from search.errors import BadInput
from search.policy import Policy
from search.results import Evaluation

MAX_TEXT = 200
MOST = 10_000  # exits, blocks, layer groups of a model

Model = TypeVar("Model", bound=BaseModel)


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("it holds characters that cannot be shown")
    return value


Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_check_printable)]
Figure = Annotated[float, Field(allow_inf_nan=False)]
PositiveFigure = Annotated[float, Field(allow_inf_nan=False, gt=0)]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Op(_Stored):
    name: Text
    kind: Kind
    part: Part
    block: int = Field(ge=0, le=MOST)
    macs: int = Field(ge=0, le=2**53)
    layer: Text
    weights: int = Field(default=0, ge=0, le=2**53)


class _Ledger(_Stored):
    ops: list[_Op] = Field(min_length=1, max_length=100_000)
    exit_blocks: list[int] = Field(min_length=1, max_length=MOST)

    @model_validator(mode="after")
    def _check(self) -> _Ledger:
        exits = self.exit_blocks
        if exits[0] < 1 or exits != sorted(set(exits)):
            raise ValueError("exit_blocks must be ascending blocks from 1, each once")
        if max(op.block for op in self.ops) > exits[-1]:
            raise ValueError("an operation lies behind the last exit")
        if not any(op.part == "block" and op.macs for op in self.ops):
            raise ValueError("no operation of a block is counted")
        return self


class _Record(_Stored):
    config: dict[str, Any]
    ledger: _Ledger
    reference_value: Figure
    metric: Text
    model_digest: Text
    data_digest: Text


class _Study(_Stored):
    # Metric up, cost down, by Optuna's numbers.
    directions: tuple[Literal[2], Literal[1]] = Field(strict=False)
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]


class _Policy(_Stored):
    schema_: int = Field(alias="schema")
    granularity: Text
    weight_bits: list[int] = Field(min_length=1, max_length=MOST)
    activation_bits: list[int] = Field(min_length=1, max_length=MOST)
    embed_bits: int
    head_bits: int
    thresholds: list[Annotated[float, Field(ge=0, le=1)]] = Field(min_length=1, max_length=MOST)


class _Row(_Stored):
    source: Text
    digest: Text
    value: Figure
    standard_error: Figure
    gbops: Figure
    gbops_p95: Figure
    mean_exit: Figure
    policy: str
    model: Text | None
    checkpoint: str | None


class _Carried(_Row):
    detail: str


class _Cost(_Stored):
    expected: Figure
    p95: Figure
    worst: Figure
    memory: Figure | None = None
    mean_bits: Figure | None = None


class _References(_Stored):
    w32a32: PositiveFigure
    w8a8: PositiveFigure
    same_bits: PositiveFigure


class _Risk(_Stored):
    gap: Figure
    premature: Figure
    delayed: Figure
    rescue: Figure
    harm: Figure


class _Detail(_Stored):
    metric: Text
    value: Figure
    standard_error: Figure
    cost: _Cost
    references: _References
    exit_rates: list[Figure] = Field(min_length=1, max_length=MOST)
    utilization: list[Figure] = Field(min_length=1, max_length=MOST)
    mean_exit: Figure
    samples: int = Field(ge=1)
    # What an older exitbits did not write yet.
    engine: Text = "reference"
    exit_values: list[Figure | None] | None = Field(default=None, max_length=MOST)
    risk: _Risk | None = None


def checked_record(fields: Any) -> dict[str, Any]:
    """The fields of a study's record, its ledger built; its configuration is checked elsewhere.

    Raises:
        BadInput: naming the field that is missing or not what it should be.
    """
    record = _checked(_Record.model_validate, fields)
    ledger = Ledger.from_dict(record.ledger.model_dump())
    return {**dict(record), "ledger": ledger}


def check_study(fields: Mapping[str, Any]) -> None:
    """Raise ``BadInput`` unless these can be columns of a study that exitbits made."""
    _checked(_Study.model_validate, fields)


def check_row(fields: Mapping[str, Any]) -> None:
    """Raise ``BadInput`` unless these can be columns of an evaluation, its policy included.

    Takes microseconds: it is done for every row that is read.
    """
    row = _checked(_Row.model_validate, fields)
    _checked(_Policy.model_validate_json, row.policy)


def checked_detail(text: str, policy: Policy) -> Evaluation:
    """The whole evaluation of ``policy``.

    Args:
        text: what :func:`studies.store.rows.evaluation_row` wrote.
        policy: which was evaluated.

    Raises:
        BadInput: when the text is not what it should be.
    """
    detail = _checked(_Detail.model_validate_json, text)
    return Evaluation.from_dict({**detail.model_dump(), "policy": policy.as_dict()})


def checked_evaluations(given: Any, check_policy: Callable[[Policy], None]) -> list[dict[str, Any]]:
    """Evaluations that travel with a study: columns but those that the store gives.

    Args:
        given: what came with the study.
        check_policy: raises ``BadInput`` for a policy of another model.

    Raises:
        BadInput: for anything that is no evaluation.
    """
    if not isinstance(given, list):
        raise BadInput("evaluations must be a list")
    kept = []
    for fields in given:
        row = _checked(_Carried.model_validate, fields)
        policy = Policy.from_json(row.policy)
        if policy.digest != row.digest:
            raise BadInput(f"evaluation {row.digest[:12]!r} has the digest of another policy")
        check_policy(policy)
        checked_detail(row.detail, policy)
        kept.append(dict(row))
    return kept


def _checked(validate: Callable[[Any], Model], given: Any) -> Model:
    try:
        return validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise BadInput((f"{where}: {message}" if where else message)[:MAX_TEXT]) from error
    except RecursionError as error:
        raise BadInput("nested too deeply") from error
