"""What counts as the same figures when a policy is evaluated again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from small_study import measure

from search.results import Evaluation
from search.risk.terms import RiskTerms
from studies.policy_file import same_figures
from studies.records import StudyRecord


@pytest.fixture
def measured(make_record: Callable[..., StudyRecord]) -> Evaluation:
    return measure(make_record().anchors()[0])


def test_figures_are_the_same_to_the_last_bit(measured: Evaluation) -> None:
    assert same_figures(measured, measured)
    for change in (
        {"value": measured.value + 1e-15},
        {"samples": measured.samples + 1},
        {"exit_values": (0.0, 1.0)},
        {"engine": "another"},
    ):
        assert not same_figures(measured, replace(measured, **change))


def test_what_was_recorded_with_fewer_figures_is_still_reproduced(measured: Evaluation) -> None:
    old = {k: v for k, v in measured.as_dict().items() if k not in ("exit_values", "risk")}
    old["cost"] = {name: old["cost"][name] for name in ("expected", "p95", "worst")}
    assert same_figures(measured, Evaluation.from_dict(old))
    old["cost"]["worst"] += 1
    assert not same_figures(measured, Evaluation.from_dict(old))


def test_risk_terms_need_not_agree_to_the_last_bit(measured: Evaluation) -> None:
    risky = replace(measured, risk=RiskTerms(0.0, 0.1, 0.1, 0.0, 0.0))
    assert same_figures(measured, risky)
    assert same_figures(risky, measured)
