"""What Alembic runs to apply revisions: on the connection it is given, in the transaction that is open there."""

from alembic import context

from dsync.state.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes a table by making it anew.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
