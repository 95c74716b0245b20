"""The bi-level loop on a made-up model whose answers honestly get worse with fewer bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from bundled_model import open_bundled

from search.bits.allocation import AllocationProblem, Usage
from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import GIGA, Ledger, Op
from search.methods.maqee import Iterate, Maqee, MaqeeResult
from search.methods.outer import OuterProblem
from search.methods.settings import MaqeeSettings
from search.policy import FULL_PRECISION, QUANTIZED_BITS, Bits, Policy
from search.results import evaluate_trace
from search.risk.terms import measure_risk
from search.sensitivity import SensitivityMeter
from search.space import PolicySpace
from search.tasks import resolve_task
from search.trace import ExitTrace, Routing

BLOCKS = 3
# How much each block's answer moves when its weights, or its activations, have few bits.
HARM = ((3.0, 1.0, 2.0), (1.0, 2.0, 0.5))
SHARES = (0.07, 0.09, 0.14, 0.3)  # budgets, of what the widest bits cost at full depth
SETTINGS = {
    "default": MaqeeSettings(),
    "bounds": MaqeeSettings(epsilons=(0.2, 0.0, 0.05), alpha=0.2),
    "static": MaqeeSettings(amortized=False),
    "one-threshold": MaqeeSettings(one_threshold=True, starts=4),
    "gap-only": MaqeeSettings(alpha=0.0, beta=0.0, max_iterations=2),
}


class MadeTraces:
    """Three blocks with an exit each. Deeper exits are right more often and surer when right.

    Every group pushes the margins from its block on by an amount that halves with every bit, in
    a direction of its own, so that the same bits always give the same trace.
    """

    def __init__(self, seed: int = 0, samples: int = 400) -> None:
        rng = np.random.default_rng(seed)
        shape = (samples, BLOCKS)
        self.ledger = made_ledger()
        self.task = resolve_task("classification")
        self.margin = np.array([0.9, 1.3, 1.5]) - rng.normal(size=(samples, 1))
        self.margin += 0.4 * rng.normal(size=shape)
        self.doubt = 0.3 * rng.normal(size=shape)
        self.push = rng.normal(size=(2, BLOCKS, samples))
        self.traced: set[Bits] = set()

    def trace(self, bits: Bits) -> ExitTrace:
        self.traced.add(bits)
        return self._run(bits.weights, bits.activations)

    def full_precision_trace(self) -> ExitTrace:
        return self._run((FULL_PRECISION,) * BLOCKS, (FULL_PRECISION,) * BLOCKS)

    def _run(self, *widths: tuple[int, ...]) -> ExitTrace:
        margin = self.margin.copy()
        for side, bits in enumerate(widths):
            for block in range(BLOCKS):
                amount = HARM[side][block] * 2.0 ** -bits[block]
                margin[:, block:] += (amount * self.push[side, block])[:, None]
        sure = 1 / (1 + np.exp(-2 * np.abs(margin + self.doubt)))
        statistic = np.stack([(margin < 0).astype(np.int32), np.zeros(margin.shape, np.int32)], -1)
        return ExitTrace(sure.astype(np.float32), statistic, self.ledger.exit_blocks)


def made_ledger() -> Ledger:
    ops = [Op("embed", "conv", "embed", 0, 2000, "embed")]
    for block in range(1, BLOCKS + 1):
        name = f"blocks.{block}"
        ops += [
            Op(f"{name}.fc", "linear", "block", block, 9000 + 1000 * block, f"{name}.fc"),
            Op(f"{name}.attn.scores", "matmul", "block", block, 3000, f"{name}.attn"),
            Op(f"heads.{block}", "linear", "head", block, 100, f"heads.{block}"),
        ]
    return Ledger(tuple(ops), tuple(range(1, BLOCKS + 1)))


def made_tables() -> SensitivityTables:
    """What measuring that model would give, up to a factor."""
    sides = []
    for harm in HARM:
        rows = {}
        for block in range(1, BLOCKS + 1):
            noise = np.array([(harm[block - 1] * 2.0**-bits) ** 2 for bits in QUANTIZED_BITS])
            drift = noise[:, None] * (np.arange(1, BLOCKS + 1) >= block)
            rows[f"block{block}"] = Sensitivity(block, QUANTIZED_BITS, noise, drift)
        sides.append(rows)
    return SensitivityTables(*sides)


def loop_of(
    settings: MaqeeSettings,
    traces: MadeTraces | None = None,
    on_iterate: Callable[[Iterate], None] = lambda iterate: None,
    **options: Any,
) -> Maqee:
    traces = traces or MadeTraces()
    space = PolicySpace.from_ledger(traces.ledger, "block", **options)
    return Maqee(OuterProblem(traces, space, settings), made_tables(), on_iterate=on_iterate)


def budget_of(share: float) -> float:
    ledger = made_ledger()
    widest = PolicySpace.from_ledger(ledger, "block").widest()
    return share * float(ledger.path_bops(widest.bits)[-1])


def cost_of(traces: MadeTraces, policy: Policy) -> float:
    trace = traces.trace(policy.bits)
    return evaluate_trace(policy, trace, traces.ledger, traces.task).cost.expected


def risk_of(traces: MadeTraces, policy: Policy, alpha: float) -> float:
    terms = measure_risk(
        traces.trace(policy.bits),
        traces.full_precision_trace(),
        policy.thresholds,
        traces.task,
    )
    return terms.gap + alpha * terms.boundary


@pytest.fixture(scope="module")
def results() -> dict[tuple[str, float], MaqeeResult]:
    """One search for each of the settings and budgets."""
    return {
        (name, share): loop_of(settings).search(budget_of(share))
        for name, settings in SETTINGS.items()
        for share in SHARES
    }


def test_each_accepted_iterate_is_better_and_the_last_is_the_result(results):
    accepted = 0
    for result in results.values():
        best, policy = math.inf, None
        for iterate in result.iterates:
            assert iterate.accepted == (iterate.risk < best)
            if iterate.accepted:
                best, policy = iterate.risk, iterate.policy
        assert (result.risk, result.policy) == (best, policy)
        accepted += sum(iterate.accepted for iterate in result.iterates)
    assert accepted > 1.2 * len(results)  # some searches got better on the way


def test_everything_costs_at_most_the_budget(results):
    traces = MadeTraces()
    for (_, share), result in results.items():
        assert result.budget == budget_of(share)
        for policy in (result.policy, *(iterate.policy for iterate in result.iterates)):
            assert policy is not None
            # The mean of a sum and the sum of means round differently.
            assert cost_of(traces, policy) <= budget_of(share) * (1 + 1e-12)


def test_recorded_risks_are_those_of_the_policies(results):
    traces = MadeTraces()
    for (name, _), result in results.items():
        for iterate in result.iterates:
            expected = risk_of(traces, iterate.policy, SETTINGS[name].alpha)
            assert iterate.risk == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("share", SHARES)
def test_thresholds_of_an_iterate_are_the_best_within_the_budget(results, share: float):
    """No pair on a fine grid does better at the same bits by more than two samples' worth."""
    traces, alpha = MadeTraces(), SETTINGS["default"].alpha
    for iterate in results["default", share].iterates:
        for first in np.linspace(0, 1, 21):
            for second in np.linspace(0, 1, 21):
                policy = iterate.policy.with_thresholds([first, second, 0])
                if cost_of(traces, policy) <= budget_of(share):
                    assert iterate.risk <= risk_of(traces, policy, alpha) + 2 / 400


