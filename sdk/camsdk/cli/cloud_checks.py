"""What ``camctl doctor`` looks at in the cloud: reachable, trusted, let in, same time."""

import socket
import ssl
import time
from datetime import UTC, datetime

from camsdk.cli.checks import Check, Verdict
from camsdk.cli.moments import show_duration
from camsdk.cli.profile import Target
from camsdk.client import CloudStatus
from camsdk.client.credentials import parse_endpoint
from camsdk.errors import CamError, PermissionDenied, Unauthenticated, Unavailable

TIMEOUT_S = 5.0
SKEW_WARNING_S = 2.0
SKEW_FAILED_S = 60.0
"""Tokens and 24 h certificates are judged by both clocks."""
RENEW_WARNING_S = 7 * 86400.0


def cloud_checks(target: Target) -> list[Check]:
    """The findings, in the order in which one thing needs the other."""
    try:
        if target.is_unset() and target.resolve().is_absent():
            return [Check("cloud", Verdict.SKIPPED, "none has been set up", "camctl serve")]
        server = target.resolve().server
        host, _, port = parse_endpoint(server).rpartition(":")
        ca_pem = target.credentials().ca_pem
    except Unavailable as error:
        return [Check("cloud", Verdict.FAILED, error.message, error.hint)]
    except CamError as error:
        return [Check("credentials", Verdict.FAILED, error.message, error.hint)]
    checks = [check_certificate(host.strip("[]"), int(port), ca_pem)]
    asked_s = time.time()
    try:
        with target.connect(TIMEOUT_S) as client:
            status = client.status()
    except (Unauthenticated, PermissionDenied) as error:
        return [*checks, Check("credentials", Verdict.FAILED, error.message, error.hint)]
    except CamError as error:
        return [*checks, Check("cloud", Verdict.FAILED, error.message, error.hint)]
    answered_s = time.time()
    return [
        *checks,
        Check("cloud", Verdict.OK, f"{status.version} ({status.profile}) at {server}"),
        Check("credentials", Verdict.OK, "the API token is accepted"),
        check_clock(status, asked_s, answered_s),
    ]


def check_clock(status: CloudStatus, asked_s: float, answered_s: float) -> Check:
    """Both clocks agree, but for what the answer was under way.

    Args:
        status: The cloud's answer.
        asked_s, answered_s: This machine's clock before and after it.
    """
    skew_s = status.now_timestamp_s - (asked_s + answered_s) / 2
    doubt_s = (answered_s - asked_s) / 2
    excess_s = abs(skew_s) - doubt_s
    detail = f"the cloud's clock differs by {skew_s:+.2f} s (+-{doubt_s:.2f} s)"
    if excess_s <= SKEW_WARNING_S:
        return Check("clock", Verdict.OK, detail)
    verdict = Verdict.FAILED if excess_s > SKEW_FAILED_S else Verdict.WARNING
    return Check("clock", verdict, detail, "let both machines keep time, e.g. with chrony")


def check_certificate(host: str, port: int, ca_pem: bytes | None) -> Check:
    """The cloud's certificate chains to the trusted one, names this host and is in force."""
    name = "certificate"
    try:
        context = ssl.create_default_context(
            cadata=None if ca_pem is None else ca_pem.decode("ascii", "replace")
        )
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            presented = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return Check(
            name,
            Verdict.FAILED,
            f"the cloud's certificate is refused: {error.verify_message}",
            "give this cloud's CA certificate with --ca, and the name it was made for",
        )
    except ssl.SSLError as error:
        return Check(name, Verdict.FAILED, f"no TLS with {host}:{port}: {error}", "check the port")
    except OSError as error:
        return Check(name, Verdict.SKIPPED, f"{host}:{port} cannot be reached: {error}")
    end_s = ssl.cert_time_to_seconds(str(presented["notAfter"]))
    left_s = end_s - time.time()
    day = datetime.fromtimestamp(end_s, UTC).date()
    detail = f"trusted, in force for {show_duration(left_s)}, until {day}"
    if left_s < RENEW_WARNING_S:
        return Check(name, Verdict.WARNING, detail, "restart the cloud, which renews it")
    return Check(name, Verdict.OK, detail)
