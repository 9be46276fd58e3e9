"""Brings a database to the newest schema.

The revisions lie inside the package, so they also run from an installed wheel. An upgrade is one
transaction on the database's only connection: it happens whole or not at all.
"""

import logging

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, OperationalError

from camcloud.store.database import Database
from camsdk.errors import Conflict, DataCorrupted, Unavailable

_SCRIPTS = "camcloud.store:migrations"
_LOG = logging.getLogger(__name__)


def upgrade(database: Database) -> str:
    """Runs every revision that is missing.

    Returns:
        The revision that the database is now at.

    Raises:
        Conflict: A newer release has already upgraded this database.
        DataCorrupted: The file is no database.
        Unavailable: It cannot be opened.
    """
    _probe(database)
    return database.run(_upgrade)


def head() -> str:
    """The newest revision of this release."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None, "the package holds no revision"
    return revision


def _probe(database: Database) -> None:
    """Reads a first page: what is wrong with the file itself is no failure of a revision."""
    name = database.engine.url.database
    try:
        database.run(lambda connection: connection.exec_driver_sql("PRAGMA schema_version"))
    except OperationalError as error:
        raise Unavailable(
            f"the database {name} cannot be opened: {error.orig}", "check its owner and its disk"
        ) from error
    except DatabaseError as error:
        raise DataCorrupted(
            f"the database {name} is damaged: {error.orig}",
            "restore it from a backup, or begin anew with another --data",
        ) from error


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    return config


def _upgrade(connection: Connection) -> str:
    config = _config()
    config.attributes["connection"] = connection
    before = MigrationContext.configure(connection).get_current_revision()
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Conflict(
            f"the database is at revision {before}, which this release does not know",
            "run the release that wrote it, or a newer one",
        ) from error
    after = head()
    if before != after:
        _LOG.info("database upgraded from %s to %s", before or "empty", after)
    return after