def test_more_budget_buys_less_risk_and_beats_uniform_bits_where_it_is_tight(results):
    for name, settings in SETTINGS.items():
        risks = [results[name, share].risk for share in SHARES]
        assert all(later < sooner for sooner, later in pairwise(risks)), name
        outer = loop_of(settings).outer
        for share in (0.09, 0.14):
            found = [
                outer.under(outer.space.uniform(bits, 0.5).bits, budget_of(share))
                for bits in QUANTIZED_BITS
            ]
            uniform = min(risk for _, risk in filter(None, found))
            # Bounds given by hand promise nothing.
            assert settings.epsilons or results[name, share].risk < 0.8 * uniform, name


def predicted(traces: MadeTraces, routed: Policy, bits: Bits) -> float:
    """Damage of bits by the tables, with the depths of a routing counted sample by sample."""
    depths = []
    for confidences in traces.trace(routed.bits).confidence.tolist():
        depth = 1
        while depth < BLOCKS and confidences[depth - 1] < routed.thresholds[depth - 1]:
            depth += 1
        depths.append(depth)
    used = [sum(d >= block for d in depths) / len(depths) for block in (1, 2, 3)]
    rates = [depths.count(block) / len(depths) for block in (1, 2, 3)]
    tables, total = made_tables(), 0.0
    for rows, widths in (
        (tables.weights, bits.weights),
        (tables.activations, bits.activations),
    ):
        for row, width in zip(rows.values(), widths, strict=True):
            noise, drift = row.at(width)
            total += used[row.block - 1] * noise
            total += sum(rate * kl for rate, kl in zip(rates, drift, strict=True))
    return total


