"""Enrolment: a one-time token and a signing request against a device certificate.

Token, device and certificate are one transaction: a request that fails leaves the token unused, and
of any number of racers with one token exactly one becomes a device.
"""

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection
from typing_extensions import override

from camcloud.api.errors import Context
from camcloud.fleet import certificates, devices, tokens
from camcloud.fleet.authority import CertificateAuthority
from camcloud.store.database import Database
from camproto.v1 import device_pb2
from camproto.v1.device_pb2_grpc import EnrolmentServicer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnrolmentTerms:
    """What every new device is told.

    Attributes:
        device_endpoint: ``host:port`` of the device gateway.
        trust_keys: Ed25519 public keys, 32 bytes each, that artifacts may be signed with.
    """

    device_endpoint: str
    trust_keys: tuple[bytes, ...]


class Enrolment(EnrolmentServicer):
    """The only service that a device calls without a certificate."""

    def __init__(
        self,
        database: Database,
        authority: CertificateAuthority,
        terms: EnrolmentTerms,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._authority = authority
        self._terms = terms
        self._clock = clock

    @override
    async def Enroll(
        self, request: device_pb2.EnrollRequest, context: Context
    ) -> device_pb2.EnrollResponse:
        """Makes a device of whoever holds an unused token and a key.

        Raises:
            Unauthenticated: The token is unknown, used or expired.
            AlreadyExists: The proposed name is taken; the token stays good.
            InvalidInput: Another field is not allowed; the token stays good.
        """
        response = await self._database.arun(lambda connection: self._enroll(connection, request))
        _LOG.info("device %s enrolled into fleet %s", response.device_id, response.fleet)
        return response

    def _enroll(
        self, connection: Connection, request: device_pb2.EnrollRequest
    ) -> device_pb2.EnrollResponse:
        now_s = self._clock()
        device_id = request.proposed_name or f"cam-{secrets.token_hex(4)}"
        # The token comes first: whoever has none learns nothing of names.
        fleet = tokens.claim_bootstrap(connection, request.token, device_id, now_s)
        devices.add_device(
            connection,
            device_id=device_id,
            fleet=fleet,
            hardware=request.hardware,
            labels=dict(request.labels),
            sealing_key=request.sealing_key,
            now_s=now_s,
        )
        certificate = self._authority.issue_device(
            request.csr_der, fleet=fleet, device_id=device_id
        )
        certificates.record(connection, device_id, certificate, now_s)
        return device_pb2.EnrollResponse(
            device_id=device_id,
            fleet=fleet,
            certificate_chain_pem=certificate.pem,
            ca_pem=self._authority.ca_pem,
            artifact_trust_keys=b"".join(self._terms.trust_keys),
            device_endpoint=self._terms.device_endpoint,
        )
