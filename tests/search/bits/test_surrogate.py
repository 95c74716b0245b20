"""The surrogate against the ledger, APQ's own objective, and hypervolumes."""

from __future__ import annotations

import numpy as np
import pytest
from small_study import small_ledger

from search.bits.allocation import AllocationProblem, Usage
from search.bits.surrogate import Surrogate, front_gain
from search.bits.tables import Sensitivity, SensitivityTables
from search.cost import GIGA, Ledger, Op
from search.front import front_indices, hypervolume
from search.policy import Granularity, Policy
from search.space import PolicySpace

BITS = (2, 3, 4, 5, 6, 7, 8)


def ledger_of(blocks: int = 4) -> Ledger:
    """Blocks of three layers and two products, exits after blocks 2 and 4."""
    rng = np.random.default_rng(3)
    ops = [Op("patch_embed", "conv", "embed", 0, 900, "patch_embed")]
    for block in range(1, blocks + 1):
        name = f"blocks.{block}"
        for part, kind in (("qkv", "linear"), ("fc1", "linear"), ("fc2", "linear")):
            macs = int(rng.integers(100, 900))
            ops.append(Op(f"{name}.{part}", kind, "block", block, macs, f"{name}.{part}"))  # type: ignore[arg-type]
        for product in ("scores", "context"):
            macs = int(rng.integers(50, 200))
            ops.append(Op(f"{name}.{product}", "matmul", "block", block, macs, f"{name}.attn"))
        if block % 2 == 0:
            ops.append(Op(f"heads.{block}", "linear", "head", block, 20, f"heads.{block}"))
    return Ledger(tuple(ops), tuple(range(2, blocks + 1, 2)))


def random_policies(space: PolicySpace, count: int) -> list[Policy]:
    rng = np.random.default_rng(5)
    found = []
    for _ in range(count):
        thresholds = (*rng.random(space.exits - 1), 0.0)
        bits = space.bits(
            rng.choice(space.weight_choices, len(space.weight_groups)),
            rng.choice(space.activation_choices, len(space.activation_groups)),
        )
        found.append(Policy(bits, tuple(float(value) for value in thresholds)))
    return found


def usage_of(exits: np.ndarray, ledger: Ledger) -> Usage:
    depth = np.asarray(ledger.exit_blocks)[exits]
    blocks = np.arange(1, ledger.exit_blocks[-1] + 1)
    rates = np.bincount(exits, minlength=len(ledger.exit_blocks)) / len(exits)
    return Usage((depth[:, None] >= blocks).mean(axis=0), rates)


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_its_cost_is_the_ledgers(granularity: Granularity) -> None:
    ledger = ledger_of()
    space = PolicySpace.from_ledger(ledger, granularity, embed_bits=6, head_bits=7)
    surrogate = Surrogate(space, ledger)
    exits = np.random.default_rng(0).integers(0, 2, 500)
    policies = random_policies(space, 20)
    vectors = np.array([surrogate.vector(policy.bits) for policy in policies])
    found = surrogate.gbops(vectors, usage_of(exits, ledger))
    wanted = [ledger.cost(policy.bits, exits).expected / GIGA for policy in policies]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    for policy, vector in zip(policies, vectors, strict=True):
        assert surrogate.bits(vector) == policy.bits


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_its_damage_is_apqs_objective(granularity: Granularity) -> None:
    ledger = ledger_of()
    space = PolicySpace.from_ledger(ledger, granularity)
    rng = np.random.default_rng(1)

    def rows(names: tuple[str, ...]) -> dict[str, Sensitivity]:
        return {
            name: Sensitivity(1 + index % 4, BITS, rng.random(7), rng.random((7, 2)))
            for index, name in enumerate(names)
        }

    by_block = {name: int(name.removeprefix("block")[0]) for name in space.weight_groups} if (
        granularity == "block"
    ) else {name: int(name.split(".")[1]) for name in space.activation_groups}  # fmt: skip
    tables = SensitivityTables(rows(space.weight_groups), rows(space.activation_groups))
    for side in (tables.weights, tables.activations):
        for name, row in side.items():
            side[name] = Sensitivity(by_block[name], row.bits, row.noise, row.drift)
    usage = usage_of(rng.integers(0, 2, 300), ledger)
    surrogate = Surrogate(space, ledger, tables, beta=0.7)
    problem = AllocationProblem(space, ledger, tables, usage, 0.7)
    policies = random_policies(space, 20)
    vectors = np.array([surrogate.vector(policy.bits) for policy in policies])
    np.testing.assert_allclose(
        surrogate.damage(vectors, usage), [problem.damage(policy.bits) for policy in policies]
    )


def test_without_tables_fewer_bits_where_they_are_used_do_more_damage() -> None:
    ledger = small_ledger()
    surrogate = Surrogate(PolicySpace.from_ledger(ledger, "block"), ledger)
    usage = Usage(np.array([1.0, 0.25]), np.array([0.75, 0.25]))
    vectors = np.array([[4, 4, 4, 4], [3, 4, 4, 4], [4, 3, 4, 4], [8, 8, 8, 8]])
    even, early, late, wide = surrogate.damage(vectors, usage)
    assert wide < even < late < early
    assert early - even == pytest.approx(4 * (late - even))


@pytest.mark.parametrize("seed", range(5))
def test_the_gain_is_the_growth_of_the_hypervolume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cloud = rng.random((30, 2)) * [1, 2]
    front = cloud[front_indices(cloud)]
    points = rng.random((40, 2)) * [1, 2.4]
    high = 2.0
    found = front_gain(points, front, high, log=False)
    for point, gain in zip(points, found, strict=True):
        grown = hypervolume(np.concatenate([front, [point]]), high) - hypervolume(front, high)
        assert gain == pytest.approx(grown * high, abs=1e-12)


def test_over_the_logarithm_a_cheap_point_weighs_more() -> None:
    front = np.array([[0.5, 0.1], [0.9, 1.0]])
    points = np.array([[0.6, 0.1], [0.92, 1.0]])
    plain = front_gain(points, front, 2.0, log=False)
    logarithmic = front_gain(points, front, 2.0, log=True)
    np.testing.assert_allclose(plain, [0.1 * 0.9, 0.02 * 1.0])
    np.testing.assert_allclose(logarithmic, [0.1 * np.log(10), 0.02 * np.log(2)])
