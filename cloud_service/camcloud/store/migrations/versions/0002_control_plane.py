"""Control plane: fleets, devices, credentials, models and rollouts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Makes the tables of the control plane."""
    op.create_table(
        "api_tokens",
        sa.Column("token_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("is_read_only", sa.Boolean(), nullable=False),
        sa.Column("expires_timestamp_s", sa.Float(), nullable=True),
        sa.Column("created_timestamp_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("name", name=op.f("uq_api_tokens_name")),
    )
    op.create_table(
        "fleets",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("description", sa.String(length=500), nullable=False),
        sa.Column("created_timestamp_s", sa.Float(), nullable=False),
        sa.Column("rules_yaml", sa.Text(), nullable=False),
        sa.Column("rules_digest", sa.String(length=64), nullable=False),
        sa.Column("release_digest", sa.String(length=64), nullable=False),
        sa.Column("release_is_rollback", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_fleets")),
    )
    op.create_table(
        "models",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("hardware", sa.JSON(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest_json", sa.Text(), nullable=False),
        sa.Column("pushed_timestamp_s", sa.Float(), nullable=False),
        sa.Column("is_approved", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_models")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_models_name")),
    )
    op.create_table(
        "bootstrap_tokens",
        sa.Column("token_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("fleet", sa.String(length=63), nullable=False),
        sa.Column("expires_timestamp_s", sa.Float(), nullable=False),
        sa.Column("used_timestamp_s", sa.Float(), nullable=True),
        sa.Column("used_by", sa.String(length=63), nullable=True),
        sa.ForeignKeyConstraint(
            ["fleet"], ["fleets.name"], name=op.f("fk_bootstrap_tokens_fleet_fleets")
        ),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_bootstrap_tokens")),
    )
    op.create_table(
        "devices",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("fleet", sa.String(length=63), nullable=False),
        sa.Column("hardware", sa.String(length=63), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("sealing_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("enrolled_timestamp_s", sa.Float(), nullable=False),
        sa.Column("last_seen_timestamp_s", sa.Float(), nullable=False),
        sa.Column("is_revoked", sa.Boolean(), nullable=False),
        sa.Column("revoked_reason", sa.String(length=500), nullable=False),
        sa.Column("desired_version", sa.BigInteger(), nullable=False),
        sa.Column("desired_digest", sa.String(length=64), nullable=False),
        sa.Column("desired_is_rollback", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("running_digest", sa.String(length=64), nullable=False),
        sa.Column("refused_digest", sa.String(length=64), nullable=False),
        sa.Column("reported", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["fleet"], ["fleets.name"], name=op.f("fk_devices_fleet_fleets")),
        sa.PrimaryKeyConstraint("device_id", name=op.f("pk_devices")),
    )
    op.create_index("ix_devices_fleet", "devices", ["fleet"], unique=False)
    op.create_table(
        "rollouts",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("fleet", sa.String(length=63), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("waves_begun", sa.Integer(), nullable=False),
        sa.Column("detail", sa.String(length=500), nullable=False),
        sa.Column("created_timestamp_s", sa.Float(), nullable=False),
        sa.Column("ended_timestamp_s", sa.Float(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"], ["models.digest"], name=op.f("fk_rollouts_digest_models")
        ),
        sa.ForeignKeyConstraint(["fleet"], ["fleets.name"], name=op.f("fk_rollouts_fleet_fleets")),
        sa.PrimaryKeyConstraint("rollout_id", name=op.f("pk_rollouts")),
    )
    op.create_index("ix_rollouts_fleet_state", "rollouts", ["fleet", "state"], unique=False)
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("issued_timestamp_s", sa.Float(), nullable=False),
        sa.Column("expires_timestamp_s", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.device_id"], name=op.f("fk_certificates_device_id_devices")
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
    )
    op.create_index("ix_certificates_device_id", "certificates", ["device_id"], unique=False)
    op.create_table(
        "rollout_executions",
        sa.Column("rollout_id", sa.String(length=32), nullable=False),
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("from_digest", sa.String(length=64), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("has_failed", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.String(length=500), nullable=False),
        sa.Column("told_timestamp_s", sa.Float(), nullable=False),
        sa.Column("changed_timestamp_s", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"],
            ["devices.device_id"],
            name=op.f("fk_rollout_executions_device_id_devices"),
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"],
            ["rollouts.rollout_id"],
            name=op.f("fk_rollout_executions_rollout_id_rollouts"),
        ),
        sa.PrimaryKeyConstraint("rollout_id", "device_id", name=op.f("pk_rollout_executions")),
    )
    op.create_index(
        "ix_rollout_executions_device_id", "rollout_executions", ["device_id"], unique=False
    )


def downgrade() -> None:
    """Drops them, with what they hold."""
    op.drop_index("ix_rollout_executions_device_id", table_name="rollout_executions")
    op.drop_table("rollout_executions")
    op.drop_index("ix_certificates_device_id", table_name="certificates")
    op.drop_table("certificates")
    op.drop_index("ix_rollouts_fleet_state", table_name="rollouts")
    op.drop_table("rollouts")
    op.drop_index("ix_devices_fleet", table_name="devices")
    op.drop_table("devices")
    op.drop_table("bootstrap_tokens")
    op.drop_table("models")
    op.drop_table("fleets")
    op.drop_table("api_tokens")
