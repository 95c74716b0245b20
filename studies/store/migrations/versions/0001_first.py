"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _study() -> sa.Column[int]:
    return sa.Column(
        "study_id", _Id, sa.ForeignKey("studies.id", ondelete="CASCADE"), nullable=False
    )


def upgrade() -> None:
    """Make the tables."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "studies",
        sa.Column("id", _Id, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("directions", sa.Text, nullable=False),
        sa.Column("user_attrs", sa.Text, nullable=False),
        sa.Column("system_attrs", sa.Text, nullable=False),
        sa.Column("record", sa.Text),
        sa.Column("budget", sa.Integer),
        sa.Column("claimed", sa.Integer, nullable=False),
        sa.Column("trials", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("archived", time),
        sa.Column("created", time, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "trials",
        sa.Column("id", _Id, primary_key=True),
        _study(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("trial_values", sa.Text),
        sa.Column("intermediate", sa.Text, nullable=False),
        sa.Column("user_attrs", sa.Text, nullable=False),
        sa.Column("system_attrs", sa.Text, nullable=False),
        sa.Column("started", time),
        sa.Column("finished", time),
        sa.Column("source", sa.Text),
        sa.Column("worker", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("lease_until", sa.Float),
        sa.Column("reason", sa.Text),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("study_id", "number"),
        sqlite_autoincrement=True,
    )
    op.create_index("trials_by_revision", "trials", ["study_id", "revision"])
    op.create_index("trials_by_state", "trials", ["study_id", "state", "number"])
    op.create_table(
        "evaluations",
        sa.Column("id", _Id, primary_key=True),
        _study(),
        sa.Column("trial_id", _Id, sa.ForeignKey("trials.id", ondelete="CASCADE"), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("standard_error", sa.Float, nullable=False),
        sa.Column("gbops", sa.Float, nullable=False),
        sa.Column("gbops_p95", sa.Float, nullable=False),
        sa.Column("mean_exit", sa.Float, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("evaluations_by_revision", "evaluations", ["study_id", "revision"])
    op.create_index("evaluations_by_digest", "evaluations", ["study_id", "digest"])
    op.create_table(
        "workers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("session", sa.String(32), nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", time, nullable=False),
        sa.Column("alive_until", sa.Float, nullable=False),
    )
