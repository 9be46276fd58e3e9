"""Errors on the wire: each by its table, with its way out, and nothing of what is not public."""

import grpc
import grpc.aio
import pytest

from camcloud.api.errors import HINT_KEY, MESSAGE_KEY, REASON_KEY, map_errors, wire_error
from camsdk.errors import WIRE_ERRORS, CamError, InternalError, NotFound


class FakeContext:
    """A call's context that remembers how the call was ended."""

    def __init__(self) -> None:
        self.ended: tuple[grpc.StatusCode, str, dict[str, object]] | None = None

    async def abort(self, code, details="", trailing_metadata=()) -> None:
        assert self.ended is None, "a call ends once"
        self.ended = (code, details, dict(trailing_metadata))
        raise grpc.aio.AbortError


async def end_with(error: BaseException) -> tuple[grpc.StatusCode, str, dict[str, object]]:
    context = FakeContext()
    with pytest.raises(grpc.aio.AbortError):
        async with map_errors("/service/Method", context):
            raise error
    assert context.ended is not None
    return context.ended


@pytest.mark.parametrize("kind", WIRE_ERRORS, ids=lambda kind: kind.__name__)
async def test_each_error_travels_by_its_row(kind: type[CamError]) -> None:
    row = WIRE_ERRORS[kind]
    code, details, metadata = await end_with(kind("there is nö gate", "open one"))
    assert code is grpc.StatusCode[row.grpc_status]
    assert metadata[REASON_KEY] == row.reason
    if row.is_message_public:
        assert details == "there is nö gate (open one)"
        assert metadata[MESSAGE_KEY] == "there is nö gate".encode()
        assert metadata[HINT_KEY] == b"open one"
    else:
        assert details == row.public
        assert set(metadata) == {REASON_KEY}


async def test_an_unexpected_error_shows_nothing_of_itself(caplog) -> None:
    code, details, metadata = await end_with(KeyError("secret"))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in details
    assert metadata == {REASON_KEY: "internal"}
    assert "secret" in caplog.text


def test_a_class_below_a_row_travels_as_that_row() -> None:
    class GateNotFound(NotFound):
        pass

    assert wire_error(GateNotFound("x")) is WIRE_ERRORS[NotFound]
    assert wire_error(CamError("x")) is WIRE_ERRORS[InternalError]


async def test_an_abort_passes_unchanged() -> None:
    context = FakeContext()
    with pytest.raises(grpc.aio.AbortError):
        async with map_errors("/service/Method", context):
            raise grpc.aio.AbortError
    assert context.ended is None