def test_allocations_are_planned_for_the_use_that_the_bits_before_give(results):
    """Under the bound where that fits the budget, else under the best that does."""
    traces = MadeTraces()
    too_dear = 0
    for (name, _), result in results.items():
        if name not in ("default", "bounds"):
            continue
        outer = loop_of(SETTINGS[name], traces).outer
        for epsilon in result.stops:
            before = outer.space.widest()
            for iterate in result.iterates:
                if iterate.epsilon != epsilon:
                    continue
                routed, attained = outer.within(before.bits, epsilon)
                assert iterate.attained == attained
                first = before == outer.space.widest()  # those bits are never affordable here
                if not first and cost_of(traces, routed) > result.budget:
                    too_dear += 1
                    routed, _ = outer.under(before.bits, result.budget)
                expected = predicted(traces, routed, iterate.policy.bits)
                assert iterate.predicted == pytest.approx(expected, rel=1e-9)
                before = iterate.policy
    assert too_dear > 5


def test_usage_is_counted_on_the_routing():
    exits = np.array([0, 2, 2, 1, 0, 2, 2, 2])
    usage = Usage.of(Routing(exits, np.zeros((8, 1)), (1, 3, 4)))
    assert usage.exit_rates.tolist() == [2 / 8, 1 / 8, 5 / 8]
    assert usage.utilization.tolist() == [1, 6 / 8, 6 / 8, 5 / 8]


def test_stops_say_why_under_every_bound(results):
    reasons = set()
    for (name, _), result in results.items():
        settings = SETTINGS[name]
        assert list(result.stops) == sorted(result.stops)
        if settings.epsilons:
            assert set(result.stops) == set(settings.epsilons)
        assert 1 <= len(result.stops) <= (3 if settings.epsilons else settings.starts)
        assert {iterate.epsilon for iterate in result.iterates} <= set(result.stops)
        for epsilon, reason in result.stops.items():
            tried = [iterate for iterate in result.iterates if iterate.epsilon == epsilon]
            assert len(tried) <= settings.max_iterations
            if reason == "the most iterations allowed":
                assert len(tried) == settings.max_iterations
            if reason == "the bits repeat":
                assert tried  # under this bound, that is
            reasons.add(reason)
    assert reasons == {
        "the bits repeat",
        "the gain is below the least that counts",
        "the most iterations allowed",
        "no allocation fits the budget at this depth",
    }


def test_the_bits_of_one_bound_never_repeat(results):
    for result in results.values():
        for epsilon in result.stops:
            bits = [
                iterate.policy.bits for iterate in result.iterates if iterate.epsilon == epsilon
            ]
            assert len(bits) == len(set(bits))


@pytest.mark.parametrize("name", SETTINGS)
def test_passes_are_the_sets_of_bits_that_were_traced(name: str, results):
    traces = MadeTraces()
    seen: list[Iterate] = []
    result = loop_of(SETTINGS[name], traces, seen.append).search(budget_of(0.09))
    assert result.passes == len(traces.traced) > 1
    assert tuple(seen) == result.iterates
    # A search from scratch, elsewhere, gives the same to the last bit.
    assert result == results[name, 0.09]


def test_one_threshold_is_shared_by_all_exits(results):
    for share in SHARES:
        for iterate in results["one-threshold", share].iterates:
            first, second, last = iterate.policy.thresholds
            assert first == second
            assert last == 0
    spread = [one.policy.thresholds for one in results["default", 0.14].iterates]
    assert any(first != second for first, second, _ in spread)


def test_without_amortization_damage_forgets_use_but_cost_does_not(results):
    ledger = made_ledger()
    usage = Usage.of(Routing(np.array([0, 0, 0, 2]), np.zeros((4, 1)), ledger.exit_blocks))
    amortized, static = (
        loop_of(MaqeeSettings(amortized=amortized, beta=2.0)).problem(usage)
        for amortized in (True, False)
    )
    assert isinstance(static, AllocationProblem)
    policy = static.space.uniform(3, 0.5)
    # Noise 1/64 of the squared harm; drift the same at the last exit, and at the exit taken.
    harm = np.square(HARM).sum(axis=0) / 64
    assert static.damage(policy.bits) == pytest.approx((1 + 2) * harm.sum())
    first, second, third = harm
    noise = first + 0.25 * second + 0.25 * third
    drift = first + 0.25 * second + 0.25 * third  # the first block's at both exits taken
    assert amortized.damage(policy.bits) == pytest.approx(noise + 2 * drift)
    assert static.cheapest == amortized.cheapest
    assert any(
        results["static", share].policy.bits.weights
        != results["default", share].policy.bits.weights
        for share in SHARES
    )


