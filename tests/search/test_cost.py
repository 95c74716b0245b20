"""The BOPs ledger against torch's FLOP counter, closed formulas and brute force over samples."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search.cost import Budget, Cost, Ledger, Op
from search.models.checkpoint import build_backbone
from search.models.early_exit import EarlyExitModel
from search.policy import QUANTIZED_BITS, Bits, Policy
from search.training.recipes import FASHION_ARCHITECTURE

MODELS = {
    "vit": ("vit_tiny_patch16_224", {}, (3, 224, 224), (2, 6, 12), "linear"),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", {}, (3, 224, 224), (4, 8, 12), "mlp"),
    "average-pool": (
        "vit_tiny_patch16_224",
        {"img_size": 64, "class_token": False, "global_pool": "avg", "depth": 3},
        (3, 64, 64),
        (1, 2, 3),
        "mlp",
    ),
    "conv-stem": (None, {}, (1, 28, 28), (1, 2, 4, 6), "linear"),
}


@pytest.fixture(scope="module", params=MODELS)
def model_and_shape(request: pytest.FixtureRequest):
    name, kwargs, shape, exits, head = MODELS[request.param]
    if name is None:
        backbone = build_backbone(FASHION_ARCHITECTURE, 10)
    else:
        backbone = timm.create_model(name, num_classes=10, **kwargs)
    return EarlyExitModel(backbone, exits, head, 10).eval(), shape


@pytest.fixture(scope="module")
def ledger(model_and_shape) -> Ledger:
    model, shape = model_and_shape
    return model.ledger(shape)


def random_policy(ledger: Ledger, granularity: str, seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)
    weights, activations = ledger.groups(granularity)
    bits = [
        tuple(rng.choice(QUANTIZED_BITS, len(each)).tolist()) for each in (weights, activations)
    ]
    thresholds = (0.5,) * (len(ledger.exit_blocks) - 1) + (0.0,)
    return Policy(Bits(granularity, *bits, 7, 6), thresholds)


def hand_bops(op: Op, policy: Policy) -> int:
    """BOPs of one operation, its bits looked up by the order of a block's layers."""
    if op.part != "block":
        return op.macs * (policy.bits.embed if op.part == "embed" else policy.bits.head) ** 2
    if policy.bits.granularity == "block":
        left, right = policy.bits.activations[op.block - 1], policy.bits.weights[op.block - 1]
    else:
        layer = op.name.split(".", 2)[2]
        weight = {"attn.qkv": 0, "attn.proj": 1, "mlp.fc1": 2, "mlp.fc2": 3}.get(layer)
        place = {"attn.qkv": 0, "attn.proj": 2, "mlp.fc1": 3, "mlp.fc2": 4}.get(layer, 1)
        left = policy.bits.activations[5 * (op.block - 1) + place]
        right = 0 if weight is None else policy.bits.weights[4 * (op.block - 1) + weight]
    return op.macs * left * (left if op.kind == "matmul" else right)


def test_total_macs_are_half_of_torchs_flops(model_and_shape, ledger: Ledger):
    model, shape = model_and_shape
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *shape))
    assert sum(op.macs for op in ledger.ops) * 2 == counter.get_total_flops() > 0


def test_a_block_of_vit_tiny_follows_the_closed_formula():
    backbone = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=10)
    ops = {
        op.name: op for op in EarlyExitModel(backbone, (1,), "linear", 10).ledger((3, 224, 224)).ops
    }
    tokens, width = 14 * 14 + 1, 192
    expected = {
        "patch_embed.proj": (14 * 14) * width * (3 * 16 * 16),
        "blocks.0.attn.qkv": tokens * width * 3 * width,
        "blocks.0.attn.scores": tokens * tokens * width,
        "blocks.0.attn.context": tokens * tokens * width,
        "blocks.0.attn.proj": tokens * width * width,
        "blocks.0.mlp.fc1": tokens * width * 4 * width,
        "blocks.0.mlp.fc2": tokens * width * 4 * width,
        "head": width * 10,
    }
    assert {name: op.macs for name, op in ops.items()} == expected
    assert [(op.part, op.block) for op in ops.values()] == [
        ("embed", 0), *[("block", 1)] * 6, ("head", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("granularity", ["block", "layer"])
def test_cost_equals_the_amortized_formula_and_a_loop_over_samples(
    ledger: Ledger, granularity: str
):
    policy = random_policy(ledger, granularity)
    depths = np.array(ledger.exit_blocks)
    exits = np.random.default_rng(1).integers(0, len(depths), 200)
    cost = ledger.cost(policy.bits, exits)

    def total(part: str, block: int) -> int:
        return sum(
            hand_bops(op, policy) for op in ledger.ops if (op.part, op.block) == (part, block)
        )

    # A = embed + sum_l u_l BOPs_l + sum_e u_{l_e} BOPs_head_e
    u = {block: (depths[exits] >= block).mean() for block in range(1, depths[-1] + 1)}
    amortized = (
        total("embed", 0)
        + sum(u[block] * total("block", block) for block in u)
        + sum(u[block] * total("head", block) for block in depths)
    )
    assert cost.expected == pytest.approx(amortized, rel=1e-12)

    samples = []
    for exit_index in exits:
        last = depths[exit_index]
        samples.append(sum(hand_bops(op, policy) for op in ledger.ops if op.block <= last))
    assert cost.expected == pytest.approx(np.mean(samples), rel=1e-12)
    assert cost.p95 == np.percentile(samples, 95, method="inverted_cdf")
    assert cost.worst == sum(hand_bops(op, policy) for op in ledger.ops)
    assert ledger.path_bops(policy.bits).tolist() == sorted({*samples, cost.worst})
    assert sum(row.bops for row in ledger.rows(policy.bits)) == cost.worst


def test_memory_is_the_weights_at_their_bits(ledger: Ledger, model_and_shape):
    policy = random_policy(ledger, "layer")
    widths, bits, blocks = ledger.widths(policy.bits), 0, []
    for name, module in model_and_shape[0].named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)) and name.removeprefix("backbone.") in widths:
            own = widths[name.removeprefix("backbone.")][1]
            bits += module.weight.numel() * own
            if ".blocks." in name:
                blocks.append((module.weight.numel(), own))
    cost = ledger.cost(policy.bits, np.array([0]))
    assert cost.memory == bits / 8
    counts, each = np.array(blocks).T
    assert cost.mean_bits == pytest.approx(np.average(each, weights=counts), rel=1e-12)
    silent = Ledger.from_dict(
        {**ledger.as_dict(), "ops": [
            {key: value for key, value in op.items() if key != "weights"}
            for op in ledger.as_dict()["ops"]
        ]}
    )  # fmt: skip
    old = silent.cost(policy.bits, np.array([0]))  # as it was recorded before
    assert (old.memory, old.mean_bits, old.worst) == (None, None, cost.worst)


