"""Alembic environment and revisions; run through :mod:`camcloud.store.migrate`."""
