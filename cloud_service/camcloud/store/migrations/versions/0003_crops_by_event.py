"""Crops: one for each event, also when two rules fire for one track in one frame."""

from alembic import op

revision = "0003"
down_revision = "0002"

_NAME = "uq_crops_track_key"


def upgrade() -> None:
    """Widens the key by the event."""
    _replace_key("track_key", "frame_index", "event_sequence")


def downgrade() -> None:
    """Narrows it again; fails, and changes nothing, if two events share track and frame."""
    _replace_key("track_key", "frame_index")


def _replace_key(*columns: str) -> None:
    with op.batch_alter_table("crops") as table:
        table.drop_constraint(op.f(_NAME), type_="unique")
        table.create_unique_constraint(op.f(_NAME), list(columns))
