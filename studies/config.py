"""A study's configuration: values checked by pydantic, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from search.data import DATASETS
from search.data.splits import SHARES, DataOptions
from search.engines import ENGINES
from search.errors import BadInput
from search.opening import is_path
from search.policy import ALLOWED_BITS, QUANTIZED_BITS
from search.quantize import QUANTIZERS
from search.registry import Registry
from studies.samplers import SAMPLERS

MAX_NAME = 100
MAX_TRIALS = 10_000_000
MAX_THRESHOLDS = 1_000  # of the anchors, each with all of their bits
MAX_SHOWN = 200  # characters of a value in an error


_STORED = "stored"  # the context in which a study's values have been checked before


def _one_of(registry: Registry) -> AfterValidator:
    def check(value: str, info: ValidationInfo) -> str:
        # A stored study may name a member that is plugged in elsewhere: here it can be read.
        if info.context == _STORED:
            return value
        if value not in registry:
            raise ValueError(f"{value!r} is unknown: choose one of {', '.join(registry)}")
        registry.check(value)
        return value

    return AfterValidator(check)


def check_name(value: str) -> str:
    """A name of a study or a worker, if it is one: what people read, and type.

    Raises:
        ValueError: for any other.
    """
    if not value.strip() or not value.isprintable() or len(value) > MAX_NAME:
        raise ValueError(f"{value!r} must be 1 to {MAX_NAME} printable characters")
    return value


def _check_widths(values: tuple[int, ...]) -> tuple[int, ...]:
    for value in values:
        if value not in ALLOWED_BITS:
            raise ValueError(f"{value} bits: choose from 2 to 8, or 32 for full precision")
    if len(set(values)) < len(values):
        raise ValueError(f"{list(values)}: give each bit-width once")
    return values


def _check_bits(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(_check_widths(values)) != sorted(values):
        raise ValueError(f"{list(values)}: give ascending bit-widths, each once")
    return values


Widths = Annotated[tuple[StrictInt, ...], Field(min_length=1), AfterValidator(_check_widths)]
Bits = Annotated[tuple[StrictInt, ...], Field(min_length=1), AfterValidator(_check_bits)]
Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(_Section):
    """Which model: ``bundled:fashion``, or the path of a .safetensors checkpoint."""

    checkpoint: str


Share = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]


class DataSection(_Section):
    """Which images, and how they are dealt into splits."""

    dataset: Annotated[str, _one_of(DATASETS)]
    path: str | None = None
    calibration_images: int = Field(default=DataOptions.calibration_images, ge=1)
    shares: tuple[Share, Share, Share] = SHARES
    duplicates: Literal["refuse", "leave-out"] = DataOptions.duplicates

    def options(self) -> DataOptions:
        """What it says of the images beside their name and place."""
        return DataOptions(self.calibration_images, self.shares, self.duplicates)


class SpaceSection(_Section):
    """Which policies are legal."""

    granularity: Literal["block", "layer"] = "block"
    weight_bits: Bits = QUANTIZED_BITS
    activation_bits: Bits = QUANTIZED_BITS
    thresholds: tuple[Threshold, Threshold] = (0.3, 1.0)
    embed_bits: StrictInt = 8
    head_bits: StrictInt = 8

    @model_validator(mode="after")
    def _check(self) -> SpaceSection:
        _check_bits((self.embed_bits,))
        _check_bits((self.head_bits,))
        if self.thresholds[0] > self.thresholds[1]:
            raise ValueError(f"thresholds {list(self.thresholds)}: give the lower one first")
        return self


class QuantizerSection(_Section):
    """How ranges are chosen."""

    name: Annotated[str, _one_of(QUANTIZERS)] = "mse"


class EngineSection(_Section):
    """What runs the quantized model. ``fast`` needs a C++ compiler on the worker's machine."""

    name: Annotated[str, _one_of(ENGINES)] = "fast"


class SamplerSection(_Section):
    """Who proposes policies after the anchors."""

    name: Annotated[str, _one_of(SAMPLERS)] = "apq"
    seed: StrictInt = 0


ANCHOR_BITS = (4, 3, 6, 8, 5)  # the middle first: it has most of the front
ANCHOR_THRESHOLD = 0.9  # one is enough: the pass gives all others too
ANCHOR_SHARE = 5  # of the budget's trials, one in so many


