"""Enrolment: a single-use token becomes an identity, on the one connection without mTLS.

The token brings the certificate that the cloud must show, so the first connection is verified too.
"""

from typing import Final

import grpc

from camagent.identity import Identity, check_certificate, new_key, signing_request
from camagent.link import cam_error
from camproto.v1 import device_pb2, device_pb2_grpc
from camsdk.artifact.keys import generate_sealing_key, public_bytes, split_trust_keys
from camsdk.errors import DataCorrupted
from camsdk.wire.tokens import BootstrapToken

TIMEOUT_S: Final = 10.0


def enroll(
    token: BootstrapToken,
    *,
    hardware: str,
    endpoint: str = "",
    name: str = "",
    timeout_s: float = TIMEOUT_S,
) -> Identity:
    """Trades a single-use token for an identity.

    Args:
        token: From ``camctl token create``; brings the certificate that the cloud must show.
        hardware: What artifacts must be made for.
        endpoint: ``host:port`` instead of the token's.
        name: Wish for the device's name; empty lets the cloud choose.
        timeout_s: For the whole exchange.

    Raises:
        CamError: the cloud cannot be reached, refuses the token, or answers nonsense.
    """
    key_pem = new_key()
    sealing_key = generate_sealing_key()
    request = device_pb2.EnrollRequest(
        token=token.secret,
        csr_der=signing_request(key_pem, name),
        sealing_key=public_bytes(sealing_key),
        proposed_name=name,
        hardware=hardware,
    )
    credentials = grpc.ssl_channel_credentials(root_certificates=token.ca_pem)
    endpoint = endpoint or token.endpoint
    with grpc.secure_channel(endpoint, credentials) as channel:
        try:
            answer = device_pb2_grpc.EnrolmentStub(channel).Enroll(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise cam_error(error, endpoint, None, 0.0) from error
    if not answer.device_id or not answer.device_endpoint or not answer.fleet:
        raise DataCorrupted("the cloud's answer to the enrolment lacks a part", "check its version")
    identity = Identity(
        device_id=answer.device_id,
        fleet=answer.fleet,
        hardware=hardware,
        endpoint=answer.device_endpoint,
        key_pem=key_pem,
        chain_pem=answer.certificate_chain_pem,
        ca_pem=answer.ca_pem,
        sealing_key=sealing_key.private_bytes_raw(),
        trust_keys=split_trust_keys(answer.artifact_trust_keys),
    )
    check_certificate(identity)
    return identity
