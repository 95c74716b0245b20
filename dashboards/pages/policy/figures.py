"""Figures of one policy, and each in words: pure functions of a study's record and an evaluation.

Op and group names come from the store, and Plotly reads some tags in labels: they are escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from dashboards import theme
from search.cost import GIGA, NOT_COUNTED, LedgerRow, Part, group_of
from search.policy import Policy
from search.results import Evaluation
from studies.records import StudyRecord

# Nothing here is worth zooming, and a finger that scrolls the page must not zoom a figure.
FIXED = {"fixedrange": True, "automargin": True}
_PARTS: dict[Part, str] = {"embed": "patch embedding", "block": "blocks", "head": "exit heads"}

Cells = dict[tuple[int, str], tuple[str, int]]
Costed = tuple[LedgerRow, float]


def bits_grid(record: StudyRecord, policy: Policy) -> Cells:
    """Group and bits by block (1-based) and column.

    With one group a block the columns are ``weights`` and ``activations``; with one a layer they
    are ``w`` or ``a`` and the layer's place in its block, such as ``w attn.qkv``.
    """
    weights, activations = record.ledger.groups(policy.bits.granularity)
    layered = policy.bits.granularity == "layer"
    grids: list[Cells] = []
    for letter, word, names, widths in (
        ("w", "weights", weights, policy.bits.weights),
        ("a", "activations", activations, policy.bits.activations),
    ):
        bits = dict(zip(names, widths, strict=True))
        grid: Cells = {}
        for op in record.ledger.ops:
            group = group_of(op, policy.bits.granularity)
            if op.part == "block" and group in bits:
                column = f"{letter} {_within(op.layer)}" if layered else word
                grid[op.block, column] = (group, bits[group])
        grids.append(grid)
    return grids[0] | grids[1]


def bits_figure(record: StudyRecord, policy: Policy, mode: str = "light") -> go.Figure:
    """Bits of every group as a heat map: a line for each block, weights left of activations."""
    grid = bits_grid(record, policy)
    blocks = sorted({block for block, _ in grid})
    columns = list(dict.fromkeys(column for _, column in grid))
    cells = [[grid.get((block, column), ("", None)) for column in columns] for block in blocks]
    bits = [[width for _, width in line] for line in cells]
    layered = policy.bits.granularity == "layer"
    figure = go.Figure(
        go.Heatmap(
            z=bits,
            x=[escape(column) for column in columns],
            y=blocks,
            text=bits,
            texttemplate="%{text}",
            customdata=[[escape(group) for group, _ in line] for line in cells],
            hovertemplate="%{customdata}<br>%{x}: %{z} bits<extra></extra>",
            hoverongaps=False,
            colorscale="Blues",
            zmin=2,
            zmax=max(8, *policy.bits.weights, *policy.bits.activations),
            xgap=2,
            ygap=2,
            colorbar=_lying("bits"),
        )
    )
    title = "operand (w weights, a activations)" if layered else "operand"
    lines = {"title": "block", "autorange": "reversed", "dtick": 1, "zeroline": False}
    figure.update_layout(
        theme.layout(
            mode,
            xaxis={"title": title, "side": "top", "showgrid": False, **FIXED},
            yaxis={**lines, "showgrid": False, **FIXED},
            margin={"l": 60, "r": 20, "t": 70, "b": 90},
        )
    )
    return figure


def bits_text(record: StudyRecord, policy: Policy) -> str:
    """The bits in words."""
    weights, activations = record.ledger.groups(policy.bits.granularity)
    return (
        f"{_widths('Weights', weights, policy.bits.weights)} "
        f"{_widths('Activations', activations, policy.bits.activations)} "
        f"The patch embedding runs at {policy.bits.embed} bits, exit heads at {policy.bits.head}."
    )


def thresholds_text(record: StudyRecord, policy: Policy) -> str:
    """What every exit asks for, in words."""
    *exits, last = record.ledger.exit_blocks
    asked = [
        f"{threshold:.3f} after block {block}"
        for block, threshold in zip(exits, policy.thresholds[:-1], strict=True)
    ]
    left = f"the last exit, after block {last}, takes whoever is left."
    if not asked:
        return left.capitalize()
    return (
        f"A sample leaves at the first exit whose confidence is at least {', '.join(asked)}; {left}"
    )


def expected_bops(record: StudyRecord, found: Evaluation) -> list[Costed]:
    """Every op with its expected BOPs a sample: those of one execution times the share of samples
    that execute it. A head is passed by all who run the block before it.

    They sum to ``found.cost.expected``.
    """
    return [
        (row, row.bops * (found.utilization[row.op.block - 1] if row.op.block else 1.0))
        for row in record.ledger.rows(found.policy.bits)
    ]


def ledger_figure(record: StudyRecord, found: Evaluation, mode: str = "light") -> go.Figure:
    """Expected BOPs by part, block and op: areas are costs, colours the bits of the operands."""
    ops = expected_bops(record, found)
    total = sum(cost for _, cost in ops)
    # Node to parent, label, and the operations inside, the root first.
    nodes: dict[str, tuple[str, str, list[Costed]]] = {"all": ("", "all", ops)}
    for row, cost in ops:
        part, block, parent = row.op.part, row.op.block, "all"
        place = f"head after block {block}" if part == "head" else f"block {block}"
        steps = [(part, _PARTS[part]), *([(f"{part} {block}", place)] if block else [])]
        for node, label in [*steps, (f"op {row.op.name}", escape(_within(row.op.name)))]:
            nodes.setdefault(node, (parent, label, []))[2].append((row, cost))
            parent = node
    parents, labels, inside = zip(*nodes.values(), strict=True)
    single = [node.startswith("op ") for node in nodes]
    # A parent's area is what its children add up to: a sum given beside them could be off by a
    # rounding error, for which plotly.js draws nothing.
    values = [costed[0][1] / GIGA * one for costed, one in zip(inside, single, strict=True)]
    told = [_told(costed, total, one) for costed, one in zip(inside, single, strict=True)]
    figure = go.Figure(
        go.Treemap(
            ids=list(nodes),
            parents=parents,
            labels=labels,
            values=values,
            branchvalues="remainder",
            customdata=told,
            texttemplate="%{label}<br>%{customdata[0]}",
            hovertemplate="%{label}<br>%{customdata[0]} GBOPs, %{customdata[1]}"
            "<br>%{customdata[2]}<extra></extra>",
            marker={
                "colors": [_mean_product(costed) for costed in inside],
                "colorscale": "Blues",
                "cmin": 4,
                "cmax": max(64, *(row.left_bits * row.right_bits for row, _ in ops)),
                "showscale": True,
                "colorbar": _lying("left bits x right bits"),
            },
            tiling={"pad": 2},
        )
    )
    figure.update_layout(theme.layout(mode, margin={"l": 8, "r": 8, "t": 8, "b": 80}))
    return figure


def ledger_text(record: StudyRecord, found: Evaluation) -> str:
    """The ledger in words."""
    ops, total = expected_bops(record, found), found.cost.expected
    shares = ", ".join(
        f"{name} {sum(cost for row, cost in ops if row.op.part == part) / total:.2%}"
        for part, name in _PARTS.items()
    )
    row, cost = max(ops, key=lambda one: one[1])
    return (
        f"Of {found.gbops:.4f} expected GBOPs a sample: {shares}. The dearest op is {row.op.name} "
        f"with {cost / total:.2%}, at {row.left_bits} x {row.right_bits} bits. Areas are expected "
        f"GBOPs: an op counts for the share of samples that execute it; {NOT_COUNTED}."
    )


def _within(layer: str) -> str:
    """A layer's name after the last number in it: ``attn.qkv`` of ``blocks.3.attn.qkv``."""
    steps = layer.split(".")
    last = max((index for index, step in enumerate(steps) if step.isdecimal()), default=-1)
    return ".".join(steps[last + 1 :]) or layer