def _check_count(values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
    # A stored study had no limit when it was made.
    if len(values) > MAX_THRESHOLDS and info.context != _STORED:
        raise ValueError(f"{len(values)} thresholds: give at most {MAX_THRESHOLDS}")
    return values


class AnchorSection(_Section):
    """What is evaluated first, in this order: uniform bits, each under each global threshold.

    Where the bits are left out they are 4, 3, 6, 8, 5, as far as the space allows them and they
    make up a fifth of the budget; where the thresholds are, 0.9.
    """

    bits: Widths | None = None
    thresholds: Annotated[tuple[Threshold, ...], AfterValidator(_check_count)] | None = None


def _check_confidence(value: float) -> float:
    if value and not 0.5 <= value < 1:
        raise ValueError(f"{value} must be 0 (no racing), or from 0.5 to below 1")
    return value


class TrialSection(_Section):
    """What a trial does beside evaluating its own policy.

    ``harvest`` is how many policies with other thresholds it may record; ``racing`` the confidence
    with which a pass that cannot add to the front is given up, 0 for never.
    """

    harvest: StrictInt = Field(default=32, ge=0, le=1000)
    racing: Annotated[float, Field(allow_inf_nan=False), AfterValidator(_check_confidence)] = 0.99


class BudgetSection(_Section):
    """When the study is done."""

    trials: StrictInt = Field(default=100, ge=1, le=MAX_TRIALS)


class StudyConfig(_Section):
    """One study.

    Everything but the budget is the study's identity: a name can be taken up again only with the
    same, while the budget may grow. Where model and images lie does not matter; what they are is
    told by their digests.
    """

    name: Annotated[str, AfterValidator(check_name)]
    model: ModelSection
    data: DataSection
    space: SpaceSection = SpaceSection()
    quantizer: QuantizerSection = QuantizerSection()
    engine: EngineSection = EngineSection()
    sampler: SamplerSection = SamplerSection()
    anchors: AnchorSection = AnchorSection()
    trial: TrialSection = TrialSection()
    budget: BudgetSection = BudgetSection()

    @model_validator(mode="after")
    def _anchors_are_legal(self) -> StudyConfig:
        legal = set(self.space.weight_bits) & set(self.space.activation_bits)
        low, high = self.space.thresholds
        for bits in self.anchors.bits or ():
            if bits not in legal:
                raise ValueError(f"anchors.bits {bits} is not among the space's bits")
        for threshold in self.anchors.thresholds or ():
            if not low <= threshold <= high:
                raise ValueError(f"anchors.thresholds {threshold} is outside {low} to {high}")
        return self

    def with_anchors(self) -> StudyConfig:
        """The same, with the anchors spelled out that were left to the default."""
        legal = set(self.space.weight_bits) & set(self.space.activation_bits)
        most = max(1, self.budget.trials // ANCHOR_SHARE)
        low, high = self.space.thresholds
        usual = [bits for bits in ANCHOR_BITS if bits in legal] or sorted(legal)
        left_out = {
            "bits": tuple(usual[:most]) or None,
            "thresholds": (min(max(ANCHOR_THRESHOLD, low), high),),
        }
        given = self.anchors.model_dump(exclude_none=True)
        return self.model_copy(update={"anchors": AnchorSection(**{**left_out, **given})})

    def identity(self) -> dict[str, Any]:
        """What must agree for a study to be taken up again."""
        return self.model_dump(mode="json", exclude={"budget"})

    def difference(self, other: StudyConfig) -> str | None:
        """Name the first field of the identity that differs, with both values.

        Args:
            other: what is asked for; anchors that it leaves to the default agree with any.
        """
        mine, asked = self.identity(), other.identity()
        asked["anchors"] = {
            key: mine["anchors"][key] if value is None else value
            for key, value in asked["anchors"].items()
        }
        if is_path(mine["model"]["checkpoint"]) and is_path(asked["model"]["checkpoint"]):
            del mine["model"], asked["model"]
        del mine["data"]["path"], asked["data"]["path"]
        return _first_difference(mine, asked, "")


def _first_difference(one: Any, other: Any, path: str) -> str | None:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return None if one == other else f"{path} is {one!r} in the store and {other!r} here"
    for key in one:
        below = f"{path}.{key}" if path else key
        if found := _first_difference(one[key], other.get(key), below):
            return found
    return None


def parse_config(fields: Mapping[str, Any], origin: str, *, stored: bool = False) -> StudyConfig:
    """Check plain values.

    Args:
        fields: what the TOML says.
        origin: where it comes from, for the error.
        stored: whether they were checked when the study was made: names of samplers and the like
            are then not looked up again.

    Raises:
        BadInput: naming the key, its value and what is allowed.
    """
    try:
        return StudyConfig.model_validate(fields, context=_STORED if stored else None)
    except ValidationError as error:
        raise BadInput(f"{origin}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where)
    if first["type"] == "extra_forbidden":
        section: Any = StudyConfig
        for part in where[:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key {key!r}: allowed are {', '.join(section.model_fields)}"
    if first["type"] == "missing":
        return f"key {key!r} is missing: add it"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f" = {first['input']!r}"[:MAX_SHOWN]
    return f"{key}{shown}: {message}" if key else message
