"""What pages and report both say of a study, in sentences."""

from __future__ import annotations

from studies.fronts import FrontSummary


def front_in_words(summary: FrontSummary) -> str:
    """What comes close to full precision at which cost, and where the knee is."""
    record = summary.record
    floor = record.reference_value - 0.01
    close = [row for row in summary.front_rows if row.value >= floor]
    words = []
    if close:
        row = close[0]
        words.append(
            f"Within 0.01 of the full-precision {record.metric} ({record.reference_value:.4f}), "
            f"the cheapest policy costs {row.gbops:.4f} GBOPs: {summary.reduction(row):.2%} below "
            f"32x32, {1 - row.gbops / summary.w8a8_gbops:.1%} below W8A8, both at full depth."
        )
    else:
        words.append(f"No policy yet comes within 0.01 of the full-precision {record.metric}.")
    index = summary.knee
    if index is not None:
        found = summary.rows[index]
        words.append(
            f"The knee lies at {found.gbops:.4f} GBOPs with {record.metric} {found.value:.4f}."
        )
    return " ".join(words)
