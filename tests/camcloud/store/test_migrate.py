"""Migrations: the revisions make exactly the tables that the code declares, whole or not at all."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import OperationalError

import camcloud.store
from camcloud.store import migrate
from camcloud.store.database import Database
from camcloud.store.metadata import metadata
from camsdk.errors import Conflict


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path / "store.db")
    yield database
    database.close()


def _load_all_tables() -> None:
    for module in pkgutil.iter_modules(camcloud.store.__path__):
        if module.name.endswith("_tables"):
            importlib.import_module(f"camcloud.store.{module.name}")


def test_the_revisions_make_the_declared_tables(database: Database) -> None:
    _load_all_tables()
    assert migrate.upgrade(database) == migrate.head()

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    assert database.run(differences) == []


def test_a_second_upgrade_changes_nothing_and_keeps_rows(database: Database) -> None:
    migrate.upgrade(database)
    insert = "INSERT INTO ingest_cursors VALUES ('cam-1', 7, 3, 2, 0, 0, 0)"
    database.run(lambda connection: connection.execute(text(insert)))
    assert migrate.upgrade(database) == migrate.head()
    select = text("SELECT batch_sequence FROM ingest_cursors")
    assert database.run(lambda connection: connection.execute(select).scalar_one()) == 3


def test_a_database_of_a_newer_release_is_refused(database: Database) -> None:
    migrate.upgrade(database)
    mark = text("UPDATE alembic_version SET version_num = '9999'")
    database.run(lambda connection: connection.execute(mark))
    with pytest.raises(Conflict, match="9999"):
        migrate.upgrade(database)


def test_a_failed_upgrade_leaves_nothing_behind(database: Database) -> None:
    in_the_way = text("CREATE TABLE tracks (id INTEGER)")
    database.run(lambda connection: connection.execute(in_the_way))
    with pytest.raises(OperationalError, match="tracks"):
        migrate.upgrade(database)
    tables = database.run(lambda connection: inspect(connection).get_table_names())
    assert tables == ["tracks"]