@pytest.mark.parametrize("epsilon", [-0.01, 0.0, 0.01, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("bits", [3, 8])
def test_the_cheapest_thresholds_within_a_bound(bits: int, epsilon: float):
    traces = MadeTraces()
    settings = MaqeeSettings(alpha=0.1)
    outer = loop_of(settings, traces).outer
    start = outer.space.uniform(bits, 0.5)
    routed, attained = outer.within(start.bits, epsilon)
    grid = [
        start.with_thresholds([first, second, 0])
        for first in np.linspace(0, 1, 26)
        for second in np.linspace(0, 1, 26)
    ]
    allowed = [policy for policy in grid if risk_of(traces, policy, 0.1) <= epsilon]
    assert routed.bits == start.bits
    if not attained:
        assert not allowed
        assert routed.thresholds == (1, 1, 0)
        return
    assert risk_of(traces, routed, 0.1) <= epsilon + 1e-12
    cheapest = min((cost_of(traces, policy) for policy in allowed), default=math.inf)
    assert cost_of(traces, routed) <= 1.01 * cheapest
    terms = outer.terms(routed)
    assert terms.gap + 0.1 * terms.boundary == risk_of(traces, routed, 0.1)


def test_a_bound_that_nothing_meets_gives_full_depth():
    outer = loop_of(MaqeeSettings(), threshold_low=0.2, threshold_high=0.9).outer
    for bits in (2, 8):
        routed, attained = outer.within(outer.space.uniform(bits, 0.5).bits, -0.5)
        assert not attained
        assert routed.thresholds == (0.9, 0.9, 0.0)
    routed, attained = outer.within(outer.space.widest().bits, 5.0)
    assert attained
    assert all(0.2 <= threshold <= 0.9 for threshold in routed.thresholds[:-1])


def test_thresholds_under_a_budget():
    traces = MadeTraces()
    outer = loop_of(MaqeeSettings(), traces).outer
    policy = outer.space.uniform(4, 0.5)
    path = traces.ledger.path_bops(policy.bits)
    assert outer.under(policy.bits, path[0] - 1) is None
    for budget in np.linspace(path[0], path[-1], 7):
        found = outer.under(policy.bits, float(budget))
        assert found is not None
        assert cost_of(traces, found[0]) <= budget * (1 + 1e-12)
        assert found[1] == pytest.approx(risk_of(traces, found[0], 0.05), abs=1e-12)


def test_bounds_are_taken_from_the_model():
    for starts in (1, 3, 8):
        loop = loop_of(MaqeeSettings(starts=starts))
        epsilons = loop.epsilons()
        assert list(epsilons) == sorted(set(epsilons))
        assert 1 <= len(epsilons) <= starts
        assert all(loop.outer.within(loop.outer.space.widest().bits, e)[1] for e in epsilons)
    widest = loop.outer.space.widest().bits
    # From the least risk that thresholds reach to that of leaving at once.
    assert not loop.outer.within(widest, epsilons[0] - 1e-9)[1]
    assert loop.outer.within(widest, epsilons[-1])[0].thresholds[0] < 0.51
    assert loop_of(MaqeeSettings(epsilons=(0.3, 0.1))).epsilons() == (0.1, 0.3)


def test_a_budget_below_the_cheapest_policy_names_what_it_costs(refused):
    loop = loop_of(MaqeeSettings())
    cheapest = float(made_ledger().path_bops(loop.outer.space.narrowest().bits)[0])
    for budget in (float(np.nextafter(cheapest, 0)), 0.0, -1.0, math.nan):
        with refused("cheapest", f"{cheapest / GIGA:.6g}", "raise the budget", exit_code=3):
            loop.search(budget)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_cheapest_cost_is_a_budget(name: str):
    traces = MadeTraces()
    loop = loop_of(SETTINGS[name], traces)
    cheapest = float(traces.ledger.path_bops(loop.outer.space.narrowest().bits)[0])
    result = loop.search(cheapest)
    assert cost_of(traces, result.policy) == cheapest
    assert result.policy.bits.weights[0] == result.policy.bits.activations[0] == 2


def test_a_range_that_lets_nobody_leave_is_refused(refused):
    """The budget would do for an early exit, but no threshold is low enough for one."""
    loop = loop_of(MaqeeSettings(starts=2), threshold_low=1.0)
    path = made_ledger().path_bops(loop.outer.space.narrowest().bits)
    with refused(f"{path[1] / GIGA:.6g} GBOPs", "raise the budget", "threshold", exit_code=3):
        loop.search(float(path[1]))
    result = loop.search(float(path[-1]))
    assert result.policy.bits.weights == (2, 2, 2)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("alpha", (-0.1, 10.1, math.nan, math.inf)),
        ("beta", (-1.0, 1001.0, math.nan)),
        ("starts", (0, 101, -1)),
        ("max_iterations", (0, 101)),
        ("min_gain", (-1e-9, 1.1, math.nan)),
    ],
)
def test_settings_out_of_range_are_refused(name: str, values: tuple[float, ...], refused):
    for value in values:
        with refused(name, repr(value)):
            MaqeeSettings(**{name: value})


