"""Who is connected now, what each last said, and how to wake its Sync stream.

Lives in memory and on one event loop: a device that is connected nowhere is connected to nothing.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Presence:
    """Sessions of connected devices."""

    def __init__(self) -> None:
        self._sessions: dict[str, set[asyncio.Event]] = {}
        self._reports: dict[str, bytes] = {}

    @contextmanager
    def attend(self, device_id: str) -> Iterator[asyncio.Event]:
        """A session of a device; its event is set whenever there may be news for it."""
        news = asyncio.Event()
        sessions = self._sessions.setdefault(device_id, set())
        sessions.add(news)
        try:
            yield news
        finally:
            sessions.discard(news)
            if not sessions and self._sessions.get(device_id) is sessions:
                del self._sessions[device_id]
                self._reports.pop(device_id, None)

    def wake(self, device_ids: Iterable[str]) -> None:
        """Tells sessions to look at their desired state."""
        for device_id in device_ids:
            for news in self._sessions.get(device_id, ()):
                news.set()

    def note_report(self, device_id: str, report: bytes) -> None:
        """Keeps a connected device's newest report; the store's may be older."""
        if device_id in self._sessions:
            self._reports[device_id] = report

    def report_of(self, device_id: str) -> bytes | None:
        """The newest report of a connected device."""
        return self._reports.get(device_id)

    def is_connected(self, device_id: str) -> bool:
        """Whether the device has a session."""
        return device_id in self._sessions

    @property
    def connected_count(self) -> int:
        """Devices with a session."""
        return len(self._sessions)
