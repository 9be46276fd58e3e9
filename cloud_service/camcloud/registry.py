"""The registry: signed models, each kept as the very bytes that were signed.

Invariants:
- Nothing enters whose signature by a trusted key does not verify.
- ``name:version`` is given to one content for ever; pushing the same bytes again changes nothing,
  but mends a blob that was damaged.
- The bytes are in the blob store before the row exists.
- A bundle leaves only if its bytes are still those that were signed, and sealed for one device; the
  sealed form is kept until the device runs or refuses it, so that a download can resume.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from camcloud.blobs import Blobs
from camcloud.fleet.devices import find_device
from camcloud.store.database import Database
from camcloud.store.fleet_tables import models
from camsdk.artifact.bundle import Bundle, open_bundle
from camsdk.artifact.envelope import seal
from camsdk.artifact.keys import key_id
from camsdk.artifact.manifest import Manifest, parse_reference
from camsdk.artifact.signature import BLOCK_BYTES, signer_of
from camsdk.errors import (
    AlreadyExists,
    ArtifactRefused,
    DataCorrupted,
    InvalidInput,
    NotFound,
)

_HEX = frozenset("0123456789abcdef")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelRow:
    """A model of the registry.

    Attributes:
        digest: SHA-256 of the signed bundle, hexadecimal.
        hardware: What it was made for.
        is_approved: Whether a deployment without a name may choose it.
    """

    digest: str
    name: str
    version: int
    hardware: tuple[str, ...]
    size_bytes: int
    manifest_json: str
    pushed_timestamp_s: float
    is_approved: bool

    @property
    def reference(self) -> str:
        """``name:version``."""
        return f"{self.name}:{self.version}"

    @property
    def kind(self) -> str:
        """As its manifest has it: cameras run detectors alone."""
        return str(json.loads(self.manifest_json).get("kind", "detector"))

    def fits(self, hardware: str) -> bool:
        """Whether it was made for that hardware."""
        return hardware in self.hardware


class Registry:
    """Models in ``blobs``, described in ``database``.

    Args:
        trust_keys: Ed25519 public keys, 32 bytes each, of which one must have signed.
        signing_hint: Says to whoever pushes what another key signed how to sign with a trusted one.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        trust_keys: Sequence[bytes],
        *,
        signing_hint: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._trust_keys = tuple(trust_keys)
        self._signing_hint = signing_hint
        self._clock = clock
        self._sealing = asyncio.Lock()

    async def push(self, data: bytes) -> ModelRow:
        """Takes a signed bundle in.

        Raises:
            DataCorrupted: Not a bundle.
            ArtifactRefused: Not signed by a trusted key.
            AlreadyExists: Another content has that name and version.
        """
        bundle = await asyncio.to_thread(self._verified, data)
        manifest, digest = bundle.manifest, bundle.digest
        taken = await self._database.arun(lambda connection: _same_name(connection, manifest))
        if taken is None or taken.digest == digest:  # again: its blob may have been lost or damaged
            await asyncio.to_thread(self._blobs.put, _model_key(digest), data)
        size_bytes, now_s = len(data), self._clock()
        row = await self._database.arun(
            lambda connection: _add(connection, manifest, digest, size_bytes, now_s)
        )
        _LOG.info("model %s is in the registry, digest %s", row.reference, digest)
        return row

    def _verified(self, data: bytes) -> Bundle:
        try:
            return open_bundle(data, self._trust_keys)
        except ArtifactRefused as error:
            if signer_of(data[-BLOCK_BYTES:]) in self._trust_keys:
                raise
            # Not what is wrong with the bytes, but who signed them: that can be mended.
            trusted = ", ".join(map(key_id, self._trust_keys))
            hint = f"this cloud trusts {trusted}: {self._signing_hint or error.hint}"
            raise ArtifactRefused(error.message, hint) from error

    async def sealed(self, device_id: str, digest: str) -> tuple[str, int]:
        """Blob key and size of a bundle encrypted for one device; made at first use.

        Raises:
            NotFound: No such device or model.
            DataCorrupted: The stored bundle was damaged.
        """
        key = _sealed_key(device_id, digest)
        async with self._sealing:  # one at a time bounds the memory
            if not await asyncio.to_thread(self._blobs.exists, key):
                device = await self._database.arun(lambda c: find_device(c, device_id))
                await asyncio.to_thread(self._seal, key, device_id, digest, device.sealing_key)
        return key, await asyncio.to_thread(self._blobs.size_bytes, key)

    async def read_sealed(self, key: str, offset: int, length: int) -> bytes:
        """Part of what :meth:`sealed` made."""
        return await asyncio.to_thread(self._blobs.get, key, offset, length)

    async def forget_sealed(self, device_id: str, digest: str) -> None:
        """The device has it or refused it: the copy that was made for it goes."""
        await asyncio.to_thread(self._blobs.delete, _sealed_key(device_id, digest))

    def _seal(self, key: str, device_id: str, digest: str, sealing_key: bytes) -> None:
        data = self._blobs.get(_model_key(digest))
        if hashlib.sha256(data).hexdigest() != digest:
            raise DataCorrupted(
                f"The registry's copy of {digest[:12]} is damaged.",
                "push the same bundle again with camctl model push, then deploy again",
            )
        # What was sealed for orders that the device never finished: one copy a device is enough.
        self._blobs.delete_below(_sealed_folder(device_id))
        self._blobs.put(key, seal(data, sealing_key, device_id=device_id, digest=digest))


