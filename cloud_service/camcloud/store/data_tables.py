"""Tables of the data plane: what cameras saw, and how far each device's log has been stored.

Invariants:
- An event is one row for its (device, epoch, sequence); ``cursor`` grows in commit order, because
  the analysis worker is the only writer.
- ``ingest_cursors`` is written in the same transaction as the rows of the batch that moves it, so a
  batch that the bus delivers twice is stored once.
- A track's key holds the epoch: a device whose outbox was lost numbers its sessions afresh.

Timestamps are seconds since the Unix epoch; boxes are pixels of the camera's frame.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
)

from camcloud.store.metadata import metadata

# SQLite gives out row ids only to columns that are exactly INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")

NAME_LENGTH = 128
"""Longest device, fleet, camera, rule or class name that is stored, characters."""

Name = String(NAME_LENGTH)

events = Table(
    "events",
    metadata,
    Column("cursor", RowId, primary_key=True, autoincrement=True),
    Column("device_id", Name, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("fleet", Name, nullable=False),
    Column("camera_id", Name, nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("kind", Name, nullable=False),
    Column("frame_index", BigInteger, nullable=False),
    Column("timestamp_s", Float, nullable=False),
    Column("rule", Name, nullable=False),
    Column("track_id", BigInteger, nullable=False),
    Column("class_id", BigInteger, nullable=False),
    Column("class_name", Name, nullable=False),
    Column("score", Float, nullable=False),
    Column("x1", Float),
    Column("y1", Float),
    Column("x2", Float),
    Column("y2", Float),
    Column("attributes", JSON, nullable=False),
    Column("model_digest", Name, nullable=False),
    Column("received_timestamp_s", Float, nullable=False),
    UniqueConstraint("device_id", "epoch", "sequence"),
    Index("ix_events_fleet_cursor", "fleet", "cursor"),
    Index("ix_events_timestamp_s", "timestamp_s"),
    # Never hand out a cursor again, not even after retention has emptied the table.
    sqlite_autoincrement=True,
)

tracks = Table(
    "tracks",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("device_id", Name, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("camera_id", Name, nullable=False),
    Column("session", BigInteger, nullable=False),
    Column("track_id", BigInteger, nullable=False),
    Column("fleet", Name, nullable=False),
    Column("class_id", BigInteger, nullable=False),
    Column("first_timestamp_s", Float, nullable=False),
    Column("last_timestamp_s", Float, nullable=False),
    Column("frame_count", BigInteger, nullable=False),
    Column("x1", Float),
    Column("y1", Float),
    Column("x2", Float),
    Column("y2", Float),
    UniqueConstraint("device_id", "epoch", "camera_id", "session", "track_id"),
    Index("ix_tracks_last_timestamp_s", "last_timestamp_s"),
    sqlite_autoincrement=True,
)

embeddings = Table(
    "embeddings",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("track_key", RowId, ForeignKey("tracks.id"), nullable=False),
    Column("fleet", Name, nullable=False),
    Column("frame_index", BigInteger, nullable=False),
    Column("timestamp_s", Float, nullable=False),
    Column("reason", Integer, nullable=False),
    Column("code", LargeBinary, nullable=False),
    Index("ix_embeddings_track_key", "track_key"),
    Index("ix_embeddings_fleet_timestamp_s", "fleet", "timestamp_s"),
    Index("ix_embeddings_timestamp_s", "timestamp_s"),
    sqlite_autoincrement=True,
)

crops = Table(
    "crops",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("track_key", RowId, ForeignKey("tracks.id"), nullable=False),
    Column("event_sequence", BigInteger, nullable=False),
    Column("frame_index", BigInteger, nullable=False),
    Column("timestamp_s", Float, nullable=False),
    Column("blob_key", String(200), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # Two rules may fire for one track in one frame; whether there is a still is up to each.
    UniqueConstraint("track_key", "frame_index", "event_sequence"),
)

ingest_cursors = Table(
    "ingest_cursors",
    metadata,
    Column("device_id", Name, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("batch_sequence", BigInteger, nullable=False),
    Column("event_sequence", BigInteger, nullable=False),
    Column("lost_batch_count", BigInteger, nullable=False),
    Column("lost_event_count", BigInteger, nullable=False),
    Column("duplicate_batch_count", BigInteger, nullable=False),
)

ingest_stats = Table(
    "ingest_stats",
    metadata,
    Column("device_id", Name, primary_key=True),
    Column("camera_id", Name, primary_key=True),
    Column("batch_count", BigInteger, nullable=False),
    Column("frame_count", BigInteger, nullable=False),
    Column("event_count", BigInteger, nullable=False),
    Column("embedding_count", BigInteger, nullable=False),
    Column("refused_row_count", BigInteger, nullable=False),
    Column("track_bytes", BigInteger, nullable=False),
    Column("embedding_bytes", BigInteger, nullable=False),
    Column("event_bytes", BigInteger, nullable=False),
    Column("crop_bytes", BigInteger, nullable=False),
    Column("envelope_bytes", BigInteger, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("device_id", Name, nullable=False),
    Column("fleet", Name, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("received_timestamp_s", Float, nullable=False),
    UniqueConstraint("device_id", "epoch", "sequence"),
    sqlite_autoincrement=True,
)
