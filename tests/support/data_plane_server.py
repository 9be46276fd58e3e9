"""A process with gateway, data plane and data API over a folder, for tests that kill it.

    python data_plane_server.py FOLDER

Devices say their name in the metadata ``device``: identity is not what these tests are about.
Prints its port in one line, then serves until it is killed.
"""

import asyncio
import sys
from pathlib import Path

import grpc.aio

from camcloud.api.auth import DeviceIdentity
from camcloud.api.data import DataApi
from camcloud.gateway import IngestServicer
from camcloud.listeners import DEVICE_OPTIONS, make_server
from camproto.v1.api_pb2_grpc import add_CloudApiServicer_to_server
from camproto.v1.device_pb2_grpc import add_DeviceGatewayServicer_to_server
from support.data_plane import data_plane


def identify(context: grpc.aio.ServicerContext) -> DeviceIdentity:
    return DeviceIdentity(str(dict(context.invocation_metadata())["device"]), "park-a")


async def serve(folder: Path) -> None:
    async with data_plane(folder) as plane:
        server = make_server(None, DEVICE_OPTIONS)
        add_DeviceGatewayServicer_to_server(IngestServicer(plane.bus, identify), server)
        add_CloudApiServicer_to_server(DataApi(plane), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