@pytest.mark.parametrize(
    ("bounds", "allowed"),
    [
        ({}, True),
        ({"expected": 1.0, "p95": 2.0, "worst": 3.0, "memory": 4.0, "mean_bits": 5.0}, True),
        ({"expected": 0.9}, False), ({"p95": 1.9}, False), ({"worst": 2.9}, False),
        ({"memory": 3.9}, False), ({"mean_bits": 4.9}, False),
    ],
)  # fmt: skip
def test_a_budget_allows_what_is_within_every_bound(bounds: dict[str, float], allowed: bool):
    assert Budget(**bounds).allows(Cost(1.0, 2.0, 3.0, 4.0, 5.0)) is allowed


def test_a_bound_on_what_was_not_recorded_is_refused(refused):
    with refused("memory", "before weights were counted"):
        Budget(memory=10.0).allows(Cost(1.0, 2.0, 3.0))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_p95_is_numpys_inverted_cdf(exits: list[int]):
    ops = tuple(Op(f"b{i}", "linear", "block", i, 100 * i, f"b{i}") for i in range(1, 7))
    ledger = Ledger(ops, (1, 2, 3, 4, 5, 6))
    bits = Bits("block", (4,) * 6, (8,) * 6)
    samples = ledger.path_bops(bits)[exits]
    assert ledger.cost(bits, np.array(exits)).p95 == np.percentile(
        samples, 95, method="inverted_cdf"
    )


def test_references_count_full_depth_and_the_last_head_only(ledger: Ledger):
    policy = random_policy(ledger, "layer")
    depth = ledger.exit_blocks[-1]
    kept = [op for op in ledger.ops if not (op.part == "head" and op.block < depth)]
    assert len(kept) < len(ledger.ops)
    macs = sum(op.macs for op in kept)
    references = ledger.references(policy.bits)
    assert (references.w32a32, references.w8a8) == (macs * 1024, macs * 64)
    assert references.same_bits == sum(hand_bops(op, policy) for op in kept)


def test_every_sample_pays_for_the_embedding_and_the_first_head(ledger: Ledger):
    weights, activations = ledger.groups("block")
    for embed, head in ((8, 8), (4, 2)):
        cheap, dear = (
            Bits("block", (width,) * len(weights), (width,) * len(activations), embed, head)
            for width in (2, 8)
        )
        assert ledger.fixed_bops(cheap) == ledger.fixed_bops(dear)
        # What is left of the first exit's path are its blocks, whose cost goes with the square.
        blocks = [ledger.path_bops(bits)[0] - ledger.fixed_bops(bits) for bits in (cheap, dear)]
        assert blocks[1] == 16 * blocks[0] > 0


def test_a_policy_of_another_model_is_refused(ledger: Ledger, refused):
    policy = random_policy(ledger, "block")
    ledger.check(policy)
    for field, words in (
        ("weights", "weight bit-widths"),
        ("activations", "activation bit-widths"),
    ):
        values = getattr(policy.bits, field)
        other = replace(policy.bits, **{field: (values[0], *values)})
        for action in (ledger.widths, lambda bits: ledger.check(replace(policy, bits=bits))):
            with refused(f"{len(values) + 1} {words}", f"needs {len(values)}"):
                action(other)
    thresholds = policy.thresholds
    with refused(f"{len(thresholds) + 1} thresholds", f"needs {len(thresholds)}"):
        ledger.check(replace(policy, thresholds=(thresholds[0], *thresholds)))


def test_the_ledger_survives_json(ledger: Ledger):
    assert Ledger.from_dict(json.loads(json.dumps(ledger.as_dict()))) == ledger


def test_counting_leaves_the_model_as_it_was(model_and_shape):
    model, shape = model_and_shape
    model.train()
    model.ledger(shape)
    assert model.training
    model.eval()
    assert not any(module._forward_hooks for module in model.modules())
