"""SDK of the camera platform: value types, artifact format, wire codec, client and tools.

``from camsdk import Client`` is all that an application needs. Names are loaded on first use, so
that a camera agent, which imports only the light parts, pays for nothing else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camsdk.client import AsyncClient, Client, Credentials
    from camsdk.errors import CamError

__version__ = "0.1.0"
__all__ = ["AsyncClient", "CamError", "Client", "Credentials", "__version__"]


def __getattr__(name: str) -> Any:
    if name in {"AsyncClient", "Client", "Credentials"}:
        from camsdk import client

        return getattr(client, name)
    if name == "CamError":
        from camsdk.errors import CamError

        return CamError
    raise AttributeError(f"module 'camsdk' has no attribute {name!r}")
