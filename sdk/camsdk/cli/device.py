"""``camctl device``: the camera boxes that have enrolled."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from camsdk.cli.moments import show_age, show_moment
from camsdk.cli.options import DeviceArgument, FleetFilter
from camsdk.cli.profile import Cloud, cloud_command

if TYPE_CHECKING:
    from camsdk.client import CameraStatus, Device

app = typer.Typer(help="Devices: the camera boxes that have enrolled.", no_args_is_help=True)


def _state(device: "Device") -> str:
    if device.is_revoked:
        return "revoked"
    return "connected" if device.is_connected else "away"


def _last_seen(device: "Device") -> str:
    return show_age(device.last_seen_timestamp_s) if device.last_seen_timestamp_s else "never"


def _labels(device: "Device") -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(device.labels.items()))


@cloud_command(app, "list")
def list_devices(cloud: Cloud, fleet: FleetFilter = "") -> None:
    """Lists devices with the model that each runs."""
    devices = cloud.client.list_devices(fleet=fleet)
    if cloud.out.is_json:
        cloud.out.json({"devices": devices})
        return
    cloud.out.table(
        ("=device", "=fleet", "state", "=model", "update", "hardware", "last seen", "labels"),
        [
            (
                row.device_id,
                row.fleet,
                _state(row),
                row.reported.running_name or "-",
                row.reported.update_state.value,
                row.hardware,
                _last_seen(row),
                _labels(row),
            )
            for row in devices
        ],
        "no devices: `camctl token create --fleet NAME` makes a token with which one can enrol",
    )


def _show(cloud: Cloud, device: "Device") -> None:
    if cloud.out.is_json:
        cloud.out.json(device)
        return
    reported, desired = device.reported, device.desired
    cloud.out.fields(
        {
            "device": device.device_id,
            "fleet": device.fleet,
            "state": f"{_state(device)}, last seen {_last_seen(device)}",
            "hardware": device.hardware,
            "agent": reported.agent_version,
            "labels": _labels(device),
            "enrolled": show_moment(device.enrolled_timestamp_s),
            "certificate": f"until {show_moment(device.certificate_expires_timestamp_s)}",
            "runs": f"{reported.running_name} {reported.running_digest[:12]}".strip() or "no model",
            "wanted": f"{desired.artifact_name} {desired.artifact_digest[:12]}".strip(),
            "update": f"{reported.update_state.value} {reported.detail}".strip(),
            "rules": reported.rules_digest,
        }
    )
    if reported.cameras:
        _draw_cameras(cloud, reported.cameras)


def _draw_cameras(cloud: Cloud, cameras: "Iterable[CameraStatus]") -> None:
    headings = (
        "=camera",
        "state",
        ">frames",
        ">dropped",
        ">detections",
        ">reconnects",
        ">cpu ms/frame",
        ">cpu ms/detection",
    )
    rows = [
        (
            camera.camera_id,
            "finished" if camera.is_finished else "online" if camera.is_online else "offline",
            camera.frame_count,
            camera.dropped_frames,
            camera.detector_calls,
            camera.reconnects,
            f"{camera.cpu_ms_per_frame:.2f}",
            f"{camera.detector_cpu_ms:.1f}",
        )
        for camera in cameras
    ]
    cloud.out.table(headings, rows, "no cameras")


@cloud_command(app, "show")
def show(cloud: Cloud, device_id: DeviceArgument) -> None:
    """Shows one device: what it runs, what it should run, its cameras."""
    _show(cloud, cloud.client.get_device(device_id))


@cloud_command(app, "label")
def label(
    cloud: Cloud,
    device_id: DeviceArgument,
    labels: Annotated[list[str], typer.Argument(help="KEY=VALUE to set, KEY- to remove.")],
) -> None:
    """Sets and removes labels of a device."""
    wanted: dict[str, str] = {}
    unwanted: list[str] = []
    for text in labels:
        key, separator, value = text.partition("=")
        if separator and key:
            wanted[key] = value
        elif text.endswith("-") and len(text) > 1 and not separator:
            unwanted.append(text[:-1])
        else:
            raise typer.BadParameter(f"{text!r} is neither KEY=VALUE nor KEY-")
    _show(cloud, cloud.client.label_device(device_id, wanted, remove=unwanted))


@cloud_command(app, "revoke")
def revoke(
    cloud: Cloud,
    device_id: DeviceArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Shuts a device out for good; to come back it must enrol anew."""
    if not is_sure and sys.stdin.isatty():
        typer.confirm(f"Shut {device_id} out for good?", abort=True, err=True)
    _show(cloud, cloud.client.revoke_device(device_id, reason=reason))
