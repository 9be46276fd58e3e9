"""Data plane: events, tracks, appearance codes, crops, cursors, counters, quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# A revision never imports the tables: they move on, it does not.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME = sa.String(length=128)


def upgrade() -> None:
    """Makes the tables of the data plane."""
    op.create_table(
        "events",
        sa.Column("cursor", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("fleet", NAME, nullable=False),
        sa.Column("camera_id", NAME, nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("frame_index", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_s", sa.Float(), nullable=False),
        sa.Column("rule", NAME, nullable=False),
        sa.Column("track_id", sa.BigInteger(), nullable=False),
        sa.Column("class_id", sa.BigInteger(), nullable=False),
        sa.Column("class_name", NAME, nullable=False),
        sa.Column("score", sa.Float(), nullable=False),
        sa.Column("x1", sa.Float(), nullable=True),
        sa.Column("y1", sa.Float(), nullable=True),
        sa.Column("x2", sa.Float(), nullable=True),
        sa.Column("y2", sa.Float(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("model_digest", NAME, nullable=False),
        sa.Column("received_timestamp_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("cursor", name=op.f("pk_events")),
        sa.UniqueConstraint("device_id", "epoch", "sequence", name=op.f("uq_events_device_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_fleet_cursor", "events", ["fleet", "cursor"], unique=False)
    op.create_index("ix_events_timestamp_s", "events", ["timestamp_s"], unique=False)
    op.create_table(
        "ingest_cursors",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("batch_sequence", sa.BigInteger(), nullable=False),
        sa.Column("event_sequence", sa.BigInteger(), nullable=False),
        sa.Column("lost_batch_count", sa.BigInteger(), nullable=False),
        sa.Column("lost_event_count", sa.BigInteger(), nullable=False),
        sa.Column("duplicate_batch_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "epoch", name=op.f("pk_ingest_cursors")),
    )
    op.create_table(
        "ingest_stats",
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("camera_id", NAME, nullable=False),
        sa.Column("batch_count", sa.BigInteger(), nullable=False),
        sa.Column("frame_count", sa.BigInteger(), nullable=False),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("embedding_count", sa.BigInteger(), nullable=False),
        sa.Column("refused_row_count", sa.BigInteger(), nullable=False),
        sa.Column("track_bytes", sa.BigInteger(), nullable=False),
        sa.Column("embedding_bytes", sa.BigInteger(), nullable=False),
        sa.Column("event_bytes", sa.BigInteger(), nullable=False),
        sa.Column("crop_bytes", sa.BigInteger(), nullable=False),
        sa.Column("envelope_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "camera_id", name=op.f("pk_ingest_stats")),
    )
    op.create_table(
        "quarantine",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("fleet", NAME, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("received_timestamp_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quarantine")),
        sa.UniqueConstraint("device_id", "epoch", "sequence", name=op.f("uq_quarantine_device_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "tracks",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("device_id", NAME, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("camera_id", NAME, nullable=False),
        sa.Column("session", sa.BigInteger(), nullable=False),
        sa.Column("track_id", sa.BigInteger(), nullable=False),
        sa.Column("fleet", NAME, nullable=False),
        sa.Column("class_id", sa.BigInteger(), nullable=False),
        sa.Column("first_timestamp_s", sa.Float(), nullable=False),
        sa.Column("last_timestamp_s", sa.Float(), nullable=False),
        sa.Column("frame_count", sa.BigInteger(), nullable=False),
        sa.Column("x1", sa.Float(), nullable=True),
        sa.Column("y1", sa.Float(), nullable=True),
        sa.Column("x2", sa.Float(), nullable=True),
        sa.Column("y2", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tracks")),
        sa.UniqueConstraint(
            "device_id",
            "epoch",
            "camera_id",
            "session",
            "track_id",
            name=op.f("uq_tracks_device_id"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tracks_last_timestamp_s", "tracks", ["last_timestamp_s"], unique=False)
    op.create_table(
        "crops",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("track_key", ROW_ID, nullable=False),
        sa.Column("event_sequence", sa.BigInteger(), nullable=False),
        sa.Column("frame_index", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_s", sa.Float(), nullable=False),
        sa.Column("blob_key", sa.String(length=200), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["track_key"], ["tracks.id"], name=op.f("fk_crops_track_key_tracks")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crops")),
        sa.UniqueConstraint("track_key", "frame_index", name=op.f("uq_crops_track_key")),
    )
    op.create_table(
        "embeddings",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        sa.Column("track_key", ROW_ID, nullable=False),
        sa.Column("fleet", NAME, nullable=False),
        sa.Column("frame_index", sa.BigInteger(), nullable=False),
        sa.Column("timestamp_s", sa.Float(), nullable=False),
        sa.Column("reason", sa.Integer(), nullable=False),
        sa.Column("code", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["track_key"], ["tracks.id"], name=op.f("fk_embeddings_track_key_tracks")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embeddings")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_embeddings_fleet_timestamp_s", "embeddings", ["fleet", "timestamp_s"], unique=False
    )
    op.create_index("ix_embeddings_timestamp_s", "embeddings", ["timestamp_s"], unique=False)
    op.create_index("ix_embeddings_track_key", "embeddings", ["track_key"], unique=False)


def downgrade() -> None:
    """Drops them, with what they hold."""
    op.drop_index("ix_embeddings_track_key", table_name="embeddings")
    op.drop_index("ix_embeddings_timestamp_s", table_name="embeddings")
    op.drop_index("ix_embeddings_fleet_timestamp_s", table_name="embeddings")
    op.drop_table("embeddings")
    op.drop_table("crops")
    op.drop_index("ix_tracks_last_timestamp_s", table_name="tracks")
    op.drop_table("tracks")
    op.drop_table("quarantine")
    op.drop_table("ingest_stats")
    op.drop_table("ingest_cursors")
    op.drop_index("ix_events_timestamp_s", table_name="events")
    op.drop_index("ix_events_fleet_cursor", table_name="events")
    op.drop_table("events")
