"""A fake cloud for each test."""

from collections.abc import Iterator

import pytest

from camsdk.client import Client
from support.fake_api import FakeCloud


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """Runs for one test."""
    fake = FakeCloud()
    yield fake
    fake.break_streams()
    fake.stop()


@pytest.fixture
def client(cloud: FakeCloud) -> Iterator[Client]:
    """An administrator's."""
    with cloud.client() as connected:
        yield connected
