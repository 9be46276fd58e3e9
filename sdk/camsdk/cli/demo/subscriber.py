"""An application that listens: takes the time at which each event reaches it."""

import threading
import time

from camsdk.client import Client, EventRecord


class Subscriber:
    """Follows a fleet's events in a thread, from now until it is left.

    Args:
        client: Connected client.
        fleet: Fleet to follow.
    """

    def __init__(self, client: Client, fleet: str) -> None:
        self._stream = client.events(fleet=fleet)
        self._received: list[tuple[EventRecord, float]] = []
        self._thread = threading.Thread(target=self._run, name="subscriber", daemon=True)

    def __enter__(self) -> "Subscriber":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._thread.join(timeout=5.0)

    def delays_s(self, device_id: str) -> list[float]:
        """Capture to arrival of a device's events that are about a frame, seconds."""
        return [
            arrived_s - event.timestamp_s
            for event, arrived_s in list(self._received)
            if event.device_id == device_id and event.track_id >= 0
        ]

    def _run(self) -> None:
        for event in self._stream:
            self._received.append((event, time.time()))
