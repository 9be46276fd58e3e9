"""Tables of the control plane: fleets, devices, credentials, models and rollouts.

Invariants:
- Secrets are never stored: tokens as SHA-256 of 256 random bits, private keys not at all.
- A device's desired state (``desired_*``, ``attempt``) is written in the same transaction as the
  rollout that wants it, so a restart can neither lose nor repeat an order.
- ``desired_version`` and ``attempt`` of a device only grow.

Timestamps are seconds since the Unix epoch. Digests are SHA-256, lower-case hexadecimal.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from camcloud.store.metadata import metadata

Name = String(63)
Digest = String(64)

fleets = Table(
    "fleets",
    metadata,
    Column("name", Name, primary_key=True),
    Column("description", String(500), nullable=False),
    Column("created_timestamp_s", Float, nullable=False),
    Column("rules_yaml", Text, nullable=False),
    Column("rules_digest", Digest, nullable=False),
    # Artifact of the last completed rollout, "" before the first: what newcomers get.
    Column("release_digest", Digest, nullable=False),
    Column("release_is_rollback", Boolean, nullable=False),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", Name, primary_key=True),
    Column("fleet", Name, ForeignKey("fleets.name"), nullable=False),
    Column("hardware", Name, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("sealing_key", LargeBinary(32), nullable=False),
    Column("enrolled_timestamp_s", Float, nullable=False),
    Column("last_seen_timestamp_s", Float, nullable=False),
    Column("is_revoked", Boolean, nullable=False),
    Column("revoked_reason", String(500), nullable=False),
    Column("desired_version", BigInteger, nullable=False),
    Column("desired_digest", Digest, nullable=False),
    Column("desired_is_rollback", Boolean, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("running_digest", Digest, nullable=False),
    Column("refused_digest", Digest, nullable=False),
    Column("reported", LargeBinary, nullable=False),  # serialized DeviceReport, the last one kept
    Index("ix_devices_fleet", "fleet"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),  # lower-case hexadecimal
    Column("device_id", Name, ForeignKey("devices.device_id"), nullable=False),
    Column("issued_timestamp_s", Float, nullable=False),
    Column("expires_timestamp_s", Float, nullable=False),
    Index("ix_certificates_device_id", "device_id"),
)

bootstrap_tokens = Table(
    "bootstrap_tokens",
    metadata,
    Column("token_hash", LargeBinary(32), primary_key=True),
    Column("fleet", Name, ForeignKey("fleets.name"), nullable=False),
    Column("expires_timestamp_s", Float, nullable=False),
    Column("used_timestamp_s", Float),
    Column("used_by", Name),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("token_hash", LargeBinary(32), primary_key=True),
    Column("name", Name, nullable=False, unique=True),
    Column("is_read_only", Boolean, nullable=False),
    Column("expires_timestamp_s", Float),  # NULL: never
    Column("created_timestamp_s", Float, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("digest", Digest, primary_key=True),
    Column("name", Name, nullable=False),
    Column("version", Integer, nullable=False),
    Column("hardware", JSON, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("manifest_json", Text, nullable=False),
    Column("pushed_timestamp_s", Float, nullable=False),
    Column("is_approved", Boolean, nullable=False),
    UniqueConstraint("name", "version"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout_id", String(32), primary_key=True),
    Column("fleet", Name, ForeignKey("fleets.name"), nullable=False),
    Column("digest", Digest, ForeignKey("models.digest"), nullable=False),
    Column("plan", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("waves_begun", Integer, nullable=False),
    Column("detail", String(500), nullable=False),
    Column("created_timestamp_s", Float, nullable=False),
    Column("ended_timestamp_s", Float, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Index("ix_rollouts_fleet_state", "fleet", "state"),
)

rollout_executions = Table(
    "rollout_executions",
    metadata,
    Column("rollout_id", String(32), ForeignKey("rollouts.rollout_id"), primary_key=True),
    Column("device_id", Name, ForeignKey("devices.device_id"), primary_key=True),
    Column("wave", Integer, nullable=False),
    Column("state", String(32), nullable=False),
    Column("from_digest", Digest, nullable=False),
    Column("attempt", BigInteger, nullable=False),
    Column("has_failed", Boolean, nullable=False),
    Column("detail", String(500), nullable=False),
    Column("told_timestamp_s", Float, nullable=False),
    Column("changed_timestamp_s", Float, nullable=False),
    Index("ix_rollout_executions_device_id", "device_id"),
)