def find_model(connection: Connection, reference: str) -> ModelRow:
    """By ``NAME`` (the highest version), ``NAME:VERSION`` or digest.

    Raises:
        InvalidInput: None of the three.
        NotFound: No such model.
    """
    if len(reference) == 64 and _HEX.issuperset(reference):
        query = select(models).where(models.c.digest == reference)
    else:
        name, version = parse_reference(reference)
        query = select(models).where(models.c.name == name)
        if version is not None:
            query = query.where(models.c.version == version)
    row = connection.execute(query.order_by(models.c.version.desc()).limit(1)).one_or_none()
    if row is None:
        raise NotFound(f"There is no model {reference}.", "camctl model list shows all")
    return _model(row)


def list_models(connection: Connection, name: str = "") -> tuple[ModelRow, ...]:
    """Models, the newest first, of one name or of all."""
    query = select(models).order_by(models.c.pushed_timestamp_s.desc(), models.c.version.desc())
    if name:
        query = query.where(models.c.name == name)
    return tuple(_model(row) for row in connection.execute(query))


def newest_model(connection: Connection, hardware: Iterable[str], name: str = "") -> ModelRow:
    """The highest approved version of a detector that fits every kind of hardware given.

    Args:
        name: Of the model, ``""`` for the only one that fits.

    Raises:
        InvalidInput: Without a name, detectors of several names fit.
        NotFound: None fits them all.
    """
    kinds = sorted(set(hardware))
    fitting = [
        row
        for row in list_models(connection, name)
        if row.is_approved and row.kind == "detector" and all(row.fits(kind) for kind in kinds)
    ]
    names = sorted({row.name for row in fitting})
    if not fitting:
        raise NotFound(
            f"No approved detector{f' {name}' if name else ''} fits "
            f"{', '.join(kinds) or 'any device'}.",
            "push one with camctl model push, or name the model to deploy",
        )
    if len(names) > 1:
        raise InvalidInput(
            f"The fleet runs no model yet, and it could run {', '.join(names)}.",
            "name one: camctl deploy model NAME --fleet FLEET",
        )
    return max(fitting, key=lambda row: row.version)


def references(connection: Connection) -> dict[str, str]:
    """``name:version`` of every digest, and ``""`` for the digest ``""``."""
    query = select(models.c.digest, models.c.name, models.c.version)
    return {"": ""} | {row.digest: f"{row.name}:{row.version}" for row in connection.execute(query)}


def reference_of(connection: Connection, digest: str) -> str:
    """``name:version`` of a digest, ``""`` when the registry does not know it.

    What a device ran before its first order may be from elsewhere; an abort sends it back to that.
    """
    query = select(models.c.name, models.c.version).where(models.c.digest == digest)
    row = connection.execute(query).one_or_none()
    return "" if row is None else f"{row.name}:{row.version}"


def _same_name(connection: Connection, manifest: Manifest) -> ModelRow | None:
    query = select(models).where(
        models.c.name == manifest.name, models.c.version == manifest.version
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _model(row)


def _highest(connection: Connection, name: str) -> int:
    """Version of that name, of which there is one."""
    return max(row.version for row in list_models(connection, name))


def _add(
    connection: Connection, manifest: Manifest, digest: str, size_bytes: int, now_s: float
) -> ModelRow:
    taken = _same_name(connection, manifest)
    if taken is not None:
        if taken.digest == digest:
            return taken
        raise AlreadyExists(
            f"The registry has another {manifest.reference}, with digest {taken.digest[:12]}.",
            "versions never change: sign it as the next one that is free, such as with "
            f"camctl model sign FILE.cam --version {_highest(connection, manifest.name) + 1}",
        )
    row = ModelRow(
        digest=digest,
        name=manifest.name,
        version=manifest.version,
        hardware=manifest.hardware,
        size_bytes=size_bytes,
        manifest_json=manifest.to_bytes().decode(),
        pushed_timestamp_s=now_s,
        # Who holds a trusted signing key has approved it by signing.
        is_approved=True,
    )
    connection.execute(insert(models).values(**{**vars(row), "hardware": list(row.hardware)}))
    return row


def _model(row: Row[Any]) -> ModelRow:
    values = dict(row._mapping)
    return ModelRow(**{**values, "hardware": tuple(values["hardware"])})


def _model_key(digest: str) -> str:
    return f"models/{digest}.cam"


def _sealed_folder(device_id: str) -> str:
    return f"sealed/{device_id}"


def _sealed_key(device_id: str, digest: str) -> str:
    return f"{_sealed_folder(device_id)}/{digest}"
