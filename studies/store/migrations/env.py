"""Run by Alembic on the connection, and inside the transaction, that the caller opened."""

from __future__ import annotations

from alembic import context

from studies.store.database import VERSION_TABLE
from studies.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
