"""Counts who crosses a line and tells a webhook, each crossing at least once and in order.

    python sdk/examples/entry_counter.py --fleet park-a --line entry \\
        --webhook https://example.org/crossings --secret-file webhook.secret --state counter.json

Each delivery is a POST with a JSON body and the header

    X-Cam-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>" with the secret>

A delivery that fails is repeated with growing pauses. The state file holds the counts and the
cursor of the last event that was delivered: after a crash or a restart the counter goes on from
there. Whatever was delivered but not yet noted is delivered again, with the same ``event_id``: a
receiver that drops ids it has seen sees every crossing exactly once.
"""

import argparse
import hashlib
import hmac
import http.client
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from camsdk import CamError, Client
from camsdk.client import EventRecord
from camsdk.client.profiles import embedded_profile, find_profile
from camsdk.errors import DataCorrupted, InvalidInput, PermissionDenied, Unavailable

log = logging.getLogger("entry_counter")

LOOPBACK = ("127.0.0.1", "::1", "localhost")
WORTH_ANOTHER_TRY = frozenset({408, 425, 429})
"""With 5xx: what a receiver may get over. Any other refusal would be the same next time."""


@dataclass
class State:
    """What survives a restart.

    Attributes:
        cursor: Of the last event that was dealt with, or of the start; None for neither.
        counts: Crossings by direction.
    """

    cursor: int | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def load(path: Path | None) -> "State":
        """The state that was saved, or a new one."""
        if path is None or not path.exists():
            return State()
        try:
            return State(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataCorrupted(f"{path} holds no state: {error}", "move it away") from error

    def save(self, path: Path | None) -> None:
        """Replaces the file as a whole, so that a crash leaves the old or the new one."""
        if path is None:
            return
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def sign(secret: bytes, body: bytes, now_s: int) -> str:
    """The value of ``X-Cam-Signature``."""
    digest = hmac.new(secret, f"{now_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={now_s},v1={digest}"


def is_signed(
    secret: bytes, body: bytes, signature: str, now_s: float, tolerance_s: float = 300.0
) -> bool:
    """For receivers: whether the body is ours and recent, so that an old one cannot be replayed."""
    stamp, _, _ = signature.removeprefix("t=").partition(",")
    if not stamp.isascii() or not stamp.isdigit() or abs(now_s - int(stamp)) > tolerance_s:
        return False
    return hmac.compare_digest(sign(secret, body, int(stamp)).encode(), signature.encode())


@dataclass(frozen=True)
class Webhook:
    """Where crossings are told.

    Attributes:
        url: ``https``, or ``http`` on this machine.
        secret: Shared with the receiver.
        timeout_s: For one attempt.
        max_attempts: For one delivery; with the pauses some four minutes.
        first_pause_s, max_pause_s: Between attempts; doubling.
    """

    url: str
    secret: bytes = field(repr=False)
    timeout_s: float = 10.0
    max_attempts: int = 12
    first_pause_s: float = 0.5
    max_pause_s: float = 30.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        is_local = parts.scheme == "http" and parts.hostname in LOOPBACK
        if not parts.hostname or not (parts.scheme == "https" or is_local):
            raise InvalidInput(
                f"{self.url!r} is no webhook", "give an https URL, or http on this machine"
            )

    def deliver(self, body: bytes, sleep: Callable[[float], None] = time.sleep) -> None:
        """Posts until it is taken.

        Raises:
            PermissionDenied: The receiver refuses it for good.
            Unavailable: It could not be delivered; the state is as before.
        """
        for attempt in range(self.max_attempts):
            if attempt:
                sleep(min(self.first_pause_s * 2 ** (attempt - 1), self.max_pause_s))
            try:
                status = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                log.warning("webhook cannot be reached: %s", error)
                continue
            if 200 <= status < 300:
                return
            if status < 500 and status not in WORTH_ANOTHER_TRY:
                raise PermissionDenied(f"the webhook answered {status}", "see its log")
            log.warning("webhook answered %s", status)
        raise Unavailable(f"{self.url} took nothing in {self.max_attempts} attempts", "start again")

    def _post(self, body: bytes) -> int:
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(str(parts.hostname), parts.port, timeout=self.timeout_s)
        headers = {
            "Content-Type": "application/json",
            "X-Cam-Signature": sign(self.secret, body, int(time.time())),
        }
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


def handle(event: EventRecord, state: State, webhook: Webhook | None) -> None:
    """Counts one crossing and tells it.

    What the receiver refuses for good is logged and counted all the same: it must not hold up what
    comes after it.

    Raises:
        Unavailable: It could not be told; the state is as before.
    """
    direction = event.attributes.get("direction", "unknown")
    counts = {**state.counts, direction: state.counts.get(direction, 0) + 1}
    crossing = {
        "event_id": event.event_id,
        "camera": event.camera_id,
        "line": event.rule,
        "direction": direction,
        "class": event.class_name,
        "timestamp_s": event.timestamp_s,
        "counts": counts,
    }
    if webhook is not None:
        try:
            webhook.deliver(json.dumps(crossing).encode())
        except PermissionDenied as error:
            log.error("crossing %s is not told: %s", event.event_id, error)
    print(json.dumps(crossing), flush=True)
    state.counts, state.cursor = counts, event.cursor


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Count who crosses a line, and tell a webhook.",
        epilog="Prints one JSON object per crossing.",
    )
    parser.add_argument("--profile", default="", help="profile of camctl; default: its default")
    parser.add_argument("--data", type=Path, help="data folder of an embedded cloud, instead")
    parser.add_argument("--fleet", default="", help="only this fleet")
    parser.add_argument("--line", default="", help="only this line")
    parser.add_argument("--webhook", metavar="URL", help="where to POST each crossing")
    parser.add_argument("--secret-file", type=Path, help="what deliveries are signed with")
    parser.add_argument("--state", type=Path, metavar="PATH", help="go on from here, note it here")
    parser.add_argument("--from-start", action="store_true", help="count what is stored, too")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    options = parser.parse_args(arguments)
    if bool(options.webhook) != bool(options.secret_file):
        parser.error("--webhook and --secret-file belong together")
    return options


def run(options: argparse.Namespace) -> None:
    """Follows the crossings until the time is up, for ever without one."""
    profile = embedded_profile(options.data) if options.data else find_profile(options.profile)
    webhook = None
    if options.webhook:
        webhook = Webhook(options.webhook, options.secret_file.read_bytes().strip())
    state = State.load(options.state)
    start = 0 if state.cursor is None and options.from_start else state.cursor
    with Client(profile.server, credentials=profile.credentials()) as client:
        crossings = client.events(
            fleet=options.fleet,
            kinds=["line_crossed"],
            after_cursor=start,
            timeout_s=options.seconds,
        )
        # Also when nobody crosses before the next restart, what happens meanwhile is counted then.
        state.cursor = crossings.cursor
        state.save(options.state)
        for event in crossings:
            if options.line in ("", event.rule):
                handle(event, state, webhook)
                state.save(options.state)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the counter; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        run(parse_arguments(arguments))
    except (CamError, OSError) as error:
        print(f"entry_counter: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
