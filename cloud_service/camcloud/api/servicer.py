"""The whole user API in one servicer: control, releases, data, and the cloud at a glance."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import override

from camcloud.api.control import ControlApi, ControlPlane
from camcloud.api.data import DataApi
from camcloud.api.errors import Context
from camcloud.api.releases import ReleaseApi
from camcloud.data_plane import DataPlane
from camcloud.fleet.devices import count_devices
from camcloud.registry import Registry
from camproto.v1 import api_pb2
from camsdk import __version__


@dataclass(frozen=True)
class Instance:
    """This cloud, as it presents itself.

    Attributes:
        profile: ``embedded`` or ``cluster``.
        data_dir: Of the embedded profile, else ``""``.
        started_timestamp_s: Seconds since the Unix epoch.
    """

    profile: str
    data_dir: str
    started_timestamp_s: float


class CloudApi(ControlApi, ReleaseApi, DataApi):
    """All methods of ``camproto.v1.CloudApi``."""

    def __init__(
        self,
        control: ControlPlane,
        registry: Registry,
        data: DataPlane,
        instance: Instance,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        ControlApi.__init__(self, control)
        ReleaseApi.__init__(self, control.database, registry, control.rollouts)
        DataApi.__init__(self, data)
        self._instance = instance
        self._clock = clock

    @override
    async def GetStatus(
        self, request: api_pb2.GetStatusRequest, context: Context
    ) -> api_pb2.CloudStatus:
        """Counts and identity of this cloud."""
        counts = await self._data.counts()
        device_count = await self._database.arun(count_devices)
        return api_pb2.CloudStatus(
            version=__version__,
            started_timestamp_s=self._instance.started_timestamp_s,
            device_count=device_count,
            connected_device_count=self._plane.presence.connected_count,
            event_count=counts.event_count,
            embedding_count=counts.embedding_count,
            bus_depth=counts.bus_depth,
            rejected_batch_count=counts.rejected_batch_count,
            profile=self._instance.profile,
            data_dir=self._instance.data_dir,
            now_timestamp_s=self._clock(),
        )
