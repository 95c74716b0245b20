"""Which process a worker is, who gave which study up and why, and what was tried again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Add columns, each of which an old row can do without, and a table."""
    op.add_column("trials", sa.Column("returned", sa.Integer, nullable=False, server_default="0"))
    op.add_column("trials", sa.Column("lease_s", sa.Float))
    op.add_column("workers", sa.Column("machine", sa.Text, nullable=False, server_default=""))
    op.add_column("workers", sa.Column("ticks", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("serves", sa.Text))
    op.add_column("workers", sa.Column("lease_s", sa.Float))
    op.create_table(
        "refusals",
        sa.Column(
            "study_id", _Id, sa.ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("worker", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
    )
