"""What rules name that a fleet does not know.

Such rules are in order: a camera may be added later, and the next model may have other classes.
Until then they count nothing, which whoever applies them should hear.
"""

from collections.abc import Iterable, Sequence, Set

from camcloud.api.messages import last_report
from camcloud.fleet.devices import DeviceRow
from camcloud.fleet.presence import Presence
from camcloud.registry import ModelRow
from camsdk.artifact.manifest import Manifest
from camsdk.vision.rules import EVERY_CAMERA, Rules

_MOST_NAMES = 10
"""In one sentence; a model may have thousands of classes."""


def reported_cameras(devices: Iterable[DeviceRow], presence: Presence) -> frozenset[str]:
    """Ids of the cameras that these devices have reported."""
    return frozenset(
        camera.camera_id for device in devices for camera in last_report(device, presence).cameras
    )


def warnings(rules: Rules, fleet: str, cameras: Set[str], released: ModelRow | None) -> list[str]:
    """A sentence on the cameras that the rules name and the fleet does not know, one on classes.

    Args:
        cameras: That the fleet has reported; with none of them nothing is said of cameras.
        released: What the fleet last released; with ``None`` nothing is said of classes.
    """
    found: list[str] = []
    strangers = sorted(rules.cameras.keys() - cameras - {EVERY_CAMERA})
    if cameras and strangers:
        found.append(
            f"no device of {fleet} has reported the camera {_listed(strangers)}; "
            f"it has {_listed(sorted(cameras))}"
        )
    if released is not None:
        classes = Manifest.from_bytes(released.manifest_json.encode()).classes
        unknown = sorted(_class_names(rules) - set(classes))
        if unknown:
            found.append(
                f"{released.reference}, which {fleet} runs, has no class {_listed(unknown)}; "
                f"it has {_listed(classes)}"
            )
    return found


def _class_names(rules: Rules) -> set[str]:
    names: set[str] = set()
    for camera in rules.cameras.values():
        names.update(*(line.classes for line in camera.lines))
        names.update(*(zone.classes for zone in camera.zones))
    return names


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    rest = len(names) - _MOST_NAMES
    return f"{shown} and {rest} more" if rest > 0 else shown
