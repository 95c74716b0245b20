"""A configuration is refused in one line that names the key, the value and what is allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from search.errors import BadInput
from studies.config import MAX_THRESHOLDS, TrialSection, parse_config
from studies.config_file import load_config, preset_names

GOOD = """
name = "mine"
[model]
checkpoint = "bundled:fashion"
[data]
dataset = "fashion"
"""


def write(folder: Path, text: str) -> str:
    path = folder / "study.toml"
    path.write_text(text)
    return str(path)


def test_every_preset_loads() -> None:
    assert "fashion" in preset_names()
    for name in preset_names():
        assert load_config(name).name == name


def test_name_and_budget_can_be_replaced() -> None:
    config = load_config("fashion", name="other", trials=7)
    assert (config.name, config.budget.trials) == ("other", 7)


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        ("[sampler]\nnmae = 'tpe'", ["sampler.nmae", "allowed are name, seed"]),
        ("[sampler]\nname = 'cma'", ["'cma'", "nsga2, random, tpe"]),
        ("[quantizer]\nname = 'log'", ["'log'", "gptq, minmax, mse"]),
        ("[space]\nweight_bits = [1, 4]", ["1 bits", "2 to 8"]),
        ("[space]\nweight_bits = [4, 9]", ["9 bits", "2 to 8"]),
        ("[space]\nactivation_bits = [8, 4]", ["[8, 4]", "ascending"]),
        ("[space]\nweight_bits = []", ["weight_bits", "[]", "at least 1"]),
        ("[space]\nweight_bits = [4.5]", ["4.5", "integer"]),
        ("[space]\nhead_bits = 12", ["12 bits", "2 to 8"]),
        ("[space]\ngranularity = 'channel'", ["'channel'", "'block' or 'layer'"]),
        ("[space]\nthresholds = [0.2, 1.5]", ["1.5", "less than or equal to 1"]),
        ("[space]\nthresholds = [-0.1, 1.0]", ["-0.1", "greater than or equal to 0"]),
        ("[space]\nthresholds = [nan, 1.0]", ["nan"]),
        ("[space]\nthresholds = [0.9, 0.4]", ["[0.9, 0.4]", "lower one first"]),
        ("[anchors]\nthresholds = [0.1]", ["anchors.thresholds 0.1", "0.3 to 1.0"]),
        ("[anchors]\nbits = [32]", ["anchors.bits 32"]),
        ("[anchors]\nbits = [4, 8, 4]", ["anchors.bits", "[4, 8, 4]", "once"]),
        ("[budget]\ntrials = 0", ["budget.trials", "0", "greater than or equal to 1"]),
        ("[budget]\ntrials = inf", ["budget.trials", "inf"]),
        ("[budget]\ntrials = true", ["budget.trials", "True"]),
        ("[budget]\ntrials = 99999999999", ["budget.trials", "10000000"]),
        ("[nonsense]", ["nonsense", "allowed are name, model, data"]),
        ("[[sampler]]", ["sampler"]),
        ("[broken", ["not valid TOML"]),
    ],
)
def test_bad_values_are_refused_in_one_line(
    tmp_path: Path, addition: str, words: list[str]
) -> None:
    with pytest.raises(BadInput) as caught:
        load_config(write(tmp_path, GOOD + addition))
    message = str(caught.value)
    assert "\n" not in message
    assert "study.toml" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "why"),
    [("", "printable"), ("   ", "printable"), ("a\x00b", "printable"), ("x" * 101, "100")],
)
def test_names_that_cannot_be_shown_are_refused(name: str, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        load_config("fashion", name=name)


@pytest.mark.parametrize("source", ["fashoin", "nowhere.toml", ""])
def test_unknown_presets_and_files_are_refused(source: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_config(source)
    assert repr(source) in str(caught.value)


def test_a_missing_section_is_named() -> None:
    with pytest.raises(BadInput, match="'model' is missing"):
        parse_config({"name": "x", "data": {"dataset": "fashion"}}, "here")


def test_identity_is_everything_but_the_budget(tmp_path: Path) -> None:
    one = load_config(write(tmp_path, GOOD))
    more = load_config(write(tmp_path, GOOD + "[budget]\ntrials = 500"))
    other = load_config(write(tmp_path, GOOD + "[sampler]\nseed = 3"))
    assert one.difference(more) is None
    assert one.difference(other) == "sampler.seed is 0 in the store and 3 here"


@pytest.mark.parametrize(
    ("space", "trials", "bits", "thresholds"),
    [
        ("", 100, (4, 3, 6, 8, 5), (0.9,)),
        ("", 25, (4, 3, 6, 8, 5), (0.9,)),
        ("", 24, (4, 3, 6, 8), (0.9,)),
        ("", 3, (4,), (0.9,)),
        ("weight_bits = [2, 5, 8]\nthresholds = [0.2, 0.5]", 100, (8, 5), (0.5,)),
        ("weight_bits = [7]\nthresholds = [0.95, 1.0]", 100, (7,), (0.95,)),
        ("weight_bits = [2]\nactivation_bits = [8]", 100, None, (0.9,)),
    ],
)
def test_anchors_left_out_are_bits_alone_and_a_fifth_of_the_budget(
    tmp_path: Path,
    space: str,
    trials: int,
    bits: tuple[int, ...] | None,
    thresholds: tuple[float, ...],
) -> None:
    config = load_config(write(tmp_path, f"{GOOD}[space]\n{space}"), trials=trials)
    anchors = config.with_anchors().anchors
    assert (anchors.bits, anchors.thresholds) == (bits, thresholds)


def test_anchors_left_out_agree_with_those_of_a_study_that_is_there(tmp_path: Path) -> None:
    given = "[anchors]\nbits = [8, 4]\nthresholds = [0.7, 1.0]"
    stored = load_config(write(tmp_path, GOOD + given)).with_anchors()
    assert stored.anchors == load_config(write(tmp_path, GOOD + given)).anchors
    assert stored.difference(load_config(write(tmp_path, GOOD))) is None
    part = load_config(write(tmp_path, GOOD + "[anchors]\nbits = [8]"))
    assert stored.difference(part) == "anchors.bits is [8, 4] in the store and [8] here"


def test_a_stored_study_may_have_more_thresholds_than_a_new_one() -> None:
    many = [0.3 + index / 1e5 for index in range(MAX_THRESHOLDS + 1)]
    fields = tomllib.loads(GOOD) | {"anchors": {"bits": [8], "thresholds": many}}
    with pytest.raises(BadInput, match=f"give at most {MAX_THRESHOLDS}"):
        parse_config(fields, "here")
    assert parse_config(fields, "here", stored=True).anchors.thresholds == tuple(many)


def test_relative_paths_are_taken_from_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("bundled:fashion", "models/mine.safetensors")
    config = load_config(write(tmp_path, text.replace('"fashion"', '"imagefolder"\npath = "data"')))
    assert config.model.checkpoint == f"{tmp_path}/models/mine.safetensors"
    assert config.data.path == f"{tmp_path}/data"


def test_a_stored_study_is_read_where_its_quantizer_is_not_installed() -> None:
    fields = {**load_config("fashion").model_dump(mode="json"), "quantizer": {"name": "rare"}}
    assert parse_config(fields, "stored study", stored=True).quantizer.name == "rare"
    with pytest.raises(BadInput, match=r"new: quantizer\.name: 'rare' is unknown: .* minmax, mse"):
        parse_config(fields, "new")


@pytest.mark.parametrize(
    "settings", [{"harvest": -1}, {"harvest": 1001}, {"racing": 0.4}, {"racing": 1}]
)
def test_what_a_trial_does_is_within_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0"):
        TrialSection(**settings)
