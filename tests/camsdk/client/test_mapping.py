"""Enums, errors, retries, times and endpoints: complete tables and pure rules."""

from datetime import UTC, datetime

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcloud.api import errors as cloud_errors
from camsdk.client import RetryPolicy, UpdateState
from camsdk.client import failures as client_errors
from camsdk.client.credentials import parse_endpoint
from camsdk.client.failures import HINT_KEY, MESSAGE_KEY, REASON_KEY, error_of
from camsdk.client.messages import ENUMS, enum_from_number, enum_to_number
from camsdk.client.moments import seconds
from camsdk.errors import WIRE_ERRORS, CamError, Conflict, InternalError, NotFound, Unavailable


def test_enums_are_complete() -> None:
    for kind, (twin, prefix) in ENUMS.items():
        ours = set(kind.__members__) - {"UNKNOWN"}
        theirs = {value.name.removeprefix(prefix) for value in twin.values} - {"UNSPECIFIED"}
        assert ours == theirs, kind
        for member in kind:
            if member.name != "UNKNOWN":
                assert enum_from_number(kind, enum_to_number(member)) is member


def test_a_newer_clouds_value_is_unknown() -> None:
    assert enum_from_number(UpdateState, 99) is UpdateState.UNKNOWN
    assert enum_from_number(UpdateState, 0) is UpdateState.UNKNOWN


def test_both_sides_use_the_same_keys() -> None:
    for name in ("REASON_KEY", "MESSAGE_KEY", "HINT_KEY"):
        assert getattr(client_errors, name) == getattr(cloud_errors, name)


@pytest.mark.parametrize("kind", WIRE_ERRORS)
def test_every_error_arrives_as_itself(kind: type[CamError]) -> None:
    row = WIRE_ERRORS[kind]
    trailing = ((REASON_KEY, row.reason), (MESSAGE_KEY, "no — way".encode()), (HINT_KEY, b"out"))
    error = error_of(grpc.StatusCode[row.grpc_status], "details", trailing, "cloud:1")
    assert type(error) is kind
    assert (error.message, error.hint) == ("no — way", "out")


def test_a_newer_clouds_reason_falls_back_to_the_status() -> None:
    trailing = ((REASON_KEY, "quite-new"),)
    assert type(error_of(grpc.StatusCode.NOT_FOUND, "x", trailing, "c")) is NotFound
    assert type(error_of(grpc.StatusCode.UNKNOWN, "x", trailing, "c")) is InternalError


def test_every_status_has_an_error() -> None:
    for status in grpc.StatusCode:
        assert isinstance(error_of(status, "", (), "cloud:1"), CamError)
    assert type(error_of(grpc.StatusCode.FAILED_PRECONDITION, "", (), "c")) is Conflict


@given(attempt=st.integers(1, 50), remaining_s=st.floats(0, 100))
def test_pauses_are_bounded_and_within_the_deadline(attempt: int, remaining_s: float) -> None:
    policy = RetryPolicy()
    pause_s = policy.pause_s(attempt)
    assert 0 < pause_s <= policy.max_delay_s
    delay_s = policy.delay_s(
        attempt, Unavailable("away"), is_idempotent=True, remaining_s=remaining_s
    )
    assert delay_s is None or (attempt < policy.max_attempts and 0 < delay_s < remaining_s)


def test_only_what_may_help_is_repeated() -> None:
    policy = RetryPolicy()
    away = Unavailable("away")
    assert policy.delay_s(1, away, is_idempotent=False, remaining_s=9) is None
    assert policy.delay_s(1, NotFound("x"), is_idempotent=True, remaining_s=9) is None
    assert policy.delay_s(1, away, is_idempotent=True, remaining_s=0) is None
    assert policy.delay_s(1, away, is_idempotent=True, remaining_s=9) is not None


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("grpcs://cloud:8443", "cloud:8443"),
        ("cloud", "cloud:8443"),
        ("grpcs://[::1]:9", "[::1]:9"),
        (" 127.0.0.1:1/ ", "127.0.0.1:1"),
    ],
)
def test_endpoints(text: str, target: str) -> None:
    assert parse_endpoint(text) == target


def test_moments() -> None:
    assert seconds(None) == 0.0
    assert seconds(12.5) == 12.5
    assert seconds(datetime(1970, 1, 1, 0, 1, tzinfo=UTC)) == 60.0
