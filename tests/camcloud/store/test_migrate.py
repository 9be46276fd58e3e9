"""Migrations: the revisions make exactly the tables that the code declares, whole or not at all."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError, OperationalError

import camcloud.store
from camcloud.store import migrate
from camcloud.store.database import Database
from camcloud.store.metadata import metadata
from camsdk.errors import Conflict, DataCorrupted, Unavailable


@pytest.fixture
def database(tmp_path: Path):
    database = Database(tmp_path / "store.db")
    yield database
    database.close()


def _load_all_tables() -> None:
    for module in pkgutil.iter_modules(camcloud.store.__path__):
        if module.name.endswith("_tables"):
            importlib.import_module(f"camcloud.store.{module.name}")


def _go_to(connection: Connection, revision: str, move: Callable[[Config, str], None]) -> None:
    config = migrate._config()
    config.attributes["connection"] = connection
    move(config, revision)


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


def test_stills_of_an_older_release_are_kept(database: Database) -> None:
    database.run(lambda connection: _go_to(connection, "0002", command.upgrade))
    old = (
        "INSERT INTO tracks (id, device_id, epoch, camera_id, session, track_id, fleet, class_id,"
        " first_timestamp_s, last_timestamp_s, frame_count)"
        " VALUES (1, 'cam-1', 7, 'gate', 1, 4, 'park-a', 0, 5.0, 6.0, 9)",
        "INSERT INTO crops VALUES (1, 1, 11, 3, 5.5, 'crops/a.jpg', 900)",
    )
    database.run(lambda connection: [connection.execute(text(insert)) for insert in old])
    assert migrate.upgrade(database) == migrate.head()
    second = text("INSERT INTO crops VALUES (2, 1, 12, 3, 5.5, 'crops/a.jpg', 900)")
    database.run(lambda connection: connection.execute(second))
    events = text("SELECT event_sequence FROM crops ORDER BY id")
    assert database.run(lambda connection: connection.execute(events).scalars().all()) == [11, 12]
    with pytest.raises(IntegrityError, match="crops"):  # there is no way back without a loss
        database.run(lambda connection: _go_to(connection, "0002", command.downgrade))
    assert migrate.upgrade(database) == migrate.head()
    assert database.run(lambda connection: connection.execute(events).scalars().all()) == [11, 12]


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


def test_a_file_that_is_no_database_is_named_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(b"no database at all" * 300)
    (tmp_path / "folder.db").mkdir()
    for name, error in (("damaged.db", DataCorrupted), ("folder.db", Unavailable)):
        database = Database(tmp_path / name)
        with pytest.raises(error, match=name):
            migrate.upgrade(database)
        database.close()
