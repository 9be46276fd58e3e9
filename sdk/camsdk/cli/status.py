"""``camctl status``: the cloud at a glance."""

import typer

from camsdk.cli.moments import show_duration
from camsdk.cli.profile import Cloud, cloud_command


def register(app: typer.Typer) -> None:
    """Adds ``status`` to the root."""
    cloud_command(app, "status")(status)


def status(cloud: Cloud) -> None:
    """Shows the cloud at a glance: devices, events, backlog, bytes by kind."""
    state = cloud.client.status()
    stats = cloud.client.ingest_stats()
    if cloud.out.is_json:
        cloud.out.json({"status": state, "ingest": stats})
        return
    kinds = ", ".join(f"{name} {size:,}" for name, size in sorted(stats.bytes_by_kind.items()))
    cloud.out.fields(
        {
            "cloud": f"{state.version} ({state.profile})",
            "data": state.data_dir,
            "up for": show_duration(state.now_timestamp_s - state.started_timestamp_s),
            "devices": f"{state.device_count}, {state.connected_device_count} connected",
            "events": f"{state.event_count:,}",
            "embeddings": f"{state.embedding_count:,}",
            "batches": f"{stats.batch_count:,} with {stats.frame_count:,} frames, "
            f"{stats.duplicate_batch_count:,} resent",
            "bytes by kind": kinds,
            "backlog": f"{state.bus_depth:,} batches",
            "lost": f"{stats.lost_batch_count:,} batches, {stats.lost_event_count:,} events",
            "set aside": f"{state.rejected_batch_count:,} batches that did not decode",
        }
    )