def _widths(what: str, names: Sequence[str], bits: Sequence[int]) -> str:
    """The range of some groups' bits in words, its ends by name."""
    low, high = min(bits), max(bits)
    if low == high:
        return f"{what} run at {low} bits throughout."
    ends = []
    for width in (low, high):
        chosen = [name for name, value in zip(names, bits, strict=True) if value == width]
        more = f" and {len(chosen) - 3} more" if len(chosen) > 3 else ""
        ends.append(f"{width} bits ({', '.join(chosen[:3])}{more})")
    return f"{what} run at {ends[0]} to {ends[1]}, {sum(bits) / len(bits):.2f} on average."


def _lying(title: str) -> dict[str, Any]:
    """A colour bar below the figure, where a narrow page has room."""
    place = {"orientation": "h", "y": 0, "yanchor": "top", "ypad": 14, "thickness": 10}
    return {"title": {"text": title, "side": "top"}, **place}


def _mean_product(ops: Sequence[Costed]) -> float:
    """BOPs a multiply-accumulate, over the operations that samples are expected to execute."""
    macs = sum(cost / (row.left_bits * row.right_bits) for row, cost in ops)
    if macs == 0:  # nobody gets here: as if everybody did
        return sum(row.bops for row, _ in ops) / sum(row.op.macs for row, _ in ops)
    return sum(cost for _, cost in ops) / macs


def _told(ops: Sequence[Costed], total: float, single: bool) -> list[str]:
    """What the hover says of some operations: cost, share, and widths or how many they are."""
    cost, row = sum(one for _, one in ops), ops[0][0]
    widths = f"{row.op.macs:,} MACs at {row.left_bits} x {row.right_bits} bits when executed"
    return [
        f"{cost / GIGA:.4g}",
        f"{cost / total:.1%}",
        f"{escape(row.op.name)}: {widths}" if single else f"{len(ops)} ops",
    ]
