"""Fetches a sealed artifact into a file, going on where an earlier attempt stopped.

What arrives is only bytes: whether they are the artifact is decided by opening the envelope and the
bundle (``camagent.updater``). So the checks here are about amounts: nothing beyond the stated size,
no size beyond the bound, no hole.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc

from camagent.link import Backoff, CloudLink
from camproto.v1 import device_pb2
from camsdk.artifact.bundle import MAX_BUNDLE_BYTES
from camsdk.artifact.envelope import sealed_size
from camsdk.errors import (
    CamError,
    DataCorrupted,
    DeadlineExceeded,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from camsdk.files import sync_folder

_STALL_TIMEOUT_S: Final = 300.0  # for one attempt: slow lines resume, silent ones end
_MAX_SEALED_BYTES: Final = sealed_size(MAX_BUNDLE_BYTES)


def fetch_artifact(
    link: CloudLink,
    digest: str,
    path: Path,
    is_wanted: Callable[[], bool],
    pause: Callable[[float], object],
) -> bool:
    """Completes ``path`` with the artifact, over as many attempts as it takes.

    Args:
        link: The channel.
        digest: Of the bundle that is sealed in it.
        path: Holds what earlier attempts brought.
        is_wanted: Asked between chunks and attempts.
        pause: Waits between attempts, seconds; may return earlier.

    Returns:
        Whether it is complete; False when it was no longer wanted.

    Raises:
        CamError: the cloud refuses (no such artifact, no permission), or sends nonsense.
    """
    backoff = Backoff()
    while is_wanted():
        try:
            return _attempt(link, digest, path, is_wanted, backoff)
        except Unavailable:
            pause(backoff.next_s())
    return False


def _attempt(
    link: CloudLink, digest: str, path: Path, is_wanted: Callable[[], bool], backoff: Backoff
) -> bool:
    try:
        with path.open("ab") as file:
            call = link.gateway().FetchArtifact(
                device_pb2.FetchArtifactRequest(digest=digest, offset=file.tell()),
                timeout=_STALL_TIMEOUT_S,
            )
            total_size = 0
            for chunk in call:
                if not is_wanted():
                    call.cancel()  # type: ignore[no-untyped-call] # so in grpc-stubs
                    return False
                total_size = chunk.total_size
                _check(chunk, file.tell(), path)
                file.write(chunk.data)
                backoff.reset()
            file.flush()
            os.fsync(file.fileno())  # what names it as complete is synced too, and may be first
            size = file.tell()
        if total_size and size < total_size:
            raise Unavailable("the artifact's stream ended early")
        sync_folder(path.parent)
    except grpc.RpcError as error:
        raise _retry_or_raise(link.explain(error)) from error
    except OSError as error:
        raise ResourceExhausted(
            f"the artifact cannot be stored: {error.strerror}", "free disk space on the device"
        ) from error
    return True


def _check(chunk: device_pb2.ArtifactChunk, offset: int, path: Path) -> None:
    if chunk.total_size > _MAX_SEALED_BYTES or offset + len(chunk.data) > chunk.total_size:
        path.unlink()
        raise DataCorrupted("the cloud sends more of an artifact than it may")
    if chunk.offset != offset:
        path.unlink()
        raise DataCorrupted("the cloud left out a part of an artifact")


def _retry_or_raise(error: CamError) -> CamError:
    """A deadline is an outage here; everything else is an answer."""
    is_outage = isinstance(error, DeadlineExceeded | Unauthenticated)
    return Unavailable(error.message, error.hint) if is_outage else error