def test_bounds_out_of_range_are_refused(refused):
    for value in (-1.1, 12.1, math.nan, math.inf):
        with refused("epsilon", repr(value)):
            MaqeeSettings(epsilons=(0.1, value))
    with refused("no epsilon"):
        MaqeeSettings(epsilons=())


def test_results_are_plain_values(results):
    for (name, share), result in results.items():
        plain = json.loads(json.dumps(result.as_dict(), allow_nan=False))
        assert plain["budget_gbops"] == budget_of(share) / GIGA
        assert (plain["risk"], plain["passes"]) == (result.risk, result.passes)
        assert {float(key): why for key, why in plain["stops"].items()} == result.stops
        last = [one for one in plain["iterates"] if one["accepted"]][-1]
        assert Policy.from_dict(last["policy"]) == result.policy
        fields = json.loads(json.dumps(SETTINGS[name].as_dict(), allow_nan=False))
        if fields["epsilons"] is not None:
            fields["epsilons"] = tuple(fields["epsilons"])
        assert MaqeeSettings(**fields) == SETTINGS[name]


def test_a_search_that_gave_up_its_bounds_is_plain_values_too():
    """Only an unbounded risk fits this budget, and infinity is no number in JSON."""
    loop = loop_of(MaqeeSettings(epsilons=(-0.5,)))
    result = loop.search(float(made_ledger().path_bops(loop.outer.space.narrowest().bits)[0]))
    json.dumps(result.as_dict(), allow_nan=False)
    unmet = Iterate(0.1, False, None, 2.0, math.inf, False)
    plain = json.loads(json.dumps(unmet.as_dict(), allow_nan=False))
    assert (plain["policy"], plain["risk"]) == (None, None)


class TraceCache:
    """Traces by key."""

    def __init__(self) -> None:
        self.known: dict[str, ExitTrace] = {}

    def load(self, key: str) -> ExitTrace | None:
        return self.known.get(key)

    def store(self, key: str, trace: ExitTrace) -> None:
        self.known[key] = trace


def test_an_evaluator_is_a_trace_source():
    """The bundled model on 300 images: the loop keeps its promises there too."""
    cache = TraceCache()
    evaluator = open_bundled(64, cache=cache)
    evaluator.split = evaluator.split.head(300)
    space = PolicySpace.from_ledger(evaluator.ledger, "block")
    settings = MaqeeSettings(epsilons=(0.0, 0.05), max_iterations=2)
    tables = SensitivityMeter(evaluator.quantized, "block", images=8).tables()
    loop = Maqee(OuterProblem(evaluator, space, settings), tables)
    budget = 0.15 * evaluator.ledger.references(space.widest().bits).w8a8
    result = loop.search(budget)
    assert result.passes == len(cache.known) - 1  # one is of the model as it was trained

    found = evaluator.evaluate(result.policy)
    assert found.cost.expected <= budget * (1 + 1e-12)
    reference = evaluator.full_precision_trace()
    terms = measure_risk(
        evaluator.trace(result.policy.bits), reference, result.policy.thresholds, evaluator.task
    )
    assert result.risk == pytest.approx(terms.gap + 0.05 * terms.boundary, abs=1e-12)
    at_best = evaluator.task.score(reference.statistic[:, -1]).value
    assert terms.gap == pytest.approx(at_best - found.value)
    # Mixed bits beat the widest uniform ones that are as cheap.
    uniform = [loop.outer.under(space.uniform(bits, 0.5).bits, budget) for bits in (2, 3)]
    assert result.risk < min(risk for _, risk in filter(None, uniform))
