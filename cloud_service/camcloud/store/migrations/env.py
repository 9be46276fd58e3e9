"""Alembic's entry: migrates over the connection and within the transaction that it is given."""

from alembic import context

from camcloud.store.metadata import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite cannot alter most things in place: copy the table instead.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
