"""Evaluations that belong to no trial, or to another checkpoint than the study's."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COUNTER = "select seq from sqlite_sequence where name = 'evaluations'"


def upgrade() -> None:
    """Let a baseline outside the space, or a recovered model's policy, stand by itself."""
    connection = op.get_bind()
    is_sqlite = connection.dialect.name == "sqlite"
    counter = connection.execute(sa.text(_COUNTER)).scalar() if is_sqlite else None
    # SQLite cannot drop a constraint: the table is written anew, with its ids and its counter.
    with op.batch_alter_table(
        "evaluations", table_kwargs={"sqlite_autoincrement": True}
    ) as evaluations:
        evaluations.alter_column("trial_id", existing_type=sa.BigInteger(), nullable=True)
        evaluations.add_column(sa.Column("model", sa.String(64)))
        evaluations.add_column(sa.Column("checkpoint", sa.Text))
    if counter is not None:
        # The new table counts from its highest id, and would use deleted ones again.
        connection.execute(sa.text("delete from sqlite_sequence where name = 'evaluations'"))
        connection.execute(
            sa.text("insert into sqlite_sequence (name, seq) values ('evaluations', :seq)"),
            {"seq": counter},
        )
